"""Packed models to try OneBitWriter on: a small one, and one of the teacher's size."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from qtools.explore import one_bit_writer
from qtools.explore.one_bit_writer import OneBitWriter
from qtools.models import CharGPT
from qtools.onebit import convert_, pack_

CHARACTERS = "".join(sorted(set(one_bit_writer.SENTENCE + "The white \n")))


@cache
def small() -> CharGPT:
    """Two blocks of width 40, untrained: rows of 40 and 160 bits are padded."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CharGPT(CHARACTERS, width=40, layers=2, heads=2, context=48)
        for p in model.parameters():  # 20 times the spread at the start: no two logits are close
            if p.ndim == 2:
                torch.nn.init.normal_(p)
    convert_(model)
    pack_(model)
    return model.eval()


@cache
def large() -> CharGPT:
    """The distilled model of the package."""
    return one_bit_writer.read(one_bit_writer.DEFAULT)


class SmallWriter(OneBitWriter):
    """A writer that needs no argument."""

    def __init__(self, **state: Any) -> None:
        super().__init__(small(), **state)
