"""Observers as modules: state, files, types, devices, and what they refuse."""

from __future__ import annotations

import copy
import math

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings

from qtools import QuantSpec, choose_qparams
from qtools.observers import (
    HistogramObserver,
    MinMaxObserver,
    MovingAverageObserver,
    PercentileObserver,
)

from .observer_makers import MAKERS, counting, every, normal, same, watch
from .strategies import tensors


@every
@given(x=tensors())
@settings(max_examples=20)
def test_returns_its_input_unchanged_and_lets_gradients_pass(name, x):
    before = x.clone()
    leaf = x.requires_grad_()
    y = MAKERS[name](QuantSpec())(leaf)
    assert y is leaf
    y.sum().backward()
    assert torch.equal(leaf.grad, torch.ones_like(x))
    assert torch.equal(leaf.detach(), before)


@every
def test_nothing_observed_needs_a_gradient(name):
    obs = watch(MAKERS[name](QuantSpec()), normal(9).requires_grad_())
    assert not any(v.requires_grad for v in obs.state_dict().values())
    assert not obs.qparams().scale.requires_grad


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("seen", [0, 1, 3000])
def test_state_survives_a_file(name, dtype, seen, tmp_path):
    """Observing on after loading is observing on without."""
    obs, other = (torch.nn.Sequential(MAKERS[name](QuantSpec(bits=4))) for _ in range(2))
    if seen:
        obs(normal(seen).to(dtype))
    safetensors.torch.save_file(obs.state_dict(), tmp_path / "state")
    other.load_state_dict(safetensors.torch.load_file(tmp_path / "state"))
    assert other[0].has_data == bool(seen)
    if seen:
        assert same(obs[0], other[0])
    for model in (obs, other):
        model(normal(500, 1).to(dtype) * 5)
    assert same(obs[0], other[0])
    assert same(obs[0], copy.deepcopy(other)[0])


def test_per_channel_state_survives_a_file():
    spec = QuantSpec(granularity="channel", axis=1)
    obs, other = MinMaxObserver(spec), MinMaxObserver(spec)
    watch(obs, normal(12).view(3, 4))
    other.load_state_dict(safetensors.torch.load(safetensors.torch.save(obs.state_dict())))
    assert same(obs, other)


@counting
def test_a_state_with_other_bins_is_refused(name):
    obs = watch(MAKERS[name](QuantSpec()), normal(10))
    state = {**obs.state_dict(), "counts": torch.zeros(32, dtype=torch.int64)}
    with pytest.raises(RuntimeError, match="counts"):
        MAKERS[name](QuantSpec()).load_state_dict(state)


@every
def test_half_precision_data_and_models_keep_float32(name):
    x = normal(3000)
    for dtype in (torch.float16, torch.bfloat16):
        exact = watch(MAKERS[name](QuantSpec()), x.to(dtype).float())
        half = torch.nn.Sequential(watch(MAKERS[name](QuantSpec()), x.to(dtype)))
        assert same(exact, half[0])
        half.to(dtype)
        assert same(exact, half[0])
        assert half[0].range()[0].dtype == torch.float32


@every
def test_float64_data_make_the_range_float64(name):
    obs = watch(MAKERS[name](QuantSpec()), normal(100), normal(100).double() / 10)
    assert {end.dtype for end in obs.range()} == {torch.float64}
    assert watch(obs, normal(100) * 2).qparams().scale.dtype == torch.float64


@every
def test_moves_to_another_device(name):
    obs = watch(MAKERS[name](QuantSpec()), normal(100)).to("meta")
    assert all(v.device.type == "meta" for v in obs.state_dict().values())


@every
def test_reset_forgets_everything(name):
    x = normal(3000)
    used = watch(MAKERS[name](QuantSpec()), x.double() * 100, torch.zeros(5)).reset()
    assert not used.has_data
    assert same(watch(used, x), watch(MAKERS[name](QuantSpec()), x))


@every
def test_no_data_is_an_error(name):
    obs = MAKERS[name](QuantSpec())
    for ask in (obs.qparams, obs.range):
        with pytest.raises(RuntimeError, match="no data"):
            ask()
    assert "no data" in repr(obs)


@every
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused_and_leave_no_trace(name, bad):
    obs = watch(MAKERS[name](QuantSpec()), normal(10))
    state = copy.deepcopy(obs.state_dict())
    with pytest.raises(ValueError, match=r"x must be finite, got (nan|-?inf)"):
        obs(torch.tensor([0.0, bad, 1.0]))
    assert all(torch.equal(state[k], v) for k, v in obs.state_dict().items())


@every
def test_wrong_input_is_named(name):
    obs = MAKERS[name](QuantSpec())
    with pytest.raises(TypeError, match=r"x must have one of the types .* got torch.int64"):
        obs(torch.arange(3))
    with pytest.raises(TypeError, match="spec must be a QuantSpec, got int"):
        MAKERS[name](8)
    with pytest.raises(ValueError, match=r"spec must have a granularity .* got 'group'"):
        MAKERS[name](QuantSpec(granularity="group", group_size=2))


@counting
def test_per_channel_is_refused_by_name(name):
    with pytest.raises(ValueError, match=r"spec .*(Percentile|Histogram)Observer, got 'channel'"):
        MAKERS[name](QuantSpec(granularity="channel"))


def test_other_channels_than_before_are_refused():
    obs = watch(MinMaxObserver(QuantSpec(granularity="channel", axis=1)), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="x must have 3 channels along axis 1"):
        obs(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="axis must be from -1 to 0"):
        obs(torch.zeros(3))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda s: MovingAverageObserver(s, 0.0), "averaging_constant must be above 0"),
        (lambda s: MovingAverageObserver(s, 1.5), "averaging_constant .* got 1.5"),
        (lambda s: MovingAverageObserver(s, math.nan), "averaging_constant .* got nan"),
        (lambda s: PercentileObserver(s, 50.0), "percentile must be above 50 .* got 50.0"),
        (lambda s: PercentileObserver(s, 100.1), "percentile .* got 100.1"),
        (lambda s: PercentileObserver(s, bins=15), "bins must be an integer from 16 .* got 15"),
        (lambda s: HistogramObserver(s, bins=2.5), "bins must be an integer .* got 2.5"),
        (lambda s: HistogramObserver(s, bins=True), "bins must be an integer .* got True"),
        (lambda s: HistogramObserver(s, "l1"), "criterion must be one of .* got 'l1'"),
    ],
)
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make(QuantSpec())


def test_range_is_what_qparams_uses():
    obs = watch(HistogramObserver(QuantSpec(bits=4)), normal(5000))
    assert obs.qparams().scale == choose_qparams(*obs.range(), obs.spec).scale
