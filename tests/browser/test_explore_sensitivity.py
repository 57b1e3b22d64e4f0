"""The sensitivity chart in a page with no kernel and no network: numbers, hands, looks.

The checks that every explorable has to pass are in test_explore.py.
The random settings are drawn from the seed in QTOOLS_SEED (0 if unset).
"""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import pytest
from playwright.sync_api import Locator, Page

from qtools.explore import Sensitivity
from qtools.explore.sensitivity import BITS, LAYERS, RANGES
from tests.browser import test_explore as every
from tests.browser.conftest import overflow
from tests.browser.hands import outside

SETTINGS = 400
EIGHT = dict.fromkeys(LAYERS, 8)

show = every.show  # the fixture
Show = every.Show


def agree(page: Page, settings: list[dict[str, Any]]) -> None:
    """The page and qtools give the same numbers: counts over a count, so up to a rounding."""
    for setting, numbers in zip(settings, every.set_and_read(page, settings), strict=True):
        expected = Sensitivity(**setting).compute()
        assert numbers.keys() == expected.keys()
        assert numbers == pytest.approx(expected, rel=1e-12, abs=1e-12), setting


def test_numbers_equal_qtools(show: Show) -> None:
    rng = random.Random(every.SEED)
    settings = [
        {"weight_range": rng.choice(RANGES), **{name: rng.choice(BITS) for name in LAYERS}}
        for _ in range(SETTINGS)
    ]
    agree(show(Sensitivity()), settings)


def test_the_corners_too(show: Show) -> None:
    page = show(Sensitivity())
    for weight_range in RANGES:
        agree(page, [{"weight_range": weight_range, **dict.fromkeys(LAYERS, b)} for b in BITS])


def mark(page: Page, name: str) -> Locator:
    return every.control(page, name).locator(".qx-hit")


def test_the_mouse_picks_a_cell(show: Show) -> None:
    page = show(Sensitivity())
    box, below = (mark(page, name).bounding_box() for name in LAYERS[:2])
    assert box
    assert below
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.click(x + box["width"], y)
    assert every.state(page, *LAYERS) == [6, 4, 4, 4, 4]
    page.mouse.click(x - 2 * box["width"], y + 3 * (below["y"] - box["y"]))
    assert every.state(page, *LAYERS) == [6, 4, 4, 2, 4]
    focused = page.evaluate("document.activeElement.dataset.control")
    assert focused == "fc1"


def test_the_mouse_pulls_a_mark_along_its_row_only(show: Show) -> None:
    page = show(Sensitivity())
    box = mark(page, "conv2").bounding_box()
    assert box
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 2 * box["width"], y + 3 * box["height"])
    assert every.state(page, *LAYERS) == [4, 8, 4, 4, 4]
    page.mouse.move(x - 9 * box["width"], y)
    assert every.state(page, *LAYERS) == [4, 2, 4, 4, 4]
    page.mouse.up()
    page.mouse.move(x, y)
    assert every.state(page, *LAYERS) == [4, 2, 4, 4, 4]


def test_a_finger_picks_a_cell(show: Show) -> None:
    page = show(Sensitivity(), width=390, has_touch=True, is_mobile=True)
    mark(page, "fc2").scroll_into_view_if_needed()
    box = mark(page, "fc2").bounding_box()
    assert box
    page.touchscreen.tap(box["x"] + 1.5 * box["width"], box["y"] + box["height"] / 2)
    page.wait_for_function("document.querySelector('.qtools-explorable').qtoolsModel.get('fc2')==6")


def test_the_keyboard_does_all_of_it(show: Show) -> None:
    page = show(Sensitivity())
    for keys, bits in (
        (["ArrowRight"], 6),
        (["ArrowUp"], 8),
        (["ArrowRight"], 8),
        (["PageDown"], 4),
        (["ArrowLeft", "ArrowDown"], 2),
        (["ArrowLeft"], 2),
        (["End"], 8),
        (["Home"], 2),
    ):
        every.press(page, "conv3", *keys)
        assert every.state(page, "conv3") == [bits], keys
        text = every.control(page, "conv3").get_attribute("aria-valuetext")
        assert text
        assert text.startswith(f"{bits} bits, alone ")
    every.press(page, "weight_range", "ArrowDown")
    assert every.state(page, "weight_range") == ["mse"]
    page.get_by_role("button", name="all 3").focus()
    page.keyboard.press("Enter")
    assert every.state(page, *LAYERS) == [3] * 5


@pytest.mark.parametrize("weight_range", RANGES)
def test_the_button_goes_to_the_best(weight_range: str, show: Show) -> None:
    chart = Sensitivity(weight_range=weight_range, **dict.fromkeys(LAYERS, 3))
    page, numbers = show(chart), chart.compute()
    page.get_by_role("button", name="Best at this size").click()
    assert every.shown(page, "accuracy") == numbers["best_accuracy"]
    assert every.shown(page, "bytes") == numbers["best_bytes"]
    best = dict(zip(LAYERS, every.state(page, *LAYERS), strict=True))
    assert Sensitivity(weight_range=weight_range, **best).compute() == pytest.approx(
        {**numbers, **Sensitivity(weight_range=weight_range, **best).compute()}
    )


def test_text_is_the_number_rounded(show: Show) -> None:
    chart = Sensitivity(**dict.fromkeys(LAYERS, 3))
    page, numbers = show(chart), chart.compute()
    text = {n.get_attribute("data-name"): n.inner_text() for n in page.locator("output").all()}
    assert text["accuracy"] == f"{numbers['accuracy']:.2f} %"
    assert text["bytes"] == f"{numbers['bytes'] / 1000:.1f} kB"
    assert text["predicted"] == f"{numbers['predicted']:.2f}"
    assert text["lost"] == f"{numbers['lost']:.2f}"


def test_cells_say_what_a_layer_costs(show: Show) -> None:
    page = show(Sensitivity())
    texts = page.locator(".qx-panel").first.locator("svg g").first.locator("text")
    words = [t for t in texts.all_text_contents() if t not in {*LAYERS, "2 bits", *"3468"}]
    expected = [
        Sensitivity(**{**EIGHT, name: b}).compute()["lost"]
        for name in LAYERS
        for b in (2, 3, 4, 6, 8)
    ]
    assert len(words) == 25
    for word, value in zip(words, expected, strict=True):
        assert float(word.replace("−", "-")) == pytest.approx(
            value, abs=0.051 if value > 9 else 0.0051
        )


def test_the_marks_stand_where_the_bits_are(show: Show) -> None:
    page = show(Sensitivity(conv1=8, conv2=6, conv3=4, fc1=3, fc2=2))
    boxes = [mark(page, name).bounding_box() for name in LAYERS]
    lefts = [box["x"] for box in boxes if box]
    steps = [a - b for a, b in pairwise(lefts)]
    assert steps == pytest.approx([boxes[0]["width"]] * 4, abs=0.5)  # type: ignore[index]


@pytest.mark.parametrize("width", [1000, 390, 340])
def test_words_stay_inside(width: int, show: Show) -> None:
    page = show(Sensitivity(), width=width)
    for setting in ({}, dict.fromkeys(LAYERS, 2), EIGHT):
        every.set_and_read(page, [setting])
        assert outside(page) == []
        assert overflow(page) <= 0


def test_screen_reader_hears_the_result(show: Show) -> None:
    page, numbers = show(Sensitivity()), Sensitivity(conv1=6).compute()
    every.press(page, "conv1", "ArrowRight")
    page.wait_for_function("document.querySelector('[role=status]').textContent !== ''")
    says = page.locator('[role="status"]').inner_text()
    assert says == (
        f"accuracy {numbers['accuracy']:.2f} percent in {numbers['bytes'] / 1000:.1f} kB,"
        f" best at this size {numbers['best_accuracy']:.2f}"
    )


def test_every_control_keeps_its_arrow_keys(show: Show) -> None:
    page = show(Sensitivity())
    focusable = page.locator(".qx").locator("input, select, button, [tabindex]")
    assert focusable.count() == page.locator("[data-lm-suppress-shortcuts]").count() == 12
