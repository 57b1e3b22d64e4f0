"""Channel groups: the channels of a network that can only be removed together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn
from torch.nn.utils import parametrize

from qtools.pruning.flow import Flow
from qtools.pruning.rules import RULES
from qtools.pruning.ties import Hold

#: The arguments of a call: one tensor, or all of them in a tuple or list.
Example = Tensor | tuple[object, ...] | list[object]
Unsupported = Literal["refuse", "keep"]
#: Which of several reasons to name.
_PRECEDENCE = ("end", "unsupported", "fixed")


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that stay or go together, in all layers that make, scale or read them.

    Attributes
    ----------
    name
        The first layer that makes them.
    channels
        How many can be removed one by one. Each is one output channel of every layer in
        ``outputs``, or a block of them where a network flattens, shuffles or groups.
    outputs, inputs
        The layers that lose output channels (rows of their weights) and input channels (columns).
    held
        Why no channel of it can be removed, None if all can. Some can where a part of them is
        joined with what keeps its channels; then ``channels`` counts those that can.
    """

    name: str
    channels: int
    outputs: tuple[str, ...]
    inputs: tuple[str, ...]
    held: str | None
    _units: tuple[int, ...] = field(repr=False)
    _holds: tuple[Hold, ...] = field(repr=False)


class Channels:
    """What `channel_groups` finds, with the channels of every parameter."""

    def __init__(self, model: nn.Module, example_inputs: Example) -> None:
        check_model(model)
        several = isinstance(example_inputs, (tuple, list))
        self.example = tuple(example_inputs) if several else (example_inputs,)
        self.flow = flow = Flow(model, self.example, RULES)
        self.roots = {
            (name, dim): flow.ties.roots(channels)
            for name, layout in flow.slots.items()
            for dim, channels in layout.items()
        }
        self.slots = {slot: set(roots.tolist()) for slot, roots in self.roots.items()}
        self.held = flow.ties.held()
        self.groups = self._groups()

    def _groups(self) -> list[ChannelGroup]:
        """Layers are in one group if they share a channel, directly or through others."""
        members: list[tuple[list[str], set[int]]] = []
        for layer, slot in self.flow.filters.items():
            layers, units = [layer], set(self.slots[slot])
            for other in [m for m in members if m[1] & units]:
                members.remove(other)
                layers, units = other[0] + layers, units | other[1]
            members.append((layers, units))
        order = list(self.flow.filters)
        groups = []
        for layers, units in members:
            layers.sort(key=order.index)
            groups.append(self._group(tuple(layers), units))
        return sorted(groups, key=lambda g: order.index(g.name))

    def _group(self, layers: tuple[str, ...], units: set[int]) -> ChannelGroup:
        free = tuple(sorted(u for u in units if u not in self.held))
        reads = [
            layer
            for layer, (name, dim) in self.flow.filters.items()
            if units & self.slots.get((name, 1 - dim), set())
        ]
        holds = [h for u in sorted(units) for h in self.held.get(u, [])]
        held = None if free else str(min(holds, key=lambda h: _PRECEDENCE.index(h.kind)))
        # What the network returns is kept anyway, whatever else it meets.
        ended = {u for u in units if any(h.kind == "end" for h in self.held.get(u, []))}
        refused = [h for u in sorted(units - ended) for h in self.held.get(u, [])]
        refused = [h for h in refused if h.kind == "unsupported"]
        return ChannelGroup(
            layers[0], len(free), layers, tuple(reads), held, free, tuple(dict.fromkeys(refused))
        )


def channel_groups(model: nn.Module, example_inputs: Example) -> list[ChannelGroup]:
    """Find which channels can only be removed together, in the order in which layers make them.

    Output channel c of a layer is row c of its weight. It meets entry c of the BatchNorm behind
    it, column c of the next layer; an addition ties it to channel c of the other branch, a
    flattening spreads it over h·w features, a concatenation moves it by an offset. Each channel
    of each parameter gets a number, the traced network is followed once, and numbers that meet
    are tied; what is tied to the network's input or output stays.

    Followed are convolutions (grouped and depthwise: a group goes as a whole; transposed), linear
    layers, normalisations by channel or by group, activations, sums and products of activations
    and of parameters, pooling, views, permutations, concatenation, equal parts, channel and pixel
    shuffles, matrix products; called as modules, functions or methods, once or several times.

    Parameters
    ----------
    model : nn.Module
        Traceable by torch.fx. Unchanged.
    example_inputs : Tensor or tuple
        What the model is called with.

    Returns
    -------
    list of ChannelGroup
        All groups. Those that must keep their channels say why in ``held``: at which node.

    Raises
    ------
    ValueError
        If torch.fx cannot trace the model, or a weight is parametrised.
    """
    return Channels(model, example_inputs).groups


def check_model(model: nn.Module) -> None:
    """Refuse what has no plain weights to slice."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
    for name, module in model.named_modules():
        lost = isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)) and not isinstance(
            module._parameters.get("weight"), nn.Parameter
        )
        if lost or parametrize.is_parametrized(module):
            raise ValueError(
                f"model must have plain weights, {name or 'model'} computes its own: make masks"
                " permanent first (bake_masks), remove other parametrizations"
            )
