"""Networks of packed weights on disk: one file, checked before it touches a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from qtools.onebit import container
from qtools.onebit.container import Header
from qtools.onebit.modules import (
    all_names,
    check_linear,
    check_places,
    is_linear,
    parents,
    replace_,
    sizes,
)
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

    def tensors(self) -> dict[str, tuple[tuple[torch.dtype, ...], tuple[int, ...]]]:
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
    state = model.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a tensor to be saved, got {type(value).__name__}")
    ties = dict(container.shared(state))
    tensors = {name: value for name, value in state.items() if name not in ties}
    metadata: dict[str, Any] = {
        "layers": {name: list(layer) for name, layer in layers.items()},
        "shared": ties,
    }
    if isinstance(settings := getattr(model, "settings", None), dict):
        metadata["settings"] = settings
    container.write(tensors, metadata, path, KIND)
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
    made: dict[nn.Module, nn.Module] = {}
    for name, layer in plan.layers.items():
        old = plan.modules[name]
        if old not in made:
            made[old] = _layer(name, layer, tensors, old, path)
    with torch.no_grad():
        for name, value in plan.rest.items():
            value.copy_(tensors[name])
    replace_(model, made)


class _Plan:
    """What a file will do to a model."""

    def __init__(self, model: nn.Module, path: Path) -> None:
        self.path, self.state = path, model.state_dict()
        self.modules, self.holders = dict(all_names(model)), parents(model)
        self.layers: dict[str, _Description] = {}
        self.rest: dict[str, Tensor] = {}

    def check(self, header: Header) -> None:
        """Check that the header is of this model."""
        check_places(self.state)
        described, ties = (header.metadata.get(key) for key in ("layers", "shared"))
        if type(described) is not dict or type(ties) is not dict or not described:
            raise ValueError(f"{self.path} has no list of layers and shared tensors")
        self.layers = {name: self._layer(name, value) for name, value in described.items()}
        for name, module in self.modules.items():
            if isinstance(module, WeightOnlyLinear) and name not in self.layers:
                raise self._other(f"{name} is a WeightOnlyLinear in the model alone")
        expected: dict[str, tuple[tuple[torch.dtype, ...], tuple[int, ...]]] = {}
        for name, value in self.state.items():
            if name.rpartition(".")[0] in self.layers:
                continue
            self.rest[name] = value
            expected[name] = (value.dtype,), tuple(value.shape)
        for name, layer in self.layers.items():
            expected |= {f"{name}.{key}": value for key, value in layer.tensors().items()}
        entries = dict(header.entries)
        for name, other in ties.items():
            if type(other) is not str or other not in header.entries or name in header.entries:
                raise ValueError(f"{self.path} has a shared tensor {name[:80]!r} without its other")
            entries[name] = header.entries[other]
        if only := sorted(expected.keys() ^ entries.keys()):
            raise self._other(f"{only[0][:80]!r} is in only one of the two")
        for name, (types, shape) in expected.items():
            if entries[name].dtype not in types or entries[name].shape != shape:
                raise self._other(
                    f"{name} must be {' or '.join(str(t) for t in types)} {list(shape)}, "
                    f"got {entries[name].dtype} {list(entries[name].shape)}"
                )
        # Where the model shares, the file must: two values for one tensor cannot both be kept.
        modules: dict[nn.Module, str] = {}
        pairs = [(n, modules.setdefault(self.modules[n], n)) for n in self.layers]
        tied = [(f"{a}.{k}", f"{b}.{k}") for a, b in pairs for k in self.layers[a].tensors()]
        tied += [pair for pair in container.shared(self.state) if set(pair) <= self.rest.keys()]
        for name, other in tied:
            if ties.get(name, name) != ties.get(other, other):
                raise self._other(f"{name} and {other} are one tensor in the model alone")

    def _layer(self, name: str, value: Any) -> _Description:
        module = self.modules.get(name)
        if not name or not isinstance(module, WeightOnlyLinear):
            if not name or module is None or not is_linear(module):
                raise self._other(f"the model has no linear layer {name[:80]!r}")
            check_linear(name, module, self.holders[name])
        if (
            type(value) is not list
            or [type(v) for v in value] != [int] * 4 + [bool] * 3
            or not 1 <= value[2] <= 8
            or value[3] < 1
            or value[0] % value[3]
        ):
            raise ValueError(f"{self.path} describes {name[:80]} in another way than {KIND}.save")
        layer = _Description(*value)
        if (layer.in_features, layer.out_features) != sizes(module):
            raise self._other(f"{name} must map {' to '.join(map(str, sizes(module)))}")
        if layer.bias != (getattr(module, "bias", None) is not None):
            raise self._other(f"{name} has a bias in only one of the two")
        return layer

    def _other(self, what: str) -> ValueError:
        return ValueError(f"{self.path} is of another network: {what}")


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
    return WeightOnlyLinear(layer.in_features, layer.bits, **own).train(old.training)


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
