"""OneBit networks on disk: one file, checked to the last bit before it touches a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from qtools.onebit import container
from qtools.onebit.container import Entry, Header
from qtools.onebit.layer import GRADIENTS, OneBitLinear, check_eps
from qtools.onebit.modules import (
    all_names,
    check_linear,
    check_places,
    is_linear,
    parents,
    replace_,
    sizes,
)
from qtools.onebit.packing import PackedOneBitLinear, padding_is_zero, row_bytes
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
    state = model.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a tensor to be saved, got {type(value).__name__}")
    ties = dict(container.shared(state))
    tensors = {name: value for name, value in state.items() if name not in ties}
    metadata = {"layers": {name: list(layer) for name, layer in layers.items()}, "shared": ties}
    container.write(tensors, metadata, path)
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
    state = model.state_dict()
    plan = _Plan(model, state, path)
    # A JSON string can take six characters for one byte of a name; a tensor's entry has up to
    # 64 numbers, a layer's six values.
    names = [*state, *(name for name, _ in all_names(model))]
    largest = 4096 + sum(12 * len(name.encode()) + 1024 for name in names)
    header, tensors = container.read(path, plan.check, largest)
    plan.check_values(tensors)
    plan.commit(tensors, {name: str(other) for name, other in header.metadata["shared"].items()})


class _Plan:
    """What a file will do to a model; nothing changes before `commit`."""

    def __init__(self, model: nn.Module, state: Mapping[str, Any], path: Path) -> None:
        self.model, self.state, self.path = model, state, path
        self.modules, self.holders = dict(all_names(model)), parents(model)
        self.layers: dict[str, _Description] = {}

    def check(self, header: Header) -> None:
        """Check that the header is of this model, and that the model can take what it is given."""
        check_places(self.state)
        described, ties = (header.metadata.get(key) for key in ("layers", "shared"))
        if type(described) is not dict or type(ties) is not dict or not described:
            raise ValueError(f"{self.path} has no list of layers and shared tensors")
        self.layers = {name: self._layer(name, value) for name, value in described.items()}
        for name, module in self.modules.items():
            if isinstance(module, _LAYERS) and name not in self.layers:
                raise self._other(f"{name} is a OneBit layer in the model alone")
        entries = dict(header.entries)
        for name, other in ties.items():
            if type(other) is not str or other not in header.entries or name in header.entries:
                raise ValueError(f"{self.path} has a shared tensor {name[:80]!r} without its other")
            entries[name] = header.entries[other]
        expected = self._expected(entries)
        if only := sorted(expected.keys() ^ entries.keys()):
            raise self._other(f"{only[0][:80]!r} is in only one of the two")
        for name, (types, shape) in expected.items():
            entry = entries[name]
            if entry.dtype not in types or entry.shape != shape:
                raise self._other(
                    f"{name} must be {' or '.join(str(t) for t in types)} {list(shape)}, "
                    f"got {entry.dtype} {list(entry.shape)}"
                )
        self._check_latent(entries)
        self._check_shared(ties)
        # Packed layers have biases of their own, shared or not.
        own = {f"{name}.bias" for name, layer in self.layers.items() if layer.kind == "packed"}
        for name, other in container.shared(self.state):
            if (
                {name, other} <= entries.keys() - own
                and ties.get(name, name) != ties.get(other, other)
            ):  # fmt: skip
                raise self._other(f"{name} and {other} are one tensor in the model alone")

    def _layer(self, name: str, value: Any) -> _Description:
        module = self.modules.get(name)
        if not name or module is None or not (is_linear(module) or isinstance(module, _LAYERS)):
            raise self._other(f"the model has no linear layer {name[:80]!r}")
        if is_linear(module):
            check_linear(name, module, self.holders[name])
        if type(value) is not list or len(value) != len(_Description._fields):
            raise ValueError(f"{self.path} describes {name} in another way than onebit.save")
        layer = _Description(*value)
        gradients = (None,) if layer.kind == "packed" else tuple(GRADIENTS)
        if (
            layer.kind not in ("packed", "latent")
            or type(layer.layer_norm) is not bool
            or layer.gradient not in gradients
        ):
            raise ValueError(f"{self.path} describes {name} in another way than onebit.save")
        check_eps(layer.eps)
        if (layer.in_features, layer.out_features) != sizes(module):
            raise self._other(f"{name} must map {' to '.join(map(str, sizes(module)))}")
        return layer

    def _expected(
        self, entries: Mapping[str, Entry]
    ) -> dict[str, tuple[tuple[torch.dtype, ...], tuple[int, ...]]]:
        """Allowed types, and the shape, of every tensor that the file must have."""
        expected: dict[str, tuple[tuple[torch.dtype, ...], tuple[int, ...]]] = {}
        for name, value in self.state.items():
            if name.rpartition(".")[0] in self.layers:
                continue
            expected[name] = (value.dtype,), tuple(value.shape)
        for name, layer in self.layers.items():
            rows, columns = layer.out_features, layer.in_features
            halves = (torch.float16,) if layer.kind == "packed" else FLOATS
            if layer.kind == "packed":
                expected[f"{name}.bits"] = (torch.uint8,), (rows, row_bytes(columns))
            else:
                expected[f"{name}.weight"] = FLOATS, (rows, columns)
            expected[f"{name}.g"], expected[f"{name}.h"] = (halves, (columns,)), (halves, (rows,))
            if getattr(self.modules[name], "bias", None) is not None:
                expected[f"{name}.bias"] = FLOATS, (rows,)
        return expected

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
                    raise self._other(f"{name} and {other} are one module in the model alone")

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
            if name.rpartition(".")[0] not in self.layers
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

        made: dict[nn.Module, nn.Module] = {}
        for name, layer in self.layers.items():
            old = self.modules[name]
            if old in made:
                continue
            device = (old.bits if isinstance(old, PackedOneBitLinear) else old.weight).device
            assert isinstance(device, torch.device)
            bias = f"{name}.bias" if getattr(old, "bias", None) is not None else None
            if layer.kind == "packed":
                bits, g, h = (take(f"{name}.{key}", device) for key in ("bits", "g", "h"))
                shift = None if bias is None else take(bias, device)
                new: nn.Module = PackedOneBitLinear(bits, g, h, shift, layer.layer_norm, layer.eps)
            else:
                new = OneBitLinear(
                    layer.in_features, layer.out_features, False, layer.layer_norm,
                    str(layer.gradient), layer.eps, device="meta",
                )  # fmt: skip
                for key in ("weight", "g", "h", *(["bias"] if bias else [])):
                    like = getattr(old, key, getattr(old, "weight", None))
                    trains = like.requires_grad if isinstance(like, nn.Parameter) else True
                    setattr(new, key, parameter(f"{name}.{key}", device, trains))
            made[old] = new.train(old.training)
        with torch.no_grad():
            for name, value in self.state.items():
                if name.rpartition(".")[0] not in self.layers:
                    value.copy_(tensors[ties.get(name, name)])
        replace_(self.model, made)

    def _other(self, what: str) -> ValueError:
        return ValueError(f"{self.path} is of another network: {what}")


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
