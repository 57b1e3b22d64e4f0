"""Error analysis against exact rationals, scipy's quadrature and known optimal quantizers."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qtools import QParams, QuantSpec, choose_qparams, fake_quantize, qparams_from_tensor
from qtools.error import (
    density,
    error_bound,
    expected_mse,
    optimal_clip,
    representable_range,
    sqnr,
)

stats = pytest.importorskip("scipy.stats")
integrate = pytest.importorskip("scipy.integrate")

ORACLES = {
    "gaussian": stats.norm(),
    "laplace": stats.laplace(scale=math.sqrt(0.5)),
    "student_t": stats.t(3, scale=1 / math.sqrt(3)),
    "uniform": stats.uniform(-math.sqrt(3), 2 * math.sqrt(3)),
}


def params(scale: float, z: int, spec: QuantSpec) -> QParams:
    return QParams(torch.tensor(scale), torch.tensor(z, dtype=torch.int32), spec)


def test_representable_range_by_hand():
    low, high = representable_range(params(0.5, 3, QuantSpec(bits=4, signed=False)))
    assert (low.item(), high.item()) == (-1.5, 6.0)


@given(st.floats(-100, 100, width=32), st.sampled_from([0.125, 0.1, 3.0]), st.integers(-8, 7))
def test_bound_is_the_formula_plus_roundings(value, scale, z):
    qp = params(scale, z, QuantSpec(bits=4))
    s = qp.scale.double().item()
    ideal = max(s / 2, s * (-8 - z) - value, value - s * (7 - z))
    bound = error_bound(torch.tensor(value), qp).item()
    u = 2.0**-24
    assert ideal <= bound <= ideal + 3.001 * u * abs(value) + u * s


def test_bound_is_attained():
    """Not merely an upper bound: half way between codes, and outside, the error equals it."""
    qp = params(0.5, 0, QuantSpec(bits=4))
    x = torch.tensor([0.25, -0.75, 1.25, 10.0, -10.0])
    error = (x - fake_quantize(x, qp)).abs().double()
    torch.testing.assert_close(error, error_bound(x, qp), rtol=1e-6, atol=0)


def test_half_a_step_plus_one_rounding_is_not_enough():
    """Next to rounding edges the error passes s/2 + u|x|: the constant 3 in the bound is needed."""
    generator = torch.Generator().manual_seed(0)
    n, u = 200_000, 2.0**-24
    scale = torch.rand(n, generator=generator) + 0.5
    step = torch.randint(0, 127, (n,), generator=generator) + 0.5
    x = (step * scale.double()).float()
    x = x.nextafter(x + torch.randint(-1, 2, (n,), generator=generator))
    spec = QuantSpec(granularity="channel")
    qp = QParams(scale, torch.zeros(n, dtype=torch.int32), spec)
    error = (x.double() - fake_quantize(x, qp).double()).abs()
    excess = (error - scale.double() / 2) / (u * x.double())
    assert excess.max() > 2.5
    assert bool((error <= error_bound(x, qp)).all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_bound_knows_the_output_type(dtype):
    x = torch.linspace(0, 100, 10_001).to(dtype)
    qp = choose_qparams(0.0, 100.0, QuantSpec(bits=16, signed=False))
    error = (x.double() - fake_quantize(x, qp).double()).abs()
    assert bool((error <= error_bound(x, qp)).all())


def test_bound_per_channel_uses_each_channels_scale():
    x = torch.tensor([[1.0, -2.0], [100.0, -50.0]])
    qp = qparams_from_tensor(x, QuantSpec(granularity="channel", symmetric=True))
    torch.testing.assert_close(error_bound(x, qp)[:, 0], qp.scale.double() / 2, rtol=1e-4, atol=0)


def test_sqnr_by_hand():
    assert sqnr(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.5])) == pytest.approx(20.0)
    assert sqnr(torch.ones(3), torch.ones(3)) == math.inf


def test_sqnr_refuses_what_has_no_answer():
    with pytest.raises(ValueError, match="x must not be all zeros"):
        sqnr(torch.zeros(2), torch.ones(2))
    with pytest.raises(ValueError, match=r"x_hat must have the shape of x, \[2\], got \[3\]"):
        sqnr(torch.ones(2), torch.ones(3))


@pytest.mark.parametrize("name", ORACLES)
def test_densities_equal_scipy_and_have_variance_one(name):
    x = np.linspace(-5, 5, 101)
    np.testing.assert_allclose(density(name, x), ORACLES[name].pdf(x), rtol=1e-12, atol=1e-15)
    assert ORACLES[name].var() == pytest.approx(1)


@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize(
    ("bits", "clip"), [(2, 1.3), (2, 40.0), (3, 0.4), (3, 25.0), (4, 2.5), (5, 6.0), (8, 4.0)]
)
def test_expected_mse_equals_adaptive_quadrature(name, bits, clip):
    """Cell by cell with scipy, which knows nothing of our half cells and substitutions."""
    pdf, largest = ORACLES[name].pdf, 2 ** (bits - 1) - 1
    end = math.sqrt(3) if name == "uniform" else math.inf
    s = clip / largest

    def squared(x: float) -> float:
        return (x - s * min(round(x / s), largest)) ** 2 * pdf(x)

    edges = [min(e, end) for e in (0.0, *(s * (k + 0.5) for k in range(largest)), clip)]
    inside = sum(integrate.quad(squared, a, b, epsabs=1e-15)[0] for a, b in pairwise(edges))
    outside = integrate.quad(squared, edges[-1], end, epsabs=1e-15)[0]
    mse = expected_mse(name, clip, bits)
    assert mse.rounding == pytest.approx(2 * inside, rel=1e-9)
    assert mse.clipping == pytest.approx(2 * outside, rel=1e-7, abs=1e-13)
    assert mse.total == mse.rounding + mse.clipping


def test_expected_mse_equals_a_simulation():
    """The integral describes what fake_quantize does to samples."""
    x = torch.randn(400_000, generator=torch.Generator().manual_seed(0))
    spec = QuantSpec(bits=4, symmetric=True, narrow_range=True)
    x_hat = fake_quantize(x, choose_qparams(-2.5, 2.5, spec))
    measured = (x - x_hat).square()
    expected = expected_mse("gaussian", 2.5, 4).total
    margin = 5 * measured.std() / math.sqrt(len(x))
    assert abs(measured.mean().item() - expected) < margin


@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize("bits", [2, 3, 4, 8, 10])
def test_optimal_clip_is_a_minimum(name, bits):
    clip = optimal_clip(name, bits)
    best = expected_mse(name, clip, bits).total
    for other in np.geomspace(0.3, 1000, 333):
        assert expected_mse(name, float(other), bits).total >= best * (1 - 1e-12)


def test_optimal_clip_of_the_uniform_distribution_is_known():
    """Q + 1/2 steps reach the edge of the support: s = sqrt(3) / (Q + 1/2)."""
    for bits in (2, 3, 4, 5):
        largest = 2 ** (bits - 1) - 1
        clip = largest * math.sqrt(3) / (largest + 0.5)
        assert optimal_clip("uniform", bits) == pytest.approx(clip, rel=1e-7)


def test_three_levels_as_in_max_1960():
    """Max 1960, Table II: three equally spaced levels are 1.224 apart and leave 0.1902."""
    clip = optimal_clip("gaussian", 2)
    assert clip == pytest.approx(1.2240, abs=5e-5)
    assert expected_mse("gaussian", clip, 2).total == pytest.approx(0.1902, abs=5e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cauchy", 1.0, 4), "distribution must be one of .*got 'cauchy'"),
        (("gaussian", 0.0, 4), r"clip must be positive and finite, got 0\.0"),
        (("gaussian", math.nan, 4), "clip must be positive and finite, got nan"),
        (("gaussian", 1.0, 1), "bits must be from 2 to 16, got 1"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        expected_mse(*arguments)
