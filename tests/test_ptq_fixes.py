"""Equalization, bias correction and rounding by gradient: what they promise, on networks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qtools import QuantSpec, ptq
from qtools.error import sqnr
from qtools.models import SmallCNN
from qtools.observers import MinMaxObserver
from tests.ptq_networks import NETWORKS, MobileNetV2, images, trained_like


def recipe(bits: int, granularity: str = "tensor") -> ptq.Recipe:
    weights = QuantSpec(bits=bits, symmetric=True, granularity=granularity)
    return ptq.Recipe(weights=weights, observer=MinMaxObserver)


@pytest.mark.parametrize("network", [*NETWORKS, SmallCNN])
def test_equalization_computes_the_same_function(network):
    m = (trained_like(network, 0) if network in NETWORKS else SmallCNN.pretrained()).double()
    x = torch.randn(4, 1, 28, 28).double() if network is SmallCNN else images(4).double()
    assert torch.allclose(ptq.equalize(m)(x), m(x), atol=1e-10, rtol=1e-10)


def test_equalized_ranges_are_equal_and_per_tensor_quantization_recovers():
    """Channels of one layer made to differ by factors up to 1000, undone in the next."""
    torch.manual_seed(0)
    m = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3, groups=16), nn.ReLU(),
                      nn.MaxPool2d(2), nn.Conv2d(16, 8, 3), nn.ReLU(), nn.Flatten(),
                      nn.Linear(8 * 12 * 12, 10))  # fmt: skip
    factors = torch.logspace(-1.5, 1.5, 16).view(-1, 1, 1, 1)
    with torch.no_grad():
        m[0].weight *= factors
        m[0].bias *= factors.view(-1)
        m[2].weight /= factors
    x = images(16)
    e = ptq.equalize(m)
    first, second = e.get_submodule("0").weight, e.get_submodule("2").weight
    r1, r2 = first.flatten(1).abs().amax(1), second.flatten(1).abs().amax(1)
    assert torch.allclose(r1, r2, rtol=1e-2)
    plain, fixed = (
        sqnr(m(x), ptq.convert(ptq.calibrate(ptq.prepare(n, recipe(8)), [x]))(x)) for n in (m, e)
    )
    assert fixed > plain + 5


def test_bias_correction_restores_the_means():
    m = trained_like(MobileNetV2, 0)
    data = [images(32) for _ in range(2)]
    p = ptq.calibrate(ptq.prepare(m, recipe(5)), data)
    before = {name: t.clone() for name, t in p.state_dict().items()}
    corrected = ptq.correct_bias(p, data)
    x = torch.cat(data)
    y = m(x)

    def shift(network: nn.Module) -> float:
        return (network(x) - y).mean(0).norm().item()

    assert shift(ptq.simulate(corrected)) < 0.2 * shift(ptq.simulate(p))
    assert shift(ptq.convert(corrected)) < 0.5 * shift(ptq.convert(p))
    assert all(torch.equal(t, before[name]) for name, t in p.state_dict().items())


def test_adaround_beats_rounding_to_nearest_and_stays_on_the_grid():
    torch.manual_seed(0)
    m = SmallCNN.pretrained()
    x, new = torch.randn(128, 1, 28, 28), torch.randn(128, 1, 28, 28)
    p = ptq.calibrate(ptq.prepare(m, recipe(3, "channel")), [x])
    fixed = ptq.adaround(p, [x], iterations=60)
    nearest, learned = (sqnr(m(new), ptq.convert(q)(new)) for q in (p, fixed))
    assert learned > nearest + 3
    assert torch.equal(ptq.simulate(fixed).conv2.weight, fixed.conv2.weight)
    steps = (fixed.conv2.weight - ptq.simulate(p).conv2.weight).abs().flatten(1).amax(1)
    scale = ptq.convert(p).conv2.weight_scale
    assert bool((steps <= 1.0001 * scale).all())  # up or down, never further
    assert bool((steps > 0.5 * scale).any())


def test_the_simulated_network_is_the_integer_one_but_for_roundings():
    """Both round biases to s_x s_w; float32 sums then decide a few halves differently."""
    m, x = SmallCNN.pretrained(), torch.randn(100, 1, 28, 28)
    p = ptq.calibrate(ptq.prepare(m, recipe(8, "channel")), [x])
    q = ptq.convert(p)
    codes = ((ptq.simulate(p)(x) - q(x)) / q.fc2.output_scale).round().abs()
    assert int(codes.max()) <= 1
    assert float((codes > 0).float().mean()) < 0.01


def test_no_batches_and_no_iterations_are_refused():
    p = ptq.calibrate(ptq.prepare(SmallCNN(), recipe(8)), [torch.randn(2, 1, 28, 28)])
    with pytest.raises(ValueError, match="at least one batch"):
        ptq.correct_bias(p, [])
    with pytest.raises(ValueError, match="at least one batch"):
        ptq.adaround(p, [])
    with pytest.raises(ValueError, match="iterations must be at least 1, got 0"):
        ptq.adaround(p, [torch.randn(2, 1, 28, 28)], iterations=0)
    with pytest.raises(ValueError, match="iterations must be at least 1, got 0"):
        ptq.equalize(SmallCNN(), iterations=0)
