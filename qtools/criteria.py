"""Which range to clip to, decided from a histogram: least squared error, or least divergence.

Both criteria are exhaustive: each computes the cost of every candidate of a stated grid, in
closed form from running sums, and takes the cheapest.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from qtools.histogram import Histogram, halves, magnitudes
from qtools.spec import QuantSpec

#: Scales that the squared-error criterion tries per factor of two: neighbours differ by 1.1 %.
#: A smooth density needs no more than 4 %; where one value occurs very often (the background of
#: an image after BatchNorm), the error depends on how near a level comes to it.
SCALES_PER_OCTAVE = 64
# Scales searched at a time, fewer where there are many levels: blocks of 64 kB to 1 MB.
_ROWS, _BLOCK = 16, 1 << 17


class Candidates(NamedTuple):
    """Ranges and what each costs, float64 [candidates], from the widest to the narrowest."""

    x_min: np.ndarray
    x_max: np.ndarray
    cost: np.ndarray

    @property
    def best(self) -> tuple[float, float]:
        """``(x_min, x_max)`` of the cheapest, of the widest if several are."""
        i = int(self.cost.argmin())
        return float(self.x_min[i]), float(self.x_max[i])


# --- Squared error -------------------------------------------------------------------------------


class Excess:
    """``K(t) = Σ max(±x - t, 0)`` for t >= 0, over the values on each side of 0, in bin widths.

    The values of a bin are spread evenly over it; the outermost bins are cut at the smallest and
    the largest value. So K is quadratic inside a bin, linear before the first value and 0 after
    the last: three numbers a bin give it everywhere, and sums of positive terms give the three.

    ``counts`` holds those of each side from 0 outwards, ``low`` and ``high`` its smallest and
    largest ``|x|``. All arrays here are [sides, bins]: two sides cost hardly more than one.
    """

    def __init__(self, counts: list[np.ndarray], low: list[float], high: list[float]) -> None:
        self.high = max(high)
        bins = math.floor(self.high) + 1  # up to the bin that the largest value is in or ends
        c = np.zeros((len(counts), bins))
        for row, own in zip(c, counts, strict=True):
            row[: len(own)] = own[:bins]
        self._low, self._high = np.array(low)[:, None], np.array(high)[:, None]
        edges = np.arange(bins + 1.0)
        edges = np.maximum(np.minimum(edges, self._high), self._low)
        a, b = edges[:, :-1], edges[:, 1:]
        size, self._end = b - a, b
        self._half_density = np.divide(c, 2 * size, out=np.zeros_like(c), where=size > 0)
        self._beyond = _sum_after(c)
        self._excess = _sum_after(size * (self._beyond + c / 2))
        in_bin = size * (self._excess + size * (self._beyond / 2 + size * self._half_density / 3))
        #: ``Σ max(±x - end, 0)²`` at the end of each bin, and ``Σ x²``.
        self._squares = 2 * _sum_after(in_bin)
        self.power = (c * (a * a + a * b + b * b)).sum() / 3
        self._total = c.sum(axis=1) if self._low.any() else None
        self._first = bins * np.arange(len(c))  # of each side's bins in the flattened arrays

    def __call__(self, t: np.ndarray) -> np.ndarray:
        """K(t) of each side, float64 [sides, rows, columns], for t [rows, columns]."""
        inside = np.minimum(t, self._high[:, None])
        if self._total is not None:
            np.maximum(inside, self._low[:, None], out=inside)
        k = inside.astype(np.intp)
        k += self._first[:, None, None]
        rest = np.subtract(self._end.take(k), inside, out=inside)
        value = self._half_density.take(k)
        value *= rest
        value += self._beyond.take(k)
        value *= rest
        value += self._excess.take(k)
        if self._total is not None:
            value += self._total[:, None, None] * np.maximum(self._low[:, None] - t, 0)
        return value

    def clipped(self, t: np.ndarray) -> np.ndarray:
        """Lower bound on ``Σ max(±x - t, 0)²``, t [sides, n]: its value at the end of t's bin."""
        k = np.minimum(t, self._squares.shape[1] - 1).astype(np.intp)
        return self._squares.take(k + self._first[:, None])


def squared_error(h: Histogram, spec: QuantSpec, *, prune: bool = False) -> Candidates:
    """``E(s, z) = mean x² - (2s/N) [ Σ_{j<b} K⁺(s(j+½)) + Σ_{j<a} K⁻(s(j+½)) ]``.

    Levels lie at ``s k`` for ``k = -a .. b``, with ``a = z - qmin`` and ``b = qmax - z``.
    ``K⁺(t) = Σ max(x - t, 0)`` and ``K⁻(t) = Σ max(-x - t, 0)``. To see the formula, begin with
    the level 0 alone: the error is ``mean x²``. A further level at ``s (j + 1)`` takes over the x
    above ``s (j + ½)``, and ``(x - s j)² - (x - s (j+1))² = 2 s (x - s (j + ½))``. So each level
    earns a term that depends on itself only, and one running sum on either side of 0 gives the
    error for *every* zero point at once.

    Candidates: scales ``s = s₀ 2^(-i/64)``, with s₀ the scale that min-max would choose, from
    ``s₀ n / (n - 1)``, ``n = qmax - qmin`` (enough for the range wherever 0 falls on it), down to
    s₀ divided by the number of bins; with each scale its best zero point. A scale costs as many
    steps as there are levels: about 1 ms in all at 8 bits, half a second at 16.

    Parameters
    ----------
    h : Histogram
        Not empty; two different values at least.
    spec : QuantSpec
        Per tensor.
    prune : bool
        Leave out scales that cannot win: where even with the best z the values beyond the
        outermost levels alone cost more than a quantizer already found, s is too small.

    Returns
    -------
    Candidates
        Costs are mean squared errors, in the data's unit squared.
    """
    width, total = h.grid.width, float(h.counts.sum())
    low, high = h.x_min / width, h.x_max / width
    positive, negative = halves(h)
    # Most data after a ReLU has one side only.
    sides = [
        (side, part, max(near, 0.0), far)
        for side, part, near, far in ((-1, negative, -high, -low), (1, positive, low, high))
        if far > 0
    ]
    excess = Excess(*map(list, list(zip(*sides, strict=True))[1:]))
    scales, n = _scales(h, spec), spec.qmax - spec.qmin
    above = _levels_above(spec)
    outermost = np.array([above if side > 0 else n - above for side, *_ in sides])
    found: list[tuple[np.ndarray, np.ndarray]] = []
    least, start, rows = math.inf, 0, max(1, min(_ROWS, _BLOCK // n))
    while start < len(scales):
        # That of the scale at hand bounds all smaller ones; its sum may be off by a rounding.
        clipped = excess.clipped(scales[start] * outermost).sum(axis=0)
        if prune and clipped.min() > least * (1 + 1e-9):
            break
        found.append(_search(excess, outermost, scales[start : start + rows], n))
        least, start = min(least, found[-1][1].min()), start + rows
    best, error = (np.concatenate(part) for part in zip(*found, strict=True))
    above = above[best]
    scales = scales[: len(above)]
    # Symmetric: the range that means this scale is ±s (qmax - z), though one more code is below.
    below = above if spec.symmetric else spec.qmax - spec.qmin - above
    with np.errstate(over="ignore"):  # ends and squares of float64 data near the largest number
        square = np.square(width)
        x_min, x_max = -(scales * below) * width, scales * above * width
        return Candidates(x_min, x_max, error / total * square)


def _search(
    excess: Excess, outermost: np.ndarray, scales: np.ndarray, n: int
) -> tuple[np.ndarray, np.ndarray]:
    """For each scale the best column of ``outermost``, and the summed squared error with it."""
    # Levels past the last value earn nothing.
    some = min(n, math.ceil(excess.high / scales[-1]))
    earned = np.zeros((len(outermost), len(scales), n + 1))
    each = excess(scales[:, None] * (np.arange(some) + 0.5))
    each.cumsum(axis=2, out=earned[:, :, 1 : some + 1])
    earned[:, :, some + 1 :] = earned[:, :, some, None]
    gain = earned[0].take(outermost[0], axis=1)
    for row, levels in zip(earned[1:], outermost[1:], strict=True):
        gain += row.take(levels, axis=1)
    best = gain.argmax(axis=1)
    return best, excess.power - 2 * scales * gain[np.arange(len(scales)), best]


def _levels_above(spec: QuantSpec) -> np.ndarray:
    """How many levels above 0 there can be: ``qmax - z`` for every z, in the order of z falling."""
    if spec.symmetric:
        return np.array([spec.qmax - zero_point(spec)])
    return np.arange(spec.qmax - spec.qmin + 1)


def _scales(h: Histogram, spec: QuantSpec) -> np.ndarray:
    """Candidate scales in bin widths, largest first."""
    low, high = min(h.x_min, 0.0) / h.grid.width, max(h.x_max, 0.0) / h.grid.width
    n = spec.qmax - spec.qmin
    if spec.symmetric:
        largest = max(-low, high) / (spec.qmax - zero_point(spec))
    else:
        largest = (high - low) / n
    above = math.floor(SCALES_PER_OCTAVE * math.log2(n / (n - 1)))
    below = math.ceil(SCALES_PER_OCTAVE * math.log2(len(h.counts)))
    return largest * np.exp2(-np.arange(-above, below + 1) / SCALES_PER_OCTAVE)


# --- Relative entropy ----------------------------------------------------------------------------


def relative_entropy(h: Histogram, spec: QuantSpec) -> Candidates:
    """``KL(P ‖ Q) = Σ P log(P / Q)`` for each threshold T, in nats (Migacz 2017).

    P is what clipping at T makes of the counts: the bins inside, with all that lies outside added
    to the two outermost of them, divided by the number of values. Q is what the codes can tell of
    the bins inside: they are cut into L runs as equal as can be, bin b of W into run
    ``floor(b L / W)``; each run's count is shared evenly among its bins that are not empty; the
    whole is divided by the count inside. A small T costs a tall outermost bin in P that Q, which
    has not seen the clipped values, lacks. A large T costs detail: L runs of many bins each.
    Exact zeros count in neither: they have a code of their own, and half the values of a ReLU in
    one bin would drown the rest.

    P and Q are compared where P > 0. Q is 0 there only if the outermost bin is empty while values
    were clipped to it; the divergence is then infinite, and the candidate cannot win. No
    smoothing constant enters.

    Candidates: ``T = m w``, w the width of a bin, for every m that leaves at least as many bins
    as codes, and the whole range. The range is ``[-T, T]`` within that of the data; L is the
    number of its codes (symmetric: of the codes of |x|, whose histogram is then used).

    The criterion knows neither scale nor rounding, and where W = L it sees no loss but clipping:
    it measures what is lost of the histogram's shape, not the error of a value.

    Parameters
    ----------
    h : Histogram
        Not empty.
    spec : QuantSpec
        Per tensor.
    """
    low, high = min(h.x_min, 0.0), max(h.x_max, 0.0)
    levels = spec.qmax - (zero_point(spec) if spec.symmetric else spec.qmin) + 1
    if spec.symmetric:
        h = magnitudes(h)
    positive, negative = halves(h)
    used = [len(np.trim_zeros(side, "b")) for side in (negative, positive)]
    zero, m = len(negative), np.arange(max(used), 0, -1)
    first, last = zero - np.minimum(m, used[0]), zero + np.minimum(m, used[1])
    keep = (last - first >= levels) | (m == max(used))
    m, first, last = m[keep], first[keep], last[keep]
    counts = np.concatenate([negative[::-1], positive])
    cost = _divergence(counts, first, last, levels)
    with np.errstate(over="ignore"):  # the last bin may end past the largest float64
        threshold = m * h.grid.width
    return Candidates(np.maximum(low, -threshold), np.minimum(high, threshold), cost)


def _divergence(counts: np.ndarray, first: np.ndarray, last: np.ndarray, levels: int) -> np.ndarray:
    """KL divergence for the bins ``first .. last - 1``, int64 [candidates] each."""
    # Running sums over the bins, each with a leading 0, of c, [c > 0] and c log c.
    mass, filled, entropy = (
        np.concatenate([[0], np.cumsum(v)]) for v in (counts, counts > 0, _x_log_x(counts))
    )
    runs = np.arange(levels + 1)
    bounds = first[:, None] - (-runs * (last - first)[:, None] // levels)
    per_run, bins = np.diff(mass[bounds]), np.diff(filled[bounds])
    inside, total = mass[last] - mass[first], mass[-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        log_q = np.where(per_run > 0, np.log(per_run / (bins * inside[:, None])), 0.0)
    cost = entropy[last] - entropy[first] - (per_run * log_q).sum(axis=1)
    occupied = bounds[:, 1:] > bounds[:, :-1]
    left, right = occupied.argmax(axis=1), levels - 1 - occupied[:, ::-1].argmax(axis=1)
    for outside, edge, run in (
        (mass[first], counts[first], left),
        (total - mass[last], counts[last - 1], right),
    ):
        moved = _x_log_x(edge + outside) - _x_log_x(edge)
        cost += moved - outside * np.take_along_axis(log_q, run[:, None], axis=1)[:, 0]
        cost[(outside > 0) & (edge == 0)] = np.inf
    return cost / total - math.log(total)


def _x_log_x(x: np.ndarray) -> np.ndarray:
    return x * np.log(np.maximum(x, 1))


def _sum_after(x: np.ndarray) -> np.ndarray:
    """Sum of the elements after each one, along the rows."""
    total = np.zeros_like(x)
    x[:, :0:-1].cumsum(axis=1, out=total[:, -2::-1])
    return total


def zero_point(spec: QuantSpec) -> int:
    """Zero point of a symmetric spec."""
    return 0 if spec.signed else 2 ** (spec.bits - 1)
