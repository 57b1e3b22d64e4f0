"""A packed dot product in steps, without a browser."""

from __future__ import annotations

import random

import pytest
import torch

from qtools.explore import PackedDot
from qtools.explore.packed_dot import COLUMNS, GROUP, SHARED, STEPS
from qtools.onebit.packing import pack_signs


def a_row(rng: random.Random, **state: object) -> PackedDot:
    x = {f"x{j}": rng.uniform(-4, 4) for j in range(COLUMNS)}
    return PackedDot(bits=rng.randrange(2**COLUMNS), **x, **state)


@pytest.mark.parametrize("way", STEPS)
def test_every_way_ends_at_the_product(way: str) -> None:
    rng = random.Random(0)
    for _ in range(20):
        figure = a_row(rng, way=way, step=COLUMNS + 1)
        signs = [-1.0 if figure.bits >> j & 1 else 1.0 for j in range(COLUMNS)]
        assert torch.equal(figure.packed(), pack_signs(torch.tensor([signs])))
        expected = sum(s * getattr(figure, f"x{j}") for j, s in enumerate(signs))
        shown = figure.compute()
        assert shown["sum"] == pytest.approx(expected, abs=1e-12)
        assert shown["result"] == pytest.approx(expected, abs=1e-12)
        assert shown["bytes"] == 2


def test_steps_by_hand() -> None:
    """Bits 1 0 1 1 on 1.5, -0.5, 2, 1: minus, plus, minus, minus."""
    sums = {
        "flip": [0, -1.5, -2, -4, -5],
        "mask": [0, 1.5, 1.5, 3.5, 4.5],
        "table": [0, -5],
    }
    for way, expected in sums.items():
        found = [PackedDot(way=way, step=k).compute() for k in range(len(expected))]
        assert [shown["sum"] for shown in found] == expected
        each = 1 if way == "mask" else 3
        assert [shown["operations"] for shown in found] == [each * k for k in range(len(found))]
        assert [shown["bytes"] for shown in found] == [0] + [1] * (len(found) - 1)


def test_a_table_pays_from_three_rows_on() -> None:
    def per_row(way: str, rows: int) -> float:
        return PackedDot(way=way, rows=rows).compute()["per_row"]

    assert per_row("flip", 1) == per_row("flip", 4096) == 48
    assert [per_row("table", m) < per_row("flip", m) for m in (1, 2, 3)] == [False, False, True]
    assert per_row("mask", 1) == 17 + 15
    assert per_row("table", 4096) < per_row("mask", 4096) < 18


def test_a_table_is_built_with_the_operations_it_says() -> None:
    """Entry i from the entry without its lowest bit: minus twice that activation."""
    figure, spent = a_row(random.Random(1)), 0
    for x, expected in zip(figure.activations().view(-1, GROUP), figure.tables(), strict=True):
        double = [2 * v for v in x]
        entries = [x[0] + x[1] + x[2] + x[3]]
        spent += len(double) + 3
        for i in range(1, 16):
            entries.append(entries[i & (i - 1)] - double[(i & -i).bit_length() - 1])
            spent += 1
        assert torch.stack(entries) == pytest.approx(expected, abs=1e-12)
    assert spent == SHARED["table"]
