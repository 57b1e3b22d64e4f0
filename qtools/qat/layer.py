"""A layer in training: latent weight, BatchNorm and the weight's quantizer."""

from __future__ import annotations

from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from qtools.affine import dequantize, fake_quantize, quantize
from qtools.integer import fake_quantize_bias
from qtools.ptq.convert import room_for_bias
from qtools.ptq.fold import norm_factor
from qtools.qat.estimators import straight_through
from qtools.qat.quantizers import Quantizer
from qtools.spec import QParams

_TINY = 1e-12


class Folded(NamedTuple):
    """What the integer layer will have: Ŵ' and b' with gradients, and the parameters of Ŵ'."""

    weight: Tensor
    bias: Tensor | None
    qparams: QParams


class QATLayer(nn.Module):
    """``y = Ŵ' x + b̂'``, Ŵ' the quantized ``W' = W γ/σ``, ``b' = β + (b - μ) γ/σ``.

    σ² and μ are BatchNorm's running statistics in eval mode, and once they are frozen; the bias is
    then rounded to ``s_x s_w``, as the integer layer's is. In training mode BatchNorm normalises
    with the statistics of the batch, what the rounded weight gives (Jacob et al. 2018, section
    3.2; Krishnamoorthi 2018, section 3.2.2).

    Where each channel of the weight has a scale, a factor goes into it: ``Q(W γ/σ)`` with the
    scale ``s |γ/σ|`` is ``|γ/σ| Q(± W)`` with the scale s, the sign that of γ. So W itself is
    quantized, and its codes do not move when the statistics do. Per tensor there is no such
    freedom: then ``W γ/σ`` is quantized, and divided by γ/σ before BatchNorm.

    Parameters
    ----------
    layer : nn.Conv2d or nn.Linear
        Holds the latent weight W, and the bias b if there is one.
    norm : BatchNorm, optional
        The one that follows it.
    weight_quantizer : Quantizer
        That has seen `to_quantize`.
    """

    def __init__(
        self, layer: nn.Conv2d | nn.Linear, norm: _BatchNorm | None, weight_quantizer: Quantizer
    ) -> None:
        super().__init__()
        self.layer, self.norm, self.weight_quantizer = layer, norm, weight_quantizer
        self.norm_is_frozen = False
        self._per_channel = weight_quantizer.qparams().scale.ndim > 0

    def forward(self, x: Tensor, x_quantizer: nn.Module) -> Tensor:
        """Return y for an input that ``x_quantizer`` has quantized: its scale is the bias's unit.

        The network's graph names it call by call, since a shared layer has several.
        """
        if self.norm is not None and self.norm.training:
            return self._with_batch_statistics(x)
        weight, bias, w_qp = self.folded()
        if bias is None:
            return self._apply_to(x, weight, None)
        x_qp: QParams = x_quantizer.qparams()  # type: ignore[operator]
        wide = room_for_bias(w_qp, bias, x_qp)
        if not torch.equal(wide.scale, w_qp.scale):
            weight = fake_quantize(weight, wide)
        rounded = fake_quantize_bias(bias, x_qp, wide)
        return self._apply_to(x, weight, straight_through(bias, rounded))

    def folded(self) -> Folded:
        """Return the layer with its BatchNorm folded in, by the running statistics."""
        weight, bias = self.layer.weight, self.layer.bias
        if self.norm is None:
            return Folded(self.weight_quantizer(weight), bias, self.weight_quantizer.qparams())
        factor = _factor(self.norm)
        assert self.norm.running_mean is not None
        offset = -self.norm.running_mean if bias is None else bias - self.norm.running_mean
        offset = offset * factor
        if self.norm.bias is not None:
            offset = offset + self.norm.bias
        latent = to_quantize(weight, self.norm, self._per_channel)
        w_hat, qp = self.weight_quantizer(latent), self.weight_quantizer.qparams()
        if not self._per_channel:
            return Folded(w_hat, offset, qp)
        size = factor * _sign(self.norm)  # |factor|, with a gradient at 0 too
        tiny = torch.finfo(qp.scale.dtype).tiny
        own = QParams((qp.scale * size.detach()).clamp_min(tiny), qp.zero_point, qp.spec)
        # The product of three rounded numbers is within a rounding of what the integer layer has.
        exact = dequantize(quantize(latent.detach(), qp), own).to(w_hat.dtype)
        return Folded(straight_through(w_hat * _per_row(size, weight), exact), offset, own)

    def train(self, mode: bool = True) -> Self:  # noqa: D102
        super().train(mode)
        if self.norm is not None and self.norm_is_frozen:
            self.norm.eval()
        return self

    def _with_batch_statistics(self, x: Tensor) -> Tensor:
        assert self.norm is not None
        weight, bias = self.layer.weight, self.layer.bias
        # The quantizer sees the weight times the factor, which is then divided out again; no
        # gradient through it, for BatchNorm itself gives γ one.
        factor = _sign(self.norm) if self._per_channel else _nonzero(_factor(self.norm).detach())
        factor = _per_row(factor, weight)
        return self.norm(self._apply_to(x, self.weight_quantizer(weight * factor) / factor, bias))

    def _apply_to(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        layer = self.layer
        if isinstance(layer, nn.Linear):
            return F.linear(x, weight, bias)
        padding, groups = layer.padding, layer.groups
        return F.conv2d(x, weight, bias, layer.stride, padding, layer.dilation, groups)


def to_quantize(weight: Tensor, norm: _BatchNorm | None, per_channel: bool) -> Tensor:
    """``± W`` per channel, the sign that of γ; ``W γ/σ`` per tensor; W without BatchNorm."""
    if norm is None:
        return weight
    return weight * _per_row(_sign(norm) if per_channel else _factor(norm), weight)


def _factor(norm: _BatchNorm) -> Tensor:
    assert norm.running_var is not None
    return norm_factor(norm, norm.running_var.dtype)


def _sign(norm: _BatchNorm) -> Tensor:
    """Sign of γ, 1 for 0, as a number."""
    factor = _factor(norm).detach()
    return torch.where(factor < 0, -torch.ones_like(factor), torch.ones_like(factor))


def _nonzero(factor: Tensor) -> Tensor:
    """Where γ is 0 any other factor will do: BatchNorm multiplies the channel by 0 afterwards."""
    return torch.where(factor.abs() < _TINY, torch.ones_like(factor), factor)


def _per_row(factor: Tensor, weight: Tensor) -> Tensor:
    return factor.view(-1, *[1] * (weight.ndim - 1))
