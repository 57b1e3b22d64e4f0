"""Networks on disk some of whose layers are of a kind of their own: what all such files share.

`qtools.onebit.checkpoint` and `qtools.weight_only.checkpoint` say which layers these are and what
is in them. Here is how their networks are written, and how a file is compared with a network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from qtools.onebit import container
from qtools.onebit.container import Entry, Header
from qtools.onebit.modules import (
    all_names,
    check_linear,
    check_places,
    is_linear,
    parents,
    sizes,
)

#: Types that a tensor may have, and its shape.
Expected = tuple[tuple[torch.dtype, ...], tuple[int, ...]]


class Described(Protocol):
    """What the header says of a layer: a NamedTuple of JSON types."""

    @property
    def in_features(self) -> int: ...  # noqa: D102

    @property
    def out_features(self) -> int: ...  # noqa: D102


D = TypeVar("D", bound=Described)


def write(
    model: nn.Module,
    layers: Mapping[str, tuple[Any, ...]],
    path: Path,
    kind: str,
    further: Mapping[str, Any] | None = None,
) -> None:
    """Write a model's state, its layers' descriptions and which names share a tensor.

    Raises
    ------
    TypeError
        If the model has state that is no dense tensor of a common type, with its name.
    """
    state = model.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a tensor to be saved, got {type(value).__name__}")
    ties = dict(container.shared(state))
    tensors = {name: value for name, value in state.items() if name not in ties}
    described = {name: list(layer) for name, layer in layers.items()}
    container.write(tensors, {"layers": described, "shared": ties, **(further or {})}, path, kind)


class Plan(Generic[D]):
    """What a file will do to a model: found out from its header, before anything changes.

    Attributes
    ----------
    layers : dict
        Names of layers that the file has, to their descriptions.
    rest : dict
        Names of all tensors outside them, to the model's own.
    """

    kind: ClassVar[str]
    own: ClassVar[tuple[type[nn.Module], ...]]  # the layers of this kind
    called: ClassVar[str]  # what messages call one of them

    def __init__(self, model: nn.Module, path: Path) -> None:
        self.model, self.path, self.state = model, path, model.state_dict()
        self.modules, self.holders = dict(all_names(model)), parents(model)
        self.layers: dict[str, D] = {}
        self.rest: dict[str, Tensor] = {}

    def described(self, name: str, value: Any) -> D:
        """Read a description from JSON; refuse one that `write` was not given."""
        raise NotImplementedError

    def tensors(self, name: str, layer: D) -> dict[str, Expected]:
        """What a layer must have in the file, by the tensors' last names."""
        raise NotImplementedError

    def check_further(self, entries: Mapping[str, Entry], ties: Mapping[str, str]) -> None:
        """Check what is left when names, types and shapes fit; ties: names to stored names."""
        raise NotImplementedError

    def check(self, header: Header) -> None:
        """Check that the header is of this model, and that the model can take what it is given."""
        check_places(self.state)
        described, ties = (header.metadata.get(key) for key in ("layers", "shared"))
        if type(described) is not dict or type(ties) is not dict or not described:
            raise ValueError(f"{self.path} has no list of layers and shared tensors")
        self.layers = {name: self._layer(name, value) for name, value in described.items()}
        for name, module in self.modules.items():
            if isinstance(module, self.own) and name not in self.layers:
                raise self.other(f"{name} is a {self.called} in the model alone")
        entries = dict(header.entries)
        for name, other in ties.items():
            if type(other) is not str or other not in header.entries or name in header.entries:
                raise ValueError(f"{self.path} has a shared tensor {name[:80]!r} without its other")
            entries[name] = header.entries[other]
        expected = self._expected()
        if only := sorted(expected.keys() ^ entries.keys()):
            raise self.other(f"{only[0][:80]!r} is in only one of the two")
        for name, (types, shape) in expected.items():
            entry = entries[name]
            if entry.dtype not in types or entry.shape != shape:
                raise self.other(
                    f"{name} must be {' or '.join(str(t) for t in types)} {list(shape)}, "
                    f"got {entry.dtype} {list(entry.shape)}"
                )
        self.check_further(entries, ties)

    def _layer(self, name: str, value: Any) -> D:
        module = self.modules.get(name)
        if not name or module is None or not (is_linear(module) or isinstance(module, self.own)):
            raise self.other(f"the model has no linear layer {name[:80]!r}")
        if is_linear(module):
            check_linear(name, module, self.holders[name])
        layer = self.described(name, value)
        if (layer.in_features, layer.out_features) != sizes(module):
            raise self.other(f"{name} must map {' to '.join(map(str, sizes(module)))}")
        return layer

    def _expected(self) -> dict[str, Expected]:
        """Of every tensor that the file must have."""
        held = self.layers
        self.rest = {n: v for n, v in self.state.items() if n.rpartition(".")[0] not in held}
        expected: dict[str, Expected] = {
            name: ((value.dtype,), tuple(value.shape)) for name, value in self.rest.items()
        }
        for name, layer in self.layers.items():
            for key, value in self.tensors(name, layer).items():
                expected[f"{name}.{key}"] = value
        return expected

    def has_bias(self, name: str) -> bool:
        """Whether the model's layer has one."""
        return getattr(self.modules[name], "bias", None) is not None

    def make(self, layer_of: Callable[[str, D], nn.Module]) -> dict[nn.Module, nn.Module]:
        """New layers by those whose places they take; a module with several names once."""
        made: dict[nn.Module, nn.Module] = {}
        for name, layer in self.layers.items():
            old = self.modules[name]
            if old not in made:
                made[old] = layer_of(name, layer).train(old.training)
        return made

    def unlike(self, name: str) -> ValueError:
        """Return the error for a description that `write` was not given."""
        return ValueError(f"{self.path} describes {name[:80]} in another way than {self.kind}.save")

    def other(self, what: str) -> ValueError:
        """Return the error for a file of another network."""
        return ValueError(f"{self.path} is of another network: {what}")
