"""FakeQuantize and LearnedStep: when they observe, what they save, where they start."""

from __future__ import annotations

import copy
import math
import warnings

import pytest
import torch
from torch import nn

from qtools import QuantSpec, fake_quantize
from qtools.observers import HistogramObserver, MinMaxObserver, MovingAverageObserver
from qtools.ptq.weights import choose_weight_qparams
from qtools.qat import FakeQuantize, LearnedStep, WeightObserver

ACTIVATION = QuantSpec(8, signed=False)
WEIGHT = QuantSpec(4, symmetric=True, granularity="channel")


def fed(observer, *batches):
    for batch in batches or (torch.randn(8, 5),):
        observer(batch)
    return observer


def test_fake_quantize_follows_training_batches_and_only_those():
    q = FakeQuantize(fed(MinMaxObserver(ACTIVATION), torch.tensor([0.0, 1.0])))
    wide = torch.tensor([-2.0, 2.0])
    q.eval()
    assert q(wide).tolist() == [0, 1]  # clipped: measuring does not move the range
    q.train()
    assert q(wide).tolist() == pytest.approx([-2, 2], abs=4 / 255)
    q.freeze()
    assert q(2 * wide).tolist() == pytest.approx([-2, 2], abs=4 / 255)


def test_weights_choose_their_range_in_eval_mode_too_until_frozen():
    q = FakeQuantize(fed(WeightObserver(WEIGHT), torch.ones(2, 3))).eval()
    w = torch.randn(2, 3)
    assert torch.equal(q(w), fake_quantize(w, choose_weight_qparams(w, WEIGHT, "minmax")))
    q.freeze()
    scale = q.qparams().scale.clone()
    q(3 * w)
    assert torch.equal(q.qparams().scale, scale)


def test_fake_quantize_is_torchs():
    """Values, gradients and ranges over batches, bit for bit."""
    aq = pytest.importorskip("torch.ao.quantization")
    torch.manual_seed(0)
    batches = [torch.randn(16, 7) * k for k in (1, 2, 1, 0.5)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = aq.FakeQuantize(
            aq.MovingAverageMinMaxObserver, quant_min=0, quant_max=255, dtype=torch.quint8
        )
        theirs(batches[0])
    ours = FakeQuantize(fed(MovingAverageObserver(ACTIVATION), batches[0])).train()
    for batch in batches[1:]:
        grads = []
        for q in (ours, theirs):
            x = batch.clone().requires_grad_()
            y = q(x)
            y.square().sum().backward()
            grads.append((y.detach(), x.grad))
        assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))
    assert torch.equal(ours.qparams().scale.view(1), theirs.scale)
    assert torch.equal(ours.qparams().zero_point.view(1), theirs.zero_point)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_gradient_of_a_learned_step_is_scaled_by_its_values_and_levels(bits):
    """1/sqrt(N Q_P): N values of one sample, or of a channel of a weight."""
    spec = QuantSpec(bits, signed=False)
    x = torch.rand(10, 6, 2) * 4  # z = 0, all clipped at the top but the smallest
    q = LearnedStep(fed(MinMaxObserver(spec), torch.tensor([0.0, 1.0])))
    q(x + 1).sum().backward()
    # Each of the 120 values is clipped, and pulls with its code qmax.
    expected = 120 * spec.qmax / math.sqrt(12 * spec.qmax)
    assert float(q.scale.grad) == pytest.approx(expected, rel=1e-6)

    spec = QuantSpec(bits, symmetric=True, granularity="channel")
    q = LearnedStep(fed(WeightObserver(spec), torch.ones(4, 6, 2)))
    q(torch.full((4, 6, 2), 9.0)).sum().backward()
    expected = 12 * spec.qmax / math.sqrt(12 * spec.qmax)
    assert q.scale.grad.tolist() == pytest.approx([expected] * 4, rel=1e-6)


def test_a_learned_step_starts_where_its_observer_is():
    observer = fed(HistogramObserver(ACTIVATION))
    q, x = LearnedStep(observer), torch.randn(8, 5)
    assert torch.equal(q(x), fake_quantize(x, observer.qparams()))
    assert [name for name, _ in q.named_parameters()] == ["scale"]
    q.freeze()
    assert not q.scale.requires_grad


def test_a_step_pushed_through_zero_stays_a_step():
    q = LearnedStep(fed(MinMaxObserver(ACTIVATION)))
    for value in (-0.25, 0.0):
        with torch.no_grad():
            q.scale.fill_(value)
        assert float(q.qparams().scale) == max(abs(value), torch.finfo(torch.float32).tiny)
        assert bool(q(torch.randn(8, 5)).isfinite().all())


@pytest.mark.parametrize("make", [FakeQuantize, LearnedStep])
@pytest.mark.parametrize("spec", [ACTIVATION, WEIGHT], ids=["activation", "weight"])
def test_state_goes_through_a_state_dict(make, spec):
    x = torch.randn(8, 5)
    if spec is WEIGHT:
        source, target = (fed(WeightObserver(spec), w) for w in (x, torch.ones(8, 2)))
    else:
        source, target = fed(MovingAverageObserver(spec), x), fed(MovingAverageObserver(spec))
    a, b = make(source), make(target)
    b.load_state_dict(a.state_dict())
    assert torch.equal(a.qparams().scale, b.qparams().scale)
    assert torch.equal(a.qparams().zero_point, b.qparams().zero_point)
    fresh = copy.deepcopy(a)
    assert torch.equal(fresh(x), a(x))


@pytest.mark.parametrize("make", [FakeQuantize, LearnedStep])
def test_half_precision_and_empty_batches(make):
    q = make(fed(MinMaxObserver(ACTIVATION)))
    for dtype in (torch.float16, torch.bfloat16):
        x = torch.randn(8, 5).to(dtype).requires_grad_()
        y = q(x)
        y.sum().backward()
        assert y.dtype == x.grad.dtype == dtype
    assert q(torch.empty(0, 5)).shape == (0, 5)


def test_what_has_no_parameters_yet_is_refused():
    with pytest.raises(TypeError, match=r"observer must have qparams\(\), got Identity"):
        FakeQuantize(nn.Identity())
    with pytest.raises(RuntimeError, match="no data"):
        LearnedStep(WeightObserver(WEIGHT))
    with pytest.raises(RuntimeError, match="no data"):
        LearnedStep(MinMaxObserver(ACTIVATION))
