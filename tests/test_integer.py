"""Integer arithmetic against exact integers and fractions, and ONNX Runtime's integer operators."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from qtools import QParams, QuantSpec, dequantize, qparams_from_tensor, quantize
from qtools.fixed_point import FixedPointMultiplier, multiply
from qtools.integer import (
    accumulate,
    clamp_range,
    integer_add,
    integer_avg_pool2d,
    integer_conv2d,
    integer_linear,
    quantize_bias,
)

seeds = st.integers(0, 2**32 - 1)


def round_half_away(value: Fraction) -> int:
    whole = int(abs(value) + Fraction(1, 2))
    return whole if value >= 0 else -whole


def tensor_qp(draw: st.DrawFn, signed: bool) -> QParams:
    spec = QuantSpec(signed=signed)
    scale = draw(st.floats(2**-10, 1.0, width=32))
    z = draw(st.integers(spec.qmin, spec.qmax))
    return QParams(torch.tensor(scale), torch.tensor(z, dtype=torch.int32), spec)


def channel_qp(draw: st.DrawFn, channels: int, generator: torch.Generator) -> QParams:
    spec = QuantSpec(granularity="channel", signed=draw(st.booleans()))
    scale = torch.rand(channels, generator=generator) * 0.1 + 1e-3
    z = torch.randint(spec.qmin, spec.qmax + 1, (channels,), generator=generator)
    return QParams(scale, z.to(torch.int32), spec)


def codes(shape: tuple[int, ...], qp: QParams, generator: torch.Generator) -> torch.Tensor:
    low, high = qp.spec.qmin, qp.spec.qmax
    return torch.randint(low, high + 1, shape, generator=generator).to(qp.spec.dtype)


def expected_codes(acc, x_qp, w_qp, out, activation="none"):
    """Requantization of int64 accumulators [..., channels] in exact fractions of the stored M."""
    factor = x_qp.scale.double() * w_qp.scale.double() / out.scale.double()
    real = FixedPointMultiplier.from_real(factor).to_real().expand(acc.shape[-1])
    low, high = clamp_range(out, activation)
    result = [
        min(max(round_half_away(Fraction(a) * Fraction(m)) + int(out.zero_point), low), high)
        for row in acc.reshape(-1, acc.shape[-1]).tolist()
        for a, m in zip(row, real.tolist(), strict=True)
    ]
    return torch.tensor(result).reshape(acc.shape).to(out.spec.dtype)


# --- Fixed-point multipliers ---------------------------------------------------------------------


@given(st.floats(2**-31, 2**28), st.integers(-(2**31), 2**31 - 1))
def test_multiply_is_exact_rounding_of_the_stored_factor(factor, acc):
    m = FixedPointMultiplier.from_real(torch.tensor(factor, dtype=torch.float64))
    exact = Fraction(m.mantissa.item(), 1) * Fraction(2) ** -m.shift.item()
    assert Fraction(m.to_real().item()) == exact
    assert multiply(torch.tensor(acc), m).item() == round_half_away(acc * exact)


@given(st.floats(2**-31, 2**28))
def test_the_factor_keeps_thirty_bits(factor):
    m = FixedPointMultiplier.from_real(torch.tensor(factor, dtype=torch.float64))
    assert 2**30 <= m.mantissa.item() < 2**31
    assert m.shift.item() >= 1
    assert abs(Fraction(m.to_real().item()) - Fraction(factor)) <= Fraction(factor) / 2**31


@pytest.mark.parametrize(("acc", "half"), [(1, 1), (3, 2), (5, 3), (-1, -1), (-3, -2), (-5, -3)])
def test_halves_go_away_from_zero(acc, half):
    m = FixedPointMultiplier.from_real(torch.tensor(0.5))
    assert multiply(torch.tensor(acc), m).item() == half


@pytest.mark.parametrize("bad", [0.0, -1.0, 2.0**29, float("nan"), float("inf")])
def test_factors_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match="factor must be positive and below"):
        FixedPointMultiplier.from_real(torch.tensor(bad))


def test_a_factor_too_small_to_matter_becomes_zero():
    m = FixedPointMultiplier.from_real(torch.tensor(1e-15))
    assert multiply(torch.tensor([-(2**31), 2**31 - 1]), m).tolist() == [0, 0]


# --- Products ------------------------------------------------------------------------------------


@given(st.data(), seeds)
def test_accumulators_are_exact(data, seed):
    generator = torch.Generator().manual_seed(seed)
    rows, k, columns = (data.draw(st.integers(1, n)) for n in (9, 70, 9))
    x_qp = tensor_qp(data.draw, data.draw(st.booleans()))
    w_qp = channel_qp(data.draw, columns, generator)
    x, w = codes((rows, k), x_qp, generator), codes((columns, k), w_qp, generator)
    exact = (x.long() - x_qp.zero_point) @ (w.long() - w_qp.zero_point[:, None]).t()
    acc = accumulate(x, w, x_qp, w_qp)
    assert acc.dtype == torch.int32
    assert torch.equal(acc.long(), exact)


@given(st.data(), seeds, st.sampled_from(["none", "relu", "relu6"]))
def test_linear_equals_the_exact_reference(data, seed, activation):
    generator = torch.Generator().manual_seed(seed)
    k, columns = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 6))
    x_qp, out = (tensor_qp(data.draw, data.draw(st.booleans())) for _ in range(2))
    w_qp = channel_qp(data.draw, columns, generator)
    x, w = codes((2, 3, k), x_qp, generator), codes((columns, k), w_qp, generator)
    bias = torch.randint(-5000, 5000, (columns,), generator=generator).to(torch.int32)
    acc = (x.long() - x_qp.zero_point) @ (w.long() - w_qp.zero_point[:, None]).t() + bias
    result = integer_linear(x, w, bias, x_qp, w_qp, out, activation)
    assert torch.equal(result, expected_codes(acc, x_qp, w_qp, out, activation))


@given(st.data(), seeds)
@settings(max_examples=60)
def test_conv2d_equals_the_exact_reference(data, seed):
    generator = torch.Generator().manual_seed(seed)
    groups = data.draw(st.integers(1, 3))
    per_group, out_per_group = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 2))
    channels, c_out = groups * per_group, groups * out_per_group
    pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
    kernel, stride, dilation = (data.draw(pair) for _ in range(3))
    padding = data.draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
    x_qp, out = (tensor_qp(data.draw, data.draw(st.booleans())) for _ in range(2))
    w_qp = channel_qp(data.draw, c_out, generator)
    x = codes((2, channels, 7, 8), x_qp, generator)
    w = codes((c_out, per_group, *kernel), w_qp, generator)
    # float64 holds these integers exactly, and torch pads with 0, which is what z_x stands for.
    acc = F.conv2d(
        (x.long() - x_qp.zero_point).double(),
        (w.long() - w_qp.zero_point.view(-1, 1, 1, 1)).double(),
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
    ).long()
    result = integer_conv2d(
        x, w, None, x_qp, w_qp, out, "relu",
        stride=stride, padding=padding, dilation=dilation, groups=groups,
    )  # fmt: skip
    expected = expected_codes(acc.movedim(1, -1), x_qp, w_qp, out, "relu").movedim(-1, 1)
    assert torch.equal(result, expected)


@given(st.data(), seeds)
def test_average_pooling_equals_the_exact_reference(data, seed):
    generator = torch.Generator().manual_seed(seed)
    x_qp, out = (tensor_qp(data.draw, data.draw(st.booleans())) for _ in range(2))
    kernel = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    x = codes((2, 3, 6, 7), x_qp, generator)
    steps = (x.long() - x_qp.zero_point).double()
    area = kernel[0] * kernel[1]
    acc = (F.avg_pool2d(steps, kernel) * area).round().long()
    factor = x_qp.scale.double() / (out.scale.double() * area)
    real = Fraction(FixedPointMultiplier.from_real(factor).to_real().item())
    low, high = clamp_range(out, "none")
    expected = [
        min(max(round_half_away(a * real) + int(out.zero_point), low), high)
        for a in acc.flatten().tolist()
    ]
    assert integer_avg_pool2d(x, x_qp, out, kernel).flatten().tolist() == expected


@given(st.data(), seeds)
def test_residual_add_rounds_once(data, seed):
    """Within one code of the real sum, and at most half a code plus 2^-20 away before clipping."""
    generator = torch.Generator().manual_seed(seed)
    x_qp, y_qp, out = (tensor_qp(data.draw, data.draw(st.booleans())) for _ in range(3))
    x, y = codes((50,), x_qp, generator), codes((50,), y_qp, generator)
    real = (x.long() - x_qp.zero_point) * x_qp.scale.double() + (
        y.long() - y_qp.zero_point
    ) * y_qp.scale.double()
    low, high = clamp_range(out, "relu")
    ideal = (real / out.scale.double() + out.zero_point).clamp(low, high)
    result = integer_add(x, y, x_qp, y_qp, out, "relu")
    assert bool(((result.double() - ideal).abs() <= 0.5 + 2**-10).all())


# --- Bounds and errors ---------------------------------------------------------------------------


def test_the_size_at_which_an_accumulator_could_overflow():
    """255 · 255 · 33,025 is the last sum that fits into int32."""
    spec = QuantSpec()
    x_qp = QParams(torch.tensor(1.0), torch.tensor(-128, dtype=torch.int32), spec)
    w_qp = QParams(torch.tensor(1.0), torch.tensor(127, dtype=torch.int32), spec)
    assert 33_025 * 255**2 <= 2**31 - 1 < 33_026 * 255**2
    x = torch.full((1, 33_025), 127, dtype=torch.int8)
    w = torch.full((1, 33_025), -128, dtype=torch.int8)
    assert accumulate(x, w, x_qp, w_qp).item() == -33_025 * 255**2
    with pytest.raises(ValueError, match=r"K must be at most 33025 .*got 33026"):
        accumulate(torch.cat([x, x], 1)[:, :33_026], torch.cat([w, w], 1)[:, :33_026], x_qp, w_qp)


def test_shapes_and_types_that_do_not_fit_are_named():
    qp = QParams(torch.tensor(1.0), torch.tensor(0, dtype=torch.int32), QuantSpec())
    x, w = torch.zeros(2, 3, dtype=torch.int8), torch.zeros(4, 5, dtype=torch.int8)
    with pytest.raises(ValueError, match=r"x must be \[rows, K\] and w \[columns, K\]"):
        accumulate(x, w, qp, qp)
    with pytest.raises(TypeError, match="codes must be int8 or uint8"):
        accumulate(x.to(torch.int16), torch.zeros(4, 3, dtype=torch.int8), qp, qp)
    channel = QParams(torch.ones(2), torch.zeros(2, dtype=torch.int32),
                      QuantSpec(granularity="channel"))  # fmt: skip
    with pytest.raises(ValueError, match="x_qp must be per tensor"):
        accumulate(x, x, channel, qp)
    with pytest.raises(ValueError, match="groups must divide the channels"):
        integer_conv2d(x.view(1, 3, 2, 1), x[:, :3].view(2, 3, 1, 1), None, qp, qp, qp, groups=2)
    with pytest.raises(ValueError, match=r"kernel spans \[5, 5\]"):
        integer_avg_pool2d(torch.zeros(1, 1, 4, 4, dtype=torch.int8), qp, qp, (5, 5))
    with pytest.raises(ValueError, match='activation must be "none", "relu" or "relu6"'):
        clamp_range(qp, "gelu")


def test_a_bias_too_large_for_its_scale_is_refused():
    tiny = QParams(torch.tensor(1e-12), torch.tensor(0, dtype=torch.int32), QuantSpec())
    with pytest.raises(ValueError, match="bias must be at most"):
        quantize_bias(torch.ones(1), tiny, tiny)


def test_real_numbers_come_out_right():
    """End to end against float: within half an output step plus what the inputs' rounding does."""
    generator = torch.Generator().manual_seed(0)
    x, w = torch.randn(20, 50, generator=generator), torch.randn(10, 50, generator=generator)
    b = torch.randn(10, generator=generator)
    x_qp = qparams_from_tensor(x, QuantSpec(signed=False))
    w_qp = qparams_from_tensor(w, QuantSpec(symmetric=True, granularity="channel"))
    x_q, w_q = quantize(x, x_qp), quantize(w, w_qp)
    y = dequantize(x_q, x_qp) @ dequantize(w_q, w_qp).t() + b
    out = qparams_from_tensor(y, QuantSpec())
    codes_out = integer_linear(x_q, w_q, quantize_bias(b, x_qp, w_qp), x_qp, w_qp, out)
    step = out.scale / 2 + (x_qp.scale * w_qp.scale).max()
    assert bool(((dequantize(codes_out, out) - y).abs() <= step * 1.0001).all())


# --- ONNX Runtime as the oracle ------------------------------------------------------------------


def onnx_run(op: str, inputs: dict[str, np.ndarray], **attributes: object) -> np.ndarray:
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    helper = onnx.helper
    node = helper.make_node(op, list(inputs), ["y"], **attributes)
    kinds = {name: helper.np_dtype_to_tensor_dtype(v.dtype) for name, v in inputs.items()}
    zero = "y_zero"
    graph = helper.make_graph(
        [node], "g",
        [helper.make_tensor_value_info(n, kinds[n], v.shape) for n, v in inputs.items()],
        [helper.make_tensor_value_info("y", kinds[zero], None)],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    result: np.ndarray = session.run(None, inputs)[0]
    return result


def near(ours: torch.Tensor, theirs: np.ndarray) -> None:
    """At most one code apart: they multiply by a float32 M and round halves to even.

    Weights here stay below 64 in magnitude: ONNX Runtime's AVX2 kernel adds pairs of u8 x s8
    products in 16 bits, which saturates with full-range weights (its documentation says so).
    """
    difference = (ours.int() - torch.from_numpy(theirs).int()).abs()
    assert int(difference.max()) <= 1
    assert (difference > 0).double().mean() <= 0.02


@given(st.data(), seeds)
@settings(max_examples=25)
def test_linear_agrees_with_onnx_runtime(data, seed):
    generator = torch.Generator().manual_seed(seed)
    k, columns = data.draw(st.integers(1, 80)), data.draw(st.integers(1, 12))
    x_qp, out = (tensor_qp(data.draw, signed=False) for _ in range(2))
    spec = QuantSpec(granularity="channel", symmetric=True)
    w_qp = QParams(torch.rand(columns, generator=generator) * 0.1 + 1e-3,
                   torch.zeros(columns, dtype=torch.int32), spec)  # fmt: skip
    x = codes((100, k), x_qp, generator)
    w = torch.randint(-63, 64, (columns, k), generator=generator).to(torch.int8)
    theirs = onnx_run("QLinearMatMul", {
        "a": x.numpy(), "a_scale": x_qp.scale.numpy(),
        "a_zero": x_qp.zero_point.to(torch.uint8).numpy(),
        "b": w.t().contiguous().numpy(), "b_scale": w_qp.scale.numpy(),
        "b_zero": np.zeros(columns, np.int8),
        "y_scale": out.scale.numpy(), "y_zero": out.zero_point.to(torch.uint8).numpy(),
    })  # fmt: skip
    near(integer_linear(x, w, None, x_qp, w_qp, out), theirs)


@given(st.data(), seeds)
@settings(max_examples=25)
def test_conv2d_agrees_with_onnx_runtime(data, seed):
    generator = torch.Generator().manual_seed(seed)
    groups, stride, padding, dilation = (data.draw(st.integers(*r)) for r in
                                         ((1, 3), (1, 2), (0, 2), (1, 2)))  # fmt: skip
    c_group, c_out = data.draw(st.integers(1, 4)), groups * data.draw(st.integers(1, 4))
    x_qp, out = (tensor_qp(data.draw, signed=False) for _ in range(2))
    spec = QuantSpec(granularity="channel", symmetric=True)
    w_qp = QParams(torch.rand(c_out, generator=generator) * 0.1 + 1e-3,
                   torch.zeros(c_out, dtype=torch.int32), spec)  # fmt: skip
    x = codes((2, groups * c_group, 9, 10), x_qp, generator)
    w = torch.randint(-63, 64, (c_out, c_group, 3, 3), generator=generator).to(torch.int8)
    bias = torch.randint(-3000, 3000, (c_out,), generator=generator).to(torch.int32)
    inputs = {
        "x": x.numpy(), "x_scale": x_qp.scale.numpy(),
        "x_zero": x_qp.zero_point.to(torch.uint8).numpy(),
        "w": w.numpy(), "w_scale": w_qp.scale.numpy(), "w_zero": np.zeros(c_out, np.int8),
        "y_scale": out.scale.numpy(), "y_zero": out.zero_point.to(torch.uint8).numpy(),
        "bias": bias.numpy(),
    }  # fmt: skip
    theirs = onnx_run("QLinearConv", inputs, strides=[stride] * 2, pads=[padding] * 4,
                      dilations=[dilation] * 2, group=groups)  # fmt: skip
    ours = integer_conv2d(x, w, bias, x_qp, w_qp, out, stride=(stride, stride),
                          padding=(padding, padding), dilation=(dilation, dilation),
                          groups=groups)  # fmt: skip
    near(ours, theirs)
