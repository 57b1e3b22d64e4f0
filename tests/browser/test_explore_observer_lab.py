"""The observer laboratory in a page with no kernel and no network: numbers, hands, looks.

The checks that every explorable has to pass are in test_explore.py.
The random settings are drawn from the seed in QTOOLS_SEED (0 if unset).
"""

from __future__ import annotations

import math
import random
from itertools import pairwise
from typing import Any

import pytest
from playwright.sync_api import Page

from qtools.explore import ObserverLab
from qtools.explore.observer_lab import STREAMS, batch
from tests.browser import test_explore as every
from tests.browser.conftest import overflow
from tests.browser.hands import pull

SETTINGS = 250
NAMES = ("minmax", "average", "percentile", "mse", "kl")

show = every.show  # the fixture
Show = every.Show


def random_setting(rng: random.Random) -> dict[str, Any]:
    by_hand = rng.random() < 0.5  # what a hand can reach: steps of 0.01
    c, p = rng.uniform(0.01, 1), rng.uniform(98, 100)
    return {
        "stream": rng.choice(STREAMS),
        "batches": rng.randint(1, 20),
        "bits": rng.randint(2, 8),
        "averaging_constant": round(c, 2) if by_hand else c,
        "percentile": rng.choice([round(p, 2), 100.0]) if by_hand else p,
    }


def agree(page: Page, settings: list[dict[str, Any]]) -> None:
    """The page and qtools give the same numbers.

    Every range comes from the same float64 operations in the same order, but for the candidates
    of the MSE criterion, ``2^(-i/64)``, where libraries of powers differ by a rounding. Sums of
    squares are added in another order. 1e-10 relative is a thousand times what both amount to,
    and far below any wrong bin, zero point or candidate. Shares are whole numbers over the count
    of values, so no tolerance.
    """
    for setting, numbers in zip(settings, every.set_and_read(page, settings), strict=True):
        expected = ObserverLab(**setting).compute()
        assert numbers.keys() == expected.keys()
        for name, value in expected.items():
            near = 0 if name.endswith("_outside") else 1e-10
            assert numbers[name] == pytest.approx(value, rel=near, abs=1e-12), (name, setting)


def test_numbers_equal_qtools(show: Show) -> None:
    rng = random.Random(every.SEED)
    agree(show(ObserverLab()), [random_setting(rng) for _ in range(SETTINGS)])


@pytest.mark.parametrize("stream", STREAMS)
def test_every_stream_at_every_width(stream: str, show: Show) -> None:
    """Early batches too, where the percentile sorts the values and histograms are sparse."""
    settings = [
        {"stream": stream, "bits": bits, "batches": batches}
        for bits in range(2, 9)
        for batches in (1, 2, 3, 7, 20)
    ]
    agree(show(ObserverLab()), settings)


def uppers(page: Page, name: str) -> float:
    return every.shown(page, f"{name}_max")


def test_the_button_feeds_and_starts_again(show: Show) -> None:
    page = show(ObserverLab(batches=5))
    feed = page.get_by_role("button", name="Feed the next batch")
    low, high, average = (uppers(page, name) for name in ("percentile", "minmax", "average"))
    feed.click()
    assert every.state(page, "batches") == [6]
    assert uppers(page, "minmax") == batch("outliers", 6).max().item() > 3 * high
    assert average < uppers(page, "average") < 1.4 * average
    assert uppers(page, "percentile") < 1.4 * low
    for _ in range(14):
        feed.click()
    feed.click(force=True)  # after the last batch there is none
    assert every.state(page, "batches") == [20]
    assert feed.get_attribute("aria-disabled") == "true"
    page.get_by_role("button", name="Start again").click()
    assert every.state(page, "batches") == [1]
    assert feed.get_attribute("aria-disabled") == "false"


def test_the_keyboard_does_all_of_it(show: Show) -> None:
    page = show(ObserverLab(batches=5))
    page.get_by_role("button", name="Feed the next batch").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Space")
    assert every.state(page, "batches") == [7]
    for keys, batches in (
        (["ArrowRight"], 8),
        (["ArrowDown", "ArrowLeft"], 6),
        (["PageUp"], 11),
        (["Home"], 1),
        (["ArrowLeft"], 1),
        (["End", "ArrowUp"], 20),
    ):
        every.press(page, "batches", *keys)
        assert every.state(page, "batches") == [batches], keys
        knob = every.control(page, "batches")
        assert knob.get_attribute("aria-valuenow") == str(batches)
        assert knob.get_attribute("aria-valuetext") == f"batch {batches} of 20"
    sqnr = every.shown(page, "mse_sqnr")
    every.press(page, "bits", "ArrowRight")
    assert every.state(page, "bits") == [5]
    assert every.shown(page, "mse_sqnr") > sqnr + 3
    every.press(page, "averaging_constant", "End")
    assert every.state(page, "averaging_constant") == [1]
    assert uppers(page, "average") == batch("outliers", 20).max().item()
    every.press(page, "percentile", "End")
    assert every.state(page, "percentile") == [100]
    assert uppers(page, "percentile") == uppers(page, "minmax")
    every.press(page, "percentile", "ArrowLeft")
    assert every.state(page, "percentile") == [99.99]
    every.press(page, "stream", "ArrowDown")
    assert every.state(page, "stream") == ["equal"]
    assert every.shown(page, "kl_sqnr") == math.inf


def test_the_mouse_pulls_the_batches(show: Show) -> None:
    page = show(ObserverLab(batches=5))
    every.drag(page, every.control(page, "batches").locator(".qx-hit"), 100)
    (batches,) = every.state(page, "batches")
    assert 7 <= batches <= 9
    every.drag(page, every.control(page, "batches").locator(".qx-hit"), 2000)
    assert every.state(page, "batches") == [20]
    every.drag(page, every.control(page, "batches").locator(".qx-hit"), -2000)
    assert every.state(page, "batches") == [1]
    # A press beside the handle brings it there.
    box = page.locator(".qx svg").last.bounding_box()
    assert box
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + 60)
    assert every.state(page, "batches")[0] == pytest.approx(11, abs=2)


def test_a_finger_pulls_the_batches(show: Show) -> None:
    page = show(ObserverLab(batches=5), width=390, has_touch=True, is_mobile=True)
    handle = every.control(page, "batches").locator(".qx-hit")
    pull(page, handle, (30, 0), (60, 0))
    page.wait_for_function(
        "document.querySelector('.qtools-explorable').qtoolsModel.get('batches') > 7"
    )


def test_text_is_the_number_rounded(show: Show) -> None:
    page = show(ObserverLab(batches=10))
    text = {
        part: page.locator(f'output[data-name="mse_{part}"]').inner_text()
        for part in ("min", "max", "sqnr", "outside")
    }
    assert text == {"min": "−3.41", "max": "9.38", "sqnr": "★ 11.6", "outside": "0.68 %"}
    starred = page.locator("output", has_text="★")
    assert starred.count() == 1
    page.locator('[data-control="stream"]').select_option(label="All equal")
    assert page.locator('output[data-name="kl_sqnr"]').inner_text() == "★ ∞"
    assert starred.count() == 5


def test_the_picture_shows_the_numbers(show: Show) -> None:
    """Brackets on one scale with the axis above them; lines that end at the upper ends."""
    page = show(ObserverLab(batches=10))
    boxes = page.evaluate(
        """() => [...document.querySelectorAll(".ob:not(.ob-head) path")].map((n) => {
          const b = n.getBBox();
          return [b.x, b.x + b.width];
        })"""
    )
    numbers = ObserverLab(batches=10).compute()
    ends = [[numbers[f"{name}_min"], numbers[f"{name}_max"]] for name in NAMES]
    (left, right), (low, high) = boxes[0], ends[0]
    for drawn, real in zip(boxes, ends, strict=True):
        for pixel, value in zip(drawn, real, strict=True):
            across = (value - low) / (high - low)
            assert pixel == pytest.approx(left + across * (right - left), abs=0.1)
    heights = page.evaluate(
        """() => [...document.querySelectorAll(".qx > div > svg:last-child path[style]")]
          .map((n) => n.getPointAtLength(n.getTotalLength()).y)"""
    )
    zero = 168
    for height, (_, value) in zip(heights, ends, strict=True):
        assert zero - height == pytest.approx((zero - heights[0]) * value / high, abs=0.1)


def test_colour_is_never_the_only_sign(show: Show) -> None:
    page = show(ObserverLab(batches=10))
    looks = page.evaluate(
        """() => [...document.querySelectorAll(".ob:not(.ob-head) path")].map((n) => {
          const s = getComputedStyle(n);
          return [s.strokeDasharray, s.strokeWidth].join();
        })"""
    )
    assert len(set(looks)) == 5
    names = page.locator(".qx > div > svg:last-child text").all_text_contents()
    assert {"min–max", "moving average", "percentile", "MSE", "KL"} <= set(names)


@pytest.mark.parametrize("width", [1000, 390, 340])
@pytest.mark.parametrize("stream", STREAMS)
def test_names_do_not_cover_each_other(stream: str, width: int, show: Show) -> None:
    page = show(ObserverLab(stream=stream), width=width)
    for batches in (1, 7, 20):
        every.set_and_read(page, [{"batches": batches}])
        boxes = page.evaluate(
            """() => [...document.querySelectorAll(".qx > div > svg:last-child text[style]")]
              .map((n) => n.getBBox()).map((b) => [b.x, b.x + b.width, b.y, b.y + b.height])"""
        )
        assert len(boxes) == 5
        middles = sorted((low + high) / 2 for _, _, low, high in boxes)
        assert all(b - a >= 13.9 for a, b in pairwise(middles))
        assert min(low for _, _, low, _ in boxes) >= 0
        wide = page.locator(".qx").evaluate("(el) => el.clientWidth")
        assert max(right for _, right, _, _ in boxes) <= wide
        assert overflow(page) <= 0


def test_screen_reader_hears_the_result(show: Show) -> None:
    page = show(ObserverLab(batches=9))
    every.press(page, "batches", "ArrowRight")
    page.wait_for_function("document.querySelector('[role=status]').textContent !== ''")
    says = page.locator('[role="status"]').inner_text()
    assert says == "batch 10 of 20, best: histogram, MSE, 11.6 decibel"
