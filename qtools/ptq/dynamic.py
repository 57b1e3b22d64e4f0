"""Dynamic post-training quantization: weights ahead, activations batch by batch."""

from __future__ import annotations

import copy

from torch import nn

from qtools.affine import qparams_from_tensor, quantize
from qtools.ptq.arithmetic import Window
from qtools.ptq.modules import DynamicLayer
from qtools.ptq.recipe import Recipe


def quantize_dynamic(m: nn.Module, recipe: Recipe | None = None) -> nn.Module:
    """Return a copy whose linear layers and plain convolutions multiply int8 numbers.

    Before inference: codes and scales of the weights. During inference: the range of each input
    batch, hence its scale and zero point. Results are real again after every layer, so no
    calibration is needed. Convolutions with groups or padding other than zeros stay in float.

    Parameters
    ----------
    m : nn.Module
        Any network; it need not be traceable. Unchanged.
    recipe : Recipe, optional
        Its observer plays no part.

    Raises
    ------
    ValueError
        If ``recipe.keep_float`` names nothing in m.
    """
    recipe = recipe or Recipe()
    names = {name for name, _ in m.named_modules()}
    for name in recipe.keep_float:
        if name not in names:
            raise ValueError(f"keep_float must name modules of the network, got {name!r}")
    result = copy.deepcopy(m).eval()
    for name, module in list(result.named_modules()):
        if any(name == kept or name.startswith(f"{kept}.") for kept in recipe.keep_float):
            continue
        replacement = _dynamic(module, recipe)
        if replacement is None:
            continue
        if not name:
            return replacement
        parent, _, child = name.rpartition(".")
        setattr(result.get_submodule(parent), child, replacement)
    return result


def _dynamic(module: nn.Module, recipe: Recipe) -> DynamicLayer | None:
    window = None
    if type(module) is nn.Conv2d:
        if module.groups > 1 or module.padding_mode != "zeros" or isinstance(module.padding, str):
            return None
        window = Window(module.kernel_size, module.stride, module.padding, module.dilation)  # type: ignore[arg-type]
    elif type(module) is not nn.Linear:
        return None
    w_qp = qparams_from_tensor(module.weight.detach(), recipe.weights)
    codes = quantize(module.weight.detach(), w_qp)
    return DynamicLayer(codes, w_qp, module.bias, recipe.activations, window)
