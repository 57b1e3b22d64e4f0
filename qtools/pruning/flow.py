"""Follow channels through a traced network: from node to node, into the tensors they index."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from qtools.pruning.ties import Hold, Layout, Ties
from qtools.ptq.fold import trace
from qtools.ptq.graph import is_shape, operation

Rule = Callable[["Flow", fx.Node], Any]


class Unfollowed(ValueError):
    """Why channels cannot be followed through a node."""


def traced(model: nn.Module) -> fx.GraphModule:
    """Return a copy of the model in eval mode as an fx graph of what its output needs.

    Raises
    ------
    ValueError
        If torch.fx cannot follow the model.
    """
    try:
        gm = trace(model)
    except ValueError as error:
        raise ValueError(f"model{str(error).removeprefix('m')}") from error
    gm.graph.eliminate_dead_code()
    return gm


def copied(example: Sequence[object]) -> Any:
    """Return the arguments of a call with tensors of their own, which a model may change."""
    arguments: Any = tuple(example)
    return fx.node.map_aggregate(
        arguments, lambda v: v.detach().clone() if isinstance(v, Tensor) else v
    )


class Runner(fx.Interpreter):
    """Runs a traced network node by node; dropout does nothing, whatever its arguments say."""

    def __init__(self, gm: fx.GraphModule) -> None:
        super().__init__(gm)
        self.extra_traceback = False  # the messages are ours

    def run_node(self, n: fx.Node) -> Any:  # noqa: D102
        if n.op == "call_function" and "dropout" in getattr(n.target, "__name__", ""):
            return self.fetch_args_kwargs_from_env(n)[0][0]
        return super().run_node(n)


class _Values(Runner):
    """Notes what each node returns: its number, or the shape and type of its tensor."""

    def __init__(self, gm: fx.GraphModule) -> None:
        super().__init__(gm)
        self.found: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        self.found[n] = fx.node.map_aggregate(
            value, lambda v: v.detach().to("meta") if isinstance(v, Tensor) else v
        )
        return value


class Flow:
    """The channels of every value and every parameter of a traced network.

    Attributes
    ----------
    gm, modules, tensors
        The traced network, its modules, its parameters and buffers.
    owners
        The model's modules, also those that tracing dissolves.
    ties
        The channels, and which of them belong together.
    values
        What each node returned for the example: numbers as they are, tensors on ``meta``.
    layouts
        The channels of each node's tensor (or a tuple of layouts, for a node with several).
    slots
        Those of each parameter and buffer, by its name in the network.
    attributes
        The name of the parameter or buffer that a node reads.
    filters, gammas
        Of each layer with weights, by name: the parameter and dimension that make its output
        channels; of each BatchNorm: its parameter γ.
    normalised
        The channels that go into each normalisation, by name: it may have no tensor to tell.
    """

    def __init__(self, model: nn.Module, example: Sequence[object], rules: dict[str, Rule]) -> None:
        self.gm = gm = traced(model)
        self.modules = dict(gm.named_modules())
        self.owners = dict(model.named_modules())
        self.tensors: dict[str, Tensor] = {
            **dict(gm.named_parameters()),
            **dict(gm.named_buffers()),
        }
        self.ties = Ties()
        self.layouts: dict[fx.Node, Any] = {}
        self.slots: dict[str, Layout] = {}
        self.attributes: dict[fx.Node, str] = {}
        self.filters: dict[str, tuple[str, int]] = {}
        self.gammas: dict[str, str] = {}
        self.normalised: dict[str, Tensor] = {}
        self._names = {id(tensor): name for name, tensor in self.tensors.items()}
        run = _Values(gm)
        with torch.no_grad():
            run.run(*copied(example))
        self.values = run.found
        self._before_layers = self._reach_layers()
        for node in gm.graph.nodes:
            self.layouts[node] = self._follow(node, rules)

    def _reach_layers(self) -> set[fx.Node]:
        """Nodes whose result goes on to a layer with weights; what follows the last is output."""
        found: set[fx.Node] = set()
        for node in reversed(self.gm.graph.nodes):
            if any(user in found or self._has_weights(user) for user in node.users):
                found.add(node)
        return found

    def _has_weights(self, node: fx.Node) -> bool:
        if node.op == "call_module":
            return any(True for _ in self.modules[str(node.target)].parameters())
        return any(n.op == "get_attr" for n in node.all_input_nodes)

    def _follow(self, node: fx.Node, rules: dict[str, Rule]) -> Any:
        if node.op == "placeholder" or not self._touches_tensors(node):
            return {}
        if node.op == "get_attr":
            return self._attribute(node)
        if node.op == "output":
            for source in node.all_input_nodes:
                self._hold_all(source, Hold(source.name, "is the network's output", "end"))
            return {}
        kind = self.kind(node)
        rule = rules.get(kind)
        try:
            if rule is None:
                raise Unfollowed(f"({kind}) is not an operation that channels are followed through")
            return self._apply(rule, node)
        except Unfollowed as why:
            hold = Hold(
                node.name, str(why), "unsupported" if node in self._before_layers else "end"
            )
            for source in node.all_input_nodes:
                self._hold_all(source, hold)
            return {}

    def _apply(self, rule: Rule, node: fx.Node) -> Any:
        try:
            return rule(self, node)
        except Unfollowed:
            raise
        except Exception as error:  # a call that torch takes, in a form that the rule does not know
            raise Unfollowed(f"is called in a way that is not followed: {error}") from error

    def _touches_tensors(self, node: fx.Node) -> bool:
        touched: list[bool] = []

        def look(value: Any) -> Any:
            touched.append(isinstance(value, Tensor))
            return value

        fx.node.map_aggregate(self.values[node], look)
        return any(touched)

    def _attribute(self, node: fx.Node) -> Layout:
        value: Any = self.gm
        for part in str(node.target).split("."):
            value = getattr(value, part)
        name = self._names.get(id(value))
        if name is None:
            return {}
        self.attributes[node] = name
        return {d: self.slot(name, d) for d, size in enumerate(value.shape) if size > 1}

    def _hold_all(self, node: fx.Node, hold: Hold) -> None:
        layout = self.layouts[node]
        for part in layout if isinstance(layout, tuple) else (layout,):
            for channels in part.values():
                self.ties.hold(channels, hold)

    def kind(self, node: fx.Node) -> str:
        """Return what a node calls: a module's class, or the plain name of PyTorch's function."""
        op = operation(node, self.modules)
        if isinstance(op, str):
            return op if op.endswith("__") else op.rstrip("_")
        home = getattr(op, "__module__", None) or "torch"
        name = getattr(op, "__name__", repr(op))
        ours = home.split(".")[0] in ("torch", "_operator", "torchvision") or op is getattr
        return name.rstrip("_") if ours else f"{home}.{name}"

    def layout(self, node: object) -> Layout:
        """Return the channels of a node's one tensor; none for numbers and fixed tensors."""
        found = self.layouts.get(node, {}) if isinstance(node, fx.Node) else {}
        return cast(Layout, {} if isinstance(found, tuple) else found)

    def shape(self, node: object) -> tuple[int, ...]:
        """Return the shape of a node's tensor."""
        value = self.values.get(node) if isinstance(node, fx.Node) else None
        if not isinstance(value, Tensor):
            raise Unfollowed(f"does not take or give one tensor: {node}")
        return tuple(value.shape)

    def argument(self, node: fx.Node, name: str, position: int, default: Any = None) -> Any:
        """Return a setting of a node as it is written: a module's attribute, or an argument."""
        if node.op == "call_module":
            return getattr(self.modules[str(node.target)], name, default)
        if name in node.kwargs:
            return node.kwargs[name]
        return node.args[position] if position < len(node.args) else default

    def number(self, node: fx.Node, name: str, position: int, default: Any = None) -> Any:
        """Return a setting as the number it was for the example."""
        written = self.argument(node, name, position, default)
        return fx.node.map_arg(written, lambda n: self.values[n])

    def can_shrink(self, size: object) -> bool:
        """Return whether a size of a view follows channels: -1, or computed from their number."""
        if not isinstance(size, fx.Node):
            return isinstance(size, int) and size < 0
        source = size.args[0] if size.args else None
        if size.target is operator.getitem and isinstance(source, fx.Node) and is_shape(source):
            at: object = size.args[1]
            size = source
        else:
            at = size.args[1] if size.target == "size" and len(size.args) > 1 else None
        if not is_shape(size):
            return any(self.can_shrink(n) for n in size.all_input_nodes)
        x = size.args[0]
        layout = self.layout(x)
        return at % len(self.shape(x)) in layout if isinstance(at, int) else bool(layout)

    def x(self, node: fx.Node) -> fx.Node:
        """Return the node whose tensor an operation works on."""
        first = node.args[0] if node.args else node.kwargs.get("input", node.kwargs.get("x"))
        if not isinstance(first, fx.Node):
            raise Unfollowed("does not work on one tensor")
        self.shape(first)
        return first

    def slot(self, name: str, dim: int) -> Tensor:
        """Return the channels along a dimension of a parameter or buffer."""
        layout = self.slots.setdefault(name, {})
        if dim not in layout:
            layout[dim] = self.ties.new(self.tensors[name].shape[dim])
        return layout[dim]

    def own(self, node: fx.Node, attribute: str) -> str | None:
        """Return the name of a tensor of the module that a node calls, None if it has none."""
        value = getattr(self.modules[str(node.target)], attribute, None)
        if value is None:
            return None
        name = self._names.get(id(value))
        if name is None:
            raise Unfollowed(f"has a {attribute} that is computed, not stored")
        return name

    def match(self, node: fx.Node, a: Tensor | None, b: Tensor | None) -> Tensor | None:
        """Tie channels that meet one another; None stands for channels that never go."""
        if a is not None and b is not None:
            self.ties.tie(a, b)
        for channels in (a, b):
            if channels is not None and (a is None or b is None):
                self.ties.hold(channels, Hold(node.name, "meets what keeps its channels", "fixed"))
        return a if a is not None and b is not None else None
