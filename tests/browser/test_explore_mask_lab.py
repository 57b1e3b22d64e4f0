"""The mask lab in a page with no kernel and no network: numbers, hands, looks.

The checks that every explorable has to pass are in test_explore.py.
The random settings are drawn from the seed in QTOOLS_SEED (0 if unset).
"""

from __future__ import annotations

import random
import re
from typing import Any

import pytest
from playwright.sync_api import Page

from qtools.explore import MaskLab
from qtools.explore.mask_lab import MASKS, SCORES
from tests.browser import test_explore as every
from tests.browser.conftest import overflow

SETTINGS = 60

show = every.show  # the fixture
Show = every.Show


def agree(page: Page, settings: list[dict[str, Any]]) -> None:
    """The page and qtools give the same numbers: counts exactly, sums up to their rounding."""
    for setting, numbers in zip(settings, every.set_and_read(page, settings), strict=True):
        expected = MaskLab(**setting).compute()
        assert numbers.keys() == expected.keys()
        assert numbers == pytest.approx(expected, rel=1e-8, abs=1e-8), setting
        for name in ("kept", "dense", "bitmap", "csr", "own", "products"):
            assert numbers[name] == expected[name], (name, setting)


def test_numbers_equal_qtools(show: Show) -> None:
    rng = random.Random(every.SEED)
    settings = [
        {
            "mask": rng.choice(MASKS),
            "sparsity": rng.randint(0, 95),
            "score": rng.choice(SCORES),
            "compensate": rng.random() < 0.5,
        }
        for _ in range(SETTINGS)
    ]
    agree(show(MaskLab()), settings)


def test_the_corners_too(show: Show) -> None:
    settings = [
        {"mask": mask, "sparsity": sparsity, "score": "wanda", "compensate": True}
        for mask in MASKS
        for sparsity in (0, 95)
    ]
    agree(show(MaskLab()), settings)


def test_the_mouse_chooses_mask_and_sparsity(show: Show) -> None:
    page = show(MaskLab())
    page.get_by_role("button", name="4 × 4 blocks").click()
    assert every.state(page, "mask") == ["block"]
    box = every.control(page, "sparsity").bounding_box()
    assert box
    page.mouse.click(box["x"] + box["width"] - 2, box["y"] + box["height"] / 2)
    assert every.state(page, "sparsity") == [95]
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert every.state(page, "sparsity")[0] in (47, 48)
    page.get_by_label("kept weights make up for it").click()
    assert every.state(page, "compensate") == [True]
    chosen = MaskLab(
        **dict(zip(MaskLab().state(), every.state(page, *MaskLab().state()), strict=True))
    )
    assert every.shown(page, "error_block") == pytest.approx(chosen.compute()["compensated"])


def test_the_keyboard_does_all_of_it(show: Show) -> None:
    page = show(MaskLab())
    for keys, value in ((["ArrowRight"], 51), (["Home"], 0), (["End"], 95), (["ArrowLeft"], 94)):
        every.press(page, "sparsity", *keys)
        assert every.state(page, "sparsity") == [value]
        text = every.control(page, "sparsity").get_attribute("aria-valuetext")
        assert text == f"{value} % dropped"
    every.press(page, "score", "ArrowDown")
    every.press(page, "compensate", "Space")
    assert every.state(page, "score", "compensate") == ["wanda", True]
    for name, mask in (("columns", "column"), ("N of every 4", "n_m")):
        button = page.get_by_role("button", name=name)
        button.focus()
        page.keyboard.press("Enter")
        assert every.state(page, "mask") == [mask]
        assert button.get_attribute("aria-pressed") == "true"


def squares(page: Page) -> int:
    """Count the weights drawn: the corners of the two coloured paths."""
    paths = page.locator(".qx > svg path").evaluate_all(
        "ps => ps.slice(1).map((p) => p.getAttribute('d'))"
    )
    return sum(len(re.findall("M[^M]*z", d)) for d in paths)


@pytest.mark.parametrize("mask", MASKS)
def test_the_picture_draws_what_is_kept(mask: str, show: Show) -> None:
    page = show(MaskLab(mask=mask))
    assert squares(page) == MaskLab(mask=mask).compute()["kept"]


def test_text_is_the_number_rounded(show: Show) -> None:
    lab = MaskLab(sparsity=50)
    page, numbers = show(lab), lab.compute()
    text = {n.get_attribute("data-name"): n.inner_text() for n in page.locator("output").all()}
    assert text["kept"] == "576"
    assert text["plain"] == f"{numbers['plain']:.1f} %"
    assert text["norm"] == f"{numbers['norm']:.0f} %"
    assert text["bitmap"] == f"{numbers['bitmap']:.0f} bytes"
    every.set_and_read(page, [{"sparsity": 80}])
    assert "1 of every 4" in page.locator(".ml-row").all_inner_texts()[1]


@pytest.mark.parametrize("width", [1000, 390, 340])
def test_words_stay_inside(width: int, show: Show) -> None:
    page = show(MaskLab(), width=width)
    for mask in MASKS:
        every.set_and_read(page, [{"mask": mask}])
        assert overflow(page) <= 0
        outside = page.locator(".ml-row > *").evaluate_all(
            "ns => ns.filter((n) => n.scrollWidth > n.clientWidth + 1 && n.tagName !== 'OUTPUT'"
            " && getComputedStyle(n).display !== 'inline').map((n) => n.textContent)"
        )
        assert outside == []


def test_screen_reader_hears_the_result(show: Show) -> None:
    page, numbers = show(MaskLab()), MaskLab(sparsity=51).compute()
    every.press(page, "sparsity", "ArrowRight")
    page.wait_for_function("document.querySelector('[role=status]').textContent !== ''")
    says = page.locator('[role="status"]').inner_text()
    assert says == (
        f"{numbers['kept']:.0f} weights kept, output error {numbers['plain']:.1f} %,"
        f" compensated {numbers['compensated']:.1f} %, bitmap {numbers['bitmap']:.0f} bytes of 4608"
    )
