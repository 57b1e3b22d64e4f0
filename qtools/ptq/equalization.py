"""Cross-layer equalization: move scale from channels that have too much to where it is missing."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor, fx, nn

from qtools.ptq.fold import fold_batch_norm
from qtools.ptq.graph import StaysFloat, operation, role
from qtools.requantizer import Clamp

_COMMUTES = (nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout2d, torch.flatten, "flatten")


@torch.no_grad()
def equalize(m: nn.Module, iterations: int = 20) -> fx.GraphModule:
    """``W1 ← S⁻¹ W1``, ``b1 ← S⁻¹ b1``, ``W2 ← W2 S``, ``s_i = sqrt(r1_i r2_i) / r2_i``.

    ReLU lets positive factors through, ``relu(s x) = s relu(x)``, so that the network computes
    the same function. r1_i and r2_i are the largest magnitudes of output channel i of the first
    layer and of input channel i of the second; afterwards both are ``sqrt(r1_i r2_i)``, which
    maximises the precision of all channels together (Nagel et al. 2019, eqs. 8-11). It helps
    where a whole tensor shares one scale; scales per channel do most of its work already.

    Pairs are convolutions and linear layers used once, with nothing but ReLU, pooling, dropout
    and flattening between them. Chains are repeated until they settle.

    Parameters
    ----------
    m : nn.Module
        Traceable by torch.fx. Unchanged.
    iterations : int
        Passes over all pairs.

    Returns
    -------
    GraphModule
        With BatchNorm folded; for `prepare`.
    """
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations}")
    gm = fold_batch_norm(m)
    found = _pairs(gm)
    for _ in range(iterations):
        for first, second in found:
            _equalize(first, second)
    return gm


Layer = nn.Conv2d | nn.Linear


def _pairs(gm: fx.GraphModule) -> list[tuple[Layer, Layer]]:
    modules = dict(gm.named_modules())
    calls = Counter(str(n.target) for n in gm.graph.nodes if n.op == "call_module")
    pairs = []
    for node in gm.graph.nodes:
        first = _layer(node, modules, calls)
        after = node
        while first is not None and len(after.users) == 1:
            after = next(iter(after.users))
            second = _layer(after, modules, calls)
            if second is not None:
                if _input_channels(first, second) is not None:
                    pairs.append((first, second))
                break
            if not _lets_factors_through(after, modules):
                break
    return pairs


def _layer(node: fx.Node, modules: dict[str, nn.Module], calls: Counter[str]) -> Layer | None:
    module = modules.get(str(node.target)) if node.op == "call_module" else None
    used_once = calls[str(node.target)] == 1
    return module if used_once and isinstance(module, (nn.Conv2d, nn.Linear)) else None


def _lets_factors_through(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "output":
        return False
    try:
        found = role(node, modules)
    except StaysFloat:
        return False
    if found.kind == "same":
        return operation(node, modules) in _COMMUTES
    return found.kind in ("max", "avg") or (found.kind == "clamp" and found.clamp == Clamp(0.0))


def _input_channels(first: Layer, second: Layer) -> Tensor | None:
    """View of the second weight as [channels of the first, all that meets one of them]."""
    channels, weight = len(first.weight), second.weight
    if isinstance(second, nn.Conv2d) and second.groups > 1:
        # Depthwise: input channel i meets kernel i alone.
        return weight.flatten(1) if second.groups == channels == len(weight) else None
    if weight.shape[1] % channels:
        return None
    # After a flattening, each channel has become a block of features.
    return weight.view(len(weight), channels, -1).transpose(0, 1)


def _equalize(first: Layer, second: Layer) -> None:
    inputs = _input_channels(first, second)
    assert inputs is not None
    r1 = first.weight.flatten(1).abs().amax(1)
    r2 = inputs.abs().amax(tuple(range(1, inputs.ndim)))
    s = torch.where((r1 > 0) & (r2 > 0), (r1 / r2).sqrt(), torch.ones_like(r1))
    first.weight /= s.view(-1, *[1] * (first.weight.ndim - 1))
    if first.bias is not None:
        first.bias /= s
    inputs *= s.view(-1, *[1] * (inputs.ndim - 1))
