"""Integer modules against `qtools.integer`, bit for bit."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from qtools import QParams, QuantSpec
from qtools.integer import (
    integer_add,
    integer_avg_pool2d,
    integer_conv2d,
    integer_linear,
)
from qtools.ptq import modules
from qtools.ptq.arithmetic import Window, max_pool
from qtools.requantizer import Clamp
from tests.ptq_codes import codes, qp, seeds

RELU = {"none": Clamp(), "relu": Clamp(0.0), "relu6": Clamp(0.0, 6.0)}


@given(st.data(), seeds, st.sampled_from(list(RELU)), st.booleans())
def test_linear_module_equals_the_reference(data, seed, activation, symmetric):
    k, n = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 6))
    x_qp, out = qp(data.draw), qp(data.draw, scale=30.0)
    w_qp = qp(data.draw, symmetric, channels=n)
    x, w = codes((2, 3, k), x_qp, seed), codes((n, k), w_qp, seed + 1)
    bias = torch.randint(-5000, 5000, (n,), dtype=torch.int32)
    module = modules.IntegerLinear(w, bias, x_qp, w_qp, out, RELU[activation])
    assert torch.equal(module(x), integer_linear(x, w, bias, x_qp, w_qp, out, activation))


@given(st.data(), seeds, st.sampled_from(list(RELU)), st.booleans())
def test_conv_module_equals_the_reference(data, seed, activation, symmetric):
    groups = data.draw(st.integers(1, 3))
    per_group, out_per_group = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 2))
    pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
    kernel, stride, dilation = (data.draw(pair) for _ in range(3))
    padding = data.draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
    x_qp, out = qp(data.draw), qp(data.draw, scale=10.0)
    w_qp = qp(data.draw, symmetric, channels=groups * out_per_group)
    x = codes((2, groups * per_group, 7, 8), x_qp, seed)
    w = codes((groups * out_per_group, per_group, *kernel), w_qp, seed + 1)
    bias = torch.randint(-5000, 5000, (len(w),), dtype=torch.int32)
    window = Window(kernel, stride, padding, dilation)
    module = modules.IntegerConv2d(w, bias, x_qp, w_qp, out, RELU[activation], window, groups)
    expected = integer_conv2d(x, w, bias, x_qp, w_qp, out, activation, stride=stride,
                              padding=padding, dilation=dilation, groups=groups)  # fmt: skip
    assert torch.equal(module(x), expected)
    assert torch.equal(module(x.contiguous(memory_format=torch.channels_last)), expected)


@given(st.data(), seeds)
def test_pooled_accumulators_give_the_pooled_codes(data, seed):
    x_qp, out = qp(data.draw), qp(data.draw, scale=10.0)
    w_qp = qp(data.draw, True, channels=4)
    x, w = codes((2, 3, 9, 8), x_qp, seed), codes((4, 3, 3, 3), w_qp, seed + 1)
    window = Window((3, 3), (1, 1), (1, 1))
    bias = torch.zeros(4, dtype=torch.int32)
    module = modules.IntegerConv2d(w, bias, x_qp, w_qp, out, Clamp(0.0), window, 1)
    pool = Window((2, 3), (2, 1), (1, 1))
    expected = modules.IntegerMaxPool2d(pool)(module(x))
    module.pool = pool
    assert torch.equal(module(x), expected)


@given(st.data(), seeds, st.sampled_from(list(RELU)))
def test_add_and_average_modules_equal_the_reference(data, seed, activation):
    x_qp, y_qp, out = (qp(data.draw) for _ in range(3))
    x, y = codes((3, 2, 6, 7), x_qp, seed), codes((3, 2, 6, 7), y_qp, seed + 1)
    add = modules.IntegerAdd(x_qp, y_qp, out, RELU[activation])
    assert torch.equal(add(x, y), integer_add(x, y, x_qp, y_qp, out, activation))
    kernel = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    average = modules.IntegerAvgPool2d(x_qp, out, Window(kernel, kernel))
    assert torch.equal(average(x), integer_avg_pool2d(x, x_qp, out, kernel))


@given(st.data(), seeds, st.integers(1, 4), st.integers(1, 5))
def test_adaptive_average_is_torchs_within_half_a_step(data, seed, rows, columns):
    x_qp = qp(data.draw)
    spec = QuantSpec()
    out = QParams(x_qp.scale, torch.tensor(0, dtype=torch.int32), spec)
    x = codes((2, 3, 6, 7), x_qp, seed)
    real = F.adaptive_avg_pool2d((x.double() - x_qp.zero_point), (rows, columns))
    module = modules.IntegerAvgPool2d(x_qp, out, adaptive=(rows, columns))
    ideal = real.clamp(-128, 127)
    assert float((module(x).double() - ideal).abs().max()) <= 0.5 + 1e-6


@given(st.data(), seeds)
def test_max_pooling_is_torchs(data, seed):
    kernel, stride = (data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3))) for _ in range(2))
    padding = kernel[0] // 2, kernel[1] // 2
    dilation = data.draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    x = codes((2, 3, 8, 9), qp(data.draw), seed)
    expected = F.max_pool2d(x.double(), kernel, stride, padding, dilation)
    result = max_pool(x.permute(0, 2, 3, 1), Window(kernel, stride, padding, dilation))
    assert torch.equal(result.permute(0, 3, 1, 2).double(), expected)
