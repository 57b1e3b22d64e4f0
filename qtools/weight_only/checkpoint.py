"""Networks of packed weights on disk: one file, checked before it touches a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from qtools.onebit import container, layered
from qtools.onebit.container import Entry
from qtools.onebit.layered import Expected
from qtools.onebit.modules import all_names, replace_
from qtools.onebit.svid import FLOATS
from qtools.weight_only.layer import WeightOnlyLinear
from qtools.weight_only.packing import padding_is_zero, row_bytes

KIND = "weight_only"


class _Description(NamedTuple):
    """What the header says of a layer; everything else follows from it."""

    in_features: int
    out_features: int
    bits: int
    groups: int
    zero_point: bool
    input_scale: bool
    bias: bool

    def tensors(self) -> dict[str, Expected]:
        """Allowed types, and the shape, of each of its tensors."""
        rows, byte, half = self.out_features, (torch.uint8,), (torch.float16,)
        found = {
            "codes": (byte, (rows, row_bytes(self.in_features, self.bits))),
            "scale": (half, (rows, self.groups)),
            "zero_point": (byte, (rows, row_bytes(self.groups, self.bits))),
            "input_scale": (half, (self.in_features,)),
            "bias": (FLOATS, (rows,)),
        }
        return {k: v for k, v in found.items() if getattr(self, k, True)}


def save(model: nn.Module, path: Path | str) -> int:
    """Write every tensor of the model to one safetensors file, weights as their packed codes.

    As `qtools.onebit.save`: a SHA-256 over the whole file, tensors that names share stored once,
    and safetensors' own readers open it too. What was not quantized keeps its type:
    ``model.half()`` first halves it. The ``settings`` of a CharGPT go into the header.

    Parameters
    ----------
    model : nn.Module
        With layers that `quantize_weights` made.
    path : Path or str
        Written whole or not at all.

    Returns
    -------
    int
        Bytes of the file.

    Raises
    ------
    ValueError
        If the model has no such layer.
    TypeError
        If it has state that is no dense tensor of a common type, with its name.
    """
    path = Path(path)
    layers = {n: _describe(m) for n, m in all_names(model) if isinstance(m, WeightOnlyLinear)}
    if not layers:
        raise ValueError("model must have WeightOnlyLinear layers, got none: quantize_weights")
    settings = getattr(model, "settings", None)
    further = {"settings": settings} if isinstance(settings, dict) else {}
    layered.write(model, layers, path, KIND, further)
    return path.stat().st_size


def load_(model: nn.Module, path: Path | str) -> None:
    """Give the model, in place, the layers and all other tensors of a file from `save`.

    Layers of the file take the place of the linear layers of their names, so the model may come
    fresh from its class or quantized; its mode stays. Nothing is unpickled. The header is checked
    against the file and against the model before memory is taken, the checksum and the values
    before the model changes.

    Parameters
    ----------
    model : nn.Module
        Of the architecture that was saved. Tensors outside the layers must have the file's types.
    path : Path or str

    Raises
    ------
    FileNotFoundError
        If path is no regular file.
    ValueError, TypeError
        If the file is damaged, edited, not from `save`, or of another network; the message says
        what is wrong, and the model is unchanged.
    """
    path = Path(path)
    plan = _Plan(model, path)
    header, tensors = container.read(path, plan.check, kind=KIND)
    ties = header.metadata["shared"]
    tensors |= {name: tensors[other] for name, other in ties.items()}
    made = plan.make(lambda name, layer: _layer(name, layer, tensors, plan.modules[name], path))
    with torch.no_grad():
        for name, value in plan.rest.items():
            value.copy_(tensors[name])
    replace_(model, made)


class _Plan(layered.Plan[_Description]):
    """What a file will do to a model."""

    kind, own, called = KIND, (WeightOnlyLinear,), "WeightOnlyLinear"

    def described(self, name: str, value: Any) -> _Description:
        if (
            type(value) is not list
            or [type(v) for v in value] != [int] * 4 + [bool] * 3
            or not 1 <= value[2] <= 8
            or value[3] < 1
            or value[0] % value[3]
        ):
            raise self.unlike(name)
        return _Description(*value)

    def tensors(self, name: str, layer: _Description) -> dict[str, Expected]:
        if layer.bias != self.has_bias(name):
            raise self.other(f"{name} has a bias in only one of the two")
        return layer.tensors()

    def check_further(self, entries: Mapping[str, Entry], ties: Mapping[str, str]) -> None:
        """Where the model shares, the file must: two values for one tensor cannot both be kept."""
        modules: dict[nn.Module, str] = {}
        pairs = [(n, modules.setdefault(self.modules[n], n)) for n in self.layers]
        tied = [(f"{a}.{k}", f"{b}.{k}") for a, b in pairs for k in self.layers[a].tensors()]
        tied += [pair for pair in container.shared(self.state) if set(pair) <= self.rest.keys()]
        for name, other in tied:
            if ties.get(name, name) != ties.get(other, other):
                raise self.other(f"{name} and {other} are one tensor in the model alone")


def _layer(
    name: str, layer: _Description, tensors: Mapping[str, Tensor], old: nn.Module, path: Path
) -> WeightOnlyLinear:
    weight = old.codes if isinstance(old, WeightOnlyLinear) else old.weight
    assert isinstance(weight, Tensor)
    # Copies: the file's memory is let go.
    own = {k: tensors[f"{name}.{k}"].to(weight.device, copy=True) for k in layer.tensors()}
    for key in ("scale", "input_scale"):
        if key in own and not bool(own[key].isfinite().all()):
            raise ValueError(f"{path}: {name}.{key} must be finite")
    for key, columns in (("codes", layer.in_features), ("zero_point", layer.groups)):
        if key in own and not padding_is_zero(own[key], columns, layer.bits):
            raise ValueError(f"{path}: {name}.{key} must have zeros behind the last code of a row")
    return WeightOnlyLinear(layer.in_features, layer.bits, **own)


def _describe(layer: WeightOnlyLinear) -> _Description:
    return _Description(
        layer.in_features,
        layer.out_features,
        layer.bits,
        layer.scale.shape[1],
        layer.zero_point is not None,
        layer.input_scale is not None,
        layer.bias is not None,
    )
