"""Which scale a weight gets: from its own smallest and largest value, or by least squared error."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from qtools.affine import choose_qparams, fake_quantize, qparams_from_tensor
from qtools.ptq.recipe import Recipe, WeightRange
from qtools.spec import QParams, QuantSpec

#: "mse" tries the min-max range times these: down to a sixteenth, sixteen an octave.
_SHARES = [2 ** (-i / 16) for i in range(65)]
#: Elements of a weight, times ranges that are tried together: they stay in the cache.
_AT_ONCE = 1 << 16


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
    rows = weight.flatten(1) if spec.granularity == "channel" else weight.reshape(1, -1)
    low, high = torch.aminmax(rows, dim=-1)
    per_row = replace(spec, granularity="channel", axis=0)
    shares = torch.tensor(_SHARES, dtype=qp.scale.dtype).unsqueeze(1)
    scales, zero_points, errors = [], [], []
    # Small weights with many ranges at once: one by one, calls would cost more than numbers.
    for t in shares.split(max(1, _AT_ONCE // rows.numel())):
        tried = choose_qparams((t * low).flatten(), (t * high).flatten(), per_row)
        x = rows.expand(len(t), *rows.shape).flatten(0, 1)
        errors.append((x - fake_quantize(x, tried)).square().sum(-1).view(len(t), -1))
        scales.append(tried.scale.view(len(t), -1))
        zero_points.append(tried.zero_point.view(len(t), -1))
    best = torch.cat(errors).argmin(0, keepdim=True)
    scale, zero_point = (torch.cat(found).gather(0, best) for found in (scales, zero_points))
    return QParams(scale.view_as(qp.scale), zero_point.view_as(qp.zero_point), spec)


def weight_qparams(module: nn.Module, recipe: Recipe) -> QParams:
    """Parameters of a layer's weight: its ``weight_quantizer``'s, else what the recipe says."""
    quantizer = getattr(module, "weight_quantizer", None)
    if quantizer is not None:
        found = quantizer.qparams()
        assert isinstance(found, QParams)
        return found
    assert isinstance(module.weight, Tensor)
    return choose_weight_qparams(module.weight, recipe.weights, recipe.weight_range)
