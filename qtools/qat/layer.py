"""A layer in training: latent weight, BatchNorm and the quantizer of the folded weight."""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qtools.affine import fake_quantize
from qtools.integer import quantize_bias
from qtools.ptq.convert import room_for_bias
from qtools.qat.estimators import straight_through
from qtools.qat.quantizers import Quantizer
from qtools.spec import QParams

_TINY = 1e-12


class QATLayer(nn.Module):
    """``y = Ŵ' x + b̂'`` with ``W' = W γ/σ``, ``b' = β + (b - μ) γ/σ``, ``Ŵ' = Q(W')``.

    What will be quantized is the weight with BatchNorm folded in, so that is what is
    fake-quantized. σ and μ are BatchNorm's running statistics in eval mode and once they are
    frozen; the bias is then rounded to ``s_x s_w`` as the integer layer will round it. Before
    that, in training mode, ``y = BN(Q(W γ/σ) x / (γ/σ) + b)``: the weight is rounded in the scale
    that it will have, while BatchNorm normalises with the statistics of the batch (Jacob et al.
    2018, section 3.2; Krishnamoorthi 2018, section 3.2.2).

    Parameters
    ----------
    layer : nn.Conv2d or nn.Linear
        Holds the latent weight, and a bias if there is one.
    norm : nn.BatchNorm1d or nn.BatchNorm2d, optional
        The one that follows it.
    weight_quantizer : Quantizer
    """

    def __init__(
        self,
        layer: nn.Conv2d | nn.Linear,
        norm: nn.modules.batchnorm._BatchNorm | None,
        weight_quantizer: Quantizer,
    ) -> None:
        super().__init__()
        self.layer, self.norm, self.weight_quantizer = layer, norm, weight_quantizer
        self.norm_is_frozen = False

    def folded(self) -> tuple[Tensor, Tensor | None]:
        """Return ``(W', b')``, with gradients."""
        weight, bias = self.layer.weight, self.layer.bias
        if self.norm is None:
            return weight, bias
        factor = self._factor()
        assert self.norm.running_mean is not None
        offset = -self.norm.running_mean if bias is None else bias - self.norm.running_mean
        offset = offset * factor
        if self.norm.bias is not None:
            offset = offset + self.norm.bias
        return weight * _per_row(factor, weight), offset

    def forward(self, x: Tensor, x_quantizer: nn.Module) -> Tensor:
        """Return y for an input that ``x_quantizer`` has quantized: its scale is the bias's unit.

        The network's graph names it call by call, since a shared layer has several.
        """
        if self.norm is not None and self.norm.training:
            return self._with_batch_statistics(x)
        weight, bias = self.folded()
        w_hat = self.weight_quantizer(weight)
        if bias is None:
            return self._apply_to(x, w_hat, None)
        x_qp: QParams = x_quantizer.qparams()  # type: ignore[operator]
        own = self.weight_quantizer.qparams()
        w_qp = room_for_bias(own, bias, x_qp)
        if not torch.equal(own.scale, w_qp.scale):
            w_hat = fake_quantize(weight, w_qp)
        unit = x_qp.scale.double() * w_qp.scale.double()
        rounded = (quantize_bias(bias, x_qp, w_qp) * unit).to(bias.dtype)
        return self._apply_to(x, w_hat, straight_through(bias, rounded))

    def train(self, mode: bool = True) -> Self:  # noqa: D102
        super().train(mode)
        if self.norm is not None and self.norm_is_frozen:
            self.norm.eval()
        return self

    def _with_batch_statistics(self, x: Tensor) -> Tensor:
        assert self.norm is not None
        # No gradient through the factor: it is divided out again. A γ of 0 cannot be; any other
        # factor will do, for BatchNorm multiplies the channel by 0.
        factor = self._factor().detach()
        factor = torch.where(factor.abs() < _TINY, torch.ones_like(factor), factor)
        weight = self.layer.weight
        y = self._apply_to(x, self.weight_quantizer(weight * _per_row(factor, weight)), None)
        y = y / (factor if weight.ndim == 2 else factor.view(-1, 1, 1))
        if self.layer.bias is not None:
            y = y + (self.layer.bias if weight.ndim == 2 else self.layer.bias.view(-1, 1, 1))
        return self.norm(y)

    def _factor(self) -> Tensor:
        """``γ/σ``, σ from the running variance: [channels]."""
        assert self.norm is not None
        assert self.norm.running_var is not None
        factor = (self.norm.running_var + self.norm.eps).rsqrt()
        return factor if self.norm.weight is None else factor * self.norm.weight

    def _apply_to(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        layer = self.layer
        if isinstance(layer, nn.Linear):
            return F.linear(x, weight, bias)
        padding, groups = layer.padding, layer.groups
        return F.conv2d(x, weight, bias, layer.stride, padding, layer.dilation, groups)


def _per_row(factor: Tensor, weight: Tensor) -> Tensor:
    return factor.view(-1, *[1] * (weight.ndim - 1))
