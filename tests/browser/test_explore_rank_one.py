"""Rank one by hand in a page with no kernel and no network: numbers, hands, looks.

The checks that every explorable has to pass are in test_explore.py.
The random settings are drawn from the seed in QTOOLS_SEED (0 if unset).
"""

from __future__ import annotations

import itertools
import random
from itertools import islice, pairwise
from typing import Any

import pytest
import torch
from playwright.sync_api import Page

from qtools.decomposition import power_steps
from qtools.explore import RankOne
from qtools.explore.rank_one import MATRICES
from tests.browser import test_explore as every
from tests.browser.conftest import overflow
from tests.browser.hands import outside, pull

SETTINGS = 250
A, B = [f"a{i}" for i in range(1, 5)], [f"b{i}" for i in range(1, 6)]

show = every.show  # the fixture
Show = every.Show


def random_setting(rng: random.Random) -> dict[str, Any]:
    """Any numbers, or those that a hand can reach."""
    anywhere = rng.random() < 0.5
    return {
        "matrix": rng.choice(list(MATRICES)),
        "magnitude": rng.random() < 0.5,
        **{n: rng.uniform(-4, 4) if anywhere else rng.randint(-40, 40) / 10 for n in A + B},
    }


def test_numbers_equal_qtools(show: Show) -> None:
    rng = random.Random(every.SEED)
    settings = [random_setting(rng) for _ in range(SETTINGS)]
    corner = {n: 4.0 for n in A + B}
    settings += [{**random_setting(rng), **corner}, {n: 0.0 for n in A + B}]
    for setting, numbers in zip(
        settings, every.set_and_read(show(RankOne()), settings), strict=True
    ):
        widget = RankOne(**{**settings[-2], **setting})
        expected = widget.compute()
        assert numbers.keys() == expected.keys()
        assert numbers == pytest.approx(expected, rel=1e-9, abs=1e-9), setting


def hand(page: Page) -> RankOne:
    names = list(RankOne().state())
    return RankOne(**dict(zip(names, every.state(page, *names), strict=True)))


def test_the_best_is_the_best(show: Show) -> None:
    page = show(RankOne())
    for matrix, magnitude in itertools.product(MATRICES, (False, True)):
        every.set_and_read(page, [{"matrix": matrix, "magnitude": magnitude}])
        page.get_by_role("button", name="Show the best").click()
        found = hand(page)
        a, b = found.vectors()
        assert a.norm().item() == pytest.approx(b.norm().item())
        assert found.compute()["above"] == pytest.approx(0, abs=1e-9)
        assert every.shown(page, "above") == pytest.approx(0, abs=1e-9)
        if magnitude:  # Perron and Frobenius
            assert a.min() >= -1e-12
            assert b.min() >= -1e-12


def test_a_step_is_a_step_of_the_power_iteration(show: Show) -> None:
    """Two products, with Wᵀ and with W; after every step the error is smaller."""
    rng = random.Random(every.SEED)
    page = show(RankOne())
    for _ in range(5):
        setting = random_setting(rng)
        every.set_and_read(page, [setting])
        start = RankOne(**setting)
        a, _ = start.vectors()
        target = start.target()
        if not (target.T @ a).any():
            continue
        errors = [start.compute()["error"]]
        for step in islice(power_steps(target, start=target.T @ a), 4):
            page.get_by_role("button", name="One step").click()
            found = hand(page)
            expected = step.sigma * torch.outer(step.u, step.v)
            assert torch.allclose(torch.outer(*found.vectors()), expected, atol=1e-9)
            errors.append(every.shown(page, "error"))
        assert all(x >= y - 1e-12 for x, y in pairwise(errors))


@pytest.mark.parametrize("a", [(0.0,) * 4, (1.0, -1.0, 0.0, 0.0)])
def test_a_step_from_nothing_finds_a_way(a: tuple[float, ...], show: Show) -> None:
    """Where ``Wᵀa = 0`` there is no direction to go on from; ones are tried instead."""
    page = show(RankOne(matrix="blocks", **dict(zip(A, a, strict=True))))
    page.get_by_role("button", name="One step").click()
    assert every.shown(page, "error") < 0.7


@pytest.mark.parametrize("width", [1000, 390])
def test_the_mouse_pulls_every_bar(width: int, show: Show) -> None:
    page = show(RankOne(), width=width)
    for name in A + B:
        grip = every.control(page, name)
        grip.scroll_into_view_if_needed()
        box = grip.locator("rect.qx-hit").bounding_box()
        assert box
        across = name in A
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.mouse.move(x, y)
        page.mouse.down()
        dx, dy = (20, 0) if across else (0, -20)
        page.mouse.move(x + dx, y + dy)
        (up,) = every.state(page, name)
        page.mouse.move(x - dx, y - dy)
        (down,) = every.state(page, name)
        page.mouse.move(x + 30 * dx, y + 30 * dy)
        assert every.state(page, name) == [4]
        page.mouse.up()
        page.mouse.move(x, y)
        assert every.state(page, name) == [4]
        assert up > 1.5
        assert down < -0.5
        assert round(10 * up) == pytest.approx(10 * up)


def test_a_finger_pulls_a_column(show: Show) -> None:
    """Up and down, the direction in which a page scrolls."""
    page = show(RankOne(), width=390, has_touch=True, is_mobile=True)
    grip = every.control(page, "b3").locator("rect.qx-hit")
    pull(page, grip, (0, -12), (0, -34))
    page.wait_for_function("document.querySelector('.qtools-explorable').qtoolsModel.get('b3') > 3")


def test_keyboard(show: Show) -> None:
    page = show(RankOne())
    for name, keys, value in (
        ("a1", ["ArrowRight"], 1.1),
        ("a1", ["PageUp", "ArrowDown"], 2.0),
        ("a4", ["Home", "ArrowLeft"], -4),
        ("b5", ["End", "PageDown"], 3),
        ("b5", ["ArrowUp", "ArrowUp"], 3.2),
    ):
        every.press(page, name, *keys)
        assert every.state(page, name) == [value]
        grip = every.control(page, name)
        assert float(grip.get_attribute("aria-valuenow") or "nan") == value
    page.get_by_role("button", name="Start again").click()
    before = every.shown(page, "error")
    every.press(page, "magnitude", "Space")
    assert every.state(page, "magnitude") == [True]
    assert every.shown(page, "error") == before  # nothing is negative here
    page.get_by_role("button", name="Signs mixed").focus()
    page.keyboard.press("Enter")
    assert every.state(page, "matrix") == ["mixed"]
    assert every.shown(page, "error") == before  # |W| is the same
    every.press(page, "magnitude", "Space")
    assert every.shown(page, "error") > before
    every.press(page, "b5", "End")
    page.get_by_role("button", name="Start again").focus()
    page.keyboard.press("Enter")
    assert every.state(page, *A, *B) == [1] * 4 + [2] * 5


def test_the_numbers_in_the_picture(show: Show) -> None:
    state = RankOne(matrix="mixed", magnitude=True, a2=-0.5, b4=3.0)
    page = show(state)
    cells = page.locator(".qx svg g[aria-hidden] rect + text").all_text_contents()
    w, p = torch.tensor(MATRICES["mixed"]).double(), state.product()
    expected = [f"{v:.0f}" for v in w.flatten()]
    expected += [f"{v:.1f}" for m in (p, w - p) for v in m.flatten().tolist()]
    plain = [t.replace("−", "-") for t in cells]
    assert plain == [t if float(t) else t.lstrip("-") for t in expected]


@pytest.mark.parametrize("width", [1000, 390, 340])
def test_words_stay_inside(width: int, show: Show) -> None:
    page = show(RankOne(magnitude=True), width=width)
    for matrix, value in itertools.product(MATRICES, (-4.0, 4.0)):
        every.set_and_read(page, [{"matrix": matrix, **dict.fromkeys(A + B, value)}])
        assert outside(page, ".qx svg text, .qx svg circle") == []
        assert overflow(page) <= 0


def test_screen_reader_hears_the_result(show: Show) -> None:
    page, numbers = show(RankOne()), RankOne(a1=1.1).compute()
    assert every.control(page, "a1").get_attribute("aria-label") == "a1, row 1"
    every.press(page, "a1", "ArrowRight")
    assert every.control(page, "a1").get_attribute("aria-valuetext") == "a₁ = 1.1"
    assert "3, 1, 2, 2, 1; 6, 2, 5, 2, 4" in (page.locator("p.qx-say").first.text_content() or "")
    page.wait_for_function("document.querySelector('[role=status]').textContent !== ''")
    assert page.locator('[role="status"]').inner_text() == (
        f"squared error {numbers['error']:.3f} of the squared norm, {numbers['above']:.3f} above"
        " the smallest possible"
    )
