"""Numbers that look drawn by chance and are the same to the last bit in Python and the browser."""

from __future__ import annotations

import numpy as np


def hash32(v: np.ndarray) -> np.ndarray:
    """Return Wellons' "lowbias32" of each uint32: a bijection, as good as random.

    C. Wellons, "Prospecting for Hash Functions", https://nullprogram.com/blog/2018/07/31/.
    """
    v = (v ^ v >> 16) * np.uint32(0x7FEB352D)
    v = (v ^ v >> 15) * np.uint32(0x846CA68B)
    return v ^ v >> 16


def nearly_normal(first: int, count: int) -> np.ndarray:
    """Return ``(Σ twelve bytes of a hash − 1530) / 256``, float64 [count]: variance 1.

    Number i of all comes from the hashes of 3 i to 3 i + 2; these begin with ``first``.
    """
    counter = np.arange(3 * first, 3 * (first + count), dtype=np.uint32)
    sums = hash32(counter).view(np.uint8).reshape(count, 12).sum(axis=1)
    return (sums - 1530.0) / 256
