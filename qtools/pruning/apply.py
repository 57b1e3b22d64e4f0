"""Masks on a model: they hold while it trains, and become plain zeros when it is done."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


class Masked(nn.Module):
    """``w ⊙ mask``: zeros stay zeros whatever the optimiser does, and get no gradient."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:  # noqa: D102
        return weight * self.mask


def apply_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Hold the weights of the named modules under their masks, in place.

    ``module.weight`` is then ``original ⊙ mask`` (a parametrization of `torch.nn.utils`); the
    masks are buffers and go where the state dict goes. Calling it again replaces masks.

    Parameters
    ----------
    model : nn.Module
    masks : mapping from module name to Tensor
        bool, in the shape of ``module.weight``, True where kept.

    Raises
    ------
    TypeError
        If a mask is not bool.
    ValueError
        If there is no such module with a weight, or a shape differs. Nothing is changed then.
    """
    modules = dict(model.named_modules())
    for name, mask in masks.items():
        weight = getattr(modules.get(name), "weight", None)
        if not isinstance(weight, Tensor):
            raise ValueError(f"masks must name modules with a weight, got {name!r}")
        if mask.dtype != torch.bool:
            raise TypeError(f"the mask of {name!r} must be bool, got {mask.dtype}")
        if mask.shape != weight.shape:
            raise ValueError(
                f"the mask of {name!r} must have the weight's shape {list(weight.shape)},"
                f" got {list(mask.shape)}"
            )
    for name, mask in masks.items():
        module = modules[name]
        held = mask.to(module.weight.device)
        if (masked := _masked(module)) is not None:
            masked.mask = held.clone()
        else:
            parametrize.register_parametrization(module, "weight", Masked(held.clone()))


def bake_masks(model: nn.Module) -> None:
    """Make every masked weight a plain parameter with zeros in it, in place."""
    for module in model.modules():
        if _masked(module) is not None:
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)


def sparsity_of(model: nn.Module) -> float:
    """Share of exact zeros among the weights of all Linear and Conv2d modules."""
    weights = [m.weight for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    return sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)


def _masked(module: nn.Module) -> Masked | None:
    if parametrize.is_parametrized(module, "weight"):
        for each in module.parametrizations["weight"]:  # type: ignore[index]
            if isinstance(each, Masked):
                return each
    return None
