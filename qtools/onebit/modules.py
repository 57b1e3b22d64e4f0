"""Which modules are linear layers, and how one takes another's place under all of its names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

#: Their fast paths read the weights of their layers, and would compute with the latent ones.
_READ_WEIGHTS = (nn.MultiheadAttention, nn.TransformerEncoderLayer)


def is_conv1d(module: nn.Module) -> bool:
    """Whether it is transformers' Conv1D (GPT-2): ``y = x W + b``, a linear layer transposed.

    Told by its name, so that transformers need not be there.
    """
    kind = type(module)
    return kind.__name__ == "Conv1D" and kind.__module__.startswith("transformers.")


def is_linear(module: nn.Module) -> bool:
    """Whether it is a Linear, a subclass of one, or transformers' Conv1D."""
    return isinstance(module, nn.Linear) or is_conv1d(module)


def check_linear(name: str, module: nn.Module, parent: nn.Module) -> None:
    """Refuse a linear layer that another cannot stand in for, saying its name and why.

    Raises
    ------
    TypeError
        If it is a subclass, which may compute something else, or its parent reads its weight.
    ValueError
        If it has hooks or is on the meta device.
    """
    advice = f"; name it in skip to keep it: skip=({name!r},)"
    if type(module) is not nn.Linear and not is_conv1d(module):
        kind = type(module).__name__
        raise TypeError(f"{name}: {kind} is a subclass of Linear, it may do something else{advice}")
    if isinstance(parent, _READ_WEIGHTS):
        raise TypeError(f"{name}: {type(parent).__name__} reads the weight of this layer{advice}")
    if has_hooks(module):
        raise ValueError(f"{name} must have no hooks, they would be lost{advice}")
    weight = module.weight
    assert isinstance(weight, nn.Parameter)
    if weight.is_meta:
        raise ValueError(f"{name} must have values, it is on the meta device{advice}")


def has_hooks(module: nn.Module) -> bool:
    """Whether something is called before or after it."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


@contextmanager
def named(name: str) -> Iterator[None]:
    """Put the name of the layer in front of what is wrong with it."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def sizes(module: nn.Module) -> tuple[int, int]:
    """(in_features, out_features) of a Linear, a Conv1D or a layer of this package."""
    if is_conv1d(module):
        weight = module.weight
        assert isinstance(weight, nn.Parameter)
        return weight.shape[0], weight.shape[1]
    return module.in_features, module.out_features  # type: ignore[return-value]


def all_names(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Modules with their names, a shared one under each of its own."""
    return list(model.named_modules(remove_duplicate=False))


def parents(model: nn.Module) -> dict[str, nn.Module]:
    """The module that holds each named one, by the name of the held one."""
    names = dict(all_names(model))
    return {name: names[name.rpartition(".")[0]] for name in names if name}


def replace_(model: nn.Module, made: Mapping[nn.Module, nn.Module]) -> None:
    """Put each module of `made` in the place of its key, everywhere in the model."""
    holders = parents(model)
    for name, module in all_names(model):
        if name and module in made:
            setattr(holders[name], name.rpartition(".")[2], made[module])


def check_root(model: nn.Module) -> None:
    """Refuse a model that is itself a layer to be replaced: nothing could hold the new one."""
    if is_linear(model):
        raise ValueError(
            f"model must hold its linear layers, got a single {type(model).__name__}; "
            "put it into an nn.Sequential"
        )


def check_places(state: Mapping[str, Any]) -> None:
    """Refuse a model's state that cannot take values: no tensors, expanded, on the meta device."""
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
        steps = zip(value.stride(), value.shape, strict=True)
        if value.is_meta or any(step == 0 and size > 1 for step, size in steps):
            raise ValueError(
                f"{name} must have a place for each value, it is expanded or on the meta device"
            )
