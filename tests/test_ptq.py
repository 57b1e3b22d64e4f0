"""Static quantization of whole networks: the flow, what stays in float, the neighbours."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from qtools import QuantSpec, ptq
from qtools.data import fashion_mnist, normalise
from qtools.error import sqnr
from qtools.int8_matmul import is_int_mm_exact
from qtools.metrics import accuracy
from qtools.models import SmallCNN
from qtools.observers import MinMaxObserver, MovingAverageObserver
from qtools.ptq import modules
from tests.ptq_networks import FLOAT, NETWORKS, DenseNet, ResNet, images, trained_like


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
    assert floats == FLOAT.get(network, set())
    for name, reason in report.stayed_float.items():
        assert reason
        assert f"float: {reason}" in str(report)
        assert name in str(report)
    quantizes = [n for n in q.modules() if isinstance(n, modules.Quantize)]
    dequantizes = [n for n in q.modules() if isinstance(n, modules.Dequantize)]
    if network not in FLOAT:
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
