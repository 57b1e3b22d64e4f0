"""What to use for a gradient where rounding has none: three estimators as autograd functions.

The derivative of ``x_hat = s clip(round(x/s), low, high)`` with respect to x is 0 almost
everywhere, and nothing would be learned. A straight-through estimator puts another function's
derivative in its place for the backward pass (Bengio et al. 2013, section 3):

===========================  ======================================================
`affine.fake_quantize`       that of the clip: 1 inside the range, 0 outside
`fake_quantize_unmasked`     that of the identity: 1 everywhere
`learned_fake_quantize`      that of the clip, and one for the step size s (LSQ)
===========================  ======================================================
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qtools.affine import fake_quantize, pieces
from qtools.layout import align, restore
from qtools.spec import QParams


class _StraightThrough(torch.autograd.Function):
    """Value of the second argument, gradient to the first."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, x_hat: Tensor) -> Tensor:
        return x_hat.view_as(x_hat)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


def straight_through(x: Tensor, x_hat: Tensor) -> Tensor:
    """``x_hat`` in the forward pass, ``d/dx = 1`` in the backward pass.

    Parameters
    ----------
    x, x_hat : Tensor
        One shape and type. No gradient flows to x_hat.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    if x.shape != x_hat.shape:
        raise ValueError(
            f"x_hat must have the shape of x, {list(x.shape)}, got {list(x_hat.shape)}"
        )
    result: Tensor = _StraightThrough.apply(x, x_hat.detach())
    return result


def fake_quantize_unmasked(x: Tensor, qp: QParams) -> Tensor:
    """``x_hat = s clip(round(x/s), qmin - z, qmax - z)`` with ``d x_hat / d x = 1`` everywhere.

    The values are those of `qtools.affine.fake_quantize`. Its gradient is 0 where the code was
    clipped, so a latent weight beyond the range stays where it is unless something else moves it
    (weight decay, a range that grows). This one pulls it back, at the price of a gradient that
    is wrong by all of itself there: moving a clipped value changes nothing.

    Parameters
    ----------
    x : Tensor
        Floating point, any shape that ``qp`` fits.
    qp : QParams

    Returns
    -------
    Tensor
        Shape and dtype of x.
    """
    return straight_through(x, fake_quantize(x.detach(), qp))


class _LearnedStep(torch.autograd.Function):
    """``x_hat = s q``, ``q = clip(round(x/s), low, high)`` with gradients to x and to s."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, s: Tensor, low: Tensor, high: Tensor, gradient_scale: float
    ) -> Tensor:
        v, x_hat = torch.empty_like(x), torch.empty_like(x)
        for i, (step, inverse, lo, hi) in pieces(x, s, s.reciprocal(), low, high):
            q = torch.mul(x[i], inverse, out=v[i]).round()
            torch.minimum(torch.maximum(q, lo, out=q), hi, out=q)
            torch.mul(q, step, out=x_hat[i])
        ctx.save_for_backward(v, s, low, high)
        ctx.gradient_scale = gradient_scale
        return x_hat

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        v, s, low, high = ctx.saved_tensors
        to_x, to_s = torch.empty_like(grads[0]), torch.zeros_like(s)
        for i, (lo, hi, sum_here) in pieces(v, low, high, to_s):
            x, grad = v[i], grads[0][i]
            # q - x/s inside, q outside: q less x/s times the mask that x's own gradient has.
            inside = ((x > lo) & (x < hi)).to(x.dtype)
            torch.mul(grad, inside, out=to_x[i])
            slope = torch.minimum(torch.maximum(x.round(), lo), hi).addcmul_(x, inside, value=-1)
            sum_here.add_(slope.mul_(grad).sum_to_size(sum_here.shape))
        return to_x, to_s.mul_(ctx.gradient_scale), None, None, None


def learned_fake_quantize(
    x: Tensor, scale: Tensor, qp: QParams, gradient_scale: float = 1.0
) -> Tensor:
    """``d x_hat/d s = round(x/s) - x/s`` inside the range, low or high outside it, times g.

    With ``low = qmin - z`` and ``high = qmax - z``; inside means ``low < x/s < high``, where the
    gradient to x is 1, elsewhere 0 (Esser et al. 2020, eqs. 1-3 and 5, there for z = 0, low = -Q_N
    and high = Q_P). The derivative is that of ``s clip(round(x/s))`` with the straight-through
    estimate for the rounding: a value at the middle of a step pulls s neither way, one just short
    of a rounding edge pulls with half a step, a clipped one with all of its code.

    Parameters
    ----------
    x : Tensor
        Floating point, any shape that ``qp`` fits.
    scale : Tensor
        s, in the shape of ``qp.scale``, positive: the parameter that learns.
    qp : QParams
        Its zero point and spec are used, its scale is not.
    gradient_scale : float
        g; the paper's is ``1 / sqrt(N Q_P)`` (section 2.2).

    Returns
    -------
    Tensor
        Shape and dtype of x; the values of `qtools.affine.fake_quantize` with this scale.
    """
    _, low, high = qp.steps
    wide = x.to(torch.promote_types(x.dtype, scale.dtype))
    x_hat = _LearnedStep.apply(*align(wide, qp, scale, low, high), gradient_scale)
    return restore(x_hat, x.shape, qp.spec).to(x.dtype)
