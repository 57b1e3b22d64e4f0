"""Quantization-aware training: from `prepare_qat` to the same integer modules as ptq's."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from qtools import QuantSpec, dequantize, ptq, qat, quantize
from qtools.observers import HistogramObserver, MovingAverageObserver
from qtools.ptq.modules import IntegerConv2d, IntegerLinear
from qtools.qat.layer import to_quantize
from qtools.training import Split, TrainConfig, fit
from tests.ptq_networks import NETWORKS, DenseNet, ResNet, images, trained_like

MAKERS = [qat.FakeQuantize, qat.LearnedStep]


def recipe(weight_bits=8, bits=8, granularity="channel", **settings):
    weights = QuantSpec(weight_bits, symmetric=True, granularity=granularity)
    settings = {"observer": MovingAverageObserver, "weight_range": "mse"} | settings
    return ptq.Recipe(weights, QuantSpec(bits, signed=False), **settings)


def trained(p, steps=3, lr=1e-3):
    """A few steps of training on random labels, as any loop would take them."""
    optimizer = torch.optim.AdamW(p.parameters(), lr)
    p.train()
    for _ in range(steps):
        loss = F.cross_entropy(p(images(16)), torch.randint(0, 10, (16,)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return p.eval()


def codes_of_layers(q, x):
    """Input and output codes of each layer of an integer network, by name."""
    seen = {}
    hooks = [
        module.register_forward_hook(
            lambda module, args, y, name=name: seen.__setitem__(name, (module, args[0], y))
        )
        for name, module in q.named_modules()
        if isinstance(module, (IntegerConv2d, IntegerLinear))
    ]
    q(x)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(
    ("bits", "granularity"),
    [((8, 8), "channel"), ((4, 4), "channel"), ((2, 4), "channel"), ((4, 4), "tensor")],
    ids=str,
)
def test_integer_layers_are_the_simulated_ones_but_for_rare_units(network, bits, make, granularity):
    """At most one unit apart, in at most 0.1 % of a layer's outputs, on the same inputs."""
    settings = recipe(*bits, granularity)
    p = qat.prepare_qat(trained_like(network, 0), [images(16)], settings, make)
    trained(p)
    with torch.no_grad():
        seen = codes_of_layers(qat.convert(p), images(48))
        layers = list(ptq.layers(p))
        assert len(layers) == len(seen)
        for layer, (integer, codes, found) in zip(layers, seen.values(), strict=True):
            assert isinstance(layer.module, qat.QATLayer)
            y = layer.module(dequantize(codes, layer.input.qparams()), layer.input)
            simulated = quantize(y.clamp(*layer.role.clamp), layer.output.qparams())
            if getattr(integer, "pool", None) is not None:
                w = integer.pool
                simulated = F.max_pool2d(simulated.float(), w.kernel, w.stride, w.padding)
            apart = (simulated.int() - found.int()).abs()
            assert int(apart.max()) <= 1, layer.node.name
            # 0.1 %, and one element of a layer with fewer than a thousand outputs.
            assert int((apart > 0).sum()) <= max(1, 0.001 * apart.numel()), layer.node.name


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("network", [n for n in NETWORKS if n is not DenseNet])
def test_fold_is_the_network_in_eval_mode(network, make):
    p = trained(qat.prepare_qat(trained_like(network, 1), [images(16)], recipe(4, 4), make))
    folded = qat.fold(p)
    assert not any(isinstance(m, (qat.QATLayer, qat.Quantizer)) for m in folded.modules())
    x = images(8)
    with torch.no_grad():
        torch.testing.assert_close(ptq.simulate(folded)(x), p(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("make", MAKERS)
def test_before_training_it_is_the_simulated_ptq_network(make):
    m, calibration = trained_like(ResNet, 0), [images(16)]
    p = qat.prepare_qat(m, calibration, recipe(), make)
    ours = ptq.simulate(ptq.calibrate(ptq.prepare(m, recipe()), calibration))
    x = images(8)
    with torch.no_grad():
        noise = (ours(x) - p(x)).square().mean() / ours(x).square().mean()
    assert float(noise) < 1e-4  # BatchNorm folded in float32 here, in float64 there


def test_nothing_of_the_float_network_changes():
    m = trained_like(ResNet, 0).train()
    before = copy.deepcopy(m.state_dict())
    trained(qat.prepare_qat(m, [images(16)], recipe(4, 4)))
    assert m.training
    assert all(torch.equal(t, before[name]) for name, t in m.state_dict().items())


class _Exact(qat.Quantizer):
    """Rounds nothing: what is left of a QATLayer is its BatchNorm."""

    def __init__(self, observer):
        super().__init__(observer)
        self.observer = observer

    def forward(self, x):
        return x

    def qparams(self):
        return self.observer.qparams()

    def freeze(self):
        pass


def pairs():
    return [
        (nn.Conv2d(3, 6, 3, 2, 1, groups=3), nn.BatchNorm2d(6), (8, 3, 9, 9)),
        (nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6, affine=False), (8, 3, 9, 9)),
        (nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6, momentum=None), (8, 3, 4, 4)),
        (nn.Linear(5, 6), nn.BatchNorm1d(6), (8, 5)),
    ]


@pytest.mark.parametrize("granularity", ["channel", "tensor"])
@pytest.mark.parametrize("case", range(4))
def test_batch_norm_trains_as_if_nothing_were_folded(case, granularity):
    torch.manual_seed(case)
    layer, norm, shape = pairs()[case]
    if norm.affine:
        with torch.no_grad():
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.normal_()
            norm.weight[1] = 0  # a channel that BatchNorm has switched off
            norm.weight[2] *= -1
    plain = nn.Sequential(layer, norm).double()
    plain.train()(torch.randn(shape, dtype=torch.float64) + 1)
    observer = qat.WeightObserver(QuantSpec(16, symmetric=True, granularity=granularity))
    observer(to_quantize(layer.weight, norm, granularity == "channel"))
    ours = qat.QATLayer(copy.deepcopy(layer), copy.deepcopy(norm), _Exact(observer))
    for mode in (True, False):
        plain.train(mode)
        ours.train(mode)
        x = torch.randn(shape, dtype=torch.float64)
        results = []
        for network in (plain, ours):
            network.zero_grad()
            if network is plain:
                y = plain(x)
            else:  # in eval mode without rounding the bias, which is another test's
                y = ours(x, observer) if mode else ours._apply_to(x, *ours.folded()[:2])
            (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)).sum().backward()
            grads = {n.split(".")[-2:][0] + n.split(".")[-1]: q.grad
                     for n, q in network.named_parameters()}  # fmt: skip
            results.append((y.detach(), list(grads.values())))
        (y, grads), (ours_y, ours_grads) = results
        # Folded weights are on a grid of 2^16 codes, whatever the quantizer does.
        torch.testing.assert_close(ours_y, y, rtol=1e-6, atol=1e-6 if mode else 1e-3)
        for a, b in zip(grads, ours_grads, strict=True):
            torch.testing.assert_close(b, a, atol=1e-9, rtol=1e-7)
        for name, t in norm.state_dict().items():
            torch.testing.assert_close(ours.norm.state_dict()[name], t)


def test_frozen_statistics_stay_and_training_mode_then_equals_eval_mode():
    p = trained(qat.prepare_qat(trained_like(ResNet, 0), [images(16)], recipe(4, 4)))
    qat.freeze_batch_norm(p)
    qat.freeze_ranges(p)
    before = {n: t.clone() for n, t in p.named_buffers() if "running" in n or "x_m" in n}
    gammas = {n: t.clone() for n, t in p.named_parameters() if "norm" in n}
    x = images(8)
    with torch.no_grad():
        assert torch.equal(p.train()(x), p.eval()(x))
    trained(p, lr=1e-2)
    after = dict(p.named_buffers())
    assert before
    assert all(torch.equal(t, after[n]) for n, t in before.items())
    assert all(not torch.equal(t, dict(p.named_parameters())[n]) for n, t in gammas.items())


def test_before_they_are_frozen_statistics_and_ranges_move():
    p = qat.prepare_qat(trained_like(ResNet, 0), [images(16)], recipe(4, 4))
    before = {n: t.clone() for n, t in p.named_buffers() if "running" in n or "x_max" in n}
    trained(p)
    after = dict(p.named_buffers())
    assert all(not torch.equal(t, after[n]) for n, t in before.items())


@pytest.mark.parametrize("make", MAKERS)
def test_an_interrupted_training_resumes_to_the_same_network(make, tmp_path):
    class Tiny(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn = nn.Conv2d(1, 4, 5, 4), nn.BatchNorm2d(4)
            self.fc = nn.Linear(4 * 36, 10)

        def forward(self, x):
            return self.fc(F.relu(self.bn(self.conv(x))).flatten(1))

    torch.manual_seed(0)
    m, x = Tiny(), torch.randn(32, 1, 28, 28)
    pixels = torch.randint(0, 256, (96, 28, 28), dtype=torch.uint8)
    data = Split(pixels, torch.arange(96) % 10)
    config, path = TrainConfig(epochs=2, batch_size=32, lr=0.01), tmp_path / "run.checkpoint"

    def start():
        return qat.prepare_qat(m, [x], recipe(3, 4), make)

    through = start()
    fit(through, data, data, config)

    class Stop(Exception):
        pass

    stopped = start()
    calls = iter(range(100))

    def stop_in_the_second_epoch(*_):
        if next(calls) == 5:
            raise Stop

    stopped.get_submodule("fc").register_forward_pre_hook(stop_in_the_second_epoch)
    with pytest.raises(Stop):
        fit(stopped, data, data, config, path)
    resumed = start()
    fit(resumed, data, data, config, path)
    expected = through.state_dict()
    assert all(torch.equal(t, expected[name]) for name, t in resumed.state_dict().items())


@pytest.mark.parametrize("make", MAKERS)
def test_training_recovers_what_two_bits_lost(make):
    """Two classes of images that a float network tells apart and its 2-bit rounding does not."""
    torch.manual_seed(0)
    m = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
    x = torch.randn(512, 32)
    labels = (x @ torch.randn(32, 4)).argmax(1)
    for network in (m, p := None):
        if network is None:
            coarse = QuantSpec(3, signed=False)
            settings = recipe(2, 3, weight_range="minmax", ends=coarse)
            p = qat.prepare_qat(m, [x], settings, make)
            with torch.no_grad():
                before = float((p(x).argmax(1) == labels).float().mean())
            network = p.train()
        optimizer = torch.optim.Adam(network.parameters(), 3e-3)
        for _ in range(150):
            loss = F.cross_entropy(network(x), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        exact, after = (
            float((n(x).argmax(1) == labels).float().mean()) for n in (m, qat.convert(p))
        )
    assert exact > 0.99
    assert before < 0.8
    assert after > exact - 0.1


def test_converted_networks_save_and_load(tmp_path):
    p = trained(qat.prepare_qat(trained_like(ResNet, 0), [images(16)], recipe(2, 4)))
    q, x = qat.convert(p), images(4)
    ptq.save(q, tmp_path / "net.safetensors")
    other = qat.convert(qat.prepare_qat(trained_like(ResNet, 1), [images(16)], recipe(2, 4)))
    other = ptq.load(other, tmp_path / "net.safetensors")
    with torch.no_grad():
        assert torch.equal(q(x), other(x))
    assert not ptq.report(q).stayed_float


def test_a_copy_has_its_own_quantizers():
    p = qat.prepare_qat(trained_like(ResNet, 0), [images(16)], recipe(), qat.LearnedStep)
    twin = copy.deepcopy(p)
    x = images(4)
    with torch.no_grad():
        before = p(x)
        for parameter in twin.parameters():
            parameter.mul_(1.5)
        assert torch.equal(p(x), before)
        assert not torch.equal(twin(x), before)


def test_keep_float_and_histogram_observers():
    settings = {"keep_float": ("fc",), "observer": HistogramObserver}
    p = trained(qat.prepare_qat(trained_like(ResNet, 0), [images(16)], recipe(4, 4, **settings)))
    assert isinstance(p.get_submodule("fc"), nn.Linear)
    assert ptq.report(qat.convert(p)).stayed_float == {"fc": "kept by the recipe"}


def test_a_lone_layer():
    torch.manual_seed(0)
    p = qat.prepare_qat(nn.Linear(6, 3), [torch.randn(9, 6)])
    x = torch.randn(4, 6)
    with torch.no_grad():
        assert torch.equal(ptq.simulate(qat.fold(p))(x), p(x))


def test_wrong_networks_are_named():
    m, x = nn.Sequential(nn.Linear(4, 2)), torch.randn(5, 4)
    with pytest.raises(ValueError, match="at least one batch"):
        qat.prepare_qat(m, [])
    with pytest.raises(ValueError, match="m must have a convolution or linear layer"):
        qat.prepare_qat(nn.Sequential(nn.Sigmoid()), [x])
    for call in (qat.convert, qat.fold, qat.freeze_ranges, qat.freeze_batch_norm):
        with pytest.raises(ValueError, match=r"p must come from qat\.prepare_qat"):
            call(ptq.calibrate(ptq.prepare(m), [x]))
        with pytest.raises(ValueError, match="got Sequential"):
            call(m)
    with pytest.raises(ValueError, match=r"converted by qat\.convert"):
        ptq.convert(qat.prepare_qat(m, [x]))
