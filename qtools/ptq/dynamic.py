"""Dynamic post-training quantization: weights ahead, activations batch by batch."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from qtools.affine import qparams_from_tensor, quantize
from qtools.integer import accumulate
from qtools.ptq.arithmetic import Window, window_rows
from qtools.ptq.recipe import Recipe
from qtools.spec import QParams, QuantSpec


class DynamicLayer(nn.Module):
    """A linear layer or convolution whose input gets its scale and zero point batch by batch.

    ``y = s_x s_w Σ (q_x - z_x)(q_w - z_w) + b``: the weights are codes beforehand, the product is
    one of int8 numbers, and its result is real.
    """

    weight: Tensor

    def __init__(
        self, weight: Tensor, w_qp: QParams, bias: Tensor | None, activations: QuantSpec,
        window: Window | None, groups: int = 1,
    ) -> None:  # fmt: skip
        super().__init__()
        for name, value in (("weight", weight), ("weight_scale", w_qp.scale),
                            ("weight_zero_point", w_qp.zero_point), ("bias", bias)):  # fmt: skip
            self.register_buffer(name, None if value is None else value.detach().clone())
        self.w_spec, self.activations = w_qp.spec, activations
        self.window, self.groups = window, groups

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        w_qp = QParams(self.get_buffer("weight_scale"), self.get_buffer("weight_zero_point"),
                       self.w_spec)  # fmt: skip
        x_qp = qparams_from_tensor(x, self.activations)
        q = quantize(x, x_qp)
        if self.window is None:
            acc = accumulate(q.reshape(-1, x.shape[-1]), self.weight, x_qp, w_qp)
            return self._real(acc, x_qp, w_qp).view(*x.shape[:-1], len(self.weight))
        n, _, height, width = x.shape
        oh, ow = self.window.out(height, width)
        rows = window_rows(q.permute(0, 2, 3, 1), self.window, int(x_qp.zero_point))
        acc = accumulate(rows, self.weight.permute(0, 2, 3, 1).flatten(1), x_qp, w_qp)
        return self._real(acc, x_qp, w_qp).view(n, oh, ow, len(self.weight)).permute(0, 3, 1, 2)

    def _real(self, acc: Tensor, x_qp: QParams, w_qp: QParams) -> Tensor:
        y = acc * (x_qp.scale * w_qp.scale)
        bias = self.get_buffer("bias") if self.bias is not None else None
        return y if bias is None else y + bias


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
