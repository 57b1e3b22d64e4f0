"""Which channels stay or go together, and which may not go: a union-find over channels."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

#: The channels along the dimensions of a tensor: a dimension that can shrink maps to int64 [its
#: size], the number of the channel that each index belongs to. Other dimensions keep their size.
Layout = dict[int, Tensor]


class Hold(NamedTuple):
    """Why a channel may not go, at which node.

    ``kind`` is "end" for what the network returns, "fixed" for what meets channels that stay, and
    "unsupported" where a node is not followed, so that its channels could go if it were.
    """

    node: str
    why: str
    kind: Literal["end", "unsupported", "fixed"]

    def __str__(self) -> str:
        return f"{self.node} {self.why}"


class Ties:
    """Disjoint sets of channels; a set goes as a whole, and only if none of it is held."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._holds: list[tuple[int, Hold]] = []

    def new(self, n: int) -> Tensor:
        """Return n new channels, each in a set of its own."""
        start = len(self._parent)
        self._parent.extend(range(start, start + n))
        return torch.arange(start, start + n)

    def roots(self, channels: Tensor) -> Tensor:
        """Return one and the same number for all channels of a set, in the shape of channels."""
        distinct, where = channels.unique(return_inverse=True)
        found = torch.tensor([self._find(c) for c in distinct.tolist()], dtype=torch.int64)
        return found[where]

    def tie(self, a: Tensor, b: Tensor) -> None:
        """Join the sets of a[i] and b[i], for every i; the shapes must broadcast."""
        pairs = torch.stack(torch.broadcast_tensors(a, b), -1).reshape(-1, 2)
        for i, j in pairs.unique(dim=0).tolist():
            i, j = self._find(i), self._find(j)
            self._parent[max(i, j)] = min(i, j)

    def hold(self, channels: Tensor, hold: Hold) -> None:
        """Keep these channels, and all that will be tied to them."""
        self._holds.extend((c, hold) for c in channels.unique().tolist())

    def held(self) -> dict[int, list[Hold]]:
        """Return the reasons by root."""
        found: dict[int, list[Hold]] = {}
        for channel, hold in self._holds:
            found.setdefault(self._find(channel), []).append(hold)
        return found

    def _find(self, channel: int) -> int:
        parent = self._parent
        while parent[channel] != channel:
            parent[channel] = parent[parent[channel]]
            channel = parent[channel]
        return channel
