"""Observers on data that arrives awkwardly: order, size, outliers, constants."""

from __future__ import annotations

import copy
import math
from fractions import Fraction

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qtools import QuantSpec, fake_quantize, qparams_from_tensor
from qtools.observers import (
    HistogramObserver,
    MinMaxObserver,
    MovingAverageObserver,
    PercentileObserver,
)

from .observer_makers import COUNTING, MAKERS, counting, every, normal, same, samples, watch
from .strategies import specs, tensors


@given(samples(), st.integers(16, 100))
def test_counts_are_those_of_exact_arithmetic(x, bins):
    """Bin k holds the x with floor(x / w) = k, with floats taken as the rationals they are."""
    h = watch(PercentileObserver(QuantSpec(), bins=bins), *x.split(5)).histogram()
    w = Fraction(2) ** h.grid.exponent
    expected = [0] * bins
    for value in x.tolist():
        expected[math.floor(Fraction(value) / w) - h.grid.start] += 1
    assert h.counts.tolist() == expected
    if h.grid.exponent > -126 and (h.x_min, h.x_max) != (
        0,
        0,
    ):  # and the grid is the finest that fits
        low, high = (Fraction(v) for v in (min(h.x_min, 0.0), max(h.x_max, 0.0)))
        assert math.floor(high / w * 2) - math.floor(low / w * 2) >= bins


@pytest.mark.parametrize("name", ["minmax", *COUNTING])
@given(st.lists(tensors((torch.float32, torch.float64)), min_size=2, max_size=5), st.randoms())
@settings(max_examples=40)
def test_order_and_size_of_batches_do_not_matter(name, batches, random):
    """Ranges that grow by many doublings included: one batch may be huge, another tiny."""
    spec = QuantSpec(bits=4)
    once = watch(MAKERS[name](spec), torch.cat([b.double().reshape(-1) for b in batches]))
    shuffled = [b.double() for b in batches]
    random.shuffle(shuffled)
    assert same(once, watch(MAKERS[name](spec), *shuffled))
    rows = [row for b in shuffled for row in b.unbind(0)]
    random.shuffle(rows)
    assert same(once, watch(MAKERS[name](spec), *rows))


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("name", ["minmax", "average"])
def test_per_channel_is_per_tensor_on_each_channel(name, axis):
    batches = [normal(3 * 4 * 5, seed).view(3, 4, 5) for seed in range(3)]
    spec = QuantSpec(granularity="channel", axis=axis)
    low, high = watch(MAKERS[name](spec), *batches).range()
    for i in range(batches[0].shape[axis]):
        one = watch(MAKERS[name](QuantSpec()), *(b.select(axis, i) for b in batches)).range()
        assert one == (low[i], high[i])


@given(tensors(), specs(("tensor", "channel")))
def test_min_max_of_one_batch_is_the_tensors_own(x, spec):
    expected, qp = qparams_from_tensor(x, spec), watch(MinMaxObserver(spec), x).qparams()
    assert torch.equal(qp.scale, expected.scale)
    assert torch.equal(qp.zero_point, expected.zero_point)
    assert qp.scale.dtype == expected.scale.dtype


@every
@given(x=tensors(), spec=specs(("tensor",)).filter(lambda spec: spec.bits <= 8))
@settings(max_examples=50)
def test_any_finite_tensor_gives_parameters(name, x, spec):
    qp = watch(MAKERS[name](spec), x, x / 2).qparams()
    assert bool(fake_quantize(x, qp).isfinite().all())


@every
@pytest.mark.parametrize("value", [3.7, -1e-30, 1e30, 0.1])
@pytest.mark.parametrize("symmetric", [False, True])
def test_all_values_equal(name, value, symmetric):
    """The range is that value (widened to 0), and it comes back to within a rounding."""
    obs = watch(MAKERS[name](QuantSpec(symmetric=symmetric)), *[torch.full((50,), value)] * 3)
    x = torch.tensor(value)
    torch.testing.assert_close(fake_quantize(x, obs.qparams()), x, rtol=1e-6, atol=0)
    assert max(abs(end.item()) for end in obs.range()) == abs(x.item())


@every
def test_all_zeros_then_data(name):
    obs = watch(MAKERS[name](QuantSpec()), torch.zeros(100))
    assert [end.item() for end in obs.range()] == [0, 0]
    assert obs.qparams().scale == 1
    x = normal(1000)
    watch(obs, x)
    assert 0 < obs.qparams().scale < 1
    if name in COUNTING:
        assert int(obs.histogram().counts.sum()) == 1100
        assert obs.histogram().zeros == 100


@counting
def test_ranges_from_tiny_to_huge(name):
    """1e-30, 1 and 1e30 in turn: the grid doubles two hundred times and no count is lost."""
    x = normal(1000)
    obs = watch(MAKERS[name](QuantSpec()), x * 1e-30, x, x * 1e30)
    h = obs.histogram()
    assert int(h.counts.sum()) == 3000
    assert h.counts[-h.grid.start - 1] >= 2 * int((x < 0).sum())  # all small negatives in one bin
    assert bool(obs.qparams().scale.isfinite())
    assert same(obs, watch(MAKERS[name](QuantSpec()), x * 1e30, x * 1e-30, x))


def test_one_batch_of_outliers():
    """A hundred ordinary batches, one 1000 times larger: what each observer makes of it."""
    ordinary = [normal(1000, seed) for seed in range(100)]
    batches = [*ordinary[:50], normal(1000, 100) * 1000, *ordinary[50:]]
    largest = max(float(b.abs().max()) for b in batches)
    usual = max(float(b.abs().max()) for b in ordinary)

    def top(obs):
        return watch(obs, *batches).range()[1].item()

    spec = QuantSpec()
    assert top(MinMaxObserver(spec)) > largest / 2
    # 1 % of the outlier is left after the batch, and (0.99)^50 of that at the end.
    average = top(MovingAverageObserver(spec))
    assert 1.5 * usual < average < 0.01 * largest
    # Half of 1 % of the values are positive outliers: 99 % leaves them out, to one bin.
    percentile = PercentileObserver(spec, 99.0)
    assert top(percentile) < usual + percentile.histogram().grid.width
    assert top(PercentileObserver(spec, 99.99)) > 100 * usual
    # The squared error is ruled by the outliers, even at 4 bits: it keeps them.
    assert top(HistogramObserver(QuantSpec(bits=4))) > 100 * usual


@every
def test_empty_batches_change_nothing(name):
    obs = MAKERS[name](QuantSpec())
    assert not watch(obs, torch.empty(0)).has_data
    watch(obs, normal(10))
    state = copy.deepcopy(obs.state_dict())
    watch(obs, torch.empty(0, 3))
    assert all(torch.equal(state[k], v) for k, v in obs.state_dict().items())


@every
def test_memory_is_constant(name):
    obs = watch(MAKERS[name](QuantSpec()), normal(10))
    size = len(safetensors.torch.save(obs.state_dict()))
    for i in range(50):
        watch(obs, normal(1000, i) * 2**i)
    assert len(safetensors.torch.save(obs.state_dict())) == size
