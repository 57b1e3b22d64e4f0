"""Static post-training quantization: prepare, calibrate, convert."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import fx, nn
from tqdm import tqdm

from qtools.ptq.fold import fold_batch_norm, norm_as_convolution
from qtools.ptq.graph import REGRIDS, Role, StaysFloat, numbers, operation, role
from qtools.ptq.recipe import Recipe
from qtools.spec import QParams

#: How `convert` learns the parameters of an activation from its observer.
Observe = Callable[[nn.Module], QParams]


def prepare(m: nn.Module, recipe: Recipe | None = None) -> fx.GraphModule:
    """Fold BatchNorm, and put an observer wherever a grid of codes will be needed.

    That is at the input and after every operation whose output is on a grid of its own
    (convolution, linear, addition, average, concatenation), behind a ReLU, ReLU6 or Hardtanh that
    follows it alone, so that only what the fused operation returns is observed. A module called
    twice gets an observer for each call.

    Where quantization-aware training joins: a layer may carry ``weight_quantizer``, any module
    with ``qparams()``; `convert` then takes the weight's parameters from it. And observers may be
    any modules with ``qparams()`` (``recipe.observer`` makes them), so a FakeQuantize serves.
    `layers` lists every layer with its input and output quantizer.

    Parameters
    ----------
    m : nn.Module
        Traceable by torch.fx, in float. Unchanged.
    recipe : Recipe, optional

    Returns
    -------
    GraphModule
        Computes what m does in eval mode; its observers are its modules ``observer_*``.

    Raises
    ------
    ValueError
        If torch.fx cannot trace m, or ``recipe.keep_float`` names nothing in it.
    """
    recipe = recipe or Recipe()
    gm = fold_batch_norm(m)
    modules = dict(gm.named_modules())
    for node in gm.graph.nodes:
        if operation(node, modules) is nn.BatchNorm2d:
            norm = modules[str(node.target)]
            assert isinstance(norm, nn.BatchNorm2d)
            if norm.running_var is not None:
                gm.add_submodule(f"{node.name}_affine", norm_as_convolution(norm))
                node.target = f"{node.name}_affine"
    modules = dict(gm.named_modules())
    kept = _kept(gm, modules, recipe)
    roles, reasons = _plan(gm, modules, kept)
    for node in list(gm.graph.nodes):
        if node in roles or node in reasons:
            node.meta["ptq"] = roles.get(node, reasons.get(node))
    for source in _sources(gm, roles):
        name = f"observer_{source.name}"
        spec = recipe.ends if _is_an_end(source, roles) else recipe.activations
        assert spec is not None
        observer = recipe.observer(spec)
        if not callable(getattr(observer, "qparams", None)):
            raise TypeError(f"observer must make modules with qparams(), got {observer!r}")
        gm.add_submodule(name, observer)
        with gm.graph.inserting_after(source):
            observed = gm.graph.call_module(name, (source,))
        source.replace_all_uses_with(observed, lambda user, o=observed: user is not o)  # type: ignore[misc]
    gm.delete_all_unused_submodules()
    gm.recompile()
    gm.meta["recipe"] = recipe
    return gm


def _kept(gm: fx.GraphModule, modules: dict[str, nn.Module], recipe: Recipe) -> set[fx.Node]:
    """Nodes that the recipe keeps in float: named themselves, or called inside a named module."""
    kept: set[fx.Node] = set()
    for name in recipe.keep_float:
        inside = {
            node
            for node in gm.graph.nodes
            if node.name == name
            or f"{node.target}.".startswith(f"{name}.")
            or any(path == name or path.startswith(f"{name}.")
                   for path, _ in node.meta.get("nn_module_stack", {}).values())
        }  # fmt: skip
        if not inside:
            raise ValueError(f"keep_float must name modules of the network, got {name!r}")
        kept |= inside
    return kept


def _plan(
    gm: fx.GraphModule, modules: dict[str, nn.Module], kept: set[fx.Node]
) -> tuple[dict[fx.Node, Role], dict[fx.Node, str]]:
    """Decide node by node what is integer, and why the rest is not."""
    plain = numbers(gm.graph)
    roles: dict[fx.Node, Role] = {}
    reasons: dict[fx.Node, str] = {}
    for node in gm.graph.nodes:
        if node.op in ("placeholder", "output", "get_attr") or node in plain or node in roles:
            continue
        try:
            found = role(node, modules)
            if node in kept:
                raise StaysFloat("kept by the recipe")
            if any(i in plain for i in found.inputs):
                raise StaysFloat("an input is not an activation")
            on_codes = [i in roles for i in found.inputs]
            if found.kind not in ("linear", "conv") and not any(on_codes):
                raise StaysFloat("its inputs are in float")
        except StaysFloat as reason:
            reasons[node] = str(reason)
            continue
        roles[node] = found
        if found.kind in ("linear", "conv", "add"):
            roles.update(_fused(node, found, modules, kept))
    return roles, reasons


def _fused(
    node: fx.Node, found: Role, modules: dict[str, nn.Module], kept: set[fx.Node]
) -> dict[fx.Node, Role]:
    """Give a node the clamp that alone follows it; the clamp itself then changes nothing."""
    users = list(node.users)
    if len(users) != 1 or users[0] in kept:
        return {}
    try:
        after = role(users[0], modules)
    except StaysFloat:
        return {}
    if after.kind != "clamp":
        return {}
    fused = Role(found.kind, found.inputs, after.clamp, {**(found.options or {}), "fused": True})
    return {node: fused, users[0]: Role("same", after.inputs)}


def _sources(gm: fx.GraphModule, roles: dict[fx.Node, Role]) -> list[fx.Node]:
    """Nodes after which a grid is chosen: float values that become codes, and new grids."""
    sources: dict[fx.Node, None] = {}
    for node in gm.graph.nodes:
        found = roles.get(node)
        if found is None:
            continue
        for i in found.inputs:
            if i not in roles:
                sources[i] = None
        if found.kind in REGRIDS:
            fused = (found.options or {}).get("fused")
            sources[next(iter(node.users)) if fused else node] = None
    return list(sources)


def _is_an_end(source: fx.Node, roles: dict[fx.Node, Role]) -> bool:
    """Whether a grid is one of the network's inputs, or reaches its output unchanged."""
    if source.op == "placeholder":
        return True
    users = list(source.users)
    while users:
        user = users.pop()
        if user.op == "output":
            return True
        if user in roles and roles[user].kind not in REGRIDS:
            users += user.users
    return False


@torch.no_grad()
def calibrate(p: fx.GraphModule, batches: Iterable[Any]) -> fx.GraphModule:
    """Show the observers what the network sees: run it on batches, in eval mode.

    Parameters
    ----------
    p : GraphModule
        From `prepare`. Its observers change.
    batches : iterable
        Each a tensor, or a tuple or list of the network's arguments.

    Returns
    -------
    GraphModule
        p itself.

    Raises
    ------
    ValueError
        If there is no batch.
    """
    _check_prepared(p)
    p.eval()
    total = len(batches) if hasattr(batches, "__len__") else None  # type: ignore[arg-type]
    start, count = time.perf_counter(), 0
    # A bar only for what takes more than two seconds.
    for batch in tqdm(batches, "calibrate", total, delay=2, leave=False):
        p(*as_arguments(batch))
        count += 1
    if count == 0:
        raise ValueError("batches must hold at least one batch, got none")
    p.meta["calibration_seconds"] = time.perf_counter() - start
    return p


def as_arguments(batch: Any) -> tuple[Any, ...]:
    """Return the positional arguments a batch stands for."""
    return tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)


def _check_prepared(p: object) -> Recipe:
    found = p.meta.get("recipe") if isinstance(p, fx.GraphModule) else None
    if not isinstance(found, Recipe):
        raise ValueError(f"p must come from ptq.prepare, got {type(p).__name__}")
    return found


class Layer(NamedTuple):
    """A weight-bearing operation of a prepared network; quantizers are modules with qparams()."""

    node: fx.Node
    module: nn.Module
    role: Role
    input: nn.Module
    output: nn.Module


def layers(p: fx.GraphModule) -> Iterator[Layer]:
    """Yield the convolutions and linear layers that will be integer, in the order they run."""
    _check_prepared(p)
    for node in p.graph.nodes:
        found = node.meta.get("ptq")
        if isinstance(found, Role) and found.kind in ("conv", "linear"):
            yield Layer(node, p.get_submodule(str(node.target)), found,
                        p.get_submodule(observer_before(p, node)),
                        p.get_submodule(observer_after(p, node)))  # fmt: skip


def observer_before(p: fx.GraphModule, node: fx.Node) -> str:
    """Return the name of the observer that chose the grid of a node's input."""
    x = node.all_input_nodes[0]
    while not is_observer(p, x):  # operations in between keep the grid
        x = x.all_input_nodes[0]
    return str(x.target)


def observer_after(p: fx.GraphModule, node: fx.Node) -> str:
    """Return the name of the observer behind a node, or behind the clamp fused into it."""
    user = next(iter(node.users))
    return str(user.target if is_observer(p, user) else next(iter(user.users)).target)


def is_observer(p: fx.GraphModule, node: fx.Node) -> bool:
    """Return whether a node calls one of the observers that `prepare` put in."""
    return node.op == "call_module" and str(node.target).startswith("observer_")
