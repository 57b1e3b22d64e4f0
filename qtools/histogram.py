"""Histograms that grow without losing a count, and order statistics from them.

Bin k is ``[k w, (k + 1) w)`` with ``w = 2^e`` and k any integer: a grid with no origin to choose.
When the range outgrows the bins, e grows by one and bins 2k and 2k + 1 become bin k, exactly, so
counts stay whole numbers and a histogram is a function of the values alone: their order, and how
they were cut into batches, cannot matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

# Elements binned at a time: the passes over 256 Ki floats stay in the cache.
_PIECE = 1 << 18


class Grid(NamedTuple):
    """Bin i of a histogram is ``[start + i, start + i + 1) * 2^exponent``."""

    exponent: int
    start: int

    @property
    def width(self) -> float:
        """``2^exponent``."""
        return math.ldexp(1.0, self.exponent)


class Histogram(NamedTuple):
    """What was counted: int64 [bins] on a grid, and the exact smallest and largest value.

    ``zeros`` tells how many of the counted values are 0 exactly. Every quantizer has a code for
    0: they cost nothing and say nothing about where to clip.
    """

    counts: np.ndarray
    grid: Grid
    x_min: float
    x_max: float
    zeros: int = 0


@lru_cache(maxsize=64)  # an observer asks for the grid of an unchanged range at every batch
def grid_of(x_min: float, x_max: float, bins: int) -> Grid:
    """Return the finest grid whose ``bins`` bins cover the range, widened to contain 0.

    The smallest ``e >= -126`` with ``floor(x_max / 2^e) - floor(x_min / 2^e) < bins``. The range
    of every quantizer contains 0, so resolution beyond that of ``[min(x_min, 0), max(x_max, 0)]``
    would be wasted. The width of a bin is then at most ``2 / (bins - 2)`` of that range. No bin
    is narrower than 2⁻¹²⁶, the smallest normal float32.
    """
    low, high = min(x_min, 0.0), max(x_max, 0.0)
    exponent = max(-126, math.frexp(max(-low, high))[1] - bins.bit_length())
    while _index(high, exponent) - _index(low, exponent) >= bins:
        exponent += 1
    return Grid(exponent, _index(low, exponent))


def count(x: Tensor, grid: Grid, bins: int) -> tuple[Tensor, int]:
    """Count the values of x in the bins, int64 [bins], and the exact zeros among them.

    x is one-dimensional, finite and inside the grid; the counts are on its device.
    """
    parts = x.split(_PIECE) if len(x) > _PIECE else (x,)
    counts, zeros = _count_piece(parts[0], grid, bins)
    for piece in parts[1:]:
        more, more_zeros = _count_piece(piece, grid, bins)
        counts += more
        zeros += more_zeros
    return counts, zeros


def _count_piece(piece: Tensor, grid: Grid, bins: int) -> tuple[Tensor, int]:
    wide = piece if piece.dtype in (torch.float32, torch.float64) else piece.float()
    k = wide * math.ldexp(1.0, -grid.exponent)
    if grid.start < 0:  # else nothing is negative, and the conversion to integers rounds down
        k.floor_()
        if grid.exponent > 0:
            # A negative number too small for its product becomes -0, whose floor is not -1.
            k -= ((k == 0) & (piece < 0)).to(k.dtype)
        k.sub_(grid.start)
    narrow = torch.int16 if bins <= 1 << 15 else torch.int32  # the less there is to read again
    counts = torch.bincount(k.to(narrow), minlength=bins)
    # Far faster than torch's own sum of (piece == 0).
    return counts, len(piece) - int(np.count_nonzero(piece.bool().numpy(force=True)))


def regrid(counts: Tensor, old: Grid, new: Grid) -> Tensor:
    """Move counts to a grid as coarse or coarser: whole bins merge, no count is split."""
    if new.exponent == old.exponent:
        return counts.roll(old.start - new.start)  # only empty bins leave at an end
    before = counts.numpy(force=True)
    filled = np.flatnonzero(before)
    after = np.zeros_like(before)
    np.add.at(
        after, ((filled + old.start) >> (new.exponent - old.exponent)) - new.start, before[filled]
    )
    return torch.from_numpy(after).to(counts.device)


def halves(h: Histogram) -> tuple[np.ndarray, np.ndarray]:
    """Return the counts of x > 0 and of x < 0, each from 0 outwards."""
    zero = -h.grid.start
    positive = h.counts[zero:].copy()
    positive[0] -= h.zeros
    return positive, h.counts[:zero][::-1]


def magnitudes(h: Histogram) -> Histogram:
    """Return the histogram of |x|: bin -k - 1 is added to bin k, its mirror image."""
    zero = -h.grid.start
    sides = h.counts[zero:], h.counts[:zero][::-1]
    counts = np.zeros(max(map(len, sides)), dtype=np.int64)
    for side in sides:
        counts[: len(side)] += side
    low = max(h.x_min, -h.x_max, 0.0)
    return Histogram(counts, Grid(h.grid.exponent, 0), low, max(-h.x_min, h.x_max), h.zeros)


def order_statistic(h: Histogram) -> Callable[[int], float]:
    """Return a function that gives the i-th smallest value, from 0, to less than a bin width.

    The c values of a bin are placed at ``(j + 1/2) / c`` of it, ``j = 0 .. c - 1``; the first and
    the last value of all are known exactly.
    """
    total = h.counts.cumsum()

    def value(i: int) -> float:
        if i == 0 or i == total[-1] - 1:
            return h.x_min if i == 0 else h.x_max
        k = int(total.searchsorted(i, side="right"))
        c = int(h.counts[k])
        fraction = (i - (int(total[k]) - c) + 0.5) / c
        estimate = math.ldexp(h.grid.start + k + fraction, h.grid.exponent)
        return min(max(estimate, h.x_min), h.x_max)

    return value


def quantile(value: Callable[[int], float], position: float) -> float:
    """Interpolate linearly between order statistics: ``x_i + f (x_(i+1) - x_i)`` at ``i + f``."""
    i = math.floor(position)
    f = position - i
    low = value(i)
    return low if f == 0 else low + f * (value(i + 1) - low)


def _index(x: float, exponent: int) -> int:
    """``floor(x / 2^exponent)``, where neither the power nor the quotient need be a float."""
    mantissa, own = math.frexp(x)
    return math.floor(math.ldexp(mantissa, max(own - exponent, -1)))
