"""The scoreboard in a page with no kernel and no network: numbers, front, hands.

The checks that every explorable has to pass are in test_explore.py. Settings are drawn from the
seed in QTOOLS_SEED (0 if unset).
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from qtools.explore import Scoreboard
from qtools.explore.scoreboard import ALL, BITS
from qtools.scoreboard import FAMILIES, MODELS, Row, board, front
from tests.browser import test_explore as every
from tests.scoreboard_rows import drawn

show = every.show  # the fixture
Show = every.Show


def setting(rng: random.Random, rows: list[Row]) -> dict[str, Any]:
    return {
        "model": rng.choice(MODELS),
        "family": rng.choice((ALL, ALL, *FAMILIES)),
        "bits": rng.choice(BITS),
        "real": rng.random() < 0.5,
        "row": rng.randrange(len(rows)),
    }


@pytest.mark.parametrize("kind", ["measured", "drawn, with ties"])
def test_numbers_equal_qtools(kind: str, show: Show) -> None:
    """Front, rivals and quotients of the same float64 numbers: no tolerance but for a quotient."""
    rng = random.Random(every.SEED)
    rows = board() if kind == "measured" else drawn(every.SEED)
    page = show(Scoreboard(rows))
    states = [setting(rng, rows) for _ in range(60)]
    for state, numbers in zip(states, every.set_and_read(page, states), strict=True):
        expected = Scoreboard(rows, **state).compute()
        assert numbers == pytest.approx(expected, rel=1e-15), state


def levels_of(rows: list[Row]) -> list[tuple[float, float]]:
    """Sizes and losses of the front of CharGPT."""
    kept = front(r for r in rows if r.model == "CharGPT")
    return sorted({(r.bytes, r.loss) for r in kept})


def test_keys_walk_by_size_and_along_the_front(show: Show) -> None:
    rows = next(d for seed in range(99) if len(levels_of(d := drawn(seed))) > 2)
    widget = Scoreboard(rows, model="CharGPT")
    shown, page = widget.shown(), show(widget)
    every.press(page, "row", "Home")
    walked = []
    for _ in shown:
        walked.append(every.state(page, "row")[0])
        every.press(page, "row", "ArrowRight")
    # Equal rows may stand in any order.
    sizes = [(rows[i].bytes, rows[i].loss) for i in walked]
    assert sizes == [(r.bytes, r.loss) for r in shown]
    assert sorted(walked) == sorted(rows.index(r) for r in shown)
    every.press(page, "row", "Home", "PageUp", "PageUp")
    levels = levels_of(rows)
    (at,) = every.state(page, "row")
    assert (rows[at].bytes, rows[at].loss) == levels[2]
    every.press(page, "row", "PageDown")
    (at,) = every.state(page, "row")
    assert (rows[at].bytes, rows[at].loss) == levels[1]


def test_filters_words_and_the_way_to_a_rival(show: Show) -> None:
    rows = board()
    beaten = next(i for i, r in enumerate(rows) if r.family == "pruning" and not r.real)
    page = show(Scoreboard(rows, row=beaten))
    text = page.locator(".qx-sums").inner_text()
    assert rows[beaten].method in text
    assert "◆ pruning, chapter 8, simulated." in text
    assert f"{rows[beaten].quality:.2f} %" in page.locator(".qx-facts").inner_text()
    assert every.shown(page, "beaten") > 0
    page.get_by_role("button", name="Go to it").click()
    assert every.shown(page, "beaten") == 0
    every.set_and_read(page, [{"row": beaten}])
    page.get_by_label("real only").check()
    assert "simulated." not in page.locator(".qx-sums").inner_text()  # another one is chosen
    every.control(page, "family").select_option(label="◆ pruning")
    assert every.shown(page, "shown") == sum(r.family == "pruning" and r.real for r in rows)
    page.get_by_role("button", name="CharGPT").click()
    assert every.state(page, "model") == ["CharGPT"]
    assert "No network is shown" in page.locator(".qx-sums").inner_text()
    assert every.shown(page, "front") == 0


def test_a_press_chooses_the_nearest(show: Show) -> None:
    page = show(Scoreboard(drawn(5), row=0), width=390)
    ring = page.locator(".sb-ring")
    before = ring.bounding_box()
    box = page.locator(".qx svg").bounding_box()
    assert before
    assert box
    page.mouse.click(box["x"] + box["width"] - 30, box["y"] + 60)
    after = ring.bounding_box()
    assert after
    assert after != before
    assert page.evaluate("document.activeElement.dataset.control") == "row"
