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
    """``K(t) = Σ max(x - t, 0)`` for t >= 0, over the values on one side of 0, in bin widths.

    The values of a bin are spread evenly over it; the outermost bins are cut at the smallest and
    the largest value. So K is quadratic inside a bin, linear before the first value and 0 after
    the last: three numbers a bin give it everywhere, and sums of positive terms give the three.
    """

    def __init__(self, counts: np.ndarray, low: float, high: float) -> None:
        c = np.zeros(math.floor(high) + 1)  # up to the bin that the largest value is in or ends
        c[: len(counts)] = counts[: len(c)]
        edges = np.arange(len(c) + 1.0)
        edges[-1] = high
        np.maximum(edges, low, out=edges)
        size = np.diff(edges)
        self.low, self.high, self.total, self.end = low, high, c.sum(), edges[1:]
        self.half_density = np.divide(c, 2 * size, out=np.zeros_like(c), where=size > 0)
        self.beyond = _sum_after(c)
        self.excess = _sum_after(size * (self.beyond + c / 2))
        in_bin = size * (self.excess + size * (self.beyond / 2 + size * self.half_density / 3))
        #: ``Σ max(x - end, 0)²`` at the end of each bin, and ``Σ x²``.
        self.squares = 2 * _sum_after(in_bin)
        a, b = edges[:-1], edges[1:]
        self.power = (c * (a * a + a * b + b * b)).sum() / 3

    def __call__(self, t: np.ndarray) -> np.ndarray:
        """K(t), float64 in the shape of t."""
        inside = np.minimum(t, self.high)
        if self.low > 0:
            np.maximum(inside, self.low, out=inside)
        k = inside.astype(np.intp)
        rest = np.subtract(self.end.take(k), inside, out=inside)
        value = self.half_density.take(k)
        value *= rest
        value += self.beyond.take(k)
        value *= rest
        value += self.excess.take(k)
        if self.low > 0:
            value += self.total * np.maximum(self.low - t, 0)
        return value

    def clipped(self, t: np.ndarray) -> np.ndarray:
        """Lower bound on ``Σ max(x - t, 0)²``: its value at the end of the bin of t."""
        return self.squares.take(np.minimum(t, len(self.squares) - 1).astype(np.intp))


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
    sides = (
        Excess(negative, max(-high, 0.0), max(-low, 0.0)),
        Excess(positive, max(low, 0.0), max(high, 0.0)),
    )
    scales, n = _scales(h, spec), spec.qmax - spec.qmin
    above = _levels_above(spec)
    found: list[tuple[np.ndarray, np.ndarray]] = []
    least, start, rows = math.inf, 0, max(1, min(_ROWS, _BLOCK // n))
    while start < len(scales):
        # That of the scale at hand bounds all smaller ones; its sum may be off by a rounding.
        s = scales[start]
        clipped = sides[0].clipped(s * (n - above)) + sides[1].clipped(s * above)
        if prune and clipped.min() > least * (1 + 1e-9):
            break
        found.append(_search(sides, scales[start : start + rows], spec))
        least, start = min(least, found[-1][1].min()), start + rows
    above, error = (np.concatenate(part) for part in zip(*found, strict=True))
    scales = scales[: len(above)]
    # Symmetric: the range that means this scale is ±s (qmax - z), though one more code is below.
    below = above if spec.symmetric else spec.qmax - spec.qmin - above
    with np.errstate(over="ignore"):  # ends and squares of float64 data near the largest number
        square = np.square(width)
        x_min, x_max = -(scales * below) * width, scales * above * width
        return Candidates(x_min, x_max, error / total * square)


def _search(
    sides: tuple[Excess, Excess], scales: np.ndarray, spec: QuantSpec
) -> tuple[np.ndarray, np.ndarray]:
    """For each scale the best number of levels above 0, and the summed squared error with it."""
    n = spec.qmax - spec.qmin
    earned = np.zeros((2, len(scales), n + 1))
    for side, row in zip(sides, earned, strict=True):
        if side.total:
            # Levels past the last value earn nothing.
            some = min(n, math.ceil(side.high / scales[-1]))
            middles = scales[:, None] * (np.arange(some) + 0.5)
            side(middles).cumsum(axis=1, out=row[:, 1 : some + 1])
            row[:, some + 1 :] = row[:, some, None]
    above = _levels_above(spec)
    gain = earned[0][:, n - above] + earned[1][:, above]
    best = gain.argmax(axis=1)
    error = sides[0].power + sides[1].power - 2 * scales * gain[np.arange(len(scales)), best]
    return above[best], error


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
    """Sum of the elements after each one."""
    return np.concatenate([x[:0:-1].cumsum()[::-1], [0.0]])


def zero_point(spec: QuantSpec) -> int:
    """Zero point of a symmetric spec."""
    return 0 if spec.signed else 2 ** (spec.bits - 1)
