"""Compare a network that has lost channels with the whole one in which they are zero."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from qtools.pruning.channels import Channels
from qtools.pruning.flow import Runner, copied, traced

#: By how much values may differ, relative to the largest that goes in or out of a node: far more
#: than rounding, far less than a channel in the wrong place.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}


class _Masked(Runner):
    """Runs the whole network; behind every node, the channels that go are zero."""

    def __init__(self, channels: Channels, units: set[int]) -> None:
        super().__init__(channels.flow.gm)
        self.flow = channels.flow
        self.units = torch.tensor(sorted(units), dtype=torch.int64)
        self.left: list[Any] = []

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if not isinstance(value, Tensor):
            self.left.append(None)
            return value
        left = value.detach()
        for dim, of in self.flow.layout(n).items():
            gone = torch.isin(self.flow.ties.roots(of), self.units)
            if gone.any():
                value = value.index_fill(dim, gone.nonzero().flatten().to(value.device), 0)
                left = left.index_select(dim, (~gone).nonzero().flatten().to(value.device))
        self.left.append(left.clone())
        return value


class _Compared(Runner):
    """Runs the smaller network, and compares the value of every node."""

    def __init__(self, gm: fx.GraphModule, expected: Sequence[Any]) -> None:
        super().__init__(gm)
        self.expected = dict(zip(gm.graph.nodes, expected, strict=True))

    def run_node(self, n: fx.Node) -> Any:
        try:
            value = super().run_node(n)
        except Exception as error:
            raise ValueError(
                f"node {n.name} cannot be run with fewer channels (is a size written in the"
                f" code?): {error}"
            ) from error
        expected = self.expected[n]
        if not isinstance(value, Tensor) or not isinstance(expected, Tensor):
            return value
        if value.shape != expected.shape:
            raise ValueError(
                f"node {n.name} must have shape {list(expected.shape)} without the channels, but"
                f" gives {list(value.shape)}: its size does not follow from theirs"
            )
        if value.is_floating_point() and not self._is_close(n, value, expected):
            raise ValueError(
                f"node {n.name} computes another value than with the channels at zero: it depends"
                " on how many there are, or on chance"
            )
        return value

    def _is_close(self, n: fx.Node, value: Tensor, expected: Tensor) -> bool:
        around = [
            expected,
            *(e for i in n.all_input_nodes if isinstance(e := self.expected[i], Tensor)),
        ]
        largest = [float(t.double().nan_to_num(0, 0, 0).abs().max()) for t in around if t.numel()]
        tolerance = _TOLERANCE.get(value.dtype, 0.05) * max(largest, default=0.0)
        return torch.allclose(value.double(), expected.double(), 0, tolerance, equal_nan=True)


def check_pruned(channels: Channels, pruned: nn.Module, units: set[int]) -> None:
    """Refuse a network that does not compute what the model does with these channels at zero.

    Raises
    ------
    ValueError
        If a node of the network fails, has another shape or another value; the message names it.
    """
    if not units:
        return
    smaller = traced(pruned)
    nodes, others = list(channels.flow.gm.graph.nodes), list(smaller.graph.nodes)
    for a, b in zip(nodes, others, strict=False):
        if (a.op, a.name) != (b.op, b.name):
            raise ValueError(f"node {a.name} is {b.name} with fewer channels: the code chose anew")
    if len(nodes) != len(others):
        raise ValueError("model must not change its operations with the number of channels")
    with torch.no_grad():
        whole = _Masked(channels, units)
        whole.run(*copied(channels.example))
        _Compared(smaller, whole.left).run(*copied(channels.example))
