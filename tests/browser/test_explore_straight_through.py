"""The latent weight in a page with no kernel and no network: numbers, hands, looks.

The checks that every explorable has to pass are in test_explore.py.
The random settings are drawn from the seed in QTOOLS_SEED (0 if unset).
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from qtools.explore import StraightThrough
from qtools.explore.straight_through import GRADIENTS, STEPS
from tests.browser import test_explore as every

SETTINGS = 250

show = every.show  # the fixture
Show = every.Show


def random_setting(rng: random.Random) -> dict[str, Any]:
    by_hand = rng.random() < 0.5  # what a hand can reach, where targets meet levels and edges
    places = 1 if by_hand else 12
    return {
        "gradient": rng.choice(GRADIENTS),
        "bits": rng.randint(2, 5),
        "target": round(rng.uniform(-8, 8), places),
        "rate": round(rng.uniform(0.01, 1), places + 1),
        "start": round(rng.uniform(-10, 10), places),
        "steps": rng.randint(0, STEPS),
    }


def test_numbers_equal_qtools(show: Show) -> None:
    """Both do the same float64 operations in the same order: no tolerance."""
    rng = random.Random(every.SEED)
    settings = [random_setting(rng) for _ in range(SETTINGS)]
    page = show(StraightThrough())
    for setting, numbers in zip(settings, every.set_and_read(page, settings), strict=True):
        assert numbers == StraightThrough(**setting).compute(), setting


def test_the_buttons_step_and_start_again(show: Show) -> None:
    page = show(StraightThrough())
    page.get_by_role("button", name="Step", exact=True).click()
    assert every.state(page, "steps") == [1]
    assert every.shown(page, "latent") == StraightThrough(steps=1).compute()["latent"]
    page.get_by_role("button", name="Stuck outside").click()
    assert every.state(page, "start", "gradient", "steps") == [3, "masked", 0]
    page.get_by_role("button", name="Step", exact=True).click()
    assert every.shown(page, "latent") == 3
    page.get_by_role("button", name="Comes back").click()
    page.get_by_role("button", name="Step", exact=True).click()
    assert every.shown(page, "latent") == 2.9
    page.get_by_role("button", name="Start again").click()
    assert every.state(page, "steps") == [0]


def test_play_goes_on_until_paused_or_done(show: Show) -> None:
    page = show(StraightThrough(steps=110))
    page.get_by_role("button", name="Play").click()
    page.wait_for_function(
        "document.querySelector('.qtools-explorable').qtoolsModel.get('steps') > 111"
    )
    page.get_by_role("button", name="Pause").click()
    (steps,) = every.state(page, "steps")
    page.wait_for_timeout(400)
    assert every.state(page, "steps") == [steps]
    page.get_by_role("button", name="Play").click()
    page.get_by_role("button", name="Pause").wait_for()
    page.get_by_role("button", name="Play").wait_for()  # it stops by itself
    assert every.state(page, "steps") == [STEPS]


def test_who_wants_less_motion_gets_ten_steps_at_once(show: Show) -> None:
    page = show(StraightThrough(), reduced_motion="reduce")
    page.get_by_role("button", name="Ten steps").click()
    page.wait_for_timeout(300)
    assert every.state(page, "steps") == [10]


def test_the_keyboard_does_all_of_it(show: Show) -> None:
    page = show(StraightThrough(steps=20))
    page.get_by_role("button", name="Step", exact=True).focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Space")
    assert every.state(page, "steps") == [22]
    every.press(page, "steps", "Home")
    assert every.state(page, "steps") == [0]
    every.press(page, "steps", "End")
    assert every.state(page, "steps") == [STEPS]
    every.press(page, "target", "ArrowRight")
    assert every.state(page, "target") == [0.4]
    assert every.shown(page, "mean") == pytest.approx(0.4, abs=1 / 40)
    every.press(page, "bits", "End")
    every.press(page, "rate", "End")
    every.press(page, "start", "Home")
    assert every.state(page, "bits", "rate", "start") == [5, 1, -10]
    every.press(page, "gradient", "ArrowUp")
    assert every.state(page, "gradient") == ["unmasked"]


def test_the_picture_shows_the_numbers(show: Show) -> None:
    """The square stands above the circle, on the level of the rounded weight."""
    page = show(StraightThrough(steps=60))
    first = page.locator(".qx svg").nth(0)
    circle = first.locator("circle").evaluate("(n) => n.cx.baseVal.value")
    square = first.locator('rect[width="11"]').evaluate("(n) => n.x.baseVal.value + 5.5")
    ticks = first.evaluate(
        """(svg) => [...svg.querySelectorAll("text[text-anchor=middle]")]
          .map((n) => [n.textContent, n.x.baseVal[0].value])"""
    )
    at = dict(ticks)
    expected = at["0"] + StraightThrough(steps=60).compute()["latent"] * (at["1"] - at["0"])
    assert circle == pytest.approx(expected, abs=0.1)
    assert square == pytest.approx(circle, abs=0.1)


def test_screen_reader_hears_the_result(show: Show) -> None:
    page = show(StraightThrough(steps=59))
    page.get_by_role("button", name="Step", exact=True).click()
    page.wait_for_function("document.querySelector('[role=status]').textContent !== ''")
    says = page.locator('[role="status"]').inner_text()
    assert says == "after 60 steps: latent 0.5, rounded 1, mean lately 0.15"
