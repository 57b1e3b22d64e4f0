"""From a calibrated network to one of integer modules."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from qtools.affine import quantize
from qtools.integer import quantize_bias
from qtools.ptq import modules as integer
from qtools.ptq.arithmetic import Window
from qtools.ptq.flow import Observe, _check_prepared, is_observer, observer_after
from qtools.ptq.graph import NOTHING, Role, is_shape, operation
from qtools.ptq.recipe import Recipe
from qtools.ptq.report import Report, Row
from qtools.ptq.weights import weight_qparams
from qtools.spec import QParams


def convert(p: fx.GraphModule) -> fx.GraphModule:
    """Return the network in integers: codes between its modules, each with integer arithmetic.

    Real numbers become codes once at the input and come back at the output; around operations
    that stay in float they are converted on the way in and out. `report` says which those are.

    Parameters
    ----------
    p : GraphModule
        From `prepare`, calibrated, or from quantization-aware training. Unchanged.

    Raises
    ------
    RuntimeError
        If an observer has seen nothing.
    ValueError
        If p does not come from `prepare`.
    """
    return build(p, lambda observer: observer.qparams())  # type: ignore[operator]


def build(p: fx.GraphModule, qparams: Observe) -> fx.GraphModule:
    """Convert with quantization parameters from ``qparams(observer)``."""
    recipe = _check_prepared(p)
    return _Builder(p, recipe, qparams).run()


class _Builder:
    """Copies a graph, keeping for each value its real form, its codes, or both."""

    def __init__(self, p: fx.GraphModule, recipe: Recipe, qparams: Observe) -> None:
        self.p, self.recipe = p, recipe
        self.modules = dict(p.named_modules())
        self.grid = {
            name: qparams(module)
            for name, module in self.modules.items()
            if name.startswith("observer_")
        }
        self.graph = fx.Graph()
        self.root: dict[str, Any] = {}
        self.real: dict[fx.Node, fx.Node] = {}
        self.codes: dict[fx.Node, fx.Node] = {}
        self.grids: dict[fx.Node, QParams] = {}
        self.rows: list[Row] = []

    def run(self) -> fx.GraphModule:
        for node in self.p.graph.nodes:
            found = node.meta.get("ptq")
            if is_observer(self.p, node):
                self._observer(node)
            elif isinstance(found, Role):
                self._integer(node, found)
            else:
                form = self._as_any if is_shape(node) else self._as_real
                self.real[node] = self.graph.node_copy(node, form)
                self._keep(node)
                if isinstance(found, str):
                    self.rows.append(Row(node.name, self._what(node), False, found))
        for node in self.graph.nodes:  # memory is channels-last where the float network's was not
            if node.op == "call_method" and node.target == "view":
                node.target = "reshape"
        _pool_accumulators(self.graph, self.root)
        gm = fx.GraphModule(self.root, self.graph).eval()
        gm.meta["report"] = Report(tuple(self.rows))
        return gm

    def _observer(self, node: fx.Node) -> None:
        source = node.args[0]
        assert isinstance(source, fx.Node)
        self.grids[node] = self.grid[str(node.target)]
        for known in (self.real, self.codes):
            if source in known:
                known[node] = known[source]

    def _integer(self, node: fx.Node, found: Role) -> None:
        inputs = [self._as_codes(i) for i in self._sources(node, found)]
        grids = [self.grids[i] for i in self._sources(node, found)]
        self.rows.append(Row(node.name, self._what(node), True))
        if found.kind == "same":
            self.grids[node] = grids[0]
            if operation(node, self.modules) in NOTHING or self._is_fused_clamp(node):
                self.codes[node] = inputs[0]
            else:
                source = node.all_input_nodes[0]
                self.codes[node] = self.graph.node_copy(
                    node, lambda n: inputs[0] if n is source else self._as_real(n)
                )
                self._keep(node)
            return
        module = self._module(node, found, grids)
        args: tuple[Any, ...] = (inputs,) if found.kind == "cat" else tuple(inputs)
        self.codes[node] = self._call(node.name, module, args)

    def _sources(self, node: fx.Node, found: Role) -> list[fx.Node]:
        """Inputs as the prepared graph has them, behind their observers."""
        if found.kind == "cat":
            tensors = node.args[0] if node.args else node.kwargs["tensors"]
            return list(tensors)  # type: ignore[arg-type]
        return [*node.all_input_nodes[:1]] if len(found.inputs) == 1 else self._terms(node)

    def _terms(self, node: fx.Node) -> list[fx.Node]:
        return [v for v in (*node.args, *node.kwargs.values()) if isinstance(v, fx.Node)]

    def _is_fused_clamp(self, node: fx.Node) -> bool:
        found = node.all_input_nodes[0].meta.get("ptq")
        return isinstance(found, Role) and bool((found.options or {}).get("fused"))

    def _module(self, node: fx.Node, found: Role, grids: list[QParams]) -> nn.Module:
        options = {k: v for k, v in (found.options or {}).items() if k != "fused"}
        if found.kind == "max":
            self.grids[node] = grids[0]
            return integer.IntegerMaxPool2d(**options)
        if found.kind == "clamp":
            self.grids[node] = grids[0]
            return integer.IntegerClamp(grids[0], found.clamp)
        self.grids[node] = out = self.grid[observer_after(self.p, node)]
        if found.kind == "add":
            return integer.IntegerAdd(grids[0], grids[1], out, found.clamp)
        if found.kind == "avg":
            return integer.IntegerAvgPool2d(grids[0], out, **options)
        if found.kind == "cat":
            return integer.IntegerCat(grids, out, **options)
        layer = self.modules[str(node.target)]
        if not isinstance(layer, (nn.Conv2d, nn.Linear)):
            raise ValueError(
                f"p must have plain layers, {node.target} is a {type(layer).__name__}:"
                " a network from prepare_qat is converted by qat.convert"
            )
        weight = layer.weight.detach()
        w_qp = room_for_bias(weight_qparams(layer, self.recipe), layer.bias, grids[0])
        real_bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias
        bias = quantize_bias(real_bias, grids[0], w_qp)
        make = integer.IntegerConv2d if found.kind == "conv" else integer.IntegerLinear
        return make(quantize(weight, w_qp), bias, grids[0], w_qp, out, found.clamp, **options)

    def _as_real(self, node: fx.Node) -> fx.Node:
        if node not in self.real:
            module = integer.Dequantize(self.grids[node])
            codes = self.codes[node]
            known = [n for n, c in self.codes.items() if c is codes and n in self.real]
            self.real[node] = (
                self.real[known[0]] if known else self._call(f"{codes.name}_real", module, (codes,))
            )
        return self.real[node]

    def _as_any(self, node: fx.Node) -> fx.Node:
        return self.codes[node] if node in self.codes else self.real[node]

    def _as_codes(self, node: fx.Node) -> fx.Node:
        if node not in self.codes:
            module = integer.Quantize(self.grids[node])
            name = f"{self.real[node].name}_codes"
            self.codes[node] = self._call(name, module, (self.real[node],))
        return self.codes[node]

    def _call(self, name: str, module: nn.Module, args: tuple[Any, ...]) -> fx.Node:
        taken = {path.split(".")[0] for path in self.root}
        while name in taken:
            name = f"{name}_integer"
        self.root[name] = module
        return self.graph.call_module(name, args)

    def _keep(self, node: fx.Node) -> None:
        """Take along the module or parameter that a copied node refers to."""
        if node.op == "call_module":
            self.root[str(node.target)] = self.modules[str(node.target)]
        elif node.op == "get_attr":
            value: Any = self.p
            for part in str(node.target).split("."):
                value = getattr(value, part)
            self.root[str(node.target)] = value

    def _what(self, node: fx.Node) -> str:
        op = operation(node, self.modules)
        return op if isinstance(op, str) else getattr(op, "__name__", str(op))


def room_for_bias(w_qp: QParams, bias: Tensor | None, x_qp: QParams | None) -> QParams:
    """Widen the scale of a channel so small beside its bias that ``b / (s_x s_w)`` overflows.

    Such weights add next to nothing; 2^29 leaves the sum of products the rest of int32.
    """
    if bias is None or x_qp is None:
        return w_qp
    needed = bias.detach().abs().double() / (x_qp.scale.double() * 2**29)
    needed = needed if w_qp.scale.ndim else needed.max()
    scale = torch.maximum(w_qp.scale.double(), needed * (1 + 1e-6)).to(w_qp.scale.dtype)
    return QParams(scale, w_qp.zero_point, w_qp.spec)


def _pool_accumulators(graph: fx.Graph, root: dict[str, Any]) -> None:
    """Let a convolution do the max-pooling that alone follows it, before it requantizes."""
    for node in list(graph.nodes):
        pool = root.get(str(node.target)) if node.op == "call_module" else None
        if not isinstance(pool, integer.IntegerMaxPool2d):
            continue
        before = node.args[0]
        conv = root.get(str(before.target)) if isinstance(before, fx.Node) else None
        if isinstance(conv, integer.IntegerConv2d) and len(before.users) == 1:
            window: Window = pool.window
            conv.pool = window
            node.replace_all_uses_with(before)
            graph.erase_node(node)
            del root[str(node.target)]
