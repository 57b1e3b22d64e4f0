"""The ablations in a page with no kernel and no network: numbers, hands, looks.

On a record made for it; the checks that every explorable has to pass are in test_explore.py. The
random settings are drawn from the seed in QTOOLS_SEED (0 if unset).
"""

from __future__ import annotations

import math
import random

import pytest
from playwright.sync_api import Locator, Page

from qtools.explore import OneBitAblations
from tests.ablation_records import SmallAblations, record
from tests.browser import test_explore as every
from tests.browser.conftest import overflow
from tests.browser.hands import outside

SETTINGS = 100
KEYS = SmallAblations()._data["keys"]
FIRST = min(steps[0] for steps in SmallAblations()._data["steps"])
LONGEST = max(steps[-1] for steps in SmallAblations()._data["steps"])
STRIDE = SmallAblations()._data["stride"]

show = every.show  # the fixture
Show = every.Show


def test_numbers_equal_qtools(show: Show) -> None:
    rng = random.Random(every.SEED)
    drawn = [
        {"run": rng.choice(KEYS), "pinned": rng.choice(KEYS), "at": rng.randint(1, LONGEST)}
        for _ in range(SETTINGS)
    ]
    page = show(SmallAblations())
    for setting, numbers in zip(drawn, every.set_and_read(page, drawn), strict=True):
        expected = SmallAblations(**setting).compute()
        assert numbers == pytest.approx(expected, rel=1e-12, abs=1e-14), setting


def button(page: Page, group: str, text: str) -> Locator:
    return page.get_by_role("group", name=group).get_by_role("button", name=text, exact=True)


def run(page: Page) -> str:
    return every.state(page, "run")[0]


def test_ingredients_combine_and_what_was_not_run_says_so(show: Show) -> None:
    page = show(SmallAblations())
    why = page.locator(".qx-note").first
    button(page, "Layers start from", "random weights").click()
    button(page, "LayerNorm", "with").click()
    button(page, "Loss on hidden states, α", "none").click()
    assert run(page) == "start=random, layer_norm=yes, alpha=0"
    assert (
        button(page, "Layers start from", "random weights").get_attribute("aria-pressed") == "true"
    )
    assert "Struck out" in why.inner_text()
    clipped = button(page, "Slope of sign(w)", "1 if |w| ≤ 1")
    assert clipped.get_attribute("aria-disabled") == "true"
    assert "line-through" in clipped.evaluate("(n) => getComputedStyle(n).textDecorationLine")
    clipped.click(force=True)  # Playwright waits for what is disabled
    assert run(page) == "start=random, layer_norm=yes, alpha=0"
    assert why.inner_text() == (
        "Not run: slope 1 if |w| ≤ 1 with start from random weights, with LayerNorm, no loss on"
        " hidden states. It was run with start from SVID, without LayerNorm, α = 1."
    )
    assert page.locator("[role=status]").text_content() == why.inner_text()
    page.get_by_role("button", name="Back to the base").click()
    assert run(page) == "base"
    assert "Struck out" in why.inner_text()
    clipped.click()
    assert run(page) == "gradient=clipped"


def test_every_choice_that_is_not_struck_out_was_run(show: Show) -> None:
    """A click on each button either moves to a setting or is refused."""
    page = show(SmallAblations())
    found = page.evaluate(
        """async () => {
          const el = document.querySelector(".qtools-explorable");
          const buttons = [...el.querySelectorAll(".oa-group button")];
          const all = [];
          for (const key of [...DATA_KEYS]) {
            for (const b of buttons) {
              el.qtoolsModel.set("run", key);
              await null;
              const off = b.getAttribute("aria-disabled") === "true";
              b.click();
              await null;
              const pressed = b.getAttribute("aria-pressed") === "true";
              all.push([key, off, el.qtoolsModel.get("run"), pressed]);
            }
          }
          return all;
        }""".replace("DATA_KEYS", str(KEYS[::4]))
    )
    from_base = {after for before, _, after, _ in found if before == "base"}
    assert from_base >= {key for key in KEYS if "," not in key or "layer=" in key}
    for before, off, after, pressed in found:
        assert after in KEYS
        assert pressed == (not off)
        assert after == before or not off
    refused = sum(off for _, off, _, _ in found)
    assert 0 < refused < len(found)


def test_another_layer_brings_its_start_along(show: Show) -> None:
    page = show(SmallAblations())
    button(page, "Layer", "BitNet’s").click()
    assert run(page) == "start=copied, layer=bitnet"
    assert button(page, "Layers start from", "SVID").get_attribute("aria-disabled") == "true"
    button(page, "Layer", "OneBit").click()
    assert run(page) == "start=copied"


def test_pins_and_compares_in_words(show: Show) -> None:
    page = show(SmallAblations())
    say = page.locator(".oa-say")
    assert say.inner_text() == "This one is pinned. Choose another one to compare."
    button(page, "Layers start from", "random weights").click()
    page.get_by_role("button", name="Pin this one").click()
    assert every.state(page, "pinned") == ["start=random"]
    button(page, "LayerNorm", "with").click()
    widget = SmallAblations(run="start=random, layer_norm=yes", pinned="start=random")
    numbers = widget.compute()
    better = "worse" if numbers["difference"] > 0 else "better"
    sure = abs(numbers["difference"]) > numbers["doubt"]
    chance = "More than chance between seeds" if sure else "Chance between seeds may do as much"
    assert say.inner_text() == (
        f"{abs(numbers['difference']):.3f} nats {better} than the pinned one: with LayerNorm, not"
        f" without. {chance}, ±{numbers['doubt']:.3f}."
    )
    wrote = page.locator(".oa-text")
    samples = widget._data["samples"]
    keys = [KEYS.index(key) for key in (widget.run, widget.pinned)]
    expected = [*(samples[k] for k in keys), widget._data["teacher"]["sample"]]
    assert wrote.all_text_contents() == expected
    assert page.get_by_text(f"Pinned, {numbers['pinned']:.3f} nats, it wrote").is_visible()


def test_spread_is_shown_where_there_are_seeds(show: Show) -> None:
    page = show(SmallAblations())
    seeds = {key: row[2] for key, row in zip(KEYS, SmallAblations()._data["rows"], strict=True)}
    assert seeds["base"] == 3
    assert page.get_by_text("3 seeds").is_visible()
    assert page.locator("output[data-name=deviation]").inner_text().strip().startswith("±")
    alone = next(key for key in KEYS if seeds[key] == 1)
    every.set_and_read(page, [{"run": alone}])
    assert not page.get_by_text("1 seeds").is_visible()
    assert page.locator("output[data-name=deviation]").inner_text() == ""


def test_mouse_and_keyboard(show: Show) -> None:
    page = show(SmallAblations())
    every.press(page, "at", "Home")
    assert every.state(page, "at") == [FIRST]
    every.press(page, "at", "ArrowRight", "PageUp")
    assert every.state(page, "at") == [FIRST + 11 * STRIDE]
    every.press(page, "at", "End")
    assert every.state(page, "at") == [LONGEST]
    box = page.locator(".qx svg").last.bounding_box()
    assert box
    page.mouse.click(box["x"] + 38 + (box["width"] - 110) / 2, box["y"] + 100)
    middle = math.sqrt(FIRST * LONGEST)
    (at,) = every.state(page, "at")
    assert at == pytest.approx(middle, abs=0.02 * middle + 1)
    page.keyboard.press("ArrowRight")  # the click has put the focus there
    assert every.state(page, "at") == [at + STRIDE]
    order = sorted(KEYS, key=lambda key: SmallAblations(run=key).compute()["nats"])
    every.press(page, "run", "End")
    assert run(page) == order[-1]
    every.press(page, "run", "ArrowUp")
    assert run(page) == order[-2]
    page.get_by_role("button", name="Back to the base").click()
    button(page, "LayerNorm", "with").focus()
    page.keyboard.press("Enter")
    assert run(page) == "layer_norm=yes"


def test_curves_are_drawn(show: Show) -> None:
    page = show(SmallAblations(run=KEYS[3], pinned=KEYS[4]))
    seeds = int(SmallAblations(run=KEYS[3]).compute()["seeds"])
    for name, count in (("pale", len(KEYS)), ("run", 1), ("pin", 1), ("seed", seeds - 1)):
        assert page.locator(f"path.oa-{name}").count() == count, name
    blue, red = (page.locator(f"path.oa-{name}").bounding_box() for name in ("run", "pin"))
    assert blue
    assert red
    ends = [SmallAblations(run=key, at=LONGEST).compute()["loss"] for key in (KEYS[3], KEYS[4])]
    lower = blue["y"] + blue["height"] > red["y"] + red["height"]
    assert lower == (ends[0] < ends[1])


@pytest.mark.parametrize("width", [1000, 390, 340])
def test_words_stay_inside_and_apart(width: int, show: Show) -> None:
    page = show(SmallAblations(), width=width)
    for key in KEYS:
        every.set_and_read(page, [{"run": key}])
        assert outside(page) == [], key
        assert overflow(page) <= 0, key


def test_a_record_of_one_setting(show: Show) -> None:
    whole = record()
    page = show(OneBitAblations(whole | {"summary": whole["summary"][:1]}))
    assert page.locator(".oa-group").count() == 0  # there is nothing to choose
    assert every.shown(page, "rank") == every.shown(page, "settings") == 1


def test_screen_reader_hears_the_result(show: Show) -> None:
    page = show(SmallAblations())
    button(page, "LayerNorm", "with").click()
    page.wait_for_function("document.querySelector('[role=status]').textContent !== ''")
    numbers = SmallAblations(run="layer_norm=yes").compute()
    says = page.locator('[role="status"]').inner_text()
    assert says.startswith(f"with LayerNorm: {numbers['nats']:.3f} nats, perplexity")


@pytest.mark.parametrize("scheme", every.SCHEMES)
def test_axe_finds_nothing_serious(scheme: str, show: Show) -> None:
    page = show(SmallAblations(run="start=random, alpha=0"), scheme=scheme)
    assert every.serious_violations(page) == []
