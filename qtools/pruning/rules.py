"""How channels pass through operations that have no weights, and the table of all rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, fx

from qtools.pruning.flow import Flow, Rule, Unfollowed
from qtools.pruning.layers import LAYERS
from qtools.pruning.shapes import SHAPES
from qtools.pruning.ties import Layout


def _elementwise(flow: Flow, node: fx.Node) -> Layout:
    """Tie what meets, with broadcasting: dimensions are counted from the last one."""
    shape = flow.shape(node)
    operands = [n for n in node.all_input_nodes if isinstance(flow.values[n], Tensor)]
    return _broadcast(flow, node, operands, range(len(shape)))


def _broadcast(
    flow: Flow, node: fx.Node, operands: Sequence[fx.Node], dims: Sequence[int]
) -> Layout:
    shape = flow.shape(node)
    found: Layout = {}
    for d in dims:
        meeting = [
            flow.layout(n).get(own)
            for n in operands
            if (own := d - len(shape) + len(flow.shape(n))) >= 0
            and (flow.shape(n)[own] == shape[d])
            and (shape[d] > 1 or len(operands) == 1)
        ]
        if all(channels is None for channels in meeting):
            continue
        first = meeting[0]
        for channels in meeting[1:]:
            first = flow.match(node, first, channels)
        if first is not None:
            found[d] = first
    return found


def _spatial(flow: Flow, node: fx.Node) -> Layout:
    """Pool, pad or resize the last dimensions, as many as the name of the operation says."""
    x = flow.x(node)
    digits = [c for c in flow.kind(node) if c in "123"]
    spatial = int(digits[-1]) if digits else len(flow.shape(x)) - 2
    layout = flow.layout(x)
    if any(d >= len(flow.shape(x)) - spatial for d in layout):
        raise Unfollowed("pools, pads or resizes over channels")
    flow.shape(node)  # one tensor: a maximum that returns its indices too is not followed
    return layout


def _pad(flow: Flow, node: fx.Node) -> Layout:
    x = flow.x(node)
    layout, last = flow.layout(x), len(flow.shape(x)) - 1
    pads: Any = flow.number(node, "pad", 1)
    if any(any(pads[2 * (last - d) : 2 * (last - d) + 2]) for d in layout):
        raise Unfollowed("adds channels")
    return layout


def _reduction(flow: Flow, node: fx.Node) -> Layout:
    """Sum, average or take the largest over dimensions; over channels, only a sum can shrink."""
    x = flow.x(node)
    layout, n = flow.layout(x), len(flow.shape(x))
    dims = flow.number(node, "dim", 1, flow.number(node, "axis", 1))
    dims = range(n) if dims is None else [dims] if isinstance(dims, int) else dims
    dims = {d % n for d in dims}
    if flow.kind(node) != "sum" and any(d in dims for d in layout):
        raise Unfollowed("reduces over channels")
    if flow.number(node, "keepdim", 2, False):
        return {d: c for d, c in layout.items() if d not in dims}
    left = [d for d in range(n) if d not in dims]
    return {new: layout[old] for new, old in enumerate(left) if old in layout}


def _extremum(flow: Flow, node: fx.Node) -> Any:
    """Take the larger of two tensors, or values and their places along a dimension."""
    if isinstance(flow.values[node], Tensor):
        if len(node.all_input_nodes) < 2:
            raise Unfollowed("reduces over channels")
        return _elementwise(flow, node)
    layout = _reduction(flow, node)
    return layout, layout


def _part(flow: Flow, node: fx.Node) -> Layout:
    """Read an attribute: the values or places of a maximum."""
    source, name = node.args
    parts = flow.layouts[source] if isinstance(source, fx.Node) else None
    if not isinstance(parts, tuple) or name not in ("values", "indices"):
        raise Unfollowed(f"reads the attribute {name}")
    return parts[name == "indices"]


def _along(position: int, default: int | None = None) -> Rule:
    """Follow what mixes along one dimension, and only that."""

    def rule(flow: Flow, node: fx.Node) -> Layout:
        x = flow.x(node)
        layout = flow.layout(x)
        dim = flow.number(node, "dim", position, default)
        if not isinstance(dim, int) or dim % len(flow.shape(x)) in layout:
            raise Unfollowed("mixes channels")
        return layout

    return rule


def _glu(flow: Flow, node: fx.Node) -> Layout:
    """``a · sigmoid(b)`` of the two halves: their channels are tied."""
    x = flow.x(node)
    layout = dict(flow.layout(x))
    dim = flow.number(node, "dim", 1, -1) % len(flow.shape(x))
    if dim in layout:
        a, b = layout[dim].view(2, -1)
        flow.ties.tie(a, b)
        layout[dim] = a
    return layout


def _matmul(flow: Flow, node: fx.Node) -> Layout:
    a, b = node.all_input_nodes if len(node.all_input_nodes) == 2 else (node.args[0], node.args[1])
    assert isinstance(a, fx.Node)
    assert isinstance(b, fx.Node)
    n_a, n_b, n = len(flow.shape(a)), len(flow.shape(b)), len(flow.shape(node))
    if min(n_a, n_b) < 2:
        raise Unfollowed("multiplies a vector")
    flow.match(node, flow.layout(a).get(n_a - 1), flow.layout(b).get(n_b - 2))
    found = _broadcast(flow, node, (a, b), range(n - 2))
    for channels, d in ((flow.layout(a).get(n_a - 2), n - 2), (flow.layout(b).get(n_b - 1), n - 1)):
        if channels is not None:
            found[d] = channels
    return found


def _names(rule: Rule | Callable[..., Any], names: str) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), rule)


RULES: dict[str, Rule] = {
    **LAYERS,
    **SHAPES,
    **_names(_elementwise, """
        add sub mul div truediv true_divide multiply divide subtract iadd isub imul itruediv
        maximum minimum pow neg abs exp log log1p sqrt rsqrt square reciprocal sin cos where
        floor ceil round sign isnan isinf masked_fill zeros_like ones_like full_like remainder
        clamp clip clamp_min clamp_max lerp addcmul addcdiv gt lt ge le eq ne
        relu relu6 silu gelu sigmoid tanh hardtanh hardswish hardsigmoid mish elu selu celu
        leaky_relu softplus softsign logsigmoid tanhshrink hardshrink softshrink threshold erf
        dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout stochastic_depth
        contiguous clone detach float double half bfloat16 long bool to type_as expand_as
        ReLU ReLU6 SiLU GELU Sigmoid Tanh Hardtanh Hardswish Hardsigmoid Mish ELU SELU CELU
        LeakyReLU Softplus Softsign LogSigmoid Tanhshrink Hardshrink Softshrink Threshold RReLU
        Dropout Dropout1d Dropout2d Dropout3d AlphaDropout FeatureAlphaDropout Identity
    """),
    **_names(_spatial, " ".join(
        f"{name}{k}d"
        for k in (1, 2, 3)
        for name in (
            "max_pool", "avg_pool", "adaptive_avg_pool", "adaptive_max_pool", "lp_pool",
            "MaxPool", "AvgPool", "AdaptiveAvgPool", "AdaptiveMaxPool", "LPPool",
            "ZeroPad", "ConstantPad", "ReflectionPad", "ReplicationPad", "CircularPad",
        )
    )),
    **_names(_spatial, """
        interpolate upsample Upsample UpsamplingNearest2d UpsamplingBilinear2d
    """),
    **_names(_reduction, "mean sum amax amin var std logsumexp"),
    **_names(_extremum, "max min"),
    **_names(_part, "getattr"),
    **_names(_along(1), "softmax log_softmax Softmax LogSoftmax softmin Softmin cumsum"),
    **_names(_along(2, 1), "normalize"),
    **_names(_glu, "glu GLU"),
    **_names(_matmul, "matmul bmm mm"),
    "pad": _pad,
}  # fmt: skip
