"""The rank explorable in a page with no kernel and no network: numbers, pixels, hands, looks.

The checks that every explorable has to pass are in test_explore.py.
The random settings are drawn from the seed in QTOOLS_SEED (0 if unset).
"""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from playwright.sync_api import Page

from qtools.decomposition import best_rank_k
from qtools.explore import RankLab
from qtools.explore.rank_lab import SUBJECTS, picture
from tests.browser import test_explore as every
from tests.browser.conftest import overflow
from tests.browser.hands import outside

SETTINGS = 200

show = every.show  # the fixture
Show = every.Show


def agree(page: Page, settings: list[dict[str, Any]]) -> None:
    """The page and qtools give the same numbers; the page decomposes the picture by itself."""
    for setting, numbers in zip(settings, every.set_and_read(page, settings), strict=True):
        expected = RankLab(**setting).compute()
        assert numbers.keys() == expected.keys()
        assert numbers == pytest.approx(expected, rel=1e-9, abs=1e-9), setting


def test_numbers_equal_qtools(show: Show) -> None:
    rng = random.Random(every.SEED)
    settings = [
        {"subject": rng.choice(SUBJECTS), "rank": rng.randint(1, 128)} for _ in range(SETTINGS)
    ]
    agree(show(RankLab()), settings)


def test_the_corners_too(show: Show) -> None:
    ranks = (1, 2, 47, 48, 83, 84, 85, 104, 105, 127, 128)
    agree(show(RankLab()), [{"subject": s, "rank": k} for s in SUBJECTS for k in ranks])


def pixels(page: Page, index: int) -> torch.Tensor:
    values = page.locator("canvas").nth(index).evaluate(
        "(c) => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
    )  # fmt: skip
    rgba = torch.tensor(values, dtype=torch.uint8).reshape(84, 112, 4)
    assert (rgba[..., 3] == 255).all()
    assert torch.equal(rgba[..., 0], rgba[..., 1])
    assert torch.equal(rgba[..., 0], rgba[..., 2])
    return rgba[..., 0]


@pytest.mark.parametrize("rank", [1, 8, 30, 128])
def test_the_picture_shown_is_the_nearest(rank: int, show: Show) -> None:
    page = show(RankLab(subject="picture", rank=rank))
    expected = best_rank_k(picture().double(), min(rank, 84)).reconstruct().clamp(0, 255)
    # A grey value halfway between two may go either way.
    assert ((pixels(page, 0).double() - expected).abs() <= 0.5 + 1e-6).all()
    assert torch.equal(pixels(page, 1), picture())


def test_mouse_and_keyboard(show: Show) -> None:
    page = show(RankLab())
    page.get_by_role("button", name="Picture").click()
    assert every.state(page, "subject") == ["picture"]
    page.get_by_role("button", name="Last rank that pays").click()
    assert every.state(page, "rank") == [47]
    assert every.shown(page, "ratio") < 1
    every.press(page, "rank", "ArrowRight")
    assert every.shown(page, "ratio") == 1
    every.press(page, "rank", "Home")
    assert every.state(page, "rank") == [1]
    page.get_by_role("button", name="Trained layer").focus()
    page.keyboard.press("Enter")
    assert every.state(page, "subject") == ["layer"]
    page.get_by_role("button", name="Last rank that pays").focus()
    page.keyboard.press("Space")
    assert every.state(page, "rank") == [104]
    every.press(page, "rank", "End")
    assert every.shown(page, "weights") == RankLab(rank=128).compute()["weights"]


@pytest.mark.parametrize(("subject", "most"), [("layer", 128), ("picture", 84)])
def test_the_mouse_pulls_the_rank_in_the_chart(subject: str, most: int, show: Show) -> None:
    page = show(RankLab(subject=subject))
    chart = page.locator(".qx svg").first
    box = chart.bounding_box()
    assert box
    left, right, y = box["x"] + 44, box["x"] + box["width"] - 8, box["y"] + box["height"] - 60
    page.mouse.move(left + (right - left) * 0.25, y)
    page.mouse.down()
    assert every.state(page, "rank")[0] == pytest.approx(most / 4, abs=1.01)
    page.mouse.move(right + 300, y)
    assert every.state(page, "rank") == [most]
    page.mouse.move(0, y)
    assert every.state(page, "rank") == [1]
    page.mouse.up()
    page.mouse.move(right, y)
    assert every.state(page, "rank") == [1]


def test_text_is_the_number_rounded(show: Show) -> None:
    page, numbers = show(RankLab()), RankLab().compute()
    text = {n.get_attribute("data-name"): n.inner_text() for n in page.locator("output").all()}
    assert text["error"] == f"{numbers['error']:.1f} %"
    assert text["factor_bytes"] == f"{numbers['factor_bytes'] / 1000:.1f} kB"
    assert text["weights"] == f"{numbers['weights']:.2f} %"
    assert text["ratio"] == f"{numbers['ratio']:.2f}×"


@pytest.mark.parametrize("subject", SUBJECTS)
@pytest.mark.parametrize("width", [1000, 390, 340])
def test_words_stay_inside(width: int, subject: str, show: Show) -> None:
    page = show(RankLab(subject=subject), width=width)
    for rank in (1, 40, 128):
        every.set_and_read(page, [{"rank": rank}])
        assert outside(page) == []
        assert overflow(page) <= 0


def test_screen_reader_hears_the_result(show: Show) -> None:
    page, numbers = show(RankLab()), RankLab(rank=17).compute()
    every.press(page, "rank", "ArrowRight")
    page.wait_for_function("document.querySelector('[role=status]').textContent !== ''")
    assert page.locator('[role="status"]').inner_text() == (
        f"rank 17: relative error {numbers['error']:.1f} %, factors {numbers['ratio']:.2f} times"
        f" the bytes of the whole, {numbers['weights']:.2f} percent right"
    )
