"""The scoreboard without a browser: filters, choice and numbers by other means."""

from __future__ import annotations

import pytest
import traitlets
from hypothesis import given, settings
from hypothesis import strategies as st

from qtools.explore import Scoreboard
from qtools.explore.scoreboard import ALL, BITS
from qtools.scoreboard import FAMILIES, MODELS
from tests.scoreboard_rows import drawn

ROWS = drawn(0)
states = st.fixed_dictionaries(
    {
        "model": st.sampled_from(MODELS),
        "family": st.sampled_from((ALL, *FAMILIES)),
        "bits": st.sampled_from(BITS),
        "real": st.booleans(),
        "row": st.integers(0, len(ROWS) - 1),
    }
)


@given(states)
@settings(max_examples=60)
def test_numbers_by_other_means(state: dict[str, object]) -> None:
    board = Scoreboard(ROWS, **state)
    numbers, shown = board.compute(), board.shown()
    assert len(shown) == numbers["shown"]
    for each in ROWS:
        fits = each.model == board.model and each.bits <= board.bits
        fits &= board.family in (ALL, each.family) and (each.real or not board.real)
        assert fits == (each in shown)
    row = board.chosen()
    if row is None:
        assert not shown
        assert set(numbers.values()) == {0}
        return
    better = [r for r in shown if r.bytes <= row.bytes and r.loss <= row.loss]
    better = [r for r in better if (r.bytes, r.loss) != (row.bytes, row.loss)]
    assert numbers["beaten"] == len(better)
    assert numbers["quality"] == row.quality
    assert numbers["rival_bytes"] == min([r.bytes for r in better] or [row.bytes])
    if board._rows[board.row] not in shown:
        assert not better  # the smallest of the front stands in


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="none of CharGPT"):
        Scoreboard([row for row in ROWS if row.model == "SmallCNN"])
    with pytest.raises(traitlets.TraitError, match=f"below {len(ROWS)}"):
        Scoreboard(ROWS, row=len(ROWS))
    with pytest.raises(traitlets.TraitError, match="bits"):
        Scoreboard(ROWS, bits=5)
