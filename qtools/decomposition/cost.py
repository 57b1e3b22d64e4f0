"""What a network costs, to be compared before and after."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from qtools.flops import macs


class Cost(NamedTuple):
    """Multiply-adds of one call, numbers that training can change, and bytes of all tensors."""

    macs: int
    parameters: int
    nbytes: int

    def __str__(self) -> str:
        return f"{self.macs:,} multiply-adds, {self.parameters:,} parameters, {self.nbytes:,} bytes"


def cost(model: nn.Module, *inputs: object) -> Cost:
    """Multiply-adds as run (`qtools.flops.macs`), parameters, bytes of parameters and buffers.

    A tensor that two layers share counts once. One multiply-add is two FLOPs.

    Parameters
    ----------
    model : nn.Module
        Called once; unchanged.
    *inputs
        Arguments of the call; with one image the count is that of one image.

    Examples
    --------
    >>> import torch
    >>> layer = nn.Linear(100, 50)
    >>> cost(layer, torch.zeros(1, 100))
    Cost(macs=5000, parameters=5050, nbytes=20200)
    """
    parameters = list(model.parameters())
    tensors = [*parameters, *model.buffers()]
    return Cost(
        macs(model, *inputs),
        sum(p.numel() for p in parameters),
        sum(t.nbytes for t in tensors),
    )
