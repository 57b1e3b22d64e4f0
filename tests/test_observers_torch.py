"""Observers against torch.ao's: bit for bit, or at most its squared error."""

from __future__ import annotations

import warnings
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qtools import QuantSpec, fake_quantize
from qtools.observers import (
    HistogramObserver,
    MovingAverageObserver,
)

from .observer_makers import MAKERS, watch
from .strategies import tensors


@pytest.mark.parametrize("kind", ["minmax", "average"])
@pytest.mark.parametrize("axis", [None, 0, 1, 2])
@pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
@given(st.lists(tensors((torch.float32, torch.float16, torch.bfloat16)), min_size=1, max_size=5))
@settings(max_examples=25)
def test_equals_torch_bit_for_bit(kind, axis, signed, batches):
    """Ranges always; scale and zero point when asymmetric and above torch's smallest scale."""
    observers = pytest.importorskip("torch.ao.quantization.observer")
    names = {
        ("minmax", False): "MinMaxObserver",
        ("minmax", True): "PerChannelMinMaxObserver",
        ("average", False): "MovingAverageMinMaxObserver",
        ("average", True): "MovingAveragePerChannelMinMaxObserver",
    }
    batches = [b[..., :1] for b in batches]  # one number of channels
    channel = axis is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = getattr(observers, names[kind, channel])(
            dtype=torch.qint8 if signed else torch.quint8, **({"ch_axis": axis} if channel else {})
        )
        for x in batches:
            theirs(x)
        scale, zero_point = theirs.calculate_qparams()
    spec = QuantSpec(signed=signed, granularity="channel" if channel else "tensor", axis=axis or 0)
    ours = watch(MAKERS[kind](spec), *batches)
    finite = theirs.min_val.isfinite() & theirs.max_val.isfinite()  # their average may overflow
    assert torch.equal(ours.range()[0][finite], theirs.min_val[finite])
    assert torch.equal(ours.range()[1][finite], theirs.max_val[finite])
    qp = ours.qparams()
    agree = (scale > 2.0**-23) & scale.isfinite() & finite.reshape(-1)
    assert torch.equal(qp.scale.reshape(-1)[agree], scale.reshape(-1)[agree])
    assert torch.equal(qp.zero_point.reshape(-1)[agree], zero_point.reshape(-1)[agree].int())


def test_average_is_its_formula():
    """The closed form of the docstring, in exact arithmetic; the first batch outweighs others."""
    c, lows = Fraction(1, 4), [Fraction(v) for v in (-3, 1, -8, 2)]
    obs = watch(
        MovingAverageObserver(QuantSpec(), float(c)),
        *(torch.tensor([float(v), 9.0]) for v in lows),
    )
    n = len(lows)
    expected = (1 - c) ** (n - 1) * lows[0]
    expected += sum(c * (1 - c) ** (n - k) * lows[k - 1] for k in range(2, n + 1))
    assert Fraction(obs.range()[0].item()) == expected  # powers of two: no rounding
    assert obs.range()[1] == 9
    assert abs(0.99**99 - 0.37) < 5e-4
    assert 0.99**457 > 0.01 > 0.99**459


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_average_does_not_overflow_where_torch_does(granularity):
    obs = MovingAverageObserver(QuantSpec(granularity=granularity))
    x = torch.tensor([[-3e38, 3e38], [-1.0, 1.0]])
    low, high = watch(obs, x, -x.flip(1), torch.full_like(x, 3e38)).range()
    torch.testing.assert_close(low.view(-1)[0].item(), -3e38 * 0.99 + 3e36, rtol=1e-6, atol=0)
    assert high.view(-1)[0] == pytest.approx(3e38, rel=1e-6)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("kind", ["gaussian", "laplace", "student_t", "uniform", "relu", "outlier"])
@pytest.mark.parametrize("n", [1000, 100_000])
def test_squared_error_at_most_that_of_torch(kind, bits, n):
    observers = pytest.importorskip("torch.ao.quantization.observer")
    rng = np.random.default_rng(1)
    x = torch.from_numpy(
        {
            "gaussian": lambda: rng.standard_normal(n),
            "laplace": lambda: rng.laplace(size=n),
            "student_t": lambda: rng.standard_t(3, n),
            "uniform": lambda: rng.uniform(-0.7, 1.3, n),
            "relu": lambda: rng.standard_normal(n).clip(0),
            "outlier": lambda: np.append(rng.standard_normal(n - 1), 100.0),
        }[kind]()
    ).float()
    spec = QuantSpec(bits=bits, signed=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = observers.HistogramObserver(quant_min=spec.qmin, quant_max=spec.qmax)
        theirs.dst_nbins = 2**bits
        theirs(x)
        scale, zero_point = theirs.calculate_qparams()
    expected = torch.fake_quantize_per_tensor_affine(
        x, scale, zero_point.int(), spec.qmin, spec.qmax
    )
    ours = fake_quantize(x, watch(HistogramObserver(spec), x).qparams())
    assert (x - ours).square().mean() <= 1.02 * (x - expected).square().mean()
