"""OneBit networks on disk: one file, checked to the last bit before it touches a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from qtools.kernels.bits import padding_is_zero, row_bytes
from qtools.onebit import container, layered
from qtools.onebit.container import Entry
from qtools.onebit.layer import GRADIENTS, OneBitLinear, check_eps
from qtools.onebit.layered import Expected
from qtools.onebit.modules import all_names, replace_
from qtools.onebit.packing import PackedOneBitLinear
from qtools.onebit.storage import Report, report
from qtools.onebit.svid import FLOATS

_LAYERS = (OneBitLinear, PackedOneBitLinear)


class _Description(NamedTuple):
    """What the header says of a layer, beside its tensors."""

    kind: str  # "packed" or "latent"
    in_features: int
    out_features: int
    layer_norm: bool
    eps: float
    gradient: str | None  # of a latent layer


def save(model: nn.Module, path: Path | str) -> Report:
    """Write every tensor of the model to one safetensors file, signs as bits where packed.

    The header holds the format's version, kind and shape of every OneBit layer, names that share
    a tensor (which is stored once), and a SHA-256 over the whole file. safetensors' own readers
    open it too.

    Parameters
    ----------
    model : nn.Module
        From `convert_`, and from `pack_` where it is to be small. Layers that still train are
        written with their latent weights.
    path : Path or str
        Written whole or not at all.

    Returns
    -------
    Report
        What the file's bytes are.

    Raises
    ------
    ValueError
        If the model has no OneBit layer.
    TypeError
        If it has state that is no dense tensor of a common type, with its name.
    """
    path = Path(path)
    layers = {n: _describe(m) for n, m in all_names(model) if isinstance(m, _LAYERS)}
    if not layers:
        raise ValueError("model must have OneBit layers, got none; convert_ makes them")
    layered.write(model, layers, path, container.KIND)
    return report(path)


def load_(model: nn.Module, path: Path | str) -> None:
    """Give the model, in place, the OneBit layers and all other tensors of a file from `save`.

    Layers of the file take the place of the linear layers of their names, so the model may come
    fresh from its class, converted, or packed; its mode stays. Nothing is unpickled. In this
    order, and before the model changes at all:

    1. the header's length against the file's and against what this model can need;
    2. the header against itself and the file's length: types, shapes, places, no gap or overlap;
    3. names, types and shapes against the model's. Only then is memory taken, as much as the
       model's own tensors and OneBit layers need;
    4. the SHA-256 of the file; zeros in the padding of bits, finite g and h.

    Parameters
    ----------
    model : nn.Module
        Of the architecture that was saved. Tensors outside OneBit layers must have the types of
        the file's (``model.half()`` first, if it was so).
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
    # A JSON string can take six characters for one byte of a name; a tensor's entry has up to
    # 64 numbers, a layer's six values.
    names = [*plan.state, *(name for name, _ in all_names(model))]
    largest = 4096 + sum(12 * len(name.encode()) + 1024 for name in names)
    header, tensors = container.read(path, plan.check, largest)
    plan.check_values(tensors)
    plan.commit(tensors, {name: str(other) for name, other in header.metadata["shared"].items()})


class _Plan(layered.Plan[_Description]):
    """What a file will do to a model; nothing changes before `commit`."""

    kind, own, called = container.KIND, _LAYERS, "OneBit layer"

    def described(self, name: str, value: Any) -> _Description:
        if type(value) is not list or len(value) != len(_Description._fields):
            raise self.unlike(name)
        layer = _Description(*value)
        gradients = (None,) if layer.kind == "packed" else tuple(GRADIENTS)
        if (
            layer.kind not in ("packed", "latent")
            or type(layer.layer_norm) is not bool
            or layer.gradient not in gradients
        ):
            raise self.unlike(name)
        check_eps(layer.eps)
        return layer

    def tensors(self, name: str, layer: _Description) -> dict[str, Expected]:
        rows, columns = layer.out_features, layer.in_features
        if layer.kind == "packed":
            halves: tuple[torch.dtype, ...] = (torch.float16,)
            found: dict[str, Expected] = {"bits": ((torch.uint8,), (rows, row_bytes(columns)))}
        else:
            halves, found = FLOATS, {"weight": (FLOATS, (rows, columns))}
        found |= {"g": (halves, (columns,)), "h": (halves, (rows,))}
        if self.has_bias(name):
            found["bias"] = FLOATS, (rows,)
        return found

    def check_further(self, entries: Mapping[str, Entry], ties: Mapping[str, str]) -> None:
        self._check_latent(entries)
        self._check_shared(ties)
        # Packed layers have biases of their own, shared or not.
        own = {f"{name}.bias" for name, layer in self.layers.items() if layer.kind == "packed"}
        for name, other in container.shared(self.state):
            if (
                {name, other} <= entries.keys() - own
                and ties.get(name, name) != ties.get(other, other)
            ):  # fmt: skip
                raise self.other(f"{name} and {other} are one tensor in the model alone")

    def _check_latent(self, entries: Mapping[str, Entry]) -> None:
        for name, layer in self.layers.items():
            tensors = [n for n in (f"{name}.{t}" for t in ("weight", "g", "h")) if n in entries]
            if layer.kind == "latent" and len({entries[n].dtype for n in tensors}) != 1:
                raise ValueError(f"{self.path}: {name} must have one type for weight, g and h")

    def _check_shared(self, ties: Mapping[str, str]) -> None:
        """Refuse two values for one module: where the model shares, the file must."""
        first: dict[nn.Module, str] = {}
        for name, layer in self.layers.items():
            other = first.setdefault(self.modules[name], name)
            for key in ("bits", "g", "h") if layer.kind == "packed" else ("weight", "g", "h"):
                ours, theirs = f"{name}.{key}", f"{other}.{key}"
                if ties.get(ours, ours) != ties.get(theirs, theirs):
                    raise self.other(f"{name} and {other} are one module in the model alone")

    def check_values(self, tensors: Mapping[str, Tensor]) -> None:
        """Refuse what no packed layer has: bits in the padding, g or h that is not finite."""
        for name, layer in self.layers.items():
            for key in (f"{name}.g", f"{name}.h"):
                if key in tensors and not tensors[key].isfinite().all():
                    raise ValueError(f"{self.path}: {key} must be finite")
            bits = tensors.get(f"{name}.bits")
            if bits is not None and not padding_is_zero(bits, layer.in_features):
                raise ValueError(f"{self.path}: {name}.bits must have zeros behind the last column")

    def commit(self, tensors: Mapping[str, Tensor], ties: Mapping[str, str]) -> None:
        """Change the model."""
        owned: dict[str, Tensor] = {}
        # Parameters that stay, by what the file calls them: a bias may be shared with one.
        parameters = {
            ties.get(name, name): parameter
            for name, parameter in self.model.named_parameters(remove_duplicate=False)
            if name in self.rest
        }

        def take(name: str, device: torch.device) -> Tensor:
            name = ties.get(name, name)
            if name not in owned:  # a copy: the file's memory is let go
                owned[name] = tensors[name].to(device, copy=True)
            return owned[name]

        def parameter(name: str, device: torch.device, trains: bool) -> nn.Parameter:
            key = ties.get(name, name)
            if key not in parameters:
                parameters[key] = nn.Parameter(take(name, device), trains)
            return parameters[key]

        def layer_of(name: str, layer: _Description) -> nn.Module:
            old = self.modules[name]
            device = (old.bits if isinstance(old, PackedOneBitLinear) else old.weight).device
            assert isinstance(device, torch.device)
            bias = f"{name}.bias" if self.has_bias(name) else None
            if layer.kind == "packed":
                bits, g, h = (take(f"{name}.{key}", device) for key in ("bits", "g", "h"))
                shift = None if bias is None else take(bias, device)
                return PackedOneBitLinear(bits, g, h, shift, layer.layer_norm, layer.eps)
            new = OneBitLinear(
                layer.in_features, layer.out_features, False, layer.layer_norm,
                str(layer.gradient), layer.eps, device="meta",
            )  # fmt: skip
            for key in ("weight", "g", "h", *(["bias"] if bias else [])):
                like = getattr(old, key, getattr(old, "weight", None))
                trains = like.requires_grad if isinstance(like, nn.Parameter) else True
                setattr(new, key, parameter(f"{name}.{key}", device, trains))
            return new

        made = self.make(layer_of)
        with torch.no_grad():
            for name, value in self.rest.items():
                value.copy_(tensors[ties.get(name, name)])
        replace_(self.model, made)


def _describe(layer: nn.Module) -> _Description:
    assert isinstance(layer, _LAYERS)
    latent = isinstance(layer, OneBitLinear)
    return _Description(
        "latent" if latent else "packed",
        layer.in_features,
        layer.out_features,
        layer.layer_norm,
        layer.eps,
        layer.gradient if isinstance(layer, OneBitLinear) else None,
    )
