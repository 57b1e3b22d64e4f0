"""The criteria of histogram observers against naive searches."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from qtools import QuantSpec, fake_quantize
from qtools.criteria import relative_entropy, squared_error
from qtools.histogram import Histogram, grid_of
from qtools.observers import (
    HistogramObserver,
)

from .observer_makers import normal, samples, watch
from .strategies import specs


def bins_of(h: Histogram) -> list[tuple[int, float, float]]:
    """(count, left edge, right edge) of each bin that is not empty, cut to the range; no zeros."""
    w, counts = h.grid.width, h.counts.copy()
    counts[-h.grid.start] -= h.zeros
    edges = [((h.grid.start + i) * w, (h.grid.start + i + 1) * w) for i in range(len(h.counts))]
    return [
        (int(c), max(a, h.x_min), min(b, h.x_max))
        for c, (a, b) in zip(counts, edges, strict=True)
        if c
    ]


def naive_squared_error(h: Histogram, s: float, low: int, high: int) -> float:
    """Mean of (x - s k)² with k the code in low..high nearest to x, cell by cell, bin by bin."""
    total = 0.0
    for c, a, b in bins_of(h):
        if a == b:
            k = min(max(round(a / s), low), high)
            total += c * (a - s * k) ** 2
            continue
        cuts = [s * (k + 0.5) for k in range(low, high) if a < s * (k + 0.5) < b]
        for left, right in zip([a, *cuts], [*cuts, b], strict=True):
            k = min(max(math.floor((left + right) / 2 / s + 0.5), low), high)
            piece = ((right - s * k) ** 3 - (left - s * k) ** 3) / 3
            total += c * piece / (b - a)
    return total / int(h.counts.sum())


def naive_relative_entropy(counts: list[int], first: int, last: int, levels: int) -> float:
    """The definition of the docstring, one bin at a time."""
    inside = counts[first:last]
    p = list(inside)
    p[0] += sum(counts[:first])
    p[-1] += sum(counts[last:])
    runs: dict[int, list[int]] = {}
    for b in range(len(inside)):
        runs.setdefault(b * levels // len(inside), []).append(b)
    q = [0.0] * len(inside)
    for members in runs.values():
        filled = [b for b in members if inside[b]]
        for b in filled:
            q[b] = sum(inside[m] for m in members) / len(filled) / sum(inside)
    total = sum(counts)
    return sum(
        (v / total * math.log(v / total / q[b]) if q[b] else math.inf) for b, v in enumerate(p) if v
    )


small_specs = specs(("tensor",)).filter(lambda spec: spec.bits <= 4)


@given(samples(), small_specs)
@settings(max_examples=60)
def test_mse_equals_an_exhaustive_search(x, spec):
    """Every scale of the grid with every zero point, integrated over each cell of each bin."""
    obs = watch(HistogramObserver(spec, "mse", bins=16), x)
    h = obs.histogram()
    if h.x_min == h.x_max:
        return
    table = obs.candidates()
    n = spec.qmax - spec.qmin
    z = 0 if spec.signed else 2 ** (spec.bits - 1)
    zeros = [z] if spec.symmetric else range(spec.qmin, spec.qmax + 1)
    unit = max(h.x_max, -h.x_min) ** 2
    scales = table.x_max / (spec.qmax - z) if spec.symmetric else (table.x_max - table.x_min) / n
    for s, cost in list(zip(scales.tolist(), table.cost.tolist(), strict=True))[::3]:
        costs = [naive_squared_error(h, s, spec.qmin - k, spec.qmax - k) for k in zeros]
        assert cost == pytest.approx(min(costs), rel=1e-9, abs=1e-12 * unit)
    # The quantizer that comes out is the candidate: same scale, and a cost no other is below.
    qp = obs.qparams()
    best = table.cost.min()
    exact = naive_squared_error(
        h, qp.scale.item(), spec.qmin - int(qp.zero_point), spec.qmax - int(qp.zero_point)
    )
    if qp.scale > 1e-37:  # else the scale was held up to the smallest normal float
        assert exact == pytest.approx(best, rel=1e-3, abs=1e-9 * unit)


@given(samples(), small_specs)
@settings(max_examples=100)
def test_kl_equals_an_exhaustive_search(x, spec):
    obs = watch(HistogramObserver(spec, "kl", bins=64), x)
    h, table = obs.histogram(), obs.candidates()
    if h.x_min == h.x_max:
        return
    zero, w = -h.grid.start, h.grid.width
    counts = h.counts.tolist()
    counts[zero] -= h.zeros
    positive, negative = counts[zero:], counts[:zero][::-1]
    levels = spec.qmax - spec.qmin + 1
    if spec.symmetric:
        levels = spec.qmax - (0 if spec.signed else 2 ** (spec.bits - 1)) + 1
        size = max(len(positive), len(negative))
        pad = [side + [0] * (size - len(side)) for side in (positive, negative)]
        positive, negative = [a + b for a, b in zip(*pad, strict=True)], []
    right = max((k + 1 for k, c in enumerate(positive) if c), default=0)
    left = max((k + 1 for k, c in enumerate(negative) if c), default=0)
    bins = [*negative[:left][::-1], *positive[:right]]
    expected = {}
    for m in range(1, max(left, right) + 1):
        first, last = left - min(m, left), left + min(m, right)
        if last - first >= levels or m == max(left, right):
            expected[m] = naive_relative_entropy(bins, first, last, levels)
    assert len(expected) == len(table.cost)
    for (m, cost), found, x_min, x_max in zip(
        sorted(expected.items(), reverse=True),
        table.cost.tolist(), table.x_min.tolist(), table.x_max.tolist(), strict=True,
    ):  # fmt: skip
        assert (x_min, x_max) == (max(-m * w, min(h.x_min, 0)), min(m * w, max(h.x_max, 0)))
        assert found == pytest.approx(cost, rel=1e-9, abs=1e-12)
    assert expected[max(expected)] < math.inf


@given(samples(), specs(("tensor",)).filter(lambda spec: spec.bits <= 10))
@settings(max_examples=60)
def test_pruning_loses_nothing(x, spec):
    obs = watch(HistogramObserver(spec, "mse", bins=256), x)
    h = obs.histogram()
    if h.x_min == h.x_max:
        return
    pruned = squared_error(h, spec, prune=True)
    assert pruned.best == squared_error(h, spec).best


def test_cost_is_the_squared_error_of_the_quantizer():
    """The model (values spread over each bin) against the values themselves."""
    x = normal(100_000)
    for spec in (QuantSpec(), QuantSpec(bits=4, symmetric=True), QuantSpec(bits=2, signed=False)):
        obs = watch(HistogramObserver(spec), x, x.relu())
        y = torch.cat([x, x.relu()])
        actual = (y.double() - fake_quantize(y, obs.qparams()).double()).square().mean().item()
        assert obs.candidates().cost.min() == pytest.approx(actual, rel=0.01)


def test_exact_zeros_cost_nothing_and_move_no_threshold():
    x = normal(20_000).abs() + 1e-3
    zeros = torch.zeros(1_000_000)
    for criterion in ("mse", "kl"):
        alone = watch(HistogramObserver(QuantSpec(), criterion), x, torch.zeros(1))
        many = watch(HistogramObserver(QuantSpec(), criterion), x, zeros)
        assert alone.range() == many.range()
        assert int(many.zeros) == 1_000_000


def test_kl_refuses_a_threshold_with_an_empty_edge():
    """Values clipped to an empty bin would be infinitely surprising to Q."""
    counts = np.zeros(64, dtype=np.int64)
    counts[:20], counts[40] = 5, 1
    h = Histogram(counts, grid_of(0.0, 40.5, 64), 0.0, 40.5)
    table = relative_entropy(h, QuantSpec(bits=2))
    infinite = np.isinf(table.cost)
    assert infinite.sum() == 20  # thresholds 21 to 40
    assert (table.x_max[infinite] > 20).all()


@pytest.mark.parametrize("narrow_range", [False, True])
def test_two_bits_near_the_largest_number(narrow_range):
    """The widest candidate step is then infinite, but no end is infinity times zero levels."""
    spec = QuantSpec(bits=2, narrow_range=narrow_range)
    largest = torch.finfo(torch.float64).max
    x = torch.linspace(-1, 1, 40, dtype=torch.float64) * largest
    found = watch(HistogramObserver(spec, "mse", bins=64), x).candidates()
    assert not np.isnan(found.x_min).any()
    assert not np.isnan(found.x_max).any()
