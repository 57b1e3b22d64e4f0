"""Affine quantization: real numbers to integers and back.

A real ``x`` gets the code ``q = clip(round(x/s) + z, qmin, qmax)`` and comes back as
``x_hat = s * (q - z)`` (Jacob et al. 2018, eq. 1; Nagel et al. 2021, eqs. 4-7).
``s`` is the scale, the width of one step in the unit of ``x``. ``z`` is the zero point, the
code of real 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from qtools.layout import align, channel_axis, restore, to_groups
from qtools.spec import QParams, QuantSpec, all_true, worst

__all__ = [
    "QParams",
    "QuantSpec",
    "choose_qparams",
    "dequantize",
    "fake_quantize",
    "qparams_from_tensor",
    "quantize",
]

_FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

# Elements handled at a time on a CPU. Five passes over 64 Ki floats stay in the L2 cache, which
# makes them about twice as fast as five passes over a large tensor, and keeps temporaries small.
_PIECE = 1 << 16


def choose_qparams(x_min: Tensor | float, x_max: Tensor | float, spec: QuantSpec) -> QParams:
    """Return the scale and zero point for a range, widened to contain 0.

    Asymmetric: ``s = (x_max - x_min) / (qmax - qmin)``, ``z = qmin - round(x_min / s)``.
    Symmetric: ``s = max(|x_min|, |x_max|) / (qmax - z)`` with z fixed by the spec.

    Real 0 then has the code z exactly. A range of zero width gets ``s = 1``. No scale is below
    the smallest normal number of its type, so that ``1/s`` is finite. Where torch.ao's observers
    differ: they divide by ``(qmax - qmin) / 2`` in the symmetric case, hold the scale above 2⁻²³,
    and overflow when ``x_max - x_min`` does.

    Parameters
    ----------
    x_min, x_max : Tensor or float
        Ends of the real interval: shape ``[]``, ``[channels]`` or ``[channels, groups]`` as the
        spec's granularity asks; float64 gives a float64 scale, all else float32.
    spec : QuantSpec

    Raises
    ------
    ValueError
        If an end is NaN or infinite, ``x_min > x_max``, or the shapes do not fit.

    Examples
    --------
    >>> qp = choose_qparams(-1.0, 3.0, QuantSpec(bits=2, signed=False))
    >>> qp.scale.item(), qp.zero_point.item()   # steps of 4/3; -1 is nearest to -4/3
    (1.3333333730697632, 1)
    """
    low, high = _range_tensors(x_min, x_max)
    low, high = low.clamp_max(0), high.clamp_min(0)
    if spec.symmetric:
        z = 0 if spec.signed else 2 ** (spec.bits - 1)
        scale = torch.maximum(-low, high) / (spec.qmax - z)
    else:
        steps = spec.qmax - spec.qmin
        scale = (high - low) / steps
        if not all_true(scale.isfinite()):
            # The width of a range can overflow where its ends do not.
            scale = torch.where(scale.isinf(), high / steps - low / steps, scale)
    scale = scale.clamp_min(torch.finfo(scale.dtype).tiny).masked_fill_(low == high, 1)
    if spec.symmetric:
        zero_point = torch.full_like(scale, z, dtype=torch.int32)
    else:
        zero_point = (spec.qmin - torch.round(low / scale)).clamp(spec.qmin, spec.qmax)
    return QParams(scale, zero_point.to(torch.int32), spec)


def qparams_from_tensor(x: Tensor, spec: QuantSpec) -> QParams:
    """Return ``choose_qparams(min x, max x)``, taken over the elements that share a scale.

    Parameters
    ----------
    x : Tensor
        Any floating type and shape; per channel and per group it needs ``spec.axis``. Ranges of
        half-precision data are kept in float32. An empty set of elements has the range {0}.
    spec : QuantSpec

    Raises
    ------
    TypeError
        If x is not floating point.
    ValueError
        If x holds NaN or infinity, the axis does not exist, or group_size does not divide the
        elements of a channel.
    """
    _check_floating(x)
    if spec.granularity == "tensor":
        shared = x.reshape(-1)
    elif spec.granularity == "channel":
        shared = x.movedim(channel_axis(x, spec), 0).unsqueeze(-1).flatten(1)
    else:
        shared = to_groups(x, spec)
    if shared.shape[-1] == 0:
        low = high = torch.zeros(shared.shape[:-1], dtype=x.dtype, device=x.device)
    else:
        low, high = torch.aminmax(shared, dim=-1)
    return choose_qparams(low, high, spec)


def quantize(x: Tensor, qp: QParams) -> Tensor:
    """``q = clip(round(x * (1/s)) + z, qmin, qmax)``, half to even, as an integer tensor.

    Parameters
    ----------
    x : Tensor
        Floating point, any shape that ``qp`` fits. Infinities go to the nearer edge.
    qp : QParams

    Returns
    -------
    Tensor
        Codes of ``qp.spec.dtype`` in the shape of x.

    Raises
    ------
    TypeError
        If x is not floating point.
    ValueError
        If x holds NaN (no integer stands for it) or its shape does not fit ``qp``.

    Examples
    --------
    >>> qp = choose_qparams(-1.0, 1.0, QuantSpec(bits=4, symmetric=True))
    >>> quantize(torch.tensor([-1.0, 0.0, 0.6, 9.0]), qp)
    tensor([-7,  0,  4,  7], dtype=torch.int8)
    """
    _check_floating(x)
    if bool(x.isnan().any()):
        raise ValueError("x must not contain NaN: no integer stands for it")
    aligned, inverse, low, high, zero_point = align(x, qp, *qp.steps, qp.zero_point)
    steps = torch.round(_wide(aligned, inverse) * inverse).clamp(low, high)
    return restore((steps + zero_point).to(qp.spec.dtype), x.shape, qp.spec)


def dequantize(q: Tensor, qp: QParams) -> Tensor:
    """``x_hat = s * (q - z)``, in the type of the scale.

    A product beyond the largest finite number becomes that number, so that a finite tensor never
    comes back infinite.

    Parameters
    ----------
    q : Tensor
        Integer codes, any integer type and any shape that ``qp`` fits.
    qp : QParams

    Raises
    ------
    TypeError
        If q is not an integer tensor.
    ValueError
        If its shape does not fit ``qp``.

    Examples
    --------
    >>> qp = choose_qparams(0.0, 3.0, QuantSpec(bits=2, signed=False))
    >>> dequantize(torch.tensor([0, 3]), qp)
    tensor([0., 3.])
    """
    if q.is_floating_point() or q.is_complex() or q.dtype == torch.bool:
        raise TypeError(f"q must be an integer tensor, got {q.dtype}")
    aligned, scale, zero_point = align(q, qp, qp.scale, qp.zero_point)
    largest = torch.finfo(scale.dtype).max
    steps = (aligned.to(torch.int32) - zero_point).to(scale.dtype)
    return restore((steps * scale).clamp_(-largest, largest), q.shape, qp.spec)


def fake_quantize(x: Tensor, qp: QParams) -> Tensor:
    """``x_hat = dequantize(quantize(x))`` in floating point, with a straight-through gradient.

    The gradient is 1 where the code was not clipped and 0 where it was (Bengio et al. 2013; the
    mask is torch's). It flows to x only. NaN comes back as NaN. Finite values agree bit for bit
    with ``torch.fake_quantize_per_tensor_affine`` and ``_per_channel_affine`` wherever those
    neither overflow nor wrap (see ``tests/test_affine.py``).

    Parameters
    ----------
    x : Tensor
        Floating point, any shape that ``qp`` fits. Half precision is computed in the type of the
        scale and rounded once at the end.
    qp : QParams

    Returns
    -------
    Tensor
        Shape and dtype of x.

    Raises
    ------
    TypeError
        If x is not floating point.
    ValueError
        If its shape does not fit ``qp``.
    """
    _check_floating(x)
    x_hat = _FakeQuantize.apply(*align(x, qp, qp.scale, *qp.steps))
    return restore(x_hat, x.shape, qp.spec)


class _FakeQuantize(torch.autograd.Function):
    """``x_hat = s * clip(round(x/s), low, high)``; ``d x_hat / d x = [low <= round(x/s) <= high]``.

    ``low = qmin - z`` and ``high = qmax - z``: clipping steps instead of codes saves adding z only
    to subtract it again, and gives the same numbers.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, inverse: Tensor, low: Tensor, high: Tensor
    ) -> Tensor:
        largest = torch.finfo(x.dtype).max
        x_hat = torch.empty_like(x)
        kept = torch.empty_like(x, dtype=torch.bool) if ctx.needs_input_grad[0] else None
        for i, (s, inv, lo, hi) in pieces(x, scale, inverse, low, high):
            steps = (_wide(x[i], inv) * inv).round_()
            clipped = torch.maximum(steps, lo)
            torch.minimum(clipped, hi, out=clipped)
            if kept is not None:
                torch.eq(clipped, steps, out=kept[i])
            torch.mul(clipped, s, out=x_hat[i]).clamp_(-largest, largest)
        ctx.save_for_backward(kept)
        return x_hat

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        # Not grad * kept: that would first make a floating-point copy of the mask.
        (kept,), grad = ctx.saved_tensors, grads[0]
        return torch.where(kept, grad, grad.new_zeros(())), None, None, None, None


def pieces(x: Tensor, *params: Tensor) -> Iterator[tuple[Any, tuple[Tensor, ...]]]:
    """Cut x along its first axis into cache-sized slices, each with its part of the parameters."""
    rows = x.shape[0] if x.ndim else 0
    if x.device.type != "cpu" or torch.compiler.is_compiling() or x.numel() <= _PIECE:
        yield ..., params
        return
    step = max(1, _PIECE * rows // x.numel())
    for start in range(0, rows, step):
        i = slice(start, start + step)
        yield i, tuple(p[i] if p.ndim and p.shape[0] == rows else p for p in params)


def _range_tensors(x_min: Tensor | float, x_max: Tensor | float) -> tuple[Tensor, Tensor]:
    low, high = torch.as_tensor(x_min), torch.as_tensor(x_max)
    dtype = torch.float64 if torch.float64 in (low.dtype, high.dtype) else torch.float32
    low, high = low.detach().to(dtype), high.detach().to(dtype)
    if low.shape != high.shape:
        raise ValueError(
            f"x_min and x_max must have one shape, got {list(low.shape)} and {list(high.shape)}"
        )
    for name, end in (("x_min", low), ("x_max", high)):
        if not all_true(end.isfinite()):
            raise ValueError(f"{name} must be finite, got {worst(end)}")
    if not all_true(low <= high):
        raise ValueError(f"x_min must not exceed x_max, got {worst(low)} > {worst(high)}")
    return low, high


def _wide(x: Tensor, scale: Tensor) -> Tensor:
    """Return x in a type as wide as the scale's: torch would narrow a 0-d scale to x instead."""
    return x.to(torch.promote_types(x.dtype, scale.dtype))


def _check_floating(x: Tensor) -> None:
    if x.dtype not in _FLOATING:
        raise TypeError(f"x must have one of the types {_FLOATING}, got {x.dtype}")
