"""Quantization-aware training: prepare, train with any loop, freeze, convert."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import fx, nn

from qtools import ptq
from qtools.observers import MovingAverageObserver
from qtools.ptq.flow import Layer, observer_before
from qtools.ptq.recipe import Recipe
from qtools.ptq.simulate import FixedQParams
from qtools.qat.layer import QATLayer, to_quantize
from qtools.qat.quantizers import FakeQuantize, Quantizer, WeightObserver


def prepare_qat(
    m: nn.Module,
    batches: Iterable[Any],
    recipe: Recipe | None = None,
    quantizer: Callable[[nn.Module], Quantizer] = FakeQuantize,
) -> fx.GraphModule:
    """Return a network that rounds its weights and activations, ready to be trained.

    ``ptq.prepare`` and ``ptq.calibrate`` decide where grids are needed and what they start from.
    Then a quantizer takes the place of each observer, and a `QATLayer` that of each layer; it
    keeps BatchNorm, which trains along.

    Train the result as any network: its parameters are the latent weights, those of BatchNorm,
    and the steps if they are learned. Near the end, `freeze_batch_norm` and `freeze_ranges` let
    it settle on what the integers will be; then `convert`.

    Parameters
    ----------
    m : nn.Module
        Traceable by torch.fx, in float, best trained already. Unchanged.
    batches : iterable
        Calibration data, as for `ptq.calibrate`.
    recipe : Recipe, optional
        As for `ptq.prepare`. Without it the default with `MovingAverageObserver`.
    quantizer : callable
        `FakeQuantize` or `LearnedStep`, for weights and activations.

    Returns
    -------
    GraphModule
        In eval mode.

    Raises
    ------
    ValueError
        If torch.fx cannot trace m, there is no batch, or nothing can be integer.
    """
    recipe = recipe or Recipe(observer=MovingAverageObserver)
    p = ptq.calibrate(ptq.prepare(m, recipe), batches)
    found = list(ptq.layers(p))
    if not found:
        raise ValueError("m must have a convolution or linear layer that can be integer")
    for name, observer in list(p.named_children()):
        if name.startswith("observer_"):
            setattr(p, name, quantizer(observer))
    for layer in found:
        name = str(layer.node.target)
        if not isinstance(p.get_submodule(name), QATLayer):  # a shared layer comes more than once
            p.set_submodule(name, _in_training(m, p, layer, recipe, quantizer))
        with p.graph.inserting_before(layer.node):
            x_quantizer = p.graph.get_attr(observer_before(p, layer.node))
        layer.node.args = (layer.node.all_input_nodes[0], x_quantizer)
        layer.node.kwargs = {}
    p.recompile()
    p.requires_grad_()
    return p.eval()


def _in_training(
    m: nn.Module,
    p: fx.GraphModule,
    layer: Layer,
    recipe: Recipe,
    quantizer: Callable[[nn.Module], Quantizer],
) -> QATLayer:
    """Return a layer of m as it was before `ptq.prepare` folded BatchNorm into it."""
    name, latent, norm = str(layer.node.target), layer.module, None
    if name in p.meta["folded"]:
        latent = copy.deepcopy(m.get_submodule(name))
        norm = copy.deepcopy(m.get_submodule(p.meta["folded"][name]))
    assert isinstance(latent, (nn.Conv2d, nn.Linear))
    assert norm is None or isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d))
    observer = WeightObserver(recipe.weights, recipe.weight_range)
    per_channel = recipe.weights.granularity == "channel"
    observer(to_quantize(latent.weight, norm, per_channel))
    return QATLayer(latent, norm, quantizer(observer))


def freeze_batch_norm(p: fx.GraphModule) -> None:
    """Normalise with the running statistics from now on, in training mode too; γ and β learn on.

    The statistics of a batch jitter, and the folded weight jitters with them; frozen, the network
    trains exactly as it will be used (Krishnamoorthi 2018, section 3.2.2).
    """
    for layer in qat_layers(p):
        layer.norm_is_frozen = True
        layer.train(layer.training)


def freeze_ranges(p: fx.GraphModule) -> None:
    """Keep all scales and zero points as they are from now on: observers stop, steps do not learn.

    A clipped weight then stays clipped, and a rounding edge stays where it is.
    """
    for module in _qat_network(p).modules():
        if isinstance(module, Quantizer):
            module.freeze()


@torch.no_grad()
def fold(p: fx.GraphModule) -> fx.GraphModule:
    """Return the prepared network that p stands for: plain layers, BatchNorm folded, fixed grids.

    All of `qtools.ptq` takes it: `ptq.correct_bias`, `ptq.convert`, and `ptq.simulate`, which is
    then equal to p in eval mode (but for the bias of a shared layer, which p rounds call by call).

    Parameters
    ----------
    p : GraphModule
        From `prepare_qat`, trained. Unchanged.
    """
    result = copy.deepcopy(_qat_network(p)).eval()
    for layer in ptq.layers(result):
        layer.node.args = layer.node.args[:1]
    for node in list(result.graph.nodes):
        if node.op == "get_attr" and not node.users:
            result.graph.erase_node(node)
    result.recompile()
    for name, module in list(result.named_modules()):
        if isinstance(module, QATLayer):
            weight, bias, qp = module.folded()
            plain = copy.deepcopy(module.layer)
            plain.weight = nn.Parameter(weight)
            plain.bias = None if bias is None else nn.Parameter(bias)
            plain.weight_quantizer = FixedQParams(qp)
            result.set_submodule(name, plain)
        elif isinstance(module, Quantizer) and name.startswith("observer_"):
            setattr(result, name, FixedQParams(module.qparams()))
    return result


def convert(p: fx.GraphModule) -> fx.GraphModule:
    """Return the trained network in integers: ``ptq.convert(fold(p))``.

    Its codes are those of p in eval mode, save where a float32 sum and the exact one fall on
    different sides of a rounding edge: one unit, in few places.
    """
    return ptq.convert(fold(p))


def qat_layers(p: fx.GraphModule) -> Iterator[QATLayer]:
    """Yield the layers of a network from `prepare_qat`.

    Raises
    ------
    ValueError
        If p does not come from there.
    """
    for module in _qat_network(p).modules():
        if isinstance(module, QATLayer):
            yield module


def _qat_network(p: object) -> fx.GraphModule:
    if not isinstance(p, fx.GraphModule) or not any(isinstance(m, QATLayer) for m in p.modules()):
        raise ValueError(f"p must come from qat.prepare_qat, got {type(p).__name__}")
    return p
