"""Data sets: the same bytes from every place, a clear error from none, a clean cache always."""

import gzip
import os
import stat
import traceback
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qtools import data
from qtools.data import DataUnavailableError
from qtools.files import sha256, write_atomic
from qtools.sources import Source
from tools.forks import FORKS

CONTENT = {"one": b"first file", "two": bytes(range(256)) * 500}
HASHES = {name: sha256(content) for name, content in CONTENT.items()}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    path = tmp_path / "cache"
    monkeypatch.setenv("QTOOLS_CACHE", str(path))
    return path


def files_in(path: Path) -> list[str]:
    return sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.is_file())


def give(files: dict[str, bytes], name: str = "a place") -> Source:
    return Source(name, lambda: files)


# ---------------------------------------------------------------- the real thing


def test_fashion_mnist():
    images = data.fashion_mnist()
    assert images.train_images.shape == (60000, 28, 28)
    assert images.test_images.shape == (10000, 28, 28)
    assert images.train_images.dtype == images.test_images.dtype == torch.uint8
    assert images.train_labels.dtype == images.test_labels.dtype == torch.int64
    assert images.train_labels.bincount().tolist() == [6000] * 10
    assert images.test_labels.bincount().tolist() == [1000] * 10
    assert len(data.CLASSES) == 10
    pixels = images.train_images.double() / 255
    assert abs(pixels.mean() - data.PIXEL_MEAN) < 1e-4
    assert abs(pixels.std() - data.PIXEL_STD) < 1e-4


def test_moby_dick():
    text = data.moby_dick()
    assert len(text.encode()) == 1_204_997
    assert "Call me Ishmael." in text
    assert text.rstrip().endswith("as it rolled five thousand years ago.")


# ---------------------------------------------------------------- cache and places


def test_first_right_place_wins_and_fills_the_cache(cache):
    def never() -> dict[str, bytes]:
        raise AssertionError("must not be asked")

    wrong = CONTENT | {"two": CONTENT["two"][:-1]}
    places = (give(wrong), give(CONTENT), Source("too many", never))
    assert data._obtain("set", HASHES, places, "") == CONTENT
    assert files_in(cache) == ["set/one", "set/two"]
    # From now on the cache answers.
    assert data._obtain("set", HASHES, (Source("network", never),), "") == CONTENT


def test_damaged_cache_is_not_trusted_but_repaired(cache):
    write_atomic(cache / "set/one", CONTENT["one"])
    write_atomic(cache / "set/two", b"damaged")
    with pytest.raises(DataUnavailableError, match="two is damaged"):
        data._obtain("set", HASHES, (), "")
    assert data._obtain("set", HASHES, (give(CONTENT),), "") == CONTENT
    assert (cache / "set/two").read_bytes() == CONTENT["two"]


def test_full_disk_is_a_reason_like_others(cache):
    def full() -> dict[str, bytes]:
        raise OSError(28, "No space left on device")

    with pytest.raises(DataUnavailableError, match=r"registry: .*No space left on device"):
        data._obtain("set", HASHES, (Source("registry", full),), "")


def test_wrong_hash_everywhere_is_an_error_and_leaves_nothing(cache):
    wrong = give(CONTENT | {"one": b"evil"}, "https://mirror.example")
    with pytest.raises(DataUnavailableError) as error:
        data._obtain("set", HASHES, (wrong, wrong), "ask a friend")
    message = str(error.value)
    assert message.count("https://mirror.example: one is damaged: SHA-256") == 2
    assert sha256(b"evil")[:12] in message
    assert HASHES["one"][:12] in message
    assert "ask a friend" in message
    assert f"copy one, two (or the same with .gz) to {cache / 'set'}" in message
    assert not cache.exists()


def test_files_put_into_the_cache_by_hand_may_be_gzipped(cache):
    (cache / "set").mkdir(parents=True)
    (cache / "set/one.gz").write_bytes(gzip.compress(CONTENT["one"]))
    (cache / "set/two").write_bytes(CONTENT["two"])
    assert data._obtain("set", HASHES, (), "") == CONTENT


def test_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("QTOOLS_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="set QTOOLS_CACHE to a folder you may write to"):
        assert data._obtain("set", HASHES, (give(CONTENT),), "") == CONTENT
    with pytest.raises(DataUnavailableError):
        data._obtain("set", HASHES, (), "")


@pytest.mark.skipif(os.name != "posix", reason="file modes")
def test_read_only_cache(cache):
    """File modes do not bind root, so a child process gives root up first."""
    filled = cache / "set"
    for name, content in CONTENT.items():
        write_atomic(filled / name, content)
    (cache / "empty").mkdir()
    for path in (cache, filled, cache / "empty"):
        path.chmod(0o555)

    def unprivileged() -> bool:
        if os.getuid() == 0:
            os.setuid(65534)
        from_cache = data._obtain("set", HASHES, (), "")
        with pytest.warns(UserWarning, match="cannot write"):
            fetched = data._obtain("empty", HASHES, (give(CONTENT),), "")
        return from_cache == fetched == CONTENT

    # pytest keeps its folders private; let the other user pass.
    anyone = stat.S_IXGRP | stat.S_IXOTH
    closed = {p: p.stat().st_mode for p in cache.parents if ~p.stat().st_mode & anyone}
    for path, mode in closed.items():
        path.chmod(mode | anyone)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if unprivileged() else 1
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    try:
        assert os.waitpid(child, 0)[1] == 0
    finally:
        for path, mode in closed.items():
            path.chmod(mode)
        for path in (cache, filled, cache / "empty"):
            path.chmod(0o755)
    assert files_in(cache) == ["set/one", "set/two"]


def obtain_many(cache, all_are_here):
    os.environ["QTOOLS_CACHE"] = str(cache)
    all_are_here.wait(timeout=60)
    for i in range(50):
        assert data._obtain(f"set{i}", HASHES, (give(CONTENT, "slow"),), "") == CONTENT


def test_several_processes_at_once(cache):
    line = FORKS.Barrier(3)
    jobs = [FORKS.Process(target=obtain_many, args=(cache, line)) for _ in range(3)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert [job.exitcode for job in jobs] == [0, 0, 0]
    assert files_in(cache) == sorted(f"set{i}/{name}" for i in range(50) for name in CONTENT)


def test_atomic_write_keeps_the_old_file_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for step in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, step, full)
            with pytest.raises(OSError, match="No space left"):
                write_atomic(path, b"new")
        assert path.read_bytes() == b"old"
        assert files_in(tmp_path) == ["file"]


def test_cache_dir_default_is_the_platforms(monkeypatch):
    monkeypatch.delenv("QTOOLS_CACHE", raising=False)
    assert data.cache_dir().name == "down-to-one-bit"


# ---------------------------------------------------------------- formats


def make_idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim])
    return header + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


@given(st.lists(st.integers(0, 4), max_size=4), st.integers(0, 255))
def test_idx_round_trip(shape, value):
    array = np.full(shape, value, np.uint8)
    array.flat[: min(2, array.size)] = [7, 9][: array.size]
    got = data.parse_idx(make_idx(array))
    assert got.shape == array.shape
    assert (got == array).all()


@given(st.integers(0, 19))
def test_idx_cut_anywhere_is_refused(length):
    content = make_idx(np.zeros((2, 2, 1), np.uint8))
    assert len(content) == 20
    with pytest.raises(ValueError, match="content"):
        data.parse_idx(content[:length])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\x00\x00\x0d\x01\x00\x00\x00\x00", "must start 00 00 08"),
        (b"\x01\x00\x08\x01\x00\x00\x00\x00", "must start 00 00 08"),
        (b"\x00\x00\x08\x01\x00\x00\x00\x02abc", "must have 10 bytes, got 11"),
        (b"\x00\x00\x08\x03" + b"\xff" * 12 + b"a", "must have"),
    ],
)
def test_idx_refuses(content, says):
    with pytest.raises(ValueError, match=says):
        data.parse_idx(content)


def test_normalise():
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16).repeat(3, 1, 1)
    x = data.normalise(images)
    assert x.shape == (3, 1, 16, 16)
    assert x.dtype == torch.float32
    exact = (images.double() / 255 - data.PIXEL_MEAN) / data.PIXEL_STD
    assert (x[:, 0].double() - exact).abs().max() < 1e-6


@pytest.mark.parametrize(
    "images",
    [torch.zeros(2, 28, 28), torch.zeros(28, 28, dtype=torch.uint8), torch.zeros(2).byte()],
)
def test_normalise_refuses(images):
    with pytest.raises(ValueError, match="images must be uint8"):
        data.normalise(images)
