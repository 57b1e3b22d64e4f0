"""The quantized network in floating point: every value on its grid, no integer arithmetic."""

from __future__ import annotations

import copy
from collections import Counter

import torch
from torch import Tensor, fx, nn

from qtools.affine import fake_quantize
from qtools.integer import fake_quantize_bias
from qtools.ptq.convert import room_for_bias
from qtools.ptq.flow import layers
from qtools.ptq.weights import weight_qparams
from qtools.spec import QParams


class FixedQParams(nn.Module):
    """A quantizer whose parameters are decided: what a layer's ``weight_quantizer`` can be."""

    def __init__(self, qp: QParams) -> None:
        super().__init__()
        self.fixed = qp

    def qparams(self) -> QParams:
        """Return the parameters."""
        return self.fixed

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return fake_quantize(x, self.fixed)


@torch.no_grad()
def simulate(
    p: fx.GraphModule, *, weights: bool = True, activations: bool = True
) -> fx.GraphModule:
    """Return a float network that rounds weights and activations as the integer one will.

    Simulated, not integer: it is as large and slow as the float network. With both switches on,
    biases are rounded too, to ``s_x s_w`` (not those of a module called twice, whose calls differ
    in s_x). With both off it is the float network itself, BatchNorm folded.

    Parameters
    ----------
    p : GraphModule
        From `prepare`, calibrated. Unchanged.
    weights, activations : bool
        What to round.
    """
    result = copy.deepcopy(p)
    recipe = result.meta["recipe"]
    found = list(layers(result))
    calls = Counter(layer.node.target for layer in found)
    for layer in found if weights else []:
        module, x_qp = layer.module, layer.input.qparams() if activations else None  # type: ignore[operator]
        assert isinstance(module, (nn.Conv2d, nn.Linear))
        qp = room_for_bias(weight_qparams(module, recipe), module.bias, x_qp)
        module.weight.copy_(fake_quantize(module.weight, qp))
        if module.bias is not None and x_qp is not None and calls[layer.node.target] == 1:
            module.bias.copy_(fake_quantize_bias(module.bias, x_qp, qp))
    for name, observer in list(result.named_children()):
        if name.startswith("observer_"):
            fixed = FixedQParams(observer.qparams()) if activations else nn.Identity()  # type: ignore[operator]
            setattr(result, name, fixed)
    return result.eval()
