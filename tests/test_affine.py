"""Affine quantization against its theorem, its formula in exact arithmetic, and torch's own ops."""

from __future__ import annotations

import warnings
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qtools import (
    QParams,
    QuantSpec,
    choose_qparams,
    dequantize,
    fake_quantize,
    qparams_from_tensor,
    quantize,
)
from qtools.error import error_bound, representable_range
from qtools.layout import spread

from .strategies import DTYPES, specs, tensors

finite = st.floats(-1e6, 1e6, width=32)


def uniform(n: int, low: float, high: float, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, generator=torch.Generator().manual_seed(seed)) * (high - low) + low


# --- The statements of chapter 2 -----------------------------------------------------------------


@given(tensors(), specs())
def test_error_never_exceeds_the_bound(x, spec):
    """Proposition 3.1 for every dtype, granularity, bit width and kind of data."""
    qp = qparams_from_tensor(x, spec)
    error = (x.double() - fake_quantize(x, qp).double()).abs()
    assert bool((error <= error_bound(x, qp)).all())


@given(tensors(), specs(), st.floats(-40, 40))
def test_error_never_exceeds_the_bound_for_data_the_range_was_not_made_for(x, spec, factor):
    qp = qparams_from_tensor(x, spec)
    y = (x.double() * factor).clamp(-torch.finfo(x.dtype).max, torch.finfo(x.dtype).max).to(x.dtype)
    error = (y.double() - fake_quantize(y, qp).double()).abs()
    assert bool((error <= error_bound(y, qp)).all())


@given(specs(("tensor",)), finite, finite, st.floats(-2e6, 2e6, width=32))
def test_bound_holds_in_exact_arithmetic(spec, a, b, value):
    """The same with fractions: floats are rationals, so nothing here is rounded."""
    qp = choose_qparams(min(a, b), max(a, b), spec)
    x = torch.tensor(value)
    s, z = Fraction(qp.scale.item()), qp.zero_point.item()
    low, high = s * (spec.qmin - z), s * (spec.qmax - z)
    real, back = Fraction(x.item()), Fraction(fake_quantize(x, qp).item())
    ideal = max(s / 2, low - real, real - high)
    u = Fraction(1, 2**24)
    assert abs(real - back) <= ideal + 3 * u * (1 + 4 * u) * abs(real) + u * s / 2 + Fraction(
        1, 2**149
    )


@given(tensors(), specs())
def test_zero_is_exact(x, spec):
    """Real 0 has the code z and comes back as 0."""
    qp = qparams_from_tensor(x, spec)
    zeros = torch.zeros_like(x)
    assert torch.equal(
        quantize(zeros, qp).to(torch.int32), spread(qp.zero_point, qp, x.shape).contiguous()
    )
    assert torch.equal(fake_quantize(zeros, qp), zeros)


@given(tensors((torch.float32, torch.float64)), specs())
def test_the_range_of_the_data_is_covered_up_to_half_a_step(x, spec):
    qp = qparams_from_tensor(x, spec)
    low, high = (spread(edge, qp, x.shape) for edge in representable_range(qp))
    # Half a step, plus float32's roundings of s and of x_min / s: each up to 2^bits steps times u.
    slack = spread(qp.scale.double(), qp, x.shape) * (0.5 + 4 * 2**spec.bits * 2**-24)
    assert bool(((x.double() >= low - slack) & (x.double() <= high + slack)).all())


@given(tensors(), specs())
def test_codes_stay_in_range_and_return_to_themselves(x, spec):
    """Quantizing a representable value changes nothing: quantize(dequantize(q)) = q."""
    qp = qparams_from_tensor(x, spec)
    q = quantize(x, qp)
    assert q.dtype == spec.dtype
    assert int(q.min()) >= spec.qmin
    assert int(q.max()) <= spec.qmax
    largest = torch.finfo(qp.scale.dtype).max
    back = dequantize(q, qp)
    inside = back.abs() < largest  # a product past the largest number was brought back to it
    assert torch.equal(quantize(back, qp)[inside], q[inside])


@given(tensors((torch.float32, torch.float64)), specs())
def test_fake_quantize_is_dequantize_of_quantize(x, spec):
    qp = qparams_from_tensor(x, spec)
    assert torch.equal(fake_quantize(x, qp), dequantize(quantize(x, qp), qp))


@given(specs(("tensor",)), finite, finite)
def test_scale_and_zero_point_are_the_formula(spec, a, b):
    """Against the formula in rationals, with the one rounding of each float operation allowed."""
    low, high = Fraction(min(a, b, 0.0)), Fraction(max(a, b, 0.0))
    qp = choose_qparams(min(a, b), max(a, b), spec)
    s, z = Fraction(qp.scale.item()), qp.zero_point.item()
    if low == high == 0:
        assert s == 1
        return
    if spec.symmetric:
        assert z == (0 if spec.signed else 2 ** (spec.bits - 1))
        exact = max(-low, high) / (spec.qmax - z)
    else:
        assert abs((spec.qmin - low / s) - z) <= Fraction(1, 2) + Fraction(1, 2**6)
        exact = (high - low) / (spec.qmax - spec.qmin)
    tiny = Fraction(1, 2**126)
    assert s >= tiny
    assert abs(s - exact) <= exact / 2**22 or s == tiny


def test_the_map_does_not_depend_on_the_interval_it_was_made_from():
    """[a, b] and any other interval on the same line give one map: only s and z matter."""
    spec = QuantSpec(bits=8, signed=False)
    narrow, wide = choose_qparams(-1.0, 1.55, spec), choose_qparams(-2.0, 3.1, spec)
    assert narrow.zero_point == wide.zero_point
    x = uniform(1000, -2, 3)
    same_map = QParams(narrow.scale * 2, narrow.zero_point, spec)
    assert torch.equal(quantize(x, wide), quantize(x, same_map))


@pytest.mark.parametrize(
    ("bits", "signed", "narrow", "qmin", "qmax"),
    [
        (2, True, False, -2, 1),
        (2, True, True, -1, 1),
        (2, False, True, 1, 3),
        (4, False, False, 0, 15),
        (8, True, False, -128, 127),
        (8, True, True, -127, 127),
        (8, False, False, 0, 255),
        (16, True, False, -32768, 32767),
        (16, False, False, 0, 65535),
    ],
)
def test_code_ranges(bits, signed, narrow, qmin, qmax):
    spec = QuantSpec(bits=bits, signed=signed, narrow_range=narrow)
    assert (spec.qmin, spec.qmax) == (qmin, qmax)
    assert torch.iinfo(spec.dtype).min <= qmin
    assert qmax <= torch.iinfo(spec.dtype).max


def test_rounding_is_half_to_even():
    qp = QParams(torch.tensor(1.0), torch.tensor(0, dtype=torch.int32), QuantSpec(bits=4))
    x = torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5])
    assert quantize(x, qp).tolist() == [-2, -2, 0, 0, 2, 2, 4]


def test_the_code_multiplies_by_one_over_s_as_torch_does():
    """At rounding edges x * (1/s) and x / s differ: a few elements in ten million."""
    scale = torch.tensor(0.0123)
    edges = ((torch.arange(-127, 127) + 0.5).double() * scale.double()).float()
    x = torch.cat([edges, edges.nextafter(torch.tensor(9.0)), edges.nextafter(torch.tensor(-9.0))])
    qp = QParams(scale, torch.tensor(0, dtype=torch.int32), QuantSpec())
    expected = torch.round(x * (1 / scale)).clamp(-128, 127)
    assert torch.equal(quantize(x, qp).float(), expected)
    assert not torch.equal(torch.round(x / scale).clamp(-128, 127), expected)


# --- torch as the oracle -------------------------------------------------------------------------


@given(tensors((torch.float32, torch.float16, torch.bfloat16)), specs(("tensor", "channel")))
@settings(max_examples=200)
def test_forward_and_gradient_equal_torch_bit_for_bit(x, spec):
    qp = qparams_from_tensor(x, spec)
    levels = max(abs(spec.qmin), spec.qmax) * 2.0
    if float(qp.scale.max()) * levels > torch.finfo(x.dtype).max:
        return  # torch overflows here: see test_where_torch_overflows
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    y = fake_quantize(ours, qp)
    if spec.granularity == "tensor":
        expected = torch.fake_quantize_per_tensor_affine(
            theirs, qp.scale, qp.zero_point, spec.qmin, spec.qmax
        )
    else:
        expected = torch.fake_quantize_per_channel_affine(
            theirs, qp.scale, qp.zero_point, spec.axis, spec.qmin, spec.qmax
        )
    assert torch.equal(y, expected)
    grad = torch.randn(x.shape).to(x.dtype)
    y.backward(grad)
    expected.backward(grad)
    assert ours.grad is not None
    assert theirs.grad is not None
    assert torch.equal(ours.grad, theirs.grad)


@pytest.mark.parametrize("scheme", ["affine", "symmetric"])
@pytest.mark.parametrize("channel", [False, True], ids=["tensor", "channel"])
def test_qparams_equal_torch_observers(scheme, channel):
    """Bit for bit in the asymmetric case; the symmetric divisor is the one known difference."""
    observers = pytest.importorskip("torch.ao.quantization.observer")
    x = torch.randn(7, 33, generator=torch.Generator().manual_seed(1)) * 3 + 0.4
    kind = observers.PerChannelMinMaxObserver if channel else observers.MinMaxObserver
    name = f"per_{'channel' if channel else 'tensor'}_{scheme}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        observer = kind(dtype=torch.qint8, qscheme=getattr(torch, name))
        observer(x)
        scale, zero_point = observer.calculate_qparams()
    spec = QuantSpec(
        symmetric=scheme == "symmetric", granularity="channel" if channel else "tensor"
    )
    qp = qparams_from_tensor(x, spec)
    assert torch.equal(qp.zero_point.reshape(-1).long(), zero_point.reshape(-1).long())
    if scheme == "affine":
        assert torch.equal(qp.scale.reshape(-1), scale.reshape(-1))
    else:  # they divide by 127.5, we by 127: their largest value has no code of its own
        amax = x.abs().amax(dim=1) if channel else x.abs().amax().reshape(1)
        assert torch.equal(qp.scale.reshape(-1), amax / 127)
        assert torch.equal(scale.reshape(-1), amax / 127.5)


def test_where_torch_holds_the_scale_up():
    """Data below 1e-7 all become 0 with torch's smallest scale, 2⁻²³. Ours keeps its bound."""
    observers = pytest.importorskip("torch.ao.quantization.observer")
    x = uniform(100, -1e-9, 1e-9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        observer = observers.MinMaxObserver()
        observer(x)
        scale, _ = observer.calculate_qparams()
    assert scale.item() == 2.0**-23
    qp = qparams_from_tensor(x, QuantSpec())
    assert qp.scale.item() < 1e-11
    assert bool(((x - fake_quantize(x, qp)).abs() <= error_bound(x, qp)).all())


def test_where_torch_overflows():
    """A range near the largest float: torch returns infinity, ours the largest float."""
    x = torch.tensor([-3.4e38, 0.0, 3.4e38])
    spec = QuantSpec(bits=2)
    qp = qparams_from_tensor(x, spec)
    theirs = torch.fake_quantize_per_tensor_affine(x, qp.scale, qp.zero_point, -2, 1)
    assert bool(theirs.isinf().any())
    ours = fake_quantize(x, qp)
    assert bool(ours.isfinite().all())
    assert bool(((x.double() - ours.double()).abs() <= error_bound(x, qp)).all())


def test_where_torch_wraps():
    """Beyond 2⁶³ steps torch's per-channel op returns the wrong edge; NaN becomes an edge."""
    scale, z = torch.tensor([0.1]), torch.tensor([0], dtype=torch.int32)
    x = torch.tensor([[float("inf"), float("nan")]])
    theirs = torch.fake_quantize_per_channel_affine(x, scale, z, 0, -128, 127)
    assert theirs[0, 0] < 0  # -12.8 for +infinity
    assert theirs[0, 1].isfinite()
    ours = fake_quantize(x, QParams(scale, z, QuantSpec(granularity="channel")))
    assert ours[0, 0] == torch.tensor(0.1) * 127
    assert ours[0, 1].isnan()


def test_agrees_with_torchao():
    """torchao's affine primitives, an implementation of its own, give the same codes."""
    quant = pytest.importorskip("torchao.quantization.quant_primitives")
    x = torch.randn(16, 64, generator=torch.Generator().manual_seed(2))
    for spec, block in (
        (QuantSpec(), (16, 64)),
        (QuantSpec(granularity="channel"), (1, 64)),
        (QuantSpec(granularity="group", group_size=16), (1, 16)),
    ):
        qp = qparams_from_tensor(x, spec)
        codes = quant.quantize_affine(x, block, qp.scale, qp.zero_point, torch.int8, -128, 127)
        assert torch.equal(quantize(x, qp), codes)


# --- Gradients -----------------------------------------------------------------------------------


@given(tensors((torch.float64,)), specs())
def test_gradient_is_one_inside_and_zero_where_the_code_was_clipped(x, spec):
    qp = qparams_from_tensor(x, spec)
    y = (x * 3).requires_grad_()
    grad = torch.randn_like(y)
    fake_quantize(y, qp).backward(grad)
    steps = torch.round(y.detach() * spread(qp.scale, qp, x.shape).reciprocal())
    code = steps + spread(qp.zero_point, qp, x.shape)
    assert y.grad is not None
    assert torch.equal(y.grad, grad * ((code >= spec.qmin) & (code <= spec.qmax)))


def test_gradient_does_not_reach_the_range():
    x = torch.randn(8, requires_grad=True)
    assert not qparams_from_tensor(x, QuantSpec()).scale.requires_grad


def test_compiles_without_a_graph_break():
    qp = choose_qparams(-1.0, 1.0, QuantSpec())
    x = torch.randn(100)
    explained = torch._dynamo.explain(lambda v: fake_quantize(v, qp))(x)
    assert explained.graph_break_count == 0


# --- Shapes and layouts --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_per_channel_is_per_tensor_on_each_channel(axis, dtype):
    x = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(3)).to(dtype)
    spec, one = QuantSpec(granularity="channel", axis=axis), QuantSpec()
    qp = qparams_from_tensor(x, spec)
    assert qp.scale.shape == (x.shape[axis],)
    whole = fake_quantize(x, qp)
    for i, part in enumerate(x.unbind(axis)):
        alone = qparams_from_tensor(part, one)
        assert torch.equal(alone.scale, qp.scale[i])
        assert torch.equal(whole.select(axis, i), fake_quantize(part, alone))


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_per_group_is_per_tensor_on_each_run(axis):
    x = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(4))
    qp = qparams_from_tensor(x, QuantSpec(granularity="group", axis=axis, group_size=2))
    channels = x.movedim(axis, 0).flatten(1)
    assert qp.scale.shape == (channels.shape[0], channels.shape[1] // 2)
    whole = fake_quantize(x, qp).movedim(axis, 0).flatten(1)
    for i in range(channels.shape[0]):
        for j in range(channels.shape[1] // 2):
            run = slice(2 * j, 2 * j + 2)
            alone = qparams_from_tensor(channels[i, run], QuantSpec())
            assert torch.equal(whole[i, run], fake_quantize(channels[i, run], alone))


@given(tensors(), specs())
def test_memory_layout_does_not_matter(x, spec):
    strided = torch.stack([x, x], dim=-1)[..., 0]
    permuted = x.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    qp = qparams_from_tensor(x, spec)
    for other in (strided, permuted):
        assert torch.equal(qparams_from_tensor(other, spec).scale, qp.scale)
        assert torch.equal(quantize(other, qp), quantize(x, qp))
        assert torch.equal(fake_quantize(other, qp), fake_quantize(x, qp))


@pytest.mark.parametrize("shape", [(300_000,), (7, 50_000), (100_000, 3), (1, 200_000)])
@pytest.mark.parametrize("spec", [QuantSpec(), QuantSpec(granularity="channel"),
                                  QuantSpec(granularity="channel", axis=-1)],
                         ids=["tensor", "channel", "last"])  # fmt: skip
def test_large_tensors_in_pieces_equal_small_ones(shape, spec):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(5))
    qp = qparams_from_tensor(x, spec)
    assert torch.equal(fake_quantize(x, qp), dequantize(quantize(x, qp), qp))
    y = (x * 2).requires_grad_()
    fake_quantize(y, qp).sum().backward()
    code = torch.round(y.detach() * spread(1 / qp.scale, qp, x.shape)) + spread(
        qp.zero_point, qp, x.shape
    )
    assert y.grad is not None
    assert torch.equal(y.grad.bool(), (code >= -128) & (code <= 127))
