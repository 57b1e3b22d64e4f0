"""The repository as a whole: commands that exist, one version, one address, loose bounds."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

import qtools
from tools import notebooks, repository
from tools.repository import ROOT

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "book/exercises/README.md"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", text("Makefile"), re.MULTILINE))


def commands_in(document: str) -> list[str]:
    """Return what stands in code spans and shell blocks of a Markdown text."""
    blocks = re.findall(r"```sh\n(.*?)```", document, re.DOTALL)
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", document, flags=re.DOTALL))
    return [line for block in blocks for line in block.splitlines()] + spans


# ---- commands


@pytest.mark.parametrize("name", DOCUMENTS)
def test_commands_in_documents_exist(name: str) -> None:
    commands = commands_in(text(name))
    for command in commands:
        for target in re.findall(r"\bmake ([a-z-]+)", command):
            assert target in make_targets(), f"{name}: make {target}"
        for module in re.findall(r"python -m ([\w.]+)", command):
            path = ROOT / module.replace(".", "/")
            exists = path.with_suffix(".py").exists() or (path / "__main__.py").exists()
            assert exists, f"{name}: python -m {module}"
    if name == "README.md":
        assert {"make book", "make test"} <= {c.split("  ")[0] for c in commands}


def test_make_lists_its_commands() -> None:
    done = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True)
    listed = set(re.findall(r"^make ([a-z-]+) ", done.stdout, re.MULTILINE))
    assert listed == make_targets()


@pytest.mark.parametrize("target", sorted(make_targets()))
def test_make_target_is_well_formed(target: str) -> None:
    command = ["make", "-n", target, "REPO=octocat/book"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_ci_calls_the_readmes_test_command() -> None:
    path = ROOT / ".ci/run"
    assert path.stat().st_mode & 0o111, ".ci/run must be executable"
    assert text(".ci/run").rstrip().endswith("exec make test")
    for script in (path, ROOT / "tools/colab.sh"):
        subprocess.run(["bash", "-n", str(script)], check=True)


@pytest.mark.parametrize(("version", "status"), [((3, 10), 1), ((3, 11), 0), ((3, 14), 1)])
def test_python_version_is_checked(
    version: tuple[int, int],
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from tools import python_version

    monkeypatch.setattr(sys, "version_info", (*version, 0))
    assert python_version.main() == status
    assert ("PYTHON=python3.12" in capsys.readouterr().err) == bool(status)


# ---- workflows


def steps(path: Path) -> list[dict[str, Any]]:
    jobs = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]
    return [step for job in jobs.values() for step in job["steps"]]


def test_there_are_three_workflows() -> None:
    assert [path.stem for path in WORKFLOWS] == ["pages", "tests", "weekly"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert workflow["name"] == path.stem
    triggers = workflow[True]  # YAML reads the key `on` as true
    assert triggers
    assert "permissions" in workflow, "say which permissions are needed"
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 90
    for step in steps(path):
        assert ("run" in step) != ("uses" in step)
        assert re.search(r"@v\d+", step.get("uses", "@v1")), f"unpinned {step}"
        for target in re.findall(r"\bmake ([a-z-]+)", step.get("run", "")):
            assert target in make_targets(), target
        for script in re.findall(r"\btools/[\w.]+\.sh", step.get("run", "")):
            assert (ROOT / script).stat().st_mode & 0o111, script


def test_workflows_do_what_the_readme_promises() -> None:
    runs = {path.stem: " ".join(s.get("run", "") for s in steps(path)) for path in WORKFLOWS}
    assert "make test" in runs["tests"]
    assert "make book" in runs["pages"]
    assert "us-docker.pkg.dev/colab-images/public/runtime" in runs["weekly"]
    pages = yaml.safe_load(text(".github/workflows/pages.yml"))
    assert pages[True]["push"]["tags"] == ["v*"]
    matrix = yaml.safe_load(text(".github/workflows/tests.yml"))["jobs"]["test"]["strategy"]
    assert matrix["matrix"]["python"] == ["3.11", "3.13"]


# ---- versions, requirements, licences


def test_version_is_equal_everywhere() -> None:
    version = PROJECT["version"]
    assert qtools.__version__ == version
    assert str(yaml.safe_load(text("CITATION.cff"))["version"]) == version
    newest = re.search(r"^## (\S+) \((\d{4}-\d\d-\d\d)\)$", text("CHANGELOG.md"), re.MULTILINE)
    assert newest is not None
    assert newest[1] == version
    assert newest[2] == str(yaml.safe_load(text("CITATION.cff"))["date-released"])
    assert f"@v{version}" in text("README.md")
    assert f"Version {version}" in text("README.md")
    assert not set(re.findall(r"@v(\d+\.\d+\.\d+)", text("README.md"))) - {version}


def test_citation_is_valid() -> None:
    citation = yaml.safe_load(text("CITATION.cff"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["cff-version"] == "1.2.0"
    assert citation["type"] in ("software", "dataset")
    assert citation["repository-code"] == repository.address()
    assert citation["url"] == repository.pages_url(repository.owner_name())
    assert all("name" in author or "family-names" in author for author in citation["authors"])


def test_licences() -> None:
    assert text("LICENSE").startswith("MIT License")
    assert text("LICENSE-text").startswith("Attribution 4.0 International")
    assert PROJECT["license"] == "MIT"
    assert set(yaml.safe_load(text("CITATION.cff"))["license"]) == {"MIT", "CC-BY-4.0"}


def pins(name: str) -> list[str]:
    lines = (line.split("#")[0].strip() for line in text(name).splitlines())
    return [line for line in lines if line and not line.startswith("-r ")]


def test_requirements_are_pinned_and_the_package_is_not() -> None:
    pinned = pins("requirements.txt") + pins("book/requirements.txt")
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+(; sys_.*)?", line) for line in pinned), pinned
    names = [line.split("==")[0] for line in pinned]
    assert len(names) == len(set(names))
    assert "torch" not in [line.split("==")[0] for line in pins("book/requirements.txt")]
    book = dict(line.split("==") for line in pins("book/requirements.txt"))
    assert book["jupyter-book"].startswith("1."), "2.x ignores _config.yml"
    for bound in PROJECT["dependencies"]:
        assert re.fullmatch(r"[\w-]+>=[\d.]+", bound), f"{bound} is not a loose lower bound"
        assert re.split(">=", bound)[0] in names, f"{bound} is not pinned for the tests"


def fake_environment(folder: Path, dependencies: list[str]) -> Path:
    """Make a folder in which every dependency seems installed, at its lowest allowed version."""
    for dependency in dependencies:
        name, version = dependency.split(">=")
        info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        (info / "METADATA").write_text(metadata)
        (info / "RECORD").write_text("")
        (info / "INSTALLER").write_text("pip\n")
    return folder


def dry_run(project: Path, environment: Path, report: Path) -> subprocess.CompletedProcess[str]:
    """Ask pip, without an index, what installing `project` would install."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-index", "--quiet"]
    command += ["--no-build-isolation", "--report", str(report), str(project)]
    variables = {"PYTHONPATH": str(environment), "PIP_CONFIG_FILE": os.devnull}
    return subprocess.run(command, env=variables, capture_output=True, text=True)


def copy_package(target: Path) -> Path:
    """Copy what pip needs of the repository."""
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("qtools", "results"):
        shutil.copytree(ROOT / name, target / name, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, target / name)
    return target


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_package(tmp_path: Path) -> None:
    """Colab installs the package and nothing else: what a chapter needs must be inside."""
    copy = copy_package(tmp_path / "copy")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps"]
    command += ["--no-build-isolation", "--wheel-dir", str(tmp_path), str(copy)]
    subprocess.run(command, check=True, env={**os.environ, "PIP_CONFIG_FILE": os.devnull})
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
    command = ["git", "ls-files", "-z", "qtools", "results"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    tracked = {re.sub(r"^results/", "qtools/records/", name) for name in listed.split("\0") if name}
    assert tracked - inside == set(), "see packages and package-data in pyproject.toml"


@pytest.mark.slow
def test_installing_leaves_colabs_torch_and_numpy_alone(tmp_path: Path) -> None:
    """pip would install the package and nothing else where the lowest bounds are met."""
    environment = fake_environment(tmp_path / "environment", PROJECT["dependencies"])
    done = dry_run(copy_package(tmp_path / "copy"), environment, tmp_path / "report.json")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    installed = [entry["metadata"]["name"] for entry in report["install"]]
    assert installed == ["down-to-one-bit"]


@pytest.mark.slow
def test_the_dry_run_notices_a_pin(tmp_path: Path) -> None:
    copy = copy_package(tmp_path / "copy")
    project = (copy / "pyproject.toml").read_text()
    assert '"torch>=2.5"' in project
    (copy / "pyproject.toml").write_text(project.replace('"torch>=2.5"', '"torch==2.13.0"'))
    environment = fake_environment(tmp_path / "environment", PROJECT["dependencies"])
    done = dry_run(copy, environment, tmp_path / "report.json")
    assert done.returncode != 0
    assert "torch==2.13.0" in done.stderr


# ---- address and links


def test_readme_lists_every_chapter_with_its_colab_link() -> None:
    colab = f"https://colab.research.google.com/github/{repository.owner_name()}/blob/main"
    rows = [line for line in text("README.md").splitlines() if re.match(r"\| \d+ \|", line)]
    assert len(rows) == len(repository.chapters())
    for row, path in zip(rows, repository.chapters(), strict=True):
        title = notebooks.read(path).cells[0].source.splitlines()[0].removeprefix("# ")
        number, name = title.split(" ", 1)
        assert row.startswith(f"| {number} | [{name}](book/{path.name}) |"), row
        assert f"({colab}/book/{path.name})" in row, row


@pytest.mark.parametrize("name", DOCUMENTS)
def test_relative_links_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)\s#]+)", text(name)):
        if not re.match(r"[a-z]+:", target):
            assert ((ROOT / name).parent / target).exists(), f"{name}: {target}"


def test_readme_example_runs() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", text("README.md"), re.DOTALL)
    exec(compile(block, "README.md", "exec"), {})


@pytest.fixture(scope="module")
def copy_of_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("copy")
    for path in repository.text_files():
        target = root / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    return root


def test_publish_to_moves_everything(copy_of_repository: Path) -> None:
    root = copy_of_repository
    old, new = repository.owner_name(root), "octo-cat/my.book"
    before = {path: path.read_bytes() for path in repository.text_files(root)}
    repository.publish_to(new, root)
    notebooks.stamp_all(root)
    assert repository.address(root) == f"https://github.com/{new}"
    page = repository.pages_url(old)
    for path in repository.text_files(root):
        content = path.read_text(encoding="utf-8")
        assert f"/{old}" not in content, f"{path} still names {old}"
        assert page.rstrip("/") not in content, f"{path} still names {page}"
    for path in repository.all_notebooks(root):
        notebook = notebooks.read(path)
        assert notebook.cells[1].source == notebooks.setup_source(root)
        assert f"git+https://github.com/{new}@v" in notebook.cells[1].source
    readme = (root / "README.md").read_text(encoding="utf-8")
    assert f"colab.research.google.com/github/{new}/blob/main/book/" in readme
    assert repository.pages_url(new) in readme
    assert f"repository-code: https://github.com/{new}\n" in (root / "CITATION.cff").read_text()

    assert repository.publish_to(new, root) == [], "a second call changes nothing"
    repository.publish_to(old, root)
    assert notebooks.stamp_all(root) == []
    changed = [path for path, content in before.items() if path.read_bytes() != content]
    assert changed == [], "moving there and back must restore every byte"


@pytest.mark.parametrize("name", ["", "book", "a/b/c", "https://github.com/a/b", "a b/c", "-a/b"])
def test_publish_to_refuses_what_is_no_repository(name: str, copy_of_repository: Path) -> None:
    with pytest.raises(ValueError, match="must be owner/name"):
        repository.publish_to(name, copy_of_repository)


@pytest.mark.parametrize("url", ["", "http://github.com/a/b", "https://example.org/a/b"])
def test_a_wrong_address_is_refused(url: str, tmp_path: Path) -> None:
    (tmp_path / "_config.yml").write_text(f"repository:\n  url: '{url}'\n")
    with pytest.raises(ValueError, match=r"repository\.url"):
        repository.address(tmp_path)


def test_pages_address() -> None:
    assert repository.pages_url("Octo/book") == "https://octo.github.io/book/"
    assert repository.pages_url("octo/octo.github.io") == "https://octo.github.io/"
