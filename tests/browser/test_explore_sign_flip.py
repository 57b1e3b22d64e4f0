"""The sign flips in a page with no kernel and no network: numbers, hands, looks.

The checks that every explorable has to pass are in test_explore.py.
The random settings are drawn from the seed in QTOOLS_SEED (0 if unset).
"""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import torch

from qtools.explore import SignFlip
from qtools.explore.sign_flip import OPTIMIZERS, STEPS, latent_paths, numbers
from qtools.onebit.layer import GRADIENTS
from tests.browser import test_explore as every
from tests.browser.conftest import overflow
from tests.browser.hands import outside

SETTINGS = 250
COLUMNS = ("start", "target", "rate", "noise")

show = every.show  # the fixture
Show = every.Show


def random_setting(rng: random.Random) -> dict[str, Any]:
    digits = rng.choice([2, 12])  # what a hand can reach, where weights meet 0 exactly, and all
    return {
        "optimizer": rng.choice(OPTIMIZERS),
        "start": float(f"{10 ** rng.uniform(-3, 0.9):.{digits}g}"),
        "target": round(rng.uniform(-3, 1), digits - 1),
        "rate": float(f"{10 ** rng.uniform(-4, -0.61):.{digits}g}"),
        "noise": rng.choice([0.0, round(rng.uniform(0, 8), digits - 1)]),
        "step": rng.choice([rng.randint(0, STEPS), rng.randint(0, 60)]),
    }


def test_numbers_equal_qtools(show: Show) -> None:
    """The same float64 operations in the same order; only the last bits of tanh may differ.

    All settings take their steps together: `compute` would take minutes, one after another.
    """
    rng = random.Random(every.SEED)
    settings = [SignFlip().state(), *(random_setting(rng) for _ in range(SETTINGS))]
    got = every.set_and_read(show(SignFlip()), settings)
    for optimizer in OPTIMIZERS:
        mine = [i for i, setting in enumerate(settings) if setting["optimizer"] == optimizer]
        assert len(mine) > 80
        table = [[settings[i][name] for name in COLUMNS] for i in mine]
        paths = latent_paths(optimizer, *torch.tensor(table, dtype=torch.float64).T)
        for j, i in enumerate(mine):
            expected = numbers(paths[:, :, j], settings[i]["step"])
            assert got[i] == pytest.approx(expected, rel=1e-12, abs=1e-7), settings[i]
            for name in GRADIENTS:  # counts have no tolerance
                for count in (f"{name}_first", f"{name}_flips"):
                    assert got[i][count] == expected[count], settings[i]
    for i in range(5):
        assert got[i] == pytest.approx(SignFlip(**settings[i]).compute(), rel=1e-12, abs=1e-7)


def test_mouse_and_buttons(show: Show) -> None:
    page = show(SignFlip())
    for button, first in (
        ("Beyond the clip: 2", [41, 41, math.inf, 11]),
        ("A trained weight: 0.05", [23, 23, 23, 23]),
        ("Released start: 0.01", [4, 4, 4, 4]),
        ("Far, with Adam", [355, 371, math.inf, 501]),
        ("Far: 5", [math.inf, 1880, math.inf, 11]),
    ):
        page.get_by_role("button", name=button).click()
        assert [every.shown(page, f"{name}_first") for name in GRADIENTS] == first, button
    assert page.locator('output[data-name="tanh_first"]').inner_text() == "never flips"
    assert page.locator('output[data-name="released_first"]').inner_text() == "flips at step 1,880"
    # A press in a path looks at that step; a drag goes on looking.
    picture = page.locator(".sf-four svg").nth(3)
    box = picture.bounding_box()
    assert box
    y = box["y"] + 30
    page.mouse.move(box["x"] + 1, y)
    page.mouse.down()
    assert every.state(page, "step") == [0]
    page.mouse.move(box["x"] + box["width"] / 2, y)
    assert 40 < every.state(page, "step")[0] < 50
    page.mouse.move(box["x"] + box["width"] + 50, y)
    page.mouse.up()
    assert every.state(page, "step") == [STEPS]
    assert every.shown(page, "released_w") < 0
    # A press in the figure of d starts the weight there.
    box = page.locator(".qx > svg").bounding_box()
    assert box
    page.mouse.click(box["x"] + 44 + (box["width"] - 56) * 2 / 3, box["y"] + 60)
    assert every.state(page, "start") == [2.0]


def test_keyboard(show: Show) -> None:
    page = show(SignFlip())
    for name, keys, value in (
        ("start", ["Home"], 0.001),
        ("start", ["ArrowRight"], 0.0011),
        ("start", ["End"], 7.9),
        ("rate", ["End", "ArrowLeft"], 0.22),
        ("target", ["ArrowRight"], -0.9),
        ("noise", ["ArrowUp", "ArrowUp"], 0.2),
        ("step", ["ArrowRight"], 110),
        ("step", ["End"], STEPS),
        ("step", ["Home"], 0),
        ("optimizer", ["ArrowDown"], "adam"),
    ):
        every.press(page, name, *keys)
        assert every.state(page, name) == [value]
    expected = SignFlip(
        **dict(zip(SignFlip().state(), every.state(page, *SignFlip().state()), strict=True))
    )
    assert every.shown(page, "identity_first") == expected.compute()["identity_first"]


def test_the_picture_shows_the_numbers(show: Show) -> None:
    """The ring marks the first flip on the axis of steps; a dot's height in the figure is d."""
    page = show(SignFlip())
    for name, step in (("released", 1880), ("identity", 11)):
        svg = page.locator(".sf-four svg").nth(list(GRADIENTS).index(name))
        at = svg.locator('circle[r="9"]').evaluate("(n) => n.cx.baseVal.value")
        width = svg.evaluate("(n) => n.clientWidth")
        assert at == pytest.approx(width * math.log(step + 1) / math.log(STEPS + 1), abs=0.5)
    assert page.locator('.sf-four circle[r="9"]').count() == 2
    heights = dict(
        page.locator(".qx > svg").evaluate(
            """(svg) => [...svg.querySelectorAll("text[text-anchor=end]")]
              .map((n) => [n.textContent, n.y.baseVal[0].value - 4])"""
        )
    )
    dots = page.locator(".qx > svg circle").evaluate_all(
        "(all) => all.map((n) => n.cy.baseVal.value)"
    )
    by_name = dict(zip(reversed(GRADIENTS), dots, strict=True))
    decade = heights["0.01"] - heights["0.1"]
    d = SignFlip().compute()
    assert by_name["identity"] == pytest.approx(heights["1"], abs=0.1)
    assert by_name["clipped"] == pytest.approx(heights["0"], abs=0.1)
    for name in ("tanh", "released"):
        expected = heights["1"] - decade * math.log10(d[f"{name}_d"])
        assert by_name[name] == pytest.approx(expected, abs=0.2)


@pytest.mark.parametrize("width", [1000, 390, 340])
def test_words_stay_inside(width: int, show: Show) -> None:
    page = show(SignFlip(), width=width)
    for setting in ({"start": 8.0}, {"start": 0.05, "rate": 0.00011, "noise": 8.0}):
        every.set_and_read(page, [setting])
        assert outside(page, ".qx svg text, .sf-four output", "svg, .qx-panel") == []
        assert overflow(page) <= 0


def test_screen_reader_hears_the_result(show: Show) -> None:
    page = show(SignFlip(start=1.8, rate=0.1))
    every.press(page, "start", "ArrowRight")
    page.wait_for_function("document.querySelector('[role=status]').textContent !== ''")
    assert page.locator('[role="status"]').inner_text() == (
        "tanh′: flips at step 41; released code: flips at step 41;"
        " clipped identity: never flips; identity: flips at step 11"
    )


def test_every_control_keeps_its_arrow_keys(show: Show) -> None:
    page = show(SignFlip())
    focusable = page.locator(".qx").locator("input, select, button, [tabindex]")
    assert focusable.count() == page.locator("[data-lm-suppress-shortcuts]").count() == 11
