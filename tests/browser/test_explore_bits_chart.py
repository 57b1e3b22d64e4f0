"""The bits chart in a page with no kernel and no network: numbers, words, hands, looks.

The checks that every explorable has to pass are in test_explore.py. Records and settings are
drawn from the seed in QTOOLS_SEED (0 if unset).
"""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from playwright.sync_api import Page

from qtools.explore.bits_chart import BITS, GROUPS, METHODS, BitsChart
from tests.bits_charts import DrawnChart, record, trained
from tests.browser import test_explore as every
from tests.browser.conftest import overflow
from tests.browser.hands import outside, pull

SETTINGS = 150

show = every.show  # the fixture
Show = every.Show


def settings(rng: random.Random, methods: tuple[str, ...]) -> dict[str, Any]:
    return {
        "method": rng.choice(methods),
        "bits": rng.choice(BITS),
        "group_size": rng.choice(GROUPS),
        "size": rng.choice(("bits", "bytes")),
        "loss": rng.choice(("nats", "perplexity")),
    }


@pytest.mark.parametrize("step", [1e-4, 0.02], ids=["", "ties"])
@pytest.mark.parametrize("beside", [None, trained()], ids=["alone", "with the trained one"])
def test_numbers_equal_qtools(beside: Any, step: float, show: Show) -> None:
    """Copies, comparisons and quotients of the same float64 numbers."""
    rng = random.Random(every.SEED)
    table = record(rng.randrange(10_000), step)
    page = show(BitsChart(table, beside))
    methods = METHODS if beside is None else (*METHODS, "onebit")
    states = [settings(rng, methods) for _ in range(SETTINGS)]
    for state, numbers in zip(states, every.set_and_read(page, states), strict=True):
        expected = BitsChart(table, beside, **state).compute()
        assert numbers == pytest.approx(expected, rel=1e-15), state


def lines(page: Page) -> list[str]:
    """The paragraphs below the chart that are shown."""
    return page.locator(".qx-sums p:visible").all_inner_texts()


@pytest.mark.parametrize("group_size", GROUPS)
@pytest.mark.parametrize("bits", BITS)
def test_words_say_whether_it_is_dominated(bits: int, group_size: Any, show: Show) -> None:
    chart = DrawnChart(method="awq", bits=bits, group_size=group_size)
    text, numbers = lines(show(chart)), chart.compute()
    n, p = int(numbers["dominated"]), chart.chosen()
    name = f"AWQ, {bits} bit{'s' * (bits > 1)}, a scale per "
    name += "row" if group_size is None else "64 columns"
    if n == 0:
        assert text[0] == f"{name} is on the frontier: none of the 24 untrained is better and " + (
            "no larger."
        )
    else:
        verb = "are" if n > 1 else "is"
        assert text[0] == (
            f"{name} is dominated: {n} of the 24 untrained {verb} better and no larger."
        )
        assert text[1].startswith("The smallest of them: ")
        assert (
            f"({numbers['rival_bits']:.3f} bits a weight, {numbers['rival_bytes'] / 1000:.0f} kB,"
            f" {numbers['rival_nats']:.3f} nats). Go to it"
        ) in text[1]
    other = BitsChart(record(), trained(), method="onebit").chosen()
    small = "smaller" if other.bits_per_weight < p.bits_per_weight else "larger"
    worse = round(other.nats - p.nats, 3)
    good = "better" if worse < 0 else f"{worse:.3f} nats worse" if worse else "as good"
    assert text[-1] == (
        "★ OneBit, trained in chapter 14 (1.150 bits a weight, 425 kB, 1.430 nats),"
        f" is {small} and {good}."
    )


def test_text_is_the_number_rounded(show: Show) -> None:
    chart = DrawnChart(method="gptq")
    page, numbers = show(chart), chart.compute()
    text = {n.get_attribute("data-name"): n.inner_text() for n in page.locator("output").all()}
    assert text["bits_per_weight"] == f"{numbers['bits_per_weight']:.3f}"
    assert text["bytes"] == f"{numbers['bytes'] / 1000:.0f} kB"
    assert text["smaller"] == f"{numbers['smaller']:.1f}×"
    assert text["nats"] == f"{numbers['nats']:.3f}"
    assert text["excess"] == f"+{numbers['excess']:.3f} nats"
    assert text["perplexity"] == f"{numbers['perplexity']:.2f}"
    assert text["times"] == f"{numbers['times']:.2f}×"
    facts = page.locator(".qx-facts").inner_text()
    assert "± 0.002 over 3 seeds" in facts
    every.set_and_read(page, [{"bits": 3}])
    assert "±" not in page.locator(".qx-facts").inner_text()


def centre(page: Page) -> tuple[float, float]:
    """Where the ring around the chosen mark is, in the window."""
    box = page.locator(".bc-ring").bounding_box()
    assert box
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


PLACES = """async (el, states) => {
  const found = [];
  for (const values of states) {
    for (const [name, value] of Object.entries(values)) el.qtoolsModel.set(name, value);
    await null;
    const b = el.querySelector(".bc-ring").getBoundingClientRect();
    found.push([b.x + b.width / 2, b.y + b.height / 2]);
  }
  return found;
}"""
ALL = [(method, bits, group) for method in METHODS for bits in BITS for group in GROUPS]


def state_of(key: tuple[Any, ...]) -> dict[str, Any]:
    return dict(zip(("method", "bits", "group_size"), key, strict=True))


def places(page: Page) -> dict[tuple[Any, ...], tuple[float, float]]:
    """Where each of the 24 marks is: it is chosen through the model and its ring looked up."""
    centres = every.root(page).evaluate(PLACES, [state_of(key) for key in ALL])
    return {key: (x, y) for key, (x, y) in zip(ALL, centres, strict=True)}


@pytest.mark.parametrize("width", [1000, 390])
@pytest.mark.parametrize("size", ["bits", "bytes"])
def test_a_press_on_a_mark_chooses_it(size: str, width: int, show: Show) -> None:
    page = show(BitsChart(record(3), size=size), width=width)
    at = places(page)
    assert len({(round(x), round(y)) for x, y in at.values()}) == 24  # none is out of reach
    for key, (x, y) in at.items():
        page.mouse.click(x, y)
        assert tuple(every.state(page, "method", "bits", "group_size")) == key
    assert page.evaluate("document.activeElement.dataset.control") == "point"


def test_marks_stand_by_size_and_loss(show: Show) -> None:
    """Smaller is further left, but for marks moved apart; better is lower."""
    chart = BitsChart(record(3))
    at = places(show(chart))
    networks = {p[:3]: p for p in chart._points}
    for a, (xa, ya) in at.items():
        for b, (xb, yb) in at.items():
            if networks[a].bits_per_weight < networks[b].bits_per_weight:
                assert xa < xb + 18
            if networks[a].nats < networks[b].nats - 1e-3:
                assert ya > yb


def test_the_mouse_pulls_from_mark_to_mark(show: Show) -> None:
    page = show(BitsChart(record(3), method="rtn", bits=1))
    at = places(page)
    every.set_and_read(page, [{"method": "rtn", "bits": 1, "group_size": None}])
    page.mouse.move(*at["rtn", 1, None])
    page.mouse.down()
    page.mouse.move(*at["awq", 3, 64])
    assert every.state(page, "method", "bits", "group_size") == ["awq", 3, 64]
    page.mouse.move(5000, -5000)
    assert every.state(page, "bits", "group_size") == [4, 64]
    page.mouse.up()
    page.mouse.move(*at["rtn", 1, None])
    assert every.state(page, "bits") == [4]


def test_a_finger_pulls_too(show: Show) -> None:
    page = show(BitsChart(record(3), bits=1), width=390, has_touch=True, is_mobile=True)
    pull(page, page.locator(".qx-handle .qx-hit"), (60, 0), (300, 60))
    page.wait_for_function(
        "document.querySelector('.qtools-explorable').qtoolsModel.get('bits') === 4"
    )


def test_arrows_go_along_sizes_and_across_methods(show: Show) -> None:
    page = show(BitsChart(record(3), method="gptq"))
    for key, bits, group in (
        ("ArrowRight", 2, 64),
        ("ArrowRight", 3, None),
        ("PageDown", 2, None),
        ("ArrowLeft", 1, 64),
        ("Home", 1, None),
        ("ArrowLeft", 1, None),
        ("End", 4, 64),
        ("ArrowRight", 4, 64),
    ):
        every.press(page, "point", key)
        assert every.state(page, "method", "bits", "group_size") == ["gptq", bits, group], key
    at_size = sorted(
        (row for row in record(3)["summary"] if row["bits"] == 4 and row["group_size"] == 64),
        key=lambda row: row["nats"],
    )
    names = [row["method"] for row in at_size if row["method"] in METHODS]
    every.press(page, "point", *["ArrowDown"] * 3)
    assert every.state(page, "method") == [names[0]]
    every.press(page, "point", "ArrowUp")
    assert every.state(page, "method") == [names[1]]
    every.press(page, "point", "ArrowUp", "ArrowUp")
    assert every.state(page, "method", "bits", "group_size") == [names[2], 4, 64]
    text = every.control(page, "point").get_attribute("aria-valuetext")
    assert text
    n = every.shown(page, "dominated")
    assert text.endswith(f"dominated by {n:.0f}" if n else "not dominated")


def test_buttons_choose(show: Show) -> None:
    page = show(BitsChart(record(), trained()))
    page.get_by_role("button", name="AWQ").click()
    page.get_by_role("button", name="per 64 columns").focus()
    page.keyboard.press("Enter")
    every.press(page, "bits", "ArrowRight")
    page.get_by_role("button", name="perplexity").click()
    page.get_by_role("button", name="bytes of the file").click()
    names = ("method", "bits", "group_size", "loss", "size")
    assert every.state(page, *names) == ["awq", 3, 64, "perplexity", "bytes"]
    pressed = page.locator("button[aria-pressed=true]").all_inner_texts()
    assert pressed == ["▲ AWQ", "○ per 64 columns", "perplexity", "bytes of the file"]


def test_the_button_goes_to_the_rival(show: Show) -> None:
    chart = next(
        c
        for m in METHODS
        for b in BITS
        if (c := BitsChart(record(), method=m, bits=b)).compute()["dominated"]
    )
    page, numbers = show(chart), chart.compute()
    page.get_by_role("button", name="Go to it").click()
    assert every.shown(page, "bytes") == numbers["rival_bytes"]
    assert every.shown(page, "nats") == numbers["rival_nats"]
    assert every.shown(page, "dominated") == 0
    assert not page.get_by_role("button", name="Go to it").is_visible()


def test_the_trained_network_can_be_chosen_and_left(show: Show) -> None:
    page = show(BitsChart(record(), trained(), bits=3, group_size=64))
    page.get_by_role("button", name="OneBit").click()
    assert every.state(page, "method", "bits", "group_size") == ["onebit", 1, None]
    assert every.shown(page, "nats") == trained()["found"]["nats_per_char"]
    assert every.control(page, "bits").is_disabled()
    assert lines(page) == [
        "OneBit, trained is on the frontier: none of the 24 untrained is better and no larger."
    ]
    every.press(page, "point", "ArrowUp")
    assert every.state(page, "bits", "group_size") == [1, None]
    assert every.state(page, "method") != ["onebit"]
    assert every.control(page, "bits").is_enabled()
    every.press(page, "point", "ArrowDown")
    assert every.state(page, "method") == ["onebit"]
    every.press(page, "point", "ArrowRight")
    assert every.state(page, "method", "bits", "group_size") == ["gptq", 1, 64]


def test_without_the_trained_network_nothing_is_missing(show: Show) -> None:
    page = show(BitsChart(record()))
    text = page.locator(".qx").inner_text()
    assert "OneBit" not in text
    assert "★" not in text
    assert "undefined" not in text
    assert page.get_by_role("button").count() == 3 + 2 + 2 + 2 + 1


def test_what_lies_in_the_shade_dominates(show: Show) -> None:
    """The rectangle below and left of the chosen mark holds the marks that the words count."""
    chart = BitsChart(record(5))
    page = show(chart)
    at = places(page)
    for key in at:
        every.set_and_read(page, [state_of(key)])
        box = page.locator('.qx svg rect[style*="dasharray"]').bounding_box()
        assert box
        # Marks of one size may be 9 pixels beside it; of what is level to a pixel nothing is asked.
        right, top = box["x"] + box["width"] + 10, box["y"]
        below = [y - top for k, (x, y) in at.items() if x <= right and k != key]
        n = every.shown(page, "dominated")
        assert sum(y >= 1 for y in below) <= n <= sum(y > -1 for y in below), key


@pytest.mark.parametrize("width", [1000, 390, 340])
def test_words_stay_inside(width: int, show: Show) -> None:
    page = show(BitsChart(record(), trained(1.41)), width=width)
    rng = random.Random(every.SEED)
    for _ in range(20):
        every.set_and_read(page, [settings(rng, (*METHODS, "onebit"))])
        assert outside(page) == []
        assert overflow(page) <= 0


def test_a_loss_below_the_teachers_is_drawn(show: Show) -> None:
    """Quantizing may happen to help on the held-out text."""
    table = record()
    row = next(r for r in table["summary"] if (r["method"], r["bits"]) == ("gptq", 4))
    row |= {"nats": 1.399, "perplexity": math.exp(1.399)}
    page = show(BitsChart(table, method="gptq", bits=4, group_size=row["group_size"]))
    assert outside(page) == []
    assert page.locator('output[data-name="excess"]').inner_text() == "−0.001 nats"
    (_, y), zero = centre(page), page.locator(".qx-zero").bounding_box()
    axis = page.locator(".qx-axis").first.bounding_box()
    assert zero
    assert axis
    assert zero["y"] < y < axis["y"]


def test_screen_reader_hears_the_result(show: Show) -> None:
    page, numbers = show(DrawnChart()), DrawnChart(bits=3).compute()
    every.press(page, "bits", "ArrowRight")
    page.wait_for_function("document.querySelector('[role=status]').textContent !== ''")
    n = numbers["dominated"]
    assert page.locator('[role="status"]').inner_text() == (
        f"Round to nearest, 3 bits, a scale per row: {numbers['bits_per_weight']:.3f} bits a"
        f" weight, {numbers['bytes'] / 1000:.0f} kB, {numbers['nats']:.3f} nats,"
        f" +{numbers['excess']:.3f} nats against the teacher,"
        f" {f'dominated by {n}' if n else 'not dominated'}"
    )
