"""The temperature in a page with no kernel and no network: numbers, hands, looks.

The checks that every explorable has to pass are in test_explore.py.
The random settings are drawn from the seed in QTOOLS_SEED (0 if unset).
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from playwright.sync_api import Page

from qtools.data import CLASSES
from qtools.explore import Temperature
from qtools.explore.temperature import EXAMPLES, STUDENTS
from tests.browser import test_explore as every
from tests.browser.conftest import overflow
from tests.browser.hands import outside

SETTINGS = 250

show = every.show  # the fixture
Show = every.Show


def random_setting(rng: random.Random) -> dict[str, Any]:
    return {
        "image": rng.randrange(len(EXAMPLES)),
        "student": rng.choice(STUDENTS),
        "temperature": round(2 ** rng.uniform(-1, 7), 3),
    }


def test_numbers_equal_qtools(show: Show) -> None:
    """Powers and logarithms of two libraries, and sums in another order: 1e-10, no more."""
    rng = random.Random(every.SEED)
    settings = [Temperature().state(), *(random_setting(rng) for _ in range(SETTINGS))]
    page = show(Temperature())
    for setting, numbers in zip(settings, every.set_and_read(page, settings), strict=True):
        expected = Temperature(**setting).compute()
        assert numbers.keys() == expected.keys()
        # T (q - p) cancels: q and p may agree in nearly all of their digits.
        cosine = pytest.approx(expected.pop("cosine"), abs=1e-13 / expected["scaled"])
        assert numbers.pop("cosine") == cosine, setting
        assert numbers == pytest.approx(expected, rel=1e-10, abs=1e-11), setting


def bar(page: Page, name: str) -> dict[str, float]:
    """The box of the rectangle in a colour, on a class's row."""
    return page.evaluate(
        """([name, i]) => {
          const bars = [...document.querySelectorAll(".qx svg rect")].filter(
            (n) => n.getAttribute("style") === `fill:var(--${name})`);
          const { x, width } = bars[i].getBoundingClientRect();
          return { x, width };
        }""",
        [name.split()[0], int(name.split()[1])],
    )


def test_the_bars_are_the_numbers(show: Show) -> None:
    page = show(Temperature(temperature=4.0))
    numbers = Temperature(temperature=4.0).compute()
    sizes = [bar(page, f"blue {i}")["width"] for i in range(10)]
    largest = max(range(10), key=lambda i: numbers[f"p_{i}"])
    for i in range(10):
        share = numbers[f"p_{i}"] / numbers[f"p_{largest}"]
        assert sizes[i] / sizes[largest] == pytest.approx(share, abs=0.02)
    left = [bar(page, f"green {i}")["x"] for i in range(10)]
    zero = max(left)
    for i in range(10):
        if abs(numbers[f"g_{i}"]) > 0.02:
            assert (left[i] < zero - 1) == (numbers[f"g_{i}"] < 0), CLASSES[i]


def test_mouse_and_buttons(show: Show) -> None:
    page = show(Temperature())
    page.get_by_role("button", name="T = 128").click()
    assert every.state(page, "temperature") == [128]
    assert every.shown(page, "cosine") > 0.99
    assert every.shown(page, "entropy") > 2.29
    page.get_by_role("button", name="T = 1", exact=True).click()
    assert every.state(page, "temperature") == [1]
    assert every.shown(page, "plain") == every.shown(page, "scaled")
    every.control(page, "student").select_option(label="all logits 0")
    assert every.state(page, "student") == ["blank"]
    every.control(page, "image").select_option(label="Sandal or sneaker")
    assert every.state(page, "image") == [3]
    assert page.get_by_text("label: sandal").count() == 1
    box = every.control(page, "temperature").bounding_box()
    assert box
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert 6 < every.state(page, "temperature")[0] < 11


def test_keyboard(show: Show) -> None:
    page = show(Temperature())
    for keys, value in (
        (["Home"], 0.5),
        (["ArrowRight"], 0.545),
        (["End"], 128),
        (["ArrowLeft"] * 8, 64),
    ):
        every.press(page, "temperature", *keys)
        assert every.state(page, "temperature") == [value]
    every.press(page, "image", "ArrowDown")
    assert every.state(page, "image") == [2]
    every.press(page, "student", "ArrowDown")
    assert every.state(page, "student") == ["blank"]


@pytest.mark.parametrize("width", [1000, 390, 340])
def test_words_stay_inside_and_apart(width: int, show: Show) -> None:
    page = show(Temperature(), width=width)
    for image in range(len(EXAMPLES)):
        for t in (0.5, 4.0, 128.0):
            every.set_and_read(page, [{"image": image, "temperature": t}])
            assert outside(page) == []
            assert overflow(page) <= 0


def test_screen_reader_hears_the_result(show: Show) -> None:
    page = show(Temperature(image=1, temperature=3.67))
    every.press(page, "temperature", "ArrowRight")
    page.wait_for_function("document.querySelector('[role=status]').textContent !== ''")
    says = page.locator('[role="status"]').inner_text()
    assert says.startswith("T 4: shirt 34.2 %, pullover 33.3 %; entropy 1.61 nats; gradient 0.04")


def test_every_control_keeps_its_arrow_keys(show: Show) -> None:
    page = show(Temperature())
    focusable = page.locator(".qx").locator("input, select, button, [tabindex]")
    assert focusable.count() == page.locator("[data-lm-suppress-shortcuts]").count() == 7
