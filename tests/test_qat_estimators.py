"""Straight-through estimators: the values of fake quantization, and gradients as stated."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qtools import QuantSpec, choose_qparams, fake_quantize, qparams_from_tensor
from qtools.qat import fake_quantize_unmasked, learned_fake_quantize
from qtools.qat.estimators import straight_through
from qtools.spec import QParams
from tests.strategies import specs, tensors

USUAL = (torch.float32, torch.float64)


def gradients(y, *inputs):
    seed = torch.arange(1.0, y.numel() + 1, dtype=y.dtype).view(y.shape)
    return seed, torch.autograd.grad(y, inputs, seed)


@given(x=tensors(), spec=specs())
def test_unmasked_has_the_values_of_fake_quantize_and_the_gradient_of_the_identity(x, spec):
    qp = qparams_from_tensor(x * 0.5, spec)  # half of the range: some values are clipped
    x.requires_grad_()
    y = fake_quantize_unmasked(x, qp)
    assert torch.equal(y, fake_quantize(x, qp))
    seed, (grad,) = gradients(y, x)
    assert torch.equal(grad, seed)


def test_the_mask_is_the_difference():
    qp = choose_qparams(-1.0, 1.0, QuantSpec(bits=4, symmetric=True))
    x = torch.tensor([-3.0, -0.4, 0.0, 0.9, 1.5], requires_grad=True)
    _, (masked,) = gradients(fake_quantize(x, qp), x)
    _, (unmasked,) = gradients(fake_quantize_unmasked(x, qp), x)
    assert masked.tolist() == [0, 2, 3, 4, 0]
    assert unmasked.tolist() == [1, 2, 3, 4, 5]


def test_straight_through_needs_one_shape():
    with pytest.raises(ValueError, match=r"shape of x, \[3\], got \[1\]"):
        straight_through(torch.ones(3), torch.ones(1))


@given(x=tensors(), spec=specs())
def test_learned_has_the_values_of_fake_quantize(x, spec):
    qp = qparams_from_tensor(x * 0.5, spec)
    y = learned_fake_quantize(x, qp.scale, qp)
    expected = fake_quantize(x, qp)
    if x.dtype in USUAL:
        # Products beyond the largest number are held to it by fake_quantize alone.
        finite = y.isfinite()
        assert torch.equal(y[finite], expected[finite])
    else:
        torch.testing.assert_close(y, expected, rtol=torch.finfo(x.dtype).eps, atol=0)


@given(
    seed=st.integers(0, 2**32 - 1),
    granularity=st.sampled_from(["tensor", "channel", "group"]),
    bits=st.integers(2, 8),
    signed=st.booleans(),
    symmetric=st.booleans(),
    dtype=st.sampled_from(USUAL),
)
def test_learned_gradients_are_equations_3_and_5(seed, granularity, bits, signed, symmetric, dtype):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(4, 6, generator=g, dtype=dtype)
    group_size = 3 if granularity == "group" else None
    spec = QuantSpec(bits, signed, symmetric, granularity, group_size=group_size)
    qp = qparams_from_tensor(0.6 * x, spec)
    s = qp.scale.clone().requires_grad_()
    x.requires_grad_()
    seed_y, (to_x, to_s) = gradients(learned_fake_quantize(x, s, qp, 0.25), x, s)
    # By hand, value by value.
    shape = {"tensor": (1, 24), "channel": (4, 6), "group": (8, 3)}[granularity]
    rows, seeds = x.detach().reshape(shape), seed_y.reshape(shape)
    scales, zeros = qp.scale.reshape(-1), qp.zero_point.reshape(-1)
    for r in range(shape[0]):
        low, high = spec.qmin - int(zeros[r]), spec.qmax - int(zeros[r])
        pull = 0.0
        for c in range(shape[1]):
            v = float(rows[r, c] * (1 / scales[r]))
            if v <= low:
                inside, slope = 0, low
            elif v >= high:
                inside, slope = 0, high
            else:
                inside, slope = 1, round(v) - v
            assert float(to_x.reshape(shape)[r, c]) == inside * float(seeds[r, c])
            pull += slope * float(seeds[r, c])
        # 24 terms of at most 24 · 255, each rounded: n u Σ|t| bounds the sum's error.
        slack = 24 * torch.finfo(dtype).eps * 24 * 24 * 2**bits
        assert abs(float(to_s.reshape(-1)[r]) - 0.25 * pull) <= 0.25 * slack


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_learned_gradients_are_torchs(granularity):
    """``torch._fake_quantize_learnable_*``, which masks by codes and so differs at the edges."""
    torch.manual_seed(0)
    spec = QuantSpec(4, signed=False, granularity=granularity)
    x = torch.randn(5, 400)
    qp = qparams_from_tensor(0.7 * x, spec)
    grads = []
    for ours in (True, False):
        xi, s = x.clone().requires_grad_(), qp.scale.clone().requires_grad_()
        z = qp.zero_point.float()
        if ours:
            y = learned_fake_quantize(xi, s, qp, 0.5)
        elif granularity == "tensor":
            y = torch._fake_quantize_learnable_per_tensor_affine(
                xi, s.view(1), z.view(1), spec.qmin, spec.qmax, 0.5
            )
        else:
            y = torch._fake_quantize_learnable_per_channel_affine(
                xi, s, z, 0, spec.qmin, spec.qmax, 0.5
            )
        _, (to_x, to_s) = gradients(y, xi, s)
        grads.append((y.detach(), to_x, to_s))
    (y, to_x, to_s), (y_t, to_x_t, to_s_t) = grads
    assert torch.equal(y, y_t)
    view = (-1, 1) if granularity == "channel" else ()
    v = x / qp.scale.view(view)
    low, high = ((end - qp.zero_point).view(view) for end in (spec.qmin, spec.qmax))
    # Where x/s is beyond low or high by less than half a step, torch still counts it inside.
    at_edge = ((v <= low) & (v > low - 0.5)) | ((v >= high) & (v < high + 0.5))
    assert 0 < int(at_edge.sum()) < 100
    assert torch.equal(to_x[~at_edge], to_x_t[~at_edge])
    # There ours gives the step low or high, torch round(v) - v = low - v or high - v.
    seed = torch.arange(1.0, x.numel() + 1).view(x.shape)
    difference = 0.5 * torch.where(at_edge, v * seed, 0.0)
    difference = difference.sum(1) if granularity == "channel" else difference.sum()
    torch.testing.assert_close(to_s, to_s_t.view_as(to_s) + difference, rtol=1e-4, atol=1.0)


@pytest.mark.parametrize("shape", [(3, 70_000), (70_000, 3), (200_000,)])
@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_large_tensors_in_pieces_equal_small_ones(shape, granularity):
    x = torch.randn(shape, dtype=torch.float64)
    spec = QuantSpec(3, granularity=granularity)
    qp = qparams_from_tensor(x / 2, spec)
    s = qp.scale.clone().requires_grad_()
    x.requires_grad_()
    y = learned_fake_quantize(x, s, qp)
    to_x, to_s = torch.autograd.grad(y.square().sum(), (x, s))
    parts_x, parts_s = [], []
    for i, row in enumerate(x.detach()[:50].unbind() if granularity == "channel" else [x.detach()]):
        own = QuantSpec(3)
        one = QParams(qp.scale[i], qp.zero_point[i], own) if granularity == "channel" else qp
        for part in row.reshape(-1).split(1000):
            part, step = part.clone().requires_grad_(), one.scale.clone().requires_grad_()
            loss = learned_fake_quantize(part, step, one).square().sum()
            gx, gs = torch.autograd.grad(loss, (part, step))
            parts_x.append(gx)
            parts_s.append(gs)
        if granularity == "channel":
            torch.testing.assert_close(to_s[i], torch.stack(parts_s).sum())
            parts_s = []
    if granularity == "tensor":
        torch.testing.assert_close(to_s, torch.stack(parts_s).sum())
    parts = torch.cat(parts_x)
    assert torch.equal(to_x.reshape(-1)[: len(parts)], parts)
