"""Percentiles: exact of few values, within one bin of many."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtools import QuantSpec
from qtools.histogram import magnitudes, order_statistic
from qtools.observers import (
    MinMaxObserver,
    PercentileObserver,
)

from .observer_makers import normal, samples, watch
from .strategies import specs


@given(samples(), specs(("tensor",)), st.floats(50.5, 100))
def test_percentile_of_few_values_is_exact(x, spec, p):
    obs = watch(PercentileObserver(spec, p, bins=128), *x.split(7))
    exact = x.double().numpy()
    if spec.symmetric:
        high = np.percentile(abs(exact), p)
        low = -high
    else:
        low, high = np.percentile(exact, 100 - p), np.percentile(exact, p)
    for end, expected in zip(obs.range(), (low, high), strict=True):
        assert end.item() == pytest.approx(expected, rel=1e-6, abs=1e-6 * abs(exact).max())


@pytest.mark.parametrize("symmetric", [False, True])
@given(st.integers(0, 2**32 - 1), st.floats(50.5, 100), st.floats(-5, 5), st.sampled_from([1, 3]))
@settings(max_examples=50)
def test_percentile_of_many_values_is_within_one_bin(symmetric, seed, p, shift, power):
    x = normal(3000, seed) ** power + shift
    obs = watch(PercentileObserver(QuantSpec(symmetric=symmetric), p, bins=64), *x.split(500))
    h = obs.histogram()
    exact = x.double().numpy()
    magnitude = np.percentile(abs(exact), p)
    expected = (
        (-magnitude, magnitude)
        if symmetric
        else (np.percentile(exact, 100 - p), np.percentile(exact, p))
    )
    spread = max(h.x_max, 0.0) - min(h.x_min, 0.0)
    assert h.grid.width <= 2 / 62 * spread
    for end, value in zip(obs.range(), expected, strict=True):
        assert abs(end.item() - value) <= h.grid.width


@pytest.mark.parametrize("symmetric", [False, True])
def test_every_order_statistic_is_in_its_own_bin(symmetric):
    x = normal(3000)
    h = watch(PercentileObserver(QuantSpec(), bins=64), x).histogram()
    if symmetric:
        x, h = x.abs(), magnitudes(h)
    value, w = order_statistic(h), h.grid.width
    estimates = [value(i) for i in range(3000)]
    assert estimates == sorted(estimates)
    exact = np.floor(np.sort(x.double().numpy()) / w)
    assert np.array_equal(np.floor(np.array(estimates) / w), exact)


@given(st.integers(1, 300), st.integers(0, 2**32 - 1))
def test_percentile_100_is_min_max(n, seed):
    x = normal(n, seed)
    ours = watch(PercentileObserver(QuantSpec(), 100.0, bins=64), x)
    assert ours.range() == watch(MinMaxObserver(QuantSpec()), x).range()
