"""Static and dynamic quantization: folding, the integer modules, whole networks, the flow."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from qtools import QParams, QuantSpec, ptq
from qtools.data import fashion_mnist, normalise
from qtools.error import sqnr
from qtools.fixed_point import FixedPointMultiplier, multiply
from qtools.int8_matmul import is_int_mm_exact
from qtools.integer import (
    integer_add,
    integer_avg_pool2d,
    integer_conv2d,
    integer_linear,
    requantize,
)
from qtools.metrics import accuracy
from qtools.models import SmallCNN
from qtools.observers import MinMaxObserver, MovingAverageObserver
from qtools.ptq import modules
from qtools.ptq.arithmetic import Window, max_pool
from qtools.requantizer import Clamp, Requantizer
from tests.ptq_networks import NETWORKS, DenseNet, EfficientNet, ResNet, images, trained_like

seeds = st.integers(0, 2**32 - 1)
RELU = {"none": Clamp(), "relu": Clamp(0.0), "relu6": Clamp(0.0, 6.0)}


def qp(draw, symmetric: bool = False, channels: int | None = None, scale: float = 1.0) -> QParams:
    signed = draw(st.booleans())
    spec = QuantSpec(signed=signed, symmetric=symmetric,
                     granularity="tensor" if channels is None else "channel")  # fmt: skip
    shape = () if channels is None else (channels,)
    generator = torch.Generator().manual_seed(draw(seeds))
    z = torch.randint(spec.qmin, spec.qmax + 1, shape, generator=generator)
    z = torch.full_like(z, 0 if signed else 128) if symmetric else z
    s = (torch.rand(shape, generator=generator) * 0.1 + 1e-3) * scale
    return QParams(s, z.to(torch.int32), spec)


def codes(shape, q: QParams, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    low, high = q.spec.qmin, q.spec.qmax
    return torch.randint(low, high + 1, shape, generator=generator).to(q.spec.dtype)


# --- Folding -------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", [*NETWORKS, SmallCNN])
def test_folding_computes_the_same_function(network):
    m = (trained_like(network, 0) if network in NETWORKS else SmallCNN.pretrained()).double()
    x = torch.randn(4, 1, 28, 28).double() if network is SmallCNN else images(4).double()
    folded = ptq.fold_batch_norm(m).requires_grad_(False)
    y = m(x).detach()
    assert float((folded(x) - y).abs().max()) <= 1e-12 * max(1.0, float(y.abs().max()))
    norms = [n for n in folded.modules() if isinstance(n, nn.BatchNorm2d)]
    assert len(norms) == (network is DenseNet)  # the one that precedes its convolution


def test_folding_a_linear_layer_and_one_without_affine_parameters():
    torch.manual_seed(0)
    m = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7, affine=False), nn.Linear(7, 3, bias=False),
                      nn.BatchNorm1d(3)).double()  # fmt: skip
    for _ in range(5):
        m(torch.randn(20, 5).double() * 3 + 1)
    x = torch.randn(9, 5).double()
    before = copy.deepcopy(m.state_dict())
    folded = ptq.fold_batch_norm(m)
    assert float((folded(x) - m.eval()(x)).abs().max()) <= 1e-12
    assert not any(isinstance(n, nn.BatchNorm1d) for n in folded.modules())
    assert all(torch.equal(t, before[name]) for name, t in m.state_dict().items())


def test_what_must_not_be_folded_is_not():
    """A convolution used twice, and one whose output is also used before its BatchNorm."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
            self.other, self.bn2 = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x):
            x = self.conv(self.bn(self.conv(x)))
            y = self.other(x)
            return self.bn2(y) + y

    torch.manual_seed(0)
    m = Twice().double()
    for _ in range(3):
        m(torch.randn(8, 3, 4, 4).double() * 2 + 1)
    x = torch.randn(2, 3, 4, 4).double()
    folded = ptq.fold_batch_norm(m)
    assert sum(isinstance(n, nn.BatchNorm2d) for n in folded.modules()) == 2
    assert torch.equal(folded(x), m.eval()(x))


# --- Integer modules against `qtools.integer`, bit for bit --------------------------------------


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


@given(st.data(), seeds, st.floats(-40, 20), st.integers(1, 31))
@settings(max_examples=300)
def test_float64_requantization_is_the_int64_one(data, seed, exponent, bits):
    """Any multiplier and any size of accumulator, exact halves included."""
    out = qp(data.draw)
    generator = torch.Generator().manual_seed(seed)
    bound = min(2**bits, 2**31 - 1)
    acc = torch.randint(-bound, bound + 1, (500,), generator=generator).to(torch.int32)
    acc[:2] = torch.tensor([bound, -bound])
    simple = data.draw(st.booleans())  # a power of two times 1, 3 or 5: halves do occur
    factor = (
        2.0 ** round(exponent) * data.draw(st.sampled_from([1, 3, 5])) if simple else 2.0**exponent
    )
    m = FixedPointMultiplier.from_real(torch.tensor(factor, dtype=torch.float64))
    expected = multiply(acc, m) + out.zero_point
    expected = expected.clamp(out.spec.qmin, out.spec.qmax).to(out.spec.dtype)
    assert torch.equal(Requantizer(m, torch.tensor(bound), out, Clamp())(acc), expected)
    assert torch.equal(requantize(acc, m, out), expected)
    lines = FixedPointMultiplier(m.mantissa.expand(2, 1), m.shift.expand(2, 1))
    assert torch.equal(requantize(acc.view(2, -1), lines, out), expected.view(2, -1))


def test_float64_is_used_where_it_may_be_and_only_there():
    out = QParams(torch.tensor(1.0), torch.tensor(0, dtype=torch.int32), QuantSpec())

    def is_fast(factor: float, bound: int) -> bool:
        m = FixedPointMultiplier.from_real(torch.tensor(factor, dtype=torch.float64))
        return Requantizer(m, torch.tensor(bound), out, Clamp()).fast

    assert is_fast(0.00123456789, 10**6)
    assert not is_fast(0.5, 10**6)  # 1 · 0.5 is halfway
    assert not is_fast(1e-6 / 3, 2**30)


def test_the_smallest_accumulator_and_none():
    out = QParams(torch.tensor(1.0), torch.tensor(0, dtype=torch.int32), QuantSpec())
    m = FixedPointMultiplier.from_real(torch.tensor(2.0**-25, dtype=torch.float64))
    acc = torch.tensor([-(2**31), -(2**31) + 2**24, 2**31 - 1], dtype=torch.int32)
    assert requantize(acc, m, out).tolist() == [-64, -64, 64]
    assert requantize(acc[:0], m, out).shape == (0,)


# --- Networks ------------------------------------------------------------------------------------


def quantized(m: nn.Module, recipe: ptq.Recipe | None = None, seed: int = 1):
    torch.manual_seed(seed)
    calibration, x = [images(16) for _ in range(6)], images(32)
    p = ptq.calibrate(ptq.prepare(m, recipe), calibration)
    return p, ptq.convert(p), calibration, x


@pytest.mark.parametrize("network", NETWORKS)
def test_networks_convert_and_stay_close(network):
    m = trained_like(network, 0)
    before = copy.deepcopy(m.state_dict())
    p, q, _, x = quantized(m)
    y = m(x)
    assert torch.allclose(p(x), y, atol=1e-4, rtol=1e-3)
    assert sqnr(y, q(x)) > 25
    report = ptq.report(q)
    floats = {row.operation for row in report.rows if not row.integer}
    swish = {"silu", "SiLU", "sigmoid", "mul", "AdaptiveAvgPool2d"}
    assert floats == (swish if network is EfficientNet else set())
    for name, reason in report.stayed_float.items():
        assert reason
        assert f"float: {reason}" in str(report)
        assert name in str(report)
    quantizes = [n for n in q.modules() if isinstance(n, modules.Quantize)]
    dequantizes = [n for n in q.modules() if isinstance(n, modules.Dequantize)]
    if network is not EfficientNet:
        assert (len(quantizes), len(dequantizes)) == (1, 1)
    assert all(torch.equal(t, before[name]) for name, t in m.state_dict().items())


@pytest.mark.parametrize("network", [n for n in NETWORKS if n is not DenseNet])
def test_signal_to_noise_is_at_least_torchs_less_one_decibel(network):
    """torch.ao in FX mode: per-channel weights, its own observers, the same calibration."""
    aq = pytest.importorskip("torch.ao.quantization")
    fx_mode = pytest.importorskip("torch.ao.quantization.quantize_fx")
    m = trained_like(network, 0)
    _, q, calibration, x = quantized(m)
    histogram = aq.HistogramObserver.with_args(reduce_range=False)
    full_range = aq.QConfigMapping().set_global(
        aq.QConfig(activation=histogram, weight=aq.default_per_channel_weight_observer)
    )
    ours, theirs = sqnr(m(x), q(x)), []
    for mapping in (aq.get_default_qconfig_mapping("x86"), full_range):
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            t = fx_mode.prepare_fx(copy.deepcopy(m), mapping, (x,))
            for batch in calibration:
                t(batch)
            theirs.append(sqnr(m(x), fx_mode.convert_fx(t)(x)))
    assert ours >= max(theirs) - 1, f"ours {ours:.1f} dB, torch {theirs}"


def test_smallcnn_in_integers_only():
    data = fashion_mnist()
    m = SmallCNN.pretrained()
    p = ptq.calibrate(ptq.prepare(m), normalise(data.train_images[:1000]).split(250))
    q = ptq.convert(p)
    assert not ptq.report(q).stayed_float
    for node in q.graph.nodes:  # between the first and the last module there is nothing real
        if node.op == "call_module":
            assert type(q.get_submodule(node.target)).__module__ == modules.__name__
    test, labels = normalise(data.test_images), data.test_labels
    exact, ours = accuracy(m, test, labels).value, accuracy(q, test, labels).value
    assert abs(exact - ours) <= 0.003


def test_smallcnn_is_onnx_runtimes_network():
    """The same codes in ONNX Runtime's integer operators: at most one code apart, and rarely."""
    pytest.importorskip("onnxruntime")
    from benchmarks.int8_cnn import onnx_session

    if not is_int_mm_exact():
        pytest.skip("this processor saturates 8-bit sums in ONNX Runtime too")
    x = normalise(fashion_mnist().test_images[:300])
    q = ptq.convert(ptq.calibrate(ptq.prepare(SmallCNN.pretrained()), [x]))
    theirs = torch.from_numpy(onnx_session(q).run(None, {"x": x.numpy()})[0])
    apart = ((q(x) - theirs) / q.fc2.output_scale).round().abs()
    assert int(apart.max()) <= 1
    assert float((apart > 0).float().mean()) <= 0.01


def test_each_call_of_a_shared_module_has_its_own_parameters():
    p, q, _, _ = quantized(trained_like(DenseNet, 0))
    assert torch.equal(q.shared.weight, q.shared_1.weight)
    assert q.shared.input_scale != q.shared_1.input_scale
    assert len([layer for layer in ptq.layers(p) if layer.node.target == "shared"]) == 2


def test_only_the_fused_output_is_observed():
    names = [str(n.target) for n in ptq.prepare(ResNet()).graph.nodes if n.op == "call_module"
             and str(n.target).startswith("observer_")]  # fmt: skip
    assert "observer_relu" in names
    assert "observer_conv" not in names
    assert "observer_pool" not in names  # max-pooling keeps the grid


def test_keep_float():
    m = trained_like(ResNet, 0)
    recipe = ptq.Recipe(keep_float=("blocks.0", "fc"))
    _, q, _, x = quantized(m, recipe)
    kept = ptq.report(q).stayed_float
    assert {"fc", "blocks_0_conv1", "blocks_0_conv2"} <= set(kept)
    assert set(kept.values()) == {"kept by the recipe"}
    assert sqnr(m(x), q(x)) > 25
    with pytest.raises(ValueError, match="keep_float must name modules of the network, got 'fd'"):
        ptq.prepare(m, ptq.Recipe(keep_float=("fd",)))


@pytest.mark.parametrize(
    "recipe",
    [
        ptq.Recipe(observer=MinMaxObserver),
        ptq.Recipe(observer=lambda spec: MovingAverageObserver(spec, 0.1)),
        ptq.Recipe(activations=QuantSpec(bits=8, signed=True)),
        ptq.Recipe(weights=QuantSpec(bits=8, signed=False, symmetric=True, granularity="channel")),
        ptq.Recipe(weights=QuantSpec(bits=8, granularity="channel")),
        ptq.Recipe(weights=QuantSpec(bits=8)),
        ptq.Recipe(weights=QuantSpec(bits=6, granularity="channel"), activations=QuantSpec(7)),
    ],
)
def test_other_recipes(recipe):
    m = trained_like(ResNet, 0)
    _, q, _, x = quantized(m, recipe)
    assert sqnr(m(x), q(x)) > 15


def test_wrong_recipes_are_named():
    for argument, value, error in [
        ("weights", QuantSpec(bits=9), ValueError), ("weights", 8, TypeError),
        ("weights", QuantSpec(granularity="channel", axis=1), ValueError),
        ("activations", QuantSpec(granularity="channel"), ValueError),
        ("observer", 3, TypeError), ("keep_float", "fc", TypeError),
    ]:  # fmt: skip
        with pytest.raises(error, match=argument):
            ptq.Recipe(**{argument: value})


def test_wrong_networks_and_orders_are_named():
    class Branch(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(ValueError, match=r"m must be traceable by torch.fx, Branch is not"):
        ptq.prepare(Branch())
    with pytest.raises(ValueError, match="p must come from"):
        ptq.convert(nn.Linear(2, 2))
    p = ptq.prepare(SmallCNN())
    with pytest.raises(ValueError, match="at least one batch"):
        ptq.calibrate(p, [])
    with pytest.raises(RuntimeError):
        ptq.convert(p)
    with pytest.raises(ValueError, match=r"m must come from ptq.convert"):
        ptq.report(p)


def test_tokens_attention_and_layer_norm_stay_in_float():
    class Tiny(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.emb, self.norm = nn.Embedding(50, 16), nn.LayerNorm(16)
            self.q, self.v, self.out = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 50)

        def forward(self, tokens):
            tokens = tokens.reshape(tokens.shape[0], -1)
            x = self.emb(tokens)
            y = self.norm(x)
            a = torch.softmax(self.q(y) @ y.transpose(1, 2), -1)
            x = x + self.v(a @ y)
            return self.out(x)

    torch.manual_seed(0)
    m, tokens = Tiny().eval(), torch.randint(0, 50, (8, 12))
    q = ptq.convert(ptq.calibrate(ptq.prepare(m), [tokens]))
    assert sqnr(m(tokens), q(tokens)) > 25
    assert set(ptq.report(q).integer) >= {"q", "v", "out", "add"}
    assert {"emb", "norm", "softmax"} <= set(ptq.report(q).stayed_float)


def test_a_dead_channel_with_a_bias():
    """A channel whose weights vanish beside its bias keeps the bias and breaks nothing."""
    torch.manual_seed(0)
    m = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 2))
    with torch.no_grad():
        m[0].weight[1] *= 1e-14
        m[0].weight[2] = 0.0
        m[0].bias[1], m[0].bias[2] = 1.0, -1.0
    x = torch.randn(200, 8)
    q = ptq.convert(ptq.calibrate(ptq.prepare(m), [x]))
    assert sqnr(m(x), q(x)) > 30


@pytest.mark.parametrize(
    ("m", "shape"),
    [
        (nn.Linear(5, 6), (20, 5)),
        (nn.Conv2d(3, 4, 3), (4, 3, 8, 8)),
        (nn.Sequential(nn.Linear(12, 6), nn.BatchNorm1d(6), nn.ReLU()).eval(), (20, 12)),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).double(), (4, 3, 8, 8)),
    ],
)
def test_lone_layers_doubles_and_empty_batches(m, shape):
    x = torch.randn(shape, dtype=next(m.parameters()).dtype)
    q = ptq.convert(ptq.calibrate(ptq.prepare(m), [x]))
    assert sqnr(m(x), q(x)) > 30
    assert q(x).dtype == x.dtype
    assert not ptq.report(q).stayed_float
    assert q(x[:0]).shape == m(x[:0]).shape
    again = copy.deepcopy(q)
    assert torch.equal(again(x), q(x))
    assert ptq.report(again) == ptq.report(q)


def test_splits_and_tuples_go_through_on_codes():
    class Shuffle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.right = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(4, 4, 1)

        def forward(self, x):
            a, b = F.hardtanh(self.conv(x), -1.0, 2.0).chunk(2, dim=1)
            y = torch.cat((a, F.relu6(self.right(b))), dim=1)
            n, c, h, w = y.shape
            y = y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
            return torch.cat(y.chunk(2, dim=1), dim=0)

    torch.manual_seed(0)
    m = Shuffle().eval()
    _, q, _, x = quantized(m)
    assert sqnr(m(x), q(x)) > 30
    assert list(ptq.report(q).stayed_float) == ["cat_1"]


# --- Dynamic -------------------------------------------------------------------------------------


def test_dynamic_quantization():
    data = fashion_mnist()
    x, labels = normalise(data.test_images[:2000]), data.test_labels[:2000]
    m = SmallCNN.pretrained()
    q = ptq.quantize_dynamic(m)
    assert sqnr(m(x[:200]), q(x[:200])) > 30
    assert abs(accuracy(m, x, labels).value - accuracy(q, x, labels).value) <= 0.005
    assert q.fc1.weight.dtype == torch.int8
    assert type(m.fc1) is nn.Linear
    kept = ptq.quantize_dynamic(m, ptq.Recipe(keep_float=("conv1",)))
    assert type(kept.conv1) is nn.Conv2d
    with pytest.raises(ValueError, match="keep_float"):
        ptq.quantize_dynamic(m, ptq.Recipe(keep_float=("conv9",)))


def test_dynamic_linear_equals_its_formula():
    torch.manual_seed(0)
    m, x = nn.Linear(30, 7), torch.randn(4, 5, 30)
    q = ptq.quantize_dynamic(m)
    from qtools import dequantize, fake_quantize, qparams_from_tensor

    w = dequantize(q.weight, QParams(q.weight_scale, q.weight_zero_point, q.w_spec))
    expected = F.linear(
        fake_quantize(x, qparams_from_tensor(x, QuantSpec(signed=False))), w, m.bias
    )
    assert torch.allclose(q(x), expected, atol=1e-5)
