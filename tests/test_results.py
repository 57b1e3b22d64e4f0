"""Records of runs: complete, honest about the code they ran, written whole."""

import json
import re
import subprocess
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

from qtools import results
from qtools.results import code_state, machine, write_record


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A repository with a package of two files, both of them loaded."""
    package = tmp_path / "qtools"
    package.mkdir()
    for name in ("a.py", "b.py"):
        (package / name).write_text("x = 1\n")

    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=n", "-c", "user.email=e@example.org")
        subprocess.run(("git", *identity, *arguments), cwd=tmp_path, check=True)

    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    monkeypatch.setattr(results, "PACKAGE", package)
    loaded = {f"qtools.{p.stem}": SimpleNamespace(__file__=str(p)) for p in package.iterdir()}
    others = {"json": json, "qtools.builtin": SimpleNamespace(__file__=None)}
    monkeypatch.setattr(results, "sys", SimpleNamespace(modules=loaded | others))
    return package


def test_code_state(checkout):
    state = code_state()
    assert re.fullmatch("[0-9a-f]{40}", state["commit"])
    assert state["changed_files"] == []
    (checkout / "b.py").write_text("x = 2\n")
    (checkout / "unloaded.py").write_text("x = 3\n")
    assert code_state() == {"commit": state["commit"], "changed_files": ["qtools/b.py"]}


def test_code_state_is_unknown_without_git(checkout, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert code_state() is None


def test_code_state_is_unknown_outside_a_repository(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "PACKAGE", tmp_path / "qtools")
    monkeypatch.setattr(results, "sys", SimpleNamespace(modules={}))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert code_state() is None


def test_record(tmp_path):
    path = tmp_path / "results/ratio.json"
    write_record(path, value=1.2, unit="ratio", command="make bench", seconds=3.0, rows=[1, 2])
    record = json.loads(path.read_text())
    assert record["name"] == "ratio"
    assert (record["value"], record["unit"], record["rows"]) == (1.2, "ratio", [1, 2])
    assert record.keys() >= {"command", "seconds", "code", "versions", "machine"}
    assert path.read_text().endswith("}\n")


def test_state_from_the_start_of_the_run_is_kept(tmp_path):
    path = tmp_path / "r.json"
    state = {"commit": "0" * 40, "changed_files": []}
    write_record(path, value=1, unit="", command="", seconds=0, code=state)
    assert json.loads(path.read_text())["code"] == state


def test_record_refuses_what_json_cannot_hold(tmp_path):
    path: Path = tmp_path / "r.json"
    with pytest.raises(ValueError, match="JSON"):
        write_record(path, value=float("nan"), unit="", command="", seconds=0)
    assert not path.exists()


def test_machine():
    got = machine()
    assert got["processor"]
    assert got["cores"] >= 1
    assert got["torch_threads"] >= 1


def test_records_of_the_checkout_are_read():
    record = results.read_record("smallcnn")
    assert record["unit"] == "test accuracy"
    with pytest.raises(ValueError, match=r"name must be one of \[.*'smallcnn'.*\], got 'nothing'"):
        results.read_record("nothing")


def test_records_of_an_installed_package_are_read(tmp_path, monkeypatch):
    (tmp_path / "qtools/records").mkdir(parents=True)
    (tmp_path / "qtools/records/row.json").write_text('{"value": 1}')
    monkeypatch.setattr(results, "PACKAGE", tmp_path / "qtools")
    assert results.read_record("row") == {"value": 1}


def test_every_package_and_record_is_installed():
    """pyproject.toml lists packages by hand; a forgotten one would be missing in Colab only."""
    root = results.PACKAGE.parent
    settings = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {p.parent for p in results.PACKAGE.rglob("*") if "__pycache__" not in p.parts}
    names = {".".join(p.relative_to(root).parts) for p in folders} - {""}
    assert set(settings["packages"]) == {n for n in names if n.startswith("qtools")} | {
        "qtools.records"
    }
    assert settings["package-dir"] == {"qtools.records": "results"}
