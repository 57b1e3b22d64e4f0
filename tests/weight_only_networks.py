"""A language model small enough for tests of weights of a few bits, and what it reads."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qtools.models import CharGPT


def chargpt(seed: int = 0) -> CharGPT:
    torch.manual_seed(seed)
    model = CharGPT("abcdefghij", width=24, layers=2, heads=4, context=16).eval()
    for p in model.parameters():
        p.data.mul_(3)
    return model


BATCHES = [torch.randint(10, (4, 16), generator=torch.Generator().manual_seed(i)) for i in (1, 2)]


def out(model: nn.Module, batch: Tensor = BATCHES[0]) -> Tensor:
    with torch.no_grad():
        return model(batch).logits
