"""The SVID laboratory without a browser: its matrix, its four numbers by other means."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
import torch
import traitlets
from hypothesis import given
from hypothesis import strategies as st

from qtools.explore import SVIDLab
from qtools.explore._base import script_text
from qtools.explore.svid_lab import COLUMNS, METHODS, ROWS, normal

LINE = 1 - 2 / math.pi
SEEDS = range(1, 100)


@st.composite
def labs(draw: st.DrawFn) -> SVIDLab:
    amounts = {name: draw(st.floats(0, 1)) for name in ("rows", "columns", "tail")}
    return SVIDLab(**amounts, pattern=draw(st.booleans()), seed=draw(st.integers(1, 99)))


@given(labs())
def test_numbers_by_other_means(lab: SVIDLab) -> None:
    w, numbers = lab.weight(), lab.compute()
    norm, m = w.square().sum(), w.abs()
    kept = {
        "scale": m.sum() ** 2 / m.numel(),
        "row": (m.sum(1) ** 2).sum() / m.shape[1],
        "rank_one": torch.linalg.svdvals(w)[0] ** 2,
        "svid": torch.linalg.svdvals(m)[0] ** 2,
    }
    assert list(numbers) == list(METHODS)
    for name, value in kept.items():
        assert numbers[name] == pytest.approx(1 - float(value / norm), abs=1e-9), name


@given(labs())
def test_no_other_is_better_than_svid(lab: SVIDLab) -> None:
    """One scale and a scale a row are signs times rank one, and so is rank one: Proposition 2."""
    numbers = lab.compute()
    assert numbers["svid"] <= min(numbers.values()) + 1e-12
    assert numbers["row"] <= numbers["scale"] + 1e-12
    if lab.pattern:
        assert numbers["svid"] == pytest.approx(numbers["rank_one"], abs=1e-9)


@given(labs(), st.floats(0.9, 1.1))
def test_no_other_scale_is_better(lab: SVIDLab, factor: float) -> None:
    w, numbers = lab.weight(), lab.compute()
    for name in ("scale", "row"):
        other = (w - factor * lab.approximation(name)).square().sum() / w.square().sum()
        assert numbers[name] <= other.item() + 1e-12


def test_numbers_are_normal() -> None:
    z = np.concatenate([normal(seed, stream, 864) for seed in SEEDS for stream in range(2)])
    error = 5 / math.sqrt(len(z))
    assert abs(z.mean()) < error
    assert z.var() == pytest.approx(1, abs=error * math.sqrt(2))
    assert (z**4).mean() == pytest.approx(3, abs=error * math.sqrt(96))
    assert abs(z).mean() ** 2 / (z**2).mean() == pytest.approx(2 / math.pi, abs=error)
    assert abs((z[1:] * z[:-1]).mean()) < error


def test_streams_do_not_overlap() -> None:
    """2 · 24 · 36 counters of 4096 for each of 6 streams of 8, all below 2³²."""
    assert 2 * ROWS * COLUMNS <= 4096
    assert 100 * 32768 < 2**32
    first = np.concatenate([normal(s, k, ROWS * COLUMNS) for s in (1, 2) for k in range(6)])
    assert len(np.unique(first)) == len(first)


def test_scales_have_the_spread_that_is_named() -> None:
    flat, lab = SVIDLab(rows=0, columns=0), SVIDLab(rows=0.5, columns=0.25)
    log = (lab.weight() / flat.weight()).log()
    assert log.mean(1).std(correction=0).item() == pytest.approx(0.5)
    assert log.mean(0).std(correction=0).item() == pytest.approx(0.25)
    assert log.mean().item() == pytest.approx(0, abs=1e-12)
    own = (SVIDLab(rows=0, columns=0, tail=0.5).weight() / flat.weight()).log()
    assert own.std().item() == pytest.approx(0.5, abs=0.05)
    assert torch.linalg.matrix_rank(SVIDLab(pattern=True).weight().sign()).item() == 1


def test_what_the_figure_is_there_to_show() -> None:
    """On average: rows cost one scale, columns also a scale a row, single weights cost all."""

    def mean(**state: Any) -> dict[str, float]:
        all_numbers = [
            SVIDLab(**{"rows": 0, "columns": 0, **state}, seed=s).compute() for s in SEEDS
        ]
        return {name: float(np.mean([n[name] for n in all_numbers])) for name in METHODS}

    gaussian, rows = mean(), mean(rows=0.6)
    both, tail = mean(rows=0.6, columns=0.6), mean(tail=0.7)
    assert gaussian["scale"] == pytest.approx(LINE, abs=0.01)
    assert gaussian["rank_one"] > 0.85
    assert rows["scale"] > LINE + 0.1 > rows["row"] + 0.05
    assert both["row"] > LINE + 0.1
    assert max(n["svid"] for n in (gaussian, rows, both)) < LINE
    assert tail["svid"] > LINE + 0.15


def test_the_page_has_the_same_sizes_and_names() -> None:
    script = script_text("svid_lab.js")
    assert f"const [ROWS, COLUMNS] = [{ROWS}, {COLUMNS}];" in script
    assert tuple(re.findall(r'^\["(\w+)", "[\w ]+", "', script, re.MULTILINE)) == METHODS
    assert f"signs, {ROWS} numbers" in script
    assert script.count(f"{ROWS + COLUMNS} numbers") == 2


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"rows": 1.1}, "rows"), ({"columns": -0.1}, "columns"), ({"tail": math.nan}, "tail"),
     ({"method": "nmf"}, "method"), ({"seed": 0}, "seed"), ({"seed": 100}, "seed")],
    ids=str,
)  # fmt: skip
def test_wrong_state_is_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(traitlets.TraitError, match=words):
        SVIDLab(**wrong)
