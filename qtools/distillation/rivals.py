"""Students that OneBit is compared with: BitNet's layers, and 2 bits with learned steps.

They train in the same loop, on the same loss. `pack_` makes of each what a file would hold, so that
its size and its loss are those of real codes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn.utils import parametrize

from qtools import onebit
from qtools.affine import quantize
from qtools.distillation.language import CHARGPT, model, without_dropout_
from qtools.onebit.bitnet import EPS, BitNetLinear, TernaryLinear
from qtools.onebit.convert import choose_layers
from qtools.onebit.modules import replace_
from qtools.qat import LearnedStep, WeightObserver
from qtools.spec import QuantSpec
from qtools.weight_only import Quantized, WeightOnlyLinear


def bitnet_student(
    name: str = CHARGPT, skip: Sequence[str] | None = None, ternary: bool = False
) -> nn.Module:
    """`model(name)` with BitNet's layers in place of its linear ones, its weights as the start.

    ``ternary`` takes those of BitNet b1.58. Dropout is off, as in `language.onebit_student`.
    """
    kind = TernaryLinear if ternary else BitNetLinear

    def made(layer: nn.Linear) -> nn.Module:
        new = kind(layer.in_features, layer.out_features, device="meta")
        new.weight, new.bias = layer.weight, layer.bias
        return new.train(layer.training)

    return _student(name, skip, made)


def qat_student(name: str = CHARGPT, skip: Sequence[str] | None = None, bits: int = 2) -> nn.Module:
    """`model(name)` with weights of a few bits, a learned step and a zero point for each row.

    Esser et al. 2020 (LSQ): the straight-through gradient reaches weight and step. Steps start at
    the least squared error of the row. LLM-QAT (Liu et al. 2023), the paper's baseline, takes the
    step from the largest magnitude instead, which at 2 bits puts nearly all weights on 0.
    """

    def made(layer: nn.Linear) -> nn.Module:
        observer = WeightObserver(QuantSpec(bits, granularity="channel"), "mse")
        observer(layer.weight)
        parametrize.register_parametrization(layer, "weight", LearnedStep(observer))
        return layer

    return _student(name, skip, made)


def pack_(student: nn.Module) -> None:
    """Replace, in place, the layers of a student, OneBit's too, by packed ones.

    Raises
    ------
    ValueError
        If it has no layer of a few bits.
    """
    made: dict[nn.Module, nn.Module] = {}
    for layer in student.modules():
        if isinstance(layer, BitNetLinear):
            norm = nn.LayerNorm(layer.in_features, EPS, elementwise_affine=False)
            made[layer] = nn.Sequential(norm, _packed(_bitnet_codes(layer), layer)).eval()
        elif parametrize.is_parametrized(layer, "weight"):
            made[layer] = _packed(_learned_codes(layer), layer).eval()
    if made:
        replace_(student, made)
    else:
        onebit.pack_(student)


def _student(
    name: str, skip: Sequence[str] | None, made: Callable[[nn.Linear], nn.Module]
) -> nn.Module:
    student = copy.deepcopy(model(name))
    layers, _ = choose_layers(student, skip)
    for layer, names in layers.items():
        if not isinstance(layer, nn.Linear):
            raise TypeError(f"{names[0]} must be a Linear, got {type(layer).__name__}")
    replace_(student, {layer: made(layer) for layer in layers if isinstance(layer, nn.Linear)})
    without_dropout_(student)
    return student


def _bitnet_codes(layer: BitNetLinear) -> Quantized:
    levels, scale = layer.levels()
    # One bit: 1 stands for -1. Two: a code is its level and 2.
    codes = levels < 0 if layer.bits == 1 else levels + 2
    rows = scale.half().expand(layer.out_features, 1).contiguous()
    return Quantized(codes.to(torch.uint8), rows, None, layer.bits)


def _learned_codes(layer: nn.Module) -> Quantized:
    quantizer = layer.get_submodule("parametrizations.weight.0")
    assert isinstance(quantizer, LearnedStep)
    qp, latent = quantizer.qparams(), layer.get_parameter("parametrizations.weight.original")
    codes = quantize(latent.detach(), qp) - qp.spec.qmin
    zero_point = (qp.zero_point - qp.spec.qmin).to(torch.uint8)[:, None]
    return Quantized(codes.to(torch.uint8), qp.scale.half()[:, None], zero_point, qp.spec.bits)


def _packed(weight: Quantized, layer: nn.Module) -> WeightOnlyLinear:
    return WeightOnlyLinear.from_weight(weight, layer.bias)  # type: ignore[arg-type]
