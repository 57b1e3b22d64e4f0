"""Networks in integers: products of codes, and the way from accumulators back to codes.

Everything here is integer arithmetic, as in Jacob et al. 2018, section 2: int8 or uint8 codes,
int32 accumulators, and a fixed-point multiplier where a real factor is needed. Scales are turned
into integers beforehand; where processors multiply faster in floating point and the result is
provably the same integer, they do.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from qtools.affine import QParams, QuantSpec
from qtools.fixed_point import FixedPointMultiplier, shift_right
from qtools.int8_matmul import int8_matmul
from qtools.requantizer import Clamp, Requantizer

Activation = Literal["none", "relu", "relu6"]
INT32_MAX = 2**31 - 1
_CLAMPS = {"none": Clamp(), "relu": Clamp(0.0), "relu6": Clamp(0.0, 6.0)}


def requantize(
    acc: Tensor,
    multiplier: FixedPointMultiplier,
    out: QParams,
    activation: Activation = "none",
) -> Tensor:
    """``q = clip(round(M acc) + z, low, high)``: accumulators to codes of the output.

    The activation costs nothing: ReLU only raises ``low`` from qmin to z, and ReLU6 also lowers
    ``high`` to the code of 6 (Jacob et al. 2018, section 2.4).

    Parameters
    ----------
    acc : Tensor
        int32 accumulators in units of the product of input and weight scale.
    multiplier : FixedPointMultiplier
        ``M = s_x s_w / s_out``, broadcasting against ``acc``.
    out : QParams
        Per-tensor parameters of the output.
    activation : {"none", "relu", "relu6"}

    Returns
    -------
    Tensor
        Codes of ``out.spec.dtype``, in the shape of ``acc``.
    """
    _check_activation(out, activation)
    bound = max(map(abs, torch.stack(acc.aminmax()).tolist())) if acc.numel() else 0
    return Requantizer(multiplier, torch.tensor(bound), out, _CLAMPS[activation])(acc)


def clamp_range(out: QParams, activation: Activation) -> tuple[int, int]:
    """Return the lowest and highest code an output may have after its activation."""
    _check_activation(out, activation)
    return _CLAMPS[activation].codes(out)


def accumulate(x: Tensor, w: Tensor, x_qp: QParams, w_qp: QParams) -> Tensor:
    """``sum_k (q_x - z_x)(q_w - z_w)``, with the zero points taken out of the sum.

    The sum is expanded (Jacob et al. 2018, eq. 7) into ::

        sum q_x q_w  -  z_x sum q_w  -  z_w sum q_x  +  K z_x z_w

    so that the product of the matrices, nearly all of the work, multiplies plain int8 codes. The
    second and fourth term do not depend on the input. The third is absent for symmetric signed
    weights, whose z_w is 0.

    Parameters
    ----------
    x : Tensor
        Codes [rows, K], int8 or uint8, of ``x_qp`` (per tensor).
    w : Tensor
        Codes [columns, K], int8 or uint8, of ``w_qp`` (per tensor, or per channel on axis 0).

    Returns
    -------
    Tensor
        int32 [rows, columns], exact.

    Raises
    ------
    ValueError
        If shapes do not fit, or K is so large that the sum could leave int32: with 8 bits and any
        zero points that takes K > 33,025, since each term is at most 255 · 255.
    """
    k = x.shape[-1]
    if x.ndim != 2 or w.ndim != 2 or w.shape[1] != k:
        raise ValueError(
            f"x must be [rows, K] and w [columns, K], got {list(x.shape)} and {list(w.shape)}"
        )
    check_accumulator(k, x_qp, w_qp)
    x, z_x = _as_int8(x, x_qp)
    w, z_w = _as_int8(w, w_qp)
    acc = int8_matmul(x, w)
    acc -= (z_x * w.sum(1, dtype=torch.int32) - k * z_x * z_w).to(torch.int32)
    if bool(z_w.any()):
        acc -= x.sum(1, dtype=torch.int32)[:, None] * z_w
    return acc


def check_accumulator(k: int, x_qp: QParams, w_qp: QParams) -> None:
    """Raise ValueError if a sum of ``k`` products could leave int32.

    Sums wrap around in int32, which does no harm on the way: only the end must fit.
    """
    _check_per_tensor("x_qp", x_qp)
    largest = _largest_step(x_qp) * _largest_step(w_qp)
    if k * largest > INT32_MAX:
        raise ValueError(
            f"K must be at most {INT32_MAX // largest} for these codes so that the sum fits into"
            f" int32, got {k}"
        )


def quantize_bias(bias: Tensor, x_qp: QParams, w_qp: QParams) -> Tensor:
    """``round(b / (s_x s_w))``: the bias in the accumulator's own unit, int32, zero point 0.

    Parameters
    ----------
    bias : Tensor
        Real [channels].

    Raises
    ------
    ValueError
        If a bias does not fit into half of int32, the half the sum of products leaves it.
    """
    codes = torch.round(bias.detach().double() / (x_qp.scale.double() * w_qp.scale.double()))
    if codes.numel() and float(codes.abs().max()) > INT32_MAX // 2:
        raise ValueError(
            f"bias must be at most 2^30 in units of s_x s_w, got {float(codes.abs().max()):.3g}:"
            " the scale of a channel is far too small for it"
        )
    return codes.to(torch.int32)


def fake_quantize_bias(bias: Tensor, x_qp: QParams, w_qp: QParams) -> Tensor:
    """``s_x s_w round(b / (s_x s_w))``: what `quantize_bias` keeps, in the type of the bias."""
    unit = x_qp.scale.double() * w_qp.scale.double()
    return (quantize_bias(bias, x_qp, w_qp) * unit).to(bias.dtype)


def output_multiplier(x_qp: QParams, w_qp: QParams, out: QParams) -> FixedPointMultiplier:
    """``M = s_x s_w / s_out``, shape ``[]`` or ``[channels]`` (Jacob et al. 2018, eq. 5)."""
    _check_per_tensor("out", out)
    return FixedPointMultiplier.from_real(
        x_qp.scale.double() * w_qp.scale.double() / out.scale.double()
    )


def integer_linear(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None,
    x_qp: QParams,
    w_qp: QParams,
    out: QParams,
    activation: Activation = "none",
) -> Tensor:
    """``q_out = clip(round(M (sum_k (q_x - z_x)(q_w - z_w) + q_b)) + z_out)``.

    Parameters
    ----------
    x : Tensor
        Codes [..., in_features].
    w : Tensor
        Codes [out_features, in_features].
    bias : Tensor or None
        int32 [out_features] from `quantize_bias`.
    x_qp, w_qp, out : QParams
        Of the input (per tensor), the weight (per tensor, or per channel on axis 0) and the
        output (per tensor).
    activation : {"none", "relu", "relu6"}

    Returns
    -------
    Tensor
        Codes [..., out_features] of ``out.spec.dtype``.
    """
    acc = accumulate(x.reshape(-1, x.shape[-1]), w, x_qp, w_qp)
    if bias is not None:
        acc = acc + bias
    codes = requantize(acc, output_multiplier(x_qp, w_qp, out), out, activation)
    return codes.reshape(*x.shape[:-1], w.shape[0])


def integer_conv2d(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None,
    x_qp: QParams,
    w_qp: QParams,
    out: QParams,
    activation: Activation = "none",
    *,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
) -> Tensor:
    """Convolve codes: each window becomes a row of a matrix, then as `integer_linear`.

    Padding is with the code z_x, which stands for real 0 exactly.

    Parameters
    ----------
    x : Tensor
        Codes [n, in_channels, height, width].
    w : Tensor
        Codes [out_channels, in_channels / groups, kernel height, kernel width].
    bias : Tensor or None
        int32 [out_channels] from `quantize_bias`.

    Returns
    -------
    Tensor
        Codes [n, out_channels, out height, out width].
    """
    n, channels = x.shape[:2]
    c_out, c_group, *kernel = w.shape
    if channels != c_group * groups or c_out % groups:
        raise ValueError(
            f"groups must divide the channels: x has {channels}, w is {list(w.shape)},"
            f" groups={groups}"
        )
    columns = _windows(x, (kernel[0], kernel[1]), stride, padding, dilation, x_qp)
    height, width = columns.shape[2:4]
    k = c_group * kernel[0] * kernel[1]
    if groups == 1:
        rows = columns.permute(0, 2, 3, 1, 4, 5).reshape(-1, k)
        acc = accumulate(rows, w.reshape(c_out, k), x_qp, w_qp)
    else:
        check_accumulator(k, x_qp, w_qp)
        grouped = columns.reshape(n, groups, c_group, height, width, *kernel)
        rows = grouped.permute(1, 0, 3, 4, 2, 5, 6).reshape(groups, -1, k)
        z_w = w_qp.zero_point.reshape(-1, 1)
        weights = (w.reshape(c_out, k).to(torch.int32) - z_w).reshape(groups, -1, k)
        acc = torch.bmm(rows.to(torch.int32) - x_qp.zero_point, weights.transpose(1, 2))
        acc = acc.transpose(0, 1).reshape(-1, c_out)
    if bias is not None:
        acc = acc + bias
    codes = requantize(acc, output_multiplier(x_qp, w_qp, out), out, activation)
    return codes.reshape(n, height, width, c_out).permute(0, 3, 1, 2)


def integer_avg_pool2d(
    x: Tensor,
    x_qp: QParams,
    out: QParams,
    kernel: tuple[int, int],
    stride: tuple[int, int] | None = None,
) -> Tensor:
    """``q_out = clip(round(M sum (q_x - z_x)) + z_out)``, ``M = s_x / (s_out kernel area)``.

    The division by the number of elements is part of the multiplier.
    """
    windows = _windows(x, kernel, stride or kernel, (0, 0), (1, 1), x_qp)
    area = kernel[0] * kernel[1]
    acc = windows.sum((-2, -1), dtype=torch.int32) - area * x_qp.zero_point
    factor = x_qp.scale.double() / (out.scale.double() * area)
    return requantize(acc, FixedPointMultiplier.from_real(factor), out)


def integer_add(
    x: Tensor,
    y: Tensor,
    x_qp: QParams,
    y_qp: QParams,
    out: QParams,
    activation: Activation = "none",
) -> Tensor:
    """``q_out = clip(round(M_x (q_x - z_x) + M_y (q_y - z_y)) + z_out)``: a residual connection.

    Inputs of different scales cannot be added code by code. Each gets its own factor
    ``s / s_out``, both with one shift, so that the sum is rounded once.
    """
    for name, qp in (("x_qp", x_qp), ("y_qp", y_qp)):
        _check_per_tensor(name, qp)
    factors = torch.stack([x_qp.scale, y_qp.scale]).double() / out.scale.double()
    shift = int(FixedPointMultiplier.from_real(factors.max()).shift)
    m_x, m_y = torch.round(torch.ldexp(factors, torch.tensor(shift))).long()
    total = (x.long() - x_qp.zero_point) * m_x + (y.long() - y_qp.zero_point) * m_y
    low, high = clamp_range(out, activation)
    codes = shift_right(total, shift) + out.zero_point
    return codes.clamp(low, high).to(out.spec.dtype)


def _windows(
    x: Tensor,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    x_qp: QParams,
) -> Tensor:
    """Views of x under the kernel: [n, channels, out height, out width, kernel h, kernel w]."""
    if padding != (0, 0):
        x = F.pad(x, (padding[1],) * 2 + (padding[0],) * 2, value=int(x_qp.zero_point))
    spans = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    if x.shape[2] < spans[0] or x.shape[3] < spans[1]:
        raise ValueError(f"kernel spans {spans}, more than the padded input {list(x.shape[2:])}")
    view = x.unfold(2, spans[0], stride[0]).unfold(3, spans[1], stride[1])
    return view[..., :: dilation[0], :: dilation[1]]


def _as_int8(q: Tensor, qp: QParams) -> tuple[Tensor, Tensor]:
    """Return the codes as int8 and their zero point: unsigned ones move down by 128, both alike."""
    if q.dtype == torch.int8:
        return q, qp.zero_point
    if q.dtype == torch.uint8:
        return q.bitwise_xor(128).view(torch.int8), qp.zero_point - 128
    raise TypeError(f"codes must be int8 or uint8, got {q.dtype}")


def _largest_step(qp: QParams) -> int:
    """Largest ``|q - z|`` that the codes allow."""
    spec: QuantSpec = qp.spec
    return int(torch.maximum(spec.qmax - qp.zero_point, qp.zero_point - spec.qmin).max())


def _check_activation(out: QParams, activation: Activation) -> None:
    _check_per_tensor("out", out)
    if activation not in _CLAMPS:
        raise ValueError(f'activation must be "none", "relu" or "relu6", got {activation!r}')


def _check_per_tensor(name: str, qp: QParams) -> None:
    if qp.spec.granularity != "tensor":
        raise ValueError(f"{name} must be per tensor, got granularity={qp.spec.granularity!r}")
