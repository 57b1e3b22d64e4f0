"""Which nodes of a traced network can work on codes, and what each of them is."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import fx, nn

from qtools.ptq.arithmetic import Window
from qtools.requantizer import Clamp

Kind = Literal["linear", "conv", "add", "avg", "cat", "max", "clamp", "same"]
#: Operations whose output is on a grid of its own: it needs an observer.
REGRIDS = ("linear", "conv", "add", "avg", "cat")


@dataclass(frozen=True)
class Role:
    """What a node does, in the terms of the integer modules.

    ``inputs`` are the nodes it takes codes from, ``clamp`` an activation (its own, or the one
    fused into it), ``options`` the further arguments of its integer module.
    """

    kind: Kind
    inputs: tuple[fx.Node, ...]
    clamp: Clamp = Clamp()  # noqa: RUF009 - an immutable tuple
    options: dict[str, Any] | None = None


class StaysFloat(ValueError):
    """Why a node cannot work on codes."""


_ADD = {operator.add, operator.iadd, torch.add, "add", "add_"}
_RELU = {F.relu, torch.relu, torch.relu_, "relu", "relu_", nn.ReLU}
_RELU6 = {F.relu6, nn.ReLU6}
_HARDTANH = {F.hardtanh, F.hardtanh_, nn.Hardtanh}
_MAX = {F.max_pool2d, torch.max_pool2d, nn.MaxPool2d}
_AVG = {F.avg_pool2d, torch._C._nn.avg_pool2d, nn.AvgPool2d}
_ADAPTIVE = {F.adaptive_avg_pool2d, nn.AdaptiveAvgPool2d}
#: Operations that move codes, or pass them on.
SAME = {
    nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d,
    nn.ChannelShuffle, nn.Unflatten, nn.PixelShuffle, torch.flatten, torch.reshape,
    torch.transpose, torch.permute,
    torch.squeeze, torch.unsqueeze, torch.chunk, torch.split, torch.narrow, F.dropout, F.dropout2d,
    F.pixel_shuffle, operator.getitem, "flatten", "view", "reshape", "transpose", "permute",
    "squeeze", "unsqueeze", "chunk", "split", "contiguous", "expand", "narrow",
}  # fmt: skip
#: Those of them that change nothing outside of training.
NOTHING = {nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, F.dropout,
           F.dropout2d}  # fmt: skip
_NOT_TENSORS = {"size", "dim", "numel", "stride", "ndimension"}


def operation(node: fx.Node, modules: dict[str, nn.Module]) -> Any:
    """Return what a node calls: a module's type, a function, or a method's name."""
    return type(modules[str(node.target)]) if node.op == "call_module" else node.target


def is_shape(node: fx.Node) -> bool:
    """Return whether a node asks a tensor for its shape, which codes have in common with it."""
    by_name = node.target is getattr and node.args[1] in ("shape", "ndim")
    return by_name or (node.op == "call_method" and node.target in _NOT_TENSORS)


def numbers(graph: fx.Graph) -> set[fx.Node]:
    """Return the nodes that hold shapes and other plain numbers, not tensors."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        inputs = node.all_input_nodes
        is_setting = node.target is getattr and node.args[1] in ("dtype", "device")
        if is_shape(node) or is_setting or (inputs and all(i in found for i in inputs)):
            found.add(node)
    return found


def role(node: fx.Node, modules: dict[str, nn.Module]) -> Role:
    """Return what a node does on codes.

    Raises
    ------
    StaysFloat
        If it has no integer form; the message is the reason in the report.
    """
    if node.op not in ("call_module", "call_function", "call_method"):
        raise StaysFloat("not an operation")
    op = operation(node, modules)
    args = _Arguments(node, modules)
    x = node.args[0] if node.args else node.kwargs.get("input")
    if op is nn.Linear or op is nn.Conv2d or _is_layer_subclass(op):
        module = modules[str(node.target)]
        return _layer(module, _node(x))
    if op in _ADD:
        return _add(node)
    if op in _RELU:
        return Role("clamp", (_node(x),), Clamp(0.0))
    if op in _RELU6:
        return Role("clamp", (_node(x),), Clamp(0.0, 6.0))
    if op in _HARDTANH:
        ends = args.get("min_val", 1, -1.0), args.get("max_val", 2, 1.0)
        return Role("clamp", (_node(x),), Clamp(*map(float, ends)))
    if op in _MAX:
        return Role("max", (_node(x),), options={"window": _pool(args, is_max=True)})
    if op in _AVG:
        return Role("avg", (_node(x),), options={"window": _pool(args, is_max=False)})
    if op in _ADAPTIVE:
        size = _pair(args.get("output_size", 1, None))
        return Role("avg", (_node(x),), options={"adaptive": size})
    if op in (torch.mean, "mean"):
        dims, keepdim = args.get("dim", 1, None), args.get("keepdim", 2, False)
        if not isinstance(dims, (list, tuple)) or {*dims} not in ({2, 3}, {-1, -2}):
            raise StaysFloat("a mean, but not over height and width")
        return Role("avg", (_node(x),), options={"keepdim": bool(keepdim)})
    if op in (torch.cat, torch.concat):
        tensors = node.args[0] if node.args else node.kwargs["tensors"]
        if not isinstance(tensors, (list, tuple)):
            raise StaysFloat("its inputs are not listed one by one")
        dim = args.get("dim", 1, 0)
        return Role("cat", tuple(_node(t) for t in tensors), options={"dim": dim})
    if op in SAME:
        return Role("same", (_node(x),))
    if op in (F.conv2d, torch.conv2d, F.linear):
        raise StaysFloat("its weight is not in a module")
    raise StaysFloat("no integer form of this operation")


def _is_layer_subclass(op: Any) -> bool:
    return isinstance(op, type) and issubclass(op, (nn.Linear, nn.Conv2d))


def _node(x: object) -> fx.Node:
    if not isinstance(x, fx.Node) or x.op == "get_attr":
        raise StaysFloat("an input is not an activation")
    return x


def _layer(module: nn.Module, x: fx.Node) -> Role:
    if not isinstance(module, nn.Conv2d):
        return Role("linear", (x,))
    if module.padding_mode != "zeros":
        raise StaysFloat(f"padding mode {module.padding_mode!r}")
    padding = module.padding
    if isinstance(padding, str):
        spans = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        if padding == "same" and any(s % 2 for s in spans):
            raise StaysFloat("more padding on one side")
        padding = tuple(s // 2 for s in spans) if padding == "same" else (0, 0)
    window = Window(*map(_pair, (module.kernel_size, module.stride, padding, module.dilation)))
    return Role("conv", (x,), options={"window": window, "groups": module.groups})


def _add(node: fx.Node) -> Role:
    terms = [*node.args, *(v for k, v in node.kwargs.items() if k in ("other", "input"))]
    if len(terms) != 2 or node.kwargs.get("alpha", 1) != 1:
        raise StaysFloat("an addition with a factor")
    return Role("add", (_node(terms[0]), _node(terms[1])))


def _pool(args: _Arguments, is_max: bool) -> Window:
    kernel = _pair(args.get("kernel_size", 1, None))
    stride = _pair(args.get("stride", 2, None) or kernel)
    padding = _pair(args.get("padding", 3, 0))
    dilation = _pair(args.get("dilation", 4, 1)) if is_max else (1, 1)
    if args.get("ceil_mode", 5 if is_max else 4, False):
        raise StaysFloat("ceil_mode")
    if is_max and args.get("return_indices", 6, False):
        raise StaysFloat("return_indices")
    if not is_max and (padding != (0, 0) or args.get("divisor_override", 6, None)):
        raise StaysFloat("an average with padding or a divisor of its own")
    return Window(kernel, stride, padding, dilation)


class _Arguments:
    """Settings of an operation, whether attributes of a module or arguments of a call."""

    def __init__(self, node: fx.Node, modules: dict[str, nn.Module]) -> None:
        self.node = node
        self.module = modules[str(node.target)] if node.op == "call_module" else None

    def get(self, name: str, position: int, default: Any) -> Any:
        if self.module is not None:
            return getattr(self.module, name, default)
        if name in self.node.kwargs:
            value = self.node.kwargs[name]
        else:
            value = self.node.args[position] if position < len(self.node.args) else default
        if isinstance(value, fx.Node):
            raise StaysFloat(f"{name} is computed")
        return value


def _pair(value: Any) -> tuple[Any, Any]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value, value)
