"""How channels meet the weights of layers and the scales of normalisations."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx

from qtools.pruning.flow import Flow, Rule, Unfollowed
from qtools.pruning.ties import Layout


def _linear(flow: Flow, node: fx.Node) -> Layout:
    x = flow.x(node)
    last = len(flow.shape(x)) - 1
    weight, bias = _weights(flow, node)
    flow.match(node, flow.layout(x).get(last), weight.get(1))
    out = weight.get(0)
    _bias(flow, node, out, bias)
    rest = {d: c for d, c in flow.layout(x).items() if d != last}
    return rest if out is None else {**rest, last: out}


def _convolution(flow: Flow, node: fx.Node) -> Layout:
    """``weight`` is [out, in / groups, ...]; transposed, it is [in, out / groups, ...].

    A group of channels goes as a whole: what is left is a convolution of fewer groups, depthwise
    (one channel in a group) or not.
    """
    kind = flow.kind(node).lower()
    transposed, spatial = "transpose" in kind, int(kind[-2])
    x = flow.x(node)
    dim = len(flow.shape(x)) - spatial - 1
    layout = flow.layout(x)
    if any(d > dim for d in layout):
        raise Unfollowed("slides over channels")
    groups = flow.number(node, "groups", 6, 1)
    if groups > 1 and node.op != "call_module" and not _writes_groups(flow, node, groups):
        raise Unfollowed(f"writes its number of groups, {groups}, where it is called")
    out_dim, in_dim = (1, 0) if transposed and groups == 1 else (0, 1)
    weight, bias = _weights(flow, node, out_dim)
    channels = layout.get(dim)
    out: Tensor | None
    if groups == 1:
        flow.match(node, channels, weight.get(in_dim))
        out = weight.get(out_dim)
    elif channels is None:
        flow.match(node, None, weight.get(0))
        out = None
    else:
        blocks = channels.view(groups, -1)
        flow.ties.tie(blocks[:, :1], blocks)
        if transposed:
            flow.match(node, channels, weight.get(0))
            out = blocks[:, 0].repeat_interleave(flow.shape(node)[dim] // groups)
        else:
            out = weight.get(0)
            if out is None:
                raise Unfollowed("has a weight that is computed, not stored")
            flow.ties.tie(blocks[:, :1], out.view(groups, -1))
    _bias(flow, node, out, bias)
    rest = {d: c for d, c in layout.items() if d != dim}
    return rest if out is None else {**rest, dim: out}


def _writes_groups(flow: Flow, node: fx.Node, groups: int) -> bool:
    """Whether the module that holds the weight of a functional call has this attribute groups."""
    weight = flow.argument(node, "weight", 1)
    owner = str(weight.target).rpartition(".")[0] if isinstance(weight, fx.Node) else ""
    return getattr(flow.owners.get(owner), "groups", None) == groups


def _weights(flow: Flow, node: fx.Node, out_dim: int = 0) -> tuple[Layout, Layout]:
    """Return the channels of a layer's weight and bias, and note the layer.

    ``out_dim`` is where the weight has a filter for each channel: with groups always 0, where a
    transposed convolution has the input channels, which go with the outputs of their group.
    """
    if node.op == "call_module":
        weight, bias = flow.own(node, "weight"), flow.own(node, "bias")
        if weight is None:
            raise Unfollowed("has no weight")
        flow.filters.setdefault(str(node.target), (weight, out_dim))
        found = {0: flow.slot(weight, 0), 1: flow.slot(weight, 1)}
        return found, {} if bias is None else {0: flow.slot(bias, 0)}
    weight, bias = flow.argument(node, "weight", 1), flow.argument(node, "bias", 2)
    source = _source(flow, weight)
    if source is not None:
        flow.filters.setdefault(source.removesuffix(".weight"), (source, out_dim))
    return flow.layout(weight), flow.layout(bias)


def _source(flow: Flow, weight: object) -> str | None:
    """Return the name of the parameter of its shape that a weight is, or is computed from."""
    nodes = [weight] if isinstance(weight, fx.Node) else []
    for node in nodes:  # grows as it is walked
        if node in flow.attributes and flow.shape(node) == flow.shape(weight):
            return flow.attributes[node]
        nodes += [n for n in node.all_input_nodes if n not in nodes]
    return None


def _embedding(flow: Flow, node: fx.Node) -> Layout:
    weight = flow.own(node, "weight")
    assert weight is not None
    return {len(flow.shape(node)) - 1: flow.slot(weight, 1)}


def _bias(flow: Flow, node: fx.Node, out: Tensor | None, bias: Layout) -> None:
    if bias:
        flow.match(node, out, bias.get(0))


def _per_channel(flow: Flow, node: fx.Node) -> Layout:
    """Normalise each channel by itself: the tensors of BatchNorm and InstanceNorm follow it."""
    x = flow.x(node)
    layout = flow.layout(x)
    kind = flow.kind(node)
    dim = 1 if "Batch" in kind else len(flow.shape(x)) - int(kind[-2]) - 1
    if any(d > dim for d in layout):
        raise Unfollowed("normalises over channels")
    if dim in layout:
        flow.normalised[str(node.target)] = layout[dim]
    if "Batch" in kind and flow.own(node, "weight") is not None:
        flow.gammas[str(node.target)] = str(flow.own(node, "weight"))
    for attribute in ("weight", "bias", "running_mean", "running_var"):
        name = flow.own(node, attribute)
        if name is not None:
            flow.match(node, layout.get(dim), flow.slot(name, 0))
    return layout


def _batch_norm_call(flow: Flow, node: fx.Node) -> Layout:
    layout = flow.layout(flow.x(node))
    if any(d > 1 for d in layout):
        raise Unfollowed("normalises over channels")
    names = ("running_mean", "running_var", "weight", "bias")
    for position, name in enumerate(names, 1):
        operand = flow.argument(node, name, position)
        if operand is not None:
            flow.match(node, layout.get(1), flow.layout(operand).get(0))
    return layout


def _group_norm(flow: Flow, node: fx.Node) -> Layout:
    """Normalise groups of channels: a group goes as a whole."""
    layout = flow.layout(flow.x(node))
    groups = flow.number(node, "num_groups", 1)
    channels = layout.get(1)
    if any(d > 1 for d in layout) or (channels is not None and groups == 1):
        raise Unfollowed("normalises over all channels")
    if channels is not None:
        blocks = channels.view(groups, -1)
        flow.ties.tie(blocks[:, :1], blocks)
        flow.normalised[str(node.target)] = channels
    for attribute in ("weight", "bias"):
        name = flow.own(node, attribute)
        if name is not None:
            flow.match(node, channels, flow.slot(name, 0))
    return layout


def _layer_norm(flow: Flow, node: fx.Node) -> Layout:
    x = flow.x(node)
    shape: Any = flow.number(node, "normalized_shape", 1)
    first = len(flow.shape(x)) - (1 if isinstance(shape, int) else len(shape))
    layout = flow.layout(x)
    if any(d >= first for d in layout):
        raise Unfollowed("normalises over all channels")
    return layout


def _prelu(flow: Flow, node: fx.Node) -> Layout:
    layout = flow.layout(flow.x(node))
    if node.op != "call_module":
        slope = flow.argument(node, "weight", 1)
        if flow.layout(slope):
            flow.match(node, layout.get(1), flow.layout(slope).get(0))
        return layout
    name = flow.own(node, "weight")
    assert name is not None
    if flow.gm.get_parameter(name).numel() > 1:
        flow.match(node, layout.get(1), flow.slot(name, 0))
    return layout


LAYERS: dict[str, Rule] = {
    "Linear": _linear, "linear": _linear, "Embedding": _embedding,
    **{f"Conv{k}d": _convolution for k in (1, 2, 3)},
    **{f"conv{k}d": _convolution for k in (1, 2, 3)},
    **{f"ConvTranspose{k}d": _convolution for k in (1, 2, 3)},
    **{f"conv_transpose{k}d": _convolution for k in (1, 2, 3)},
    **{f"BatchNorm{k}d": _per_channel for k in (1, 2, 3)},
    **{f"InstanceNorm{k}d": _per_channel for k in (1, 2, 3)},
    "SyncBatchNorm": _per_channel, "batch_norm": _batch_norm_call,
    "GroupNorm": _group_norm, "LayerNorm": _layer_norm, "layer_norm": _layer_norm,
    "PReLU": _prelu, "prelu": _prelu,
}  # fmt: skip
