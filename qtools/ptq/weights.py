"""Which scale a weight gets: from its own smallest and largest value, or by least squared error."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qtools.affine import choose_qparams, fake_quantize, qparams_from_tensor
from qtools.ptq.recipe import Recipe, WeightRange
from qtools.spec import QParams, QuantSpec

#: "mse" tries the min-max range times ``2^(-i/16)`` for i = 0 .. 64: down to a sixteenth.
_PER_OCTAVE, _OCTAVES = 16, 4


def choose_weight_qparams(weight: Tensor, spec: QuantSpec, weight_range: WeightRange) -> QParams:
    """``argmin_t Σ (w - ŵ(t))²`` over ranges ``[t min w, t max w]``; with "minmax", t = 1.

    Each channel chooses for itself. From 6 bits on the two hardly differ. At 2 bits min-max puts
    nearly all weights of a bell-shaped channel on 0, since one step is as wide as its largest
    weight (Nagel et al. 2021, section 3.1).

    Parameters
    ----------
    weight : Tensor
        Floating point, output channels first.
    spec : QuantSpec
        Per tensor, or per channel on axis 0.
    weight_range : {"minmax", "mse"}
        "mse" takes the best of t = 2^(-i/16), i = 0 .. 64, the largest t if several are.
    """
    weight = weight.detach()
    qp = qparams_from_tensor(weight, spec)
    if weight_range == "minmax" or weight.numel() == 0:
        return qp
    rows = weight.flatten(1) if spec.granularity == "channel" else weight.flatten()
    low, high = torch.aminmax(rows, dim=-1)
    scale, zero_point, least = qp.scale, qp.zero_point, torch.full_like(qp.scale, float("inf"))
    for i in range(_OCTAVES * _PER_OCTAVE + 1):
        t = 2 ** (-i / _PER_OCTAVE)
        tried = choose_qparams(t * low, t * high, spec)
        error = (rows - fake_quantize(rows, tried)).square().sum(-1)
        better = error < least
        scale = torch.where(better, tried.scale, scale)
        zero_point = torch.where(better, tried.zero_point, zero_point)
        least = torch.where(better, error, least)
    return QParams(scale, zero_point, spec)


def weight_qparams(module: nn.Module, recipe: Recipe) -> QParams:
    """Parameters of a layer's weight: its ``weight_quantizer``'s, else what the recipe says."""
    quantizer = getattr(module, "weight_quantizer", None)
    if quantizer is not None:
        found = quantizer.qparams()
        assert isinstance(found, QParams)
        return found
    assert isinstance(module.weight, Tensor)
    return choose_weight_qparams(module.weight, recipe.weights, recipe.weight_range)
