"""The SVID laboratory in a page with no kernel and no network: numbers, pictures, hands, looks.

The checks that every explorable has to pass are in test_explore.py.
The random settings are drawn from the seed in QTOOLS_SEED (0 if unset).
"""

from __future__ import annotations

import random
import re
from typing import Any

import pytest
import torch
from playwright.sync_api import Page

from qtools.explore import SVIDLab
from qtools.explore.svid_lab import COLUMNS, METHODS
from tests.browser import test_explore as every
from tests.browser.conftest import overflow

SETTINGS = 250

show = every.show  # the fixture
Show = every.Show


def agree(page: Page, settings: list[dict[str, Any]]) -> None:
    for setting, numbers in zip(settings, every.set_and_read(page, settings), strict=True):
        expected = SVIDLab(**setting).compute()
        assert numbers.keys() == expected.keys()
        # Near rank one the errors are differences of almost equal numbers.
        assert numbers == pytest.approx(expected, rel=1e-9, abs=1e-9), setting


def random_setting(rng: random.Random) -> dict[str, Any]:
    def amount() -> float:
        return rng.choice([0.0, 1.0, rng.random(), rng.randint(0, 10) / 10])

    return {
        "rows": amount(), "columns": amount(), "tail": amount(), "pattern": rng.random() < 0.3,
        "method": rng.choice(METHODS), "seed": rng.randint(1, 99),
    }  # fmt: skip


def test_numbers_equal_qtools(show: Show) -> None:
    rng = random.Random(every.SEED)
    agree(show(SVIDLab()), [random_setting(rng) for _ in range(SETTINGS)])


def test_the_corners_too(show: Show) -> None:
    corners = [
        {"rows": r, "columns": c, "tail": t, "pattern": p, "seed": s}
        for r in (0.0, 1.0)
        for c in (0.0, 1.0)
        for t in (0.0, 1.0)
        for p in (False, True)
        for s in (1, 99)
    ]
    agree(show(SVIDLab()), corners)


@pytest.mark.parametrize("method", METHODS)
def test_the_maps_show_the_matrices(method: str, show: Show) -> None:
    """A square for each entry: hue and slit for the sign, one of 12 shades for the size."""
    lab = SVIDLab(method=method, tail=0.3)
    page = show(lab)
    w, near = lab.weight(), lab.approximation(method)
    matrices = torch.stack([w, near, w - near])
    shown = torch.zeros_like(matrices)
    svg = page.locator(".qx > svg")
    cell = (svg.evaluate("(n) => n.clientWidth") - 32) / 3 / COLUMNS
    paths = svg.locator("path").evaluate_all(
        "(all) => all.map((n) => [n.getAttribute('d'), n.style.fill, n.style.opacity])"
    )
    for d, fill, opacity in paths:
        squares = re.findall(r"M([\d.]+),([\d.]+)h[\d.]+v[\d.]+h-[\d.]+z(M[\d.,]+v[^z]*z)?", d)
        for x, y, slit in squares:
            k, left = divmod(float(x) + 0.01, COLUMNS * cell + 16)
            assert bool(slit) == ("red" in fill)
            sign = -1 if slit else 1
            shown[int(k), int((float(y) - 21.9) / cell), int(left / cell)] = sign * float(opacity)
    size = (matrices.abs() / (3 * w.square().mean().sqrt())).sqrt().clamp(max=1)
    assert torch.equal(shown < 0, matrices < 0)
    assert (shown != 0).all()
    assert ((shown.abs() - size).abs() <= 0.5 / 12 + 1e-3).all()


def test_bars_are_as_long_as_the_numbers(show: Show) -> None:
    lab = SVIDLab(rows=0.4, columns=0.7, tail=0.2)
    page, numbers = show(lab), lab.compute()
    limit = {
        "scale": 1 - 2 / torch.pi * torch.tensor(-0.16 - 0.49 - 0.04).exp().item(),
        "row": 1 - 2 / torch.pi * torch.tensor(-0.49 - 0.04).exp().item(),
        "rank_one": 1.0,
        "svid": 1 - 2 / torch.pi * torch.tensor(-0.04).exp().item(),
    }
    for i, name in enumerate(METHODS):
        bar = page.locator("button.sv-row").nth(i)
        shares = bar.evaluate(
            """(n) => {
              const [whole, part] = [...n.querySelectorAll("rect")].map((r) => r.getBoundingClientRect());
              const ends = [...n.querySelectorAll("line")].map((l) => l.getBoundingClientRect());
              return [part.right, ...ends.map((e) => (e.left + e.right) / 2)]
                .map((x) => (x - whole.left) / whole.width);
            }"""  # noqa: E501
        )
        expected = [numbers[name], limit[name], 1 - 2 / torch.pi]
        assert shares == pytest.approx(expected, abs=3e-3), name
        assert bar.locator("output").inner_text() == f"{numbers[name]:.3f}"


def test_mouse_and_keyboard(show: Show) -> None:
    page = show(SVIDLab())
    page.get_by_role("button", name="Gaussian").click()
    assert every.state(page, "rows", "columns", "tail", "pattern") == [0, 0, 0, False]
    assert page.get_by_role("button", name="Gaussian").get_attribute("aria-pressed") == "true"
    before = every.shown(page, "svid")
    every.press(page, "tail", "ArrowRight", "ArrowRight", "End")
    assert every.state(page, "tail") == [1]
    assert every.shown(page, "svid") > before
    every.press(page, "rows", "End", "ArrowLeft")
    assert every.state(page, "rows") == [0.9]
    every.press(page, "columns", "End", "Home", "ArrowRight")
    assert every.state(page, "columns") == [0.1]
    every.press(page, "pattern", "Space")
    assert every.state(page, "pattern") == [True]
    assert every.shown(page, "svid") == pytest.approx(every.shown(page, "rank_one"), abs=1e-12)
    page.get_by_role("button", name="Draw another").click()
    assert every.state(page, "seed") == [2]
    page.get_by_role("button", name="Rank one").last.click()
    assert every.state(page, "method") == ["rank_one"]
    page.get_by_role("button", name="Row scales").focus()
    page.keyboard.press("Enter")
    assert every.state(page, "method") == ["row"]
    assert "Row scales" in page.locator(".qx > svg").text_content()
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert every.state(page, "method") == ["rank_one"]


def test_after_the_last_seed_comes_the_first(show: Show) -> None:
    page = show(SVIDLab(seed=99))
    page.get_by_role("button", name="Draw another").click()
    assert every.state(page, "seed") == [1]


@pytest.mark.parametrize("width", [1000, 390, 340])
def test_words_stay_inside(width: int, show: Show) -> None:
    page = show(SVIDLab(), width=width)
    for method in METHODS:
        every.set_and_read(page, [{"method": method, "rows": 1.0, "tail": 1.0}])
        outside = page.evaluate(
            """() => [...document.querySelectorAll(".qx svg text, .sv-label, .sv-row *")].filter((n) => {
              const [b, s] = [n, document.querySelector(".qx")].map((x) => x.getBoundingClientRect());
              if (!n.checkVisibility()) return false;
              return b.left < s.left - 1 || b.right > s.right + 1;
            }).map((n) => n.textContent)"""  # noqa: E501
        )
        assert outside == []
        assert overflow(page) <= 0


def test_screen_reader_hears_the_result(show: Show) -> None:
    page, numbers = show(SVIDLab(rows=0.5)), SVIDLab(rows=0.6).compute()
    every.press(page, "rows", "ArrowRight")
    page.wait_for_function("document.querySelector('[role=status]').textContent !== ''")
    assert page.locator('[role="status"]').inner_text() == (
        f"Lost of the squared norm: One scale {numbers['scale']:.3f}, Row scales"
        f" {numbers['row']:.3f}, Rank one {numbers['rank_one']:.3f}, SVID {numbers['svid']:.3f}"
    )
