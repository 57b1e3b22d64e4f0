"""What a layer's input is like: the matrix XᵀX that the second-order methods need."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from qtools.modes import evaluating


class Gram(NamedTuple):
    """``H = XᵀX / n``, float64 [in, in], of the n rows of X that went into a layer.

    The mean squared change of the output when W becomes Ŵ is ``tr((W - Ŵ) H (W - Ŵ)ᵀ)``: H is
    half the Hessian of that error in each row of Ŵ.
    """

    matrix: Tensor
    rows: int

    @property
    def input_norm(self) -> Tensor:
        """``‖x_j‖₂`` of each column of X, float64 [in]."""
        return (self.matrix.diagonal() * self.rows).sqrt()


def gram_matrices(
    model: nn.Module, batches: Iterable[Tensor], names: Iterable[str] | None = None
) -> dict[str, Gram]:
    """Return ``XᵀX / n`` for the input of each layer, over all batches.

    X has one row for each time the layer's matrix is used: an input of a Linear, a patch of a
    Conv2d (which sees its padding as zeros, or as its padding mode has it). The model runs in
    eval mode and is left as it was.

    Parameters
    ----------
    model : nn.Module
    batches : iterable of Tensor
        What the model takes.
    names : iterable of str, optional
        Names of modules; otherwise every Linear and every Conv2d with ``groups=1``.

    Raises
    ------
    ValueError
        If a name is not that of such a module, or a module was not used.
    """
    modules = dict(model.named_modules())
    if names is None:
        names = [name for name, module in modules.items() if _has_matrix(module)]
    wanted = {}
    for name in names:
        if name not in modules or not _has_matrix(modules[name]):
            raise ValueError(f"names must be of Linear and ungrouped Conv2d modules, got {name!r}")
        wanted[name] = modules[name]
    sums: dict[str, Gram] = {}

    def recorder(name: str) -> Callable[..., None]:
        def record(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = input_rows(module, inputs[0].detach()).double()
            old = sums.get(name, Gram(x.new_zeros(x.shape[1], x.shape[1]), 0))
            sums[name] = Gram(old.matrix.addmm_(x.T, x), old.rows + len(x))

        return record

    hooks = [m.register_forward_pre_hook(recorder(name)) for name, m in wanted.items()]
    try:
        with evaluating(model):
            for batch in batches:
                model(batch)
    finally:
        for hook in hooks:
            hook.remove()
    unused = [name for name in wanted if name not in sums]
    if unused:
        raise ValueError(f"names must be of modules that the model runs; {unused} never ran")
    return {name: Gram(sums[name].matrix / sums[name].rows, sums[name].rows) for name in wanted}


def input_rows(module: nn.Module, x: Tensor) -> Tensor:
    """The rows [n, in] that a layer's matrix multiplies, ``in`` as in ``weight.flatten(1)``."""
    if isinstance(module, nn.Linear):
        return x.reshape(-1, x.shape[-1])
    if not isinstance(module, nn.Conv2d):
        raise ValueError(f"module must be a Linear or a Conv2d, got {type(module).__name__}")
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    x = F.pad(x, module._reversed_padding_repeated_twice, mode=mode)
    patches = F.unfold(x, module.kernel_size, module.dilation, 0, module.stride)
    return patches.transpose(1, 2).flatten(0, 1)


def _has_matrix(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
