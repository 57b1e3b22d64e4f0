"""The scale of a weight: min-max, or the least squared error over shrunken ranges."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from qtools import QuantSpec, choose_qparams, dequantize, qparams_from_tensor, quantize
from qtools.ptq import Recipe, convert, prepare, simulate
from qtools.ptq.flow import calibrate
from qtools.ptq.weights import choose_weight_qparams, weight_qparams


def squared_error(w, qp):
    error = (w - dequantize(quantize(w, qp), qp)).square()
    return error.flatten(1).sum(1) if qp.scale.ndim else error.sum()


@given(
    seed=st.integers(0, 10**6),
    bits=st.integers(2, 8),
    symmetric=st.booleans(),
    narrow=st.booleans(),
    granularity=st.sampled_from(["tensor", "channel"]),
    shape=st.sampled_from([(3, 40), (4, 2, 3, 3), (1, 1), (2, 700)]),
)
def test_mse_is_the_best_of_the_stated_candidates(
    seed, bits, symmetric, narrow, granularity, shape
):
    w = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) ** 3
    spec = QuantSpec(bits, symmetric=symmetric, granularity=granularity, narrow_range=narrow)
    found = squared_error(w, choose_weight_qparams(w, spec, "mse"))
    # By hand: shrink the ends of each part that has a scale, one share after another.
    rows = w.flatten(1) if granularity == "channel" else w.flatten()
    low, high = rows.aminmax(dim=-1)
    costs = [
        squared_error(w, choose_qparams(t * low, t * high, spec))
        for t in (2 ** (-i / 16) for i in range(65))
    ]
    # The same candidates in float32: only the order of summation may differ.
    torch.testing.assert_close(found, torch.stack(costs).amin(0), rtol=1e-5, atol=1e-12)


def test_minmax_is_the_range_of_the_tensor():
    w = torch.randn(5, 7)
    spec = QuantSpec(4, symmetric=True, granularity="channel")
    found, expected = choose_weight_qparams(w, spec, "minmax"), qparams_from_tensor(w, spec)
    assert torch.equal(found.scale, expected.scale)
    assert torch.equal(found.zero_point, expected.zero_point)


def test_two_bits_min_max_loses_a_bell_shape_and_mse_keeps_it():
    w = torch.randn(8, 1000, generator=torch.Generator().manual_seed(0))
    spec = QuantSpec(2, symmetric=True, granularity="channel")
    power = w.square().sum(1)
    minmax, mse = (
        squared_error(w, choose_weight_qparams(w, spec, r)) / power for r in ("minmax", "mse")
    )
    assert float(minmax.min()) > 0.5
    # Levels -2s, -s, 0, s over a unit Gaussian leave 0.150 at the best s, 1.04 (by simulation);
    # samples of 1000 scatter around it.
    assert float((mse - 0.150).abs().max()) < 0.04


@pytest.mark.parametrize("weight_range", ["minmax", "mse"])
def test_channels_of_zeros_and_empty_weights(weight_range):
    spec = QuantSpec(4, symmetric=True, granularity="channel")
    w = torch.zeros(2, 3)
    w[1] = torch.tensor([0.5, -1.0, 0.25])
    qp = choose_weight_qparams(w, spec, weight_range)
    assert qp.scale[0] == 1
    assert torch.equal(dequantize(quantize(w[0], qp_of(qp, 0)), qp_of(qp, 0)), w[0])
    assert choose_weight_qparams(torch.empty(2, 0), spec, weight_range).scale.tolist() == [1, 1]


def qp_of(qp, channel):
    spec = QuantSpec(qp.spec.bits, symmetric=True)
    return type(qp)(qp.scale[channel], qp.zero_point[channel], spec)


def test_the_recipe_decides_for_convert_and_simulate():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 8))
    x = torch.randn(64, 16)
    spec = QuantSpec(2, symmetric=True, granularity="channel")
    outputs = []
    for weight_range in ("minmax", "mse"):
        p = calibrate(prepare(net, Recipe(weights=spec, weight_range=weight_range)), [x])
        expected = choose_weight_qparams(net[0].weight, spec, weight_range)
        found = weight_qparams(p.get_submodule("0"), p.meta["recipe"])
        assert torch.equal(found.scale, expected.scale)
        with torch.no_grad():
            integer, simulated = convert(p)(x), simulate(p)(x)
        step = float((integer - simulated).abs().max())
        assert step <= float(integer.abs().max()) / 100
        outputs.append(integer)
    assert not torch.equal(*outputs)


def test_a_recipe_refuses_another_range():
    with pytest.raises(ValueError, match="weight_range must be one of"):
        Recipe(weight_range="best")
