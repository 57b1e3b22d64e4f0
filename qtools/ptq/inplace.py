"""Operations in place: after ``x.relu_()`` every name of x means the result."""

from __future__ import annotations

import inspect
import operator
from typing import Any

from torch import fx, nn

from qtools.ptq.graph import NOTHING, SAME, numbers, operation

#: ``x += y`` is ``x = operator.iadd(x, y)``; once the graph has its edges, a plain sum will do.
_OPERATORS = {getattr(operator, f"i{name}"): getattr(operator, name) for name in (
    "add", "sub", "mul", "truediv", "floordiv", "mod", "pow",
)}  # fmt: skip


class Tracer(fx.Tracer):
    """Follows a network as torch.fx does, but takes ``x += y`` for what it is, not for x + y."""

    def proxy(self, node: fx.Node) -> fx.Proxy:  # noqa: D102
        return _Proxy(node, self)


class _Proxy(fx.Proxy):
    """Stands for a value; has the operators in place that fx's own lacks."""


def _define(in_place: Any, plain: Any) -> None:
    def method(self: fx.Proxy, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy(
            "call_function", in_place, (self, other), {}, name=plain.__name__
        )

    setattr(_Proxy, f"__{in_place.__name__}__", method)


for _in_place, _plain in _OPERATORS.items():
    _define(_in_place, _plain)


def use_results(gm: fx.GraphModule) -> None:
    """Let what is used after an operation in place be the operation's result.

    In ``y = x; x.relu_(); x + y`` both terms are what the ReLU left, in torch because they share
    memory. A graph whose values are codes has no such memory; there the sharing must be an edge.

    Raises
    ------
    ValueError
        If another view of the changed memory (a part, a transpose) is used later: no edge says
        that. The message names it.
    """
    modules, plain = dict(gm.named_modules()), numbers(gm.graph)
    order = {node: i for i, node in enumerate(gm.graph.nodes)}
    for node in gm.graph.nodes:
        changed = node.args[0] if node.args else node.kwargs.get("input")
        if node in plain or not isinstance(changed, fx.Node) or not _is_in_place(node, modules):
            continue
        here, others = _sharing(changed, {n for n in order if order[n] < order[node]}, modules)
        for view in others:
            if any(order[user] > order[node] and user not in plain for user in view.users):
                raise ValueError(
                    f"m must not use {view.name} after {node.name} changed its memory in place"
                )
        for name in here:
            name.replace_all_uses_with(node, lambda user, n=node: order[user] > order[n])  # type: ignore[misc]
    for node in gm.graph.nodes:
        if node.op == "call_function":
            node.target = _OPERATORS.get(node.target, node.target)
    gm.recompile()


def _is_in_place(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return getattr(modules[str(node.target)], "inplace", False) is True
    if node.op == "call_method":
        return str(node.target).endswith("_") and not str(node.target).endswith("__")
    if node.op != "call_function":
        return False
    name = getattr(node.target, "__name__", "")
    by_name = name.endswith("_") and not name.endswith("__")
    return by_name or node.target in _OPERATORS or _argument(node, "inplace") is True


def _argument(node: fx.Node, name: str) -> Any:
    if name in node.kwargs:
        return node.kwargs[name]
    try:
        position = [*inspect.signature(node.target).parameters].index(name)  # type: ignore[arg-type]
    except (TypeError, ValueError):  # no such argument, or a builtin, whose name tells
        return None
    return node.args[position] if position < len(node.args) else None


def _sharing(
    changed: fx.Node, before: set[fx.Node], modules: dict[str, nn.Module]
) -> tuple[list[fx.Node], list[fx.Node]]:
    """Names of the changed tensor itself, and views that may overlap it, made before."""
    here, path, others = [changed], [changed], list[fx.Node]()
    while operation(path[-1], modules) in SAME and path[-1].all_input_nodes:
        exact = not others and operation(path[-1], modules) in NOTHING
        path.append(path[-1].all_input_nodes[0])
        (here if exact else others).append(path[-1])
    found = list(path)
    for source in found:
        for user in source.users:
            op = operation(user, modules)
            if user not in before or user in found or op not in SAME or _is_apart(user, path):
                continue
            found.append(user)
            (here if source in here and op in NOTHING else others).append(user)
    return here, others


def _is_apart(user: fx.Node, path: list[fx.Node]) -> bool:
    """Whether it is another of the parts that a split made."""
    taken = {node.args[1] for node in path if node.target is operator.getitem
             and node.args[0] is user.args[0] and isinstance(node.args[1], int)}  # fmt: skip
    return user.target is operator.getitem and bool(taken) and user.args[1] not in taken
