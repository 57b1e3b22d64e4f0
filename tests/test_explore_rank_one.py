"""Rank one by hand without a browser: its matrices, its numbers by other means."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import pytest
import torch
import traitlets
from hypothesis import given
from hypothesis import strategies as st

from qtools.explore import RankOne
from qtools.explore._base import script_text
from qtools.explore.rank_one import MATRICES
from qtools.onebit import svid

ENTRIES = ("a1", "a2", "a3", "a4", "b1", "b2", "b3", "b4", "b5")


def hands() -> st.SearchStrategy[RankOne]:
    entries = {name: st.floats(-4, 4) for name in ENTRIES}
    chosen = {"matrix": st.sampled_from(sorted(MATRICES)), "magnitude": st.booleans()}
    return st.builds(RankOne, **chosen, **entries)


@given(hands())
def test_numbers_by_other_means(hand: RankOne) -> None:
    """``‖W − p‖² = ‖W‖² − 2⟨W, p⟩ + ‖a‖²‖b‖²``; with signs put back, ``⟨W, p⟩ = ⟨|W|, a bᵀ⟩``."""
    w = torch.tensor(MATRICES[hand.matrix], dtype=torch.float64)
    target = w.abs() if hand.magnitude else w
    a, b = hand.vectors()
    numbers, norm = hand.compute(), w.square().sum()
    error = (norm - 2 * (a @ target @ b) + (a @ a) * (b @ b)) / norm
    assert numbers["error"] == pytest.approx(error.item(), abs=1e-9)
    s = torch.linalg.svdvals(target).square()
    assert numbers["best"] == pytest.approx((s[1:].sum() / s.sum()).item(), abs=1e-12)
    assert numbers["above"] == numbers["error"] - numbers["best"]
    assert numbers["above"] >= -1e-12  # Eckart and Young


def test_what_the_figure_is_there_to_show() -> None:
    def best(matrix: str, magnitude: bool) -> float:
        return RankOne(matrix=matrix, magnitude=magnitude).compute()["best"]

    assert best("positive", False) == best("positive", True) < 0.02
    assert best("mixed", False) > 0.45  # signs are what destroys low rank
    assert best("mixed", True) == pytest.approx(best("positive", True))
    assert best("pattern", False) == pytest.approx(best("pattern", True))  # the equality case
    assert best("blocks", False) == best("blocks", True) > 0.4  # nothing helps
    for matrix in MATRICES:
        w = torch.tensor(MATRICES[matrix], dtype=torch.float64)
        assert best(matrix, True) == pytest.approx(svid(w, 1e-13).relative_error ** 2, abs=1e-10)


def test_three_matrices_are_one_up_to_signs() -> None:
    positive, mixed, pattern = (torch.tensor(MATRICES[n]) for n in ("positive", "mixed", "pattern"))
    assert (positive > 0).all()
    assert torch.equal(mixed.abs(), positive)
    assert torch.equal(pattern.abs(), positive)
    assert torch.linalg.matrix_rank(pattern.sign().double()) == 1
    assert torch.linalg.matrix_rank(mixed.sign().double()) > 1


def test_zeros_have_positive_signs() -> None:
    hand = RankOne(matrix="blocks", magnitude=True)
    assert torch.equal(hand.product(), torch.full((4, 5), 2.0, dtype=torch.float64))


def test_the_page_has_the_same_matrices() -> None:
    script = script_text("rank_one.js")
    for name, rows in MATRICES.items():
        found = re.search(rf"^{name}: (\[\[.*\]\]),$", script, re.MULTILINE)
        assert found
        assert json.loads(found[1]) == [list(row) for row in rows]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"a1": 4.1}, "a1"), ({"b5": -4.1}, "b5"), ({"a3": math.inf}, "a3"),
     ({"matrix": "identity"}, "matrix"), ({"magnitude": 2}, "magnitude")],
    ids=str,
)  # fmt: skip
def test_wrong_state_is_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(traitlets.TraitError, match=words):
        RankOne(**wrong)
