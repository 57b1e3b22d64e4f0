"""The small commands behind `make test` and `make serve`."""

import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tools import chromium, serve
from tools.repository import ROOT


def program(path: Path, status: int) -> str:
    path.write_text(f"#!/bin/sh\nexit {status}\n")
    path.chmod(0o755)
    return str(path)


def test_the_variable_names_the_browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHROMIUM", program(tmp_path / "mine", 0))
    assert chromium.installed() == str(tmp_path / "mine")


def test_a_browser_that_does_not_start_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHROMIUM", str(tmp_path / "missing"))
    program(tmp_path / "chromium", 1)
    program(tmp_path / "google-chrome", 0)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert chromium.installed() == str(tmp_path / "google-chrome")


def test_without_any_browser_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CHROMIUM", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(chromium, "APPLICATIONS", ())
    for name in ("playwright_download", "install_playwright"):
        monkeypatch.setattr(chromium, name, lambda: None)
    assert chromium.main() == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "apt-get install chromium" in printed.err


def test_serve_shows_the_built_book(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<title>the book</title>")
    code = (
        "import pathlib, sys; from tools import serve; "
        "serve.HTML = pathlib.Path(sys.argv[1]); serve.main()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    environment = {**os.environ, "BROWSER": "true"}  # open the page with the command `true`
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None
            url = re.search(r"http://127\.0\.0\.1:\d+/", server.stdout.readline())
            assert url is not None
            direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with direct.open(url[0], timeout=30) as page:
                assert b"the book" in page.read()
        finally:
            server.terminate()


def test_serve_says_when_there_is_no_book(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(serve, "HTML", tmp_path)
    assert serve.main() == 1
    assert "make book" in capsys.readouterr().err
