"""BatchNorm folding: at inference it is a linear map, and joins the layer before it."""

from __future__ import annotations

import copy
from collections import Counter

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from qtools.ptq.inplace import Tracer, use_results

_NORMS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: nn.BatchNorm1d,
    nn.Conv2d: nn.BatchNorm2d,
    nn.Conv3d: nn.BatchNorm3d,
    nn.Linear: nn.BatchNorm1d,
}


def trace(m: nn.Module) -> fx.GraphModule:
    """Return a copy of m in eval mode as an fx graph; its own modules are untouched.

    Raises
    ------
    ValueError
        If torch.fx cannot follow the network, with its reason.
    """
    if not isinstance(m, nn.Module):
        raise TypeError(f"m must be an nn.Module, got {type(m).__name__}")
    m = copy.deepcopy(m).eval()
    if type(m).__module__.startswith("torch.nn.") and not isinstance(m, nn.Sequential):
        m = nn.Sequential(m)  # a lone layer: fx would look inside it
    try:
        traced = fx.GraphModule(m, Tracer().trace(m), type(m).__name__)
    except Exception as error:
        raise ValueError(
            f"m must be traceable by torch.fx, {type(m).__name__} is not (control flow that"
            f" depends on data?): {error}"
        ) from error
    use_results(traced)
    return traced


def fold_batch_norm(m: nn.Module) -> fx.GraphModule:
    """``W' = W γ/σ``, ``b' = β + (b - μ) γ/σ``, σ = sqrt(running variance + ε), per channel.

    ``γ (W x + b - μ)/σ + β = W' x + b'``: the network computes the same function without its
    BatchNorms (Jacob et al. 2018, section 3.2). A BatchNorm is folded where it alone follows a
    convolution or linear layer, both are used once, and it has running statistics. Others stay.
    (Behind a linear layer, the input is taken to be [n, features].)

    Parameters
    ----------
    m : nn.Module
        Traceable by torch.fx. Unchanged.

    Returns
    -------
    GraphModule
        In eval mode, with parameters of its own. ``meta["folded"]`` maps the name of each layer
        to that of the BatchNorm it took in.

    Raises
    ------
    ValueError
        If torch.fx cannot trace m.
    """
    gm = trace(m)
    gm.meta["folded"] = {}
    modules = dict(gm.named_modules())
    calls = Counter(id(modules[str(n.target)]) for n in gm.graph.nodes if n.op == "call_module")
    for node in list(gm.graph.nodes):
        layer_node = node.args[0] if node.args else None
        if node.op != "call_module" or not isinstance(layer_node, fx.Node):
            continue
        if layer_node.op != "call_module" or len(layer_node.users) > 1:
            continue
        norm, layer = modules[node.target], modules[str(layer_node.target)]
        if type(norm) is not _NORMS.get(type(layer)) or norm.running_var is None:
            continue
        if calls[id(norm)] > 1 or calls[id(layer)] > 1 or _is_3d_linear(layer, norm, layer_node):
            continue
        _fold(layer, norm)
        gm.meta["folded"][str(layer_node.target)] = str(node.target)
        node.replace_all_uses_with(layer_node)
        gm.graph.erase_node(node)
    gm.delete_all_unused_submodules()
    gm.recompile()
    return gm


def _is_3d_linear(layer: nn.Module, norm: nn.Module, node: fx.Node) -> bool:
    """Return whether channels may sit elsewhere than last, where BatchNorm1d looks for them."""
    return isinstance(layer, nn.Linear) and layer.out_features != norm.num_features


def norm_factor(norm: _BatchNorm, dtype: torch.dtype) -> Tensor:
    """``γ/σ``, σ = sqrt(running variance + ε): [channels], with the gradient of γ."""
    assert norm.running_var is not None
    factor = (norm.running_var.to(dtype) + norm.eps).rsqrt()
    return factor if norm.weight is None else factor * norm.weight.to(dtype)


def channel_factors(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Return ``(γ/σ, β - μ γ/σ)`` of a BatchNorm: float64 [channels]."""
    assert isinstance(norm, _BatchNorm)
    assert norm.running_mean is not None
    factor = norm_factor(norm, torch.float64).detach()
    offset = -norm.running_mean.double() * factor
    if norm.bias is not None:
        offset = offset + norm.bias.detach().double()
    return factor, offset


def _fold(layer: nn.Module, norm: nn.Module) -> None:
    assert isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear))
    factor, offset = channel_factors(norm)
    weight = layer.weight.detach()
    folded = weight.double() * factor.view(-1, *[1] * (weight.ndim - 1))
    if layer.bias is not None:
        offset = offset + layer.bias.detach().double() * factor
    layer.weight = nn.Parameter(folded.to(weight.dtype))
    layer.bias = nn.Parameter(offset.to(weight.dtype))


def norm_as_convolution(norm: nn.BatchNorm2d) -> nn.Conv2d:
    """Return the 1×1 depthwise convolution that computes what a BatchNorm2d does."""
    factor, offset = channel_factors(norm)
    channels, like = len(factor), norm.running_var
    assert like is not None
    with torch.device(like.device):
        conv = nn.Conv2d(channels, channels, 1, groups=channels, dtype=like.dtype)
    conv.weight = nn.Parameter(factor.view(-1, 1, 1, 1).to(like.dtype))
    conv.bias = nn.Parameter(offset.to(like.dtype))
    return conv.eval()
