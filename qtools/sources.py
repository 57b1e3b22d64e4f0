"""Where files can come from: a folder, the web, Debian's archive, the npm registry.

A source returns the decompressed content of its files or raises `SourceError` saying why it cannot.
It checks no hash: whoever uses the files does.
"""

import gzip
import http.client
import queue
import shutil
import subprocess
import tarfile
import tempfile
import threading
import time
import urllib.request
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tqdm.auto import tqdm

# Seconds. A name server that never answers is the slowest way to be offline, so the whole of
# opening a connection is limited; reading is limited per block.
CONNECT_TIMEOUT, READ_TIMEOUT, COMMAND_TIMEOUT = 6.0, 20.0, 600.0


class SourceError(Exception):
    """Why a source cannot deliver."""


class Source(NamedTuple):
    """A place with a name for people and a function that reads {file name: content} from it."""

    name: str
    read: Callable[[], dict[str, bytes]]


def folder(path: Path, names: tuple[str, ...]) -> Source:
    """Files `names` in a local folder, plain or with ``.gz``."""

    def read() -> dict[str, bytes]:
        files = {}
        for name in names:
            try:
                if (path / name).exists():
                    files[name] = (path / name).read_bytes()
                else:
                    files[name] = _gunzip((path / f"{name}.gz").read_bytes())
            except FileNotFoundError:
                raise SourceError(f"has no {name}") from None
            except OSError as error:
                raise SourceError(f"cannot read {name}: {error}") from None
        return files

    return Source(str(path), read)


def web(addresses: dict[str, str]) -> Source:
    """Files by address; one whose address ends in ``.gz`` is decompressed."""

    def read() -> dict[str, bytes]:
        files = {}
        for name, url in addresses.items():
            content = _download(name, url)
            files[name] = _gunzip(content) if url.endswith(".gz") else content
        return files

    return Source(next(iter(addresses.values())).rpartition("/")[0], read)


def debian_package(package: str, inside: str, names: tuple[str, ...], size: int) -> Source:
    """Files of the folder `inside` of a Debian package, fetched by apt. Needs no root."""

    def read() -> dict[str, bytes]:
        with tempfile.TemporaryDirectory(prefix="qtools-") as tmp:
            work = Path(tmp)
            quick = ("-q", "-o", "Acquire::http::Timeout=15", "-o", "Acquire::Retries=1")
            download = ("download", package)
            try:
                _run(("apt-get", *quick, *download), work, package, size)
            except SourceError:
                # Small images come without package lists; make private ones.
                lists = tuple(
                    f"-oDir::{key}={work / name}/"
                    for key, name in (("State::lists", "lists"), ("Cache", "cache"))
                )
                (work / "lists/partial").mkdir(parents=True)
                (work / "cache/archives/partial").mkdir(parents=True)
                _run(("apt-get", *quick, *lists, "update"), work, "package lists", None)
                _run(("apt-get", *quick, *lists, *download), work, package, size)
            archive = _only(work, f"{package}_*.deb")
            _run(("dpkg-deb", "-x", archive.name, "unpacked"), work, None, None)
            return folder(work / "unpacked" / inside, names).read()

    return Source(f"apt-get download {package}", read)


def npm_package(package: str, members: dict[str, str], size: int) -> Source:
    """Files of an npm package by their path in its archive. None of its code runs."""

    def read() -> dict[str, bytes]:
        with tempfile.TemporaryDirectory(prefix="qtools-") as tmp:
            work = Path(tmp)
            command = ("npm", "pack", package, "--ignore-scripts", "--loglevel=error")
            retries = ("--fetch-retries=1", "--fetch-retry-mintimeout=1000")
            _run((*command, *retries), work, package, size)
            archive = _only(work, "*.tgz")
            try:
                with tarfile.open(archive) as tar:
                    files = {name: tar.extractfile(path) for name, path in members.items()}
                    return {name: file.read() for name, file in files.items() if file}
            except (KeyError, OSError, tarfile.TarError) as error:
                raise SourceError(f"archive is not as expected: {error}") from None

    return Source(f"npm pack {package}", read)


def _only(work: Path, pattern: str) -> Path:
    found = list(work.glob(pattern))
    if len(found) != 1:
        raise SourceError(f"delivered {len(found)} files {pattern}, not one")
    return found[0]


def _gunzip(content: bytes) -> bytes:
    try:
        return gzip.decompress(content)
    except (EOFError, OSError, zlib.error) as error:
        raise SourceError(f"gzip data is cut or damaged: {error}") from None


def _download(name: str, url: str) -> bytes:
    """Content of `url`, with a progress bar; a transfer cut short is an error."""
    blocks = []
    try:
        with _open(url) as response:
            length = response.headers.get("Content-Length")
            total = int(length) if length else None
            with tqdm(total=total, desc=name, unit="B", unit_scale=True, leave=False) as bar:
                while block := response.read(1 << 16):
                    blocks.append(block)
                    bar.update(len(block))
    except (OSError, http.client.HTTPException) as error:
        raise SourceError(f"{name}: {error}") from None
    content = b"".join(blocks)
    if total is not None and len(content) != total:
        raise SourceError(f"{name}: cut short after {len(content)} of {total} bytes")
    return content


def _open(url: str) -> Any:
    """Open an address, and give up also when looking up the host's name hangs."""
    result: queue.Queue[Any] = queue.Queue()

    def connect() -> None:
        try:
            # Not urlopen: it remembers the proxy of the process's first call.
            result.put(urllib.request.build_opener().open(url, timeout=READ_TIMEOUT))
        except Exception as error:
            result.put(error)

    threading.Thread(target=connect, daemon=True).start()
    try:
        response = result.get(timeout=CONNECT_TIMEOUT)
    except queue.Empty:
        raise TimeoutError(f"no answer in {CONNECT_TIMEOUT:g} s") from None
    if isinstance(response, Exception):
        raise response
    return response


def _run(command: tuple[str, ...], work: Path, label: str | None, size: int | None) -> None:
    """Run a command in `work`; while it runs, a bar shows how much has arrived there."""
    if shutil.which(command[0]) is None:
        raise SourceError(f"{command[0]} is not installed")
    deadline = time.monotonic() + COMMAND_TIMEOUT
    with (
        tempfile.TemporaryFile("w+") as log,
        tqdm(
            total=size, desc=label, unit="B", unit_scale=True, leave=False, disable=label is None
        ) as bar,
        subprocess.Popen(
            command, cwd=work, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        ) as job,
    ):
        try:
            while job.poll() is None:
                if time.monotonic() > deadline:
                    raise SourceError(f"{command[0]} took more than {COMMAND_TIMEOUT:g} s")
                arrived = sum(p.stat().st_size for p in work.iterdir() if p.is_file())
                bar.update(arrived - bar.n)
                time.sleep(0.05)
        finally:
            if job.poll() is None:
                job.kill()
        if job.returncode != 0:
            log.seek(0)
            lines = [line.strip() for line in log if line.strip()]
            wrong = [line for line in lines if line.startswith(("E:", "npm err"))] or lines[-1:]
            why = "; ".join(wrong[:4]) or "no message"
            raise SourceError(f"{command[0]} failed ({job.returncode}): {why}")
