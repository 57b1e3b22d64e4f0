"""The 1-bit writer in a page with no kernel and no network: logits, text, damage, hands, looks.

The checks that every explorable has to pass are in test_explore.py. The random prompts are drawn
from the seed in QTOOLS_SEED (0 if unset).
"""

from __future__ import annotations

import copy
import json
import random
from typing import Any

import pytest
import torch
from playwright.sync_api import Page

from qtools.explore.one_bit_writer import OneBitWriter, known, script_text, surprises
from qtools.models import CharGPT
from qtools.text import split
from tests.browser import test_explore as every
from tests.browser.conftest import OpenPage, overflow
from tests.one_bit_writers import SmallWriter, large, small

PROMPTS = 50
#: Of logits up to 30 from sums in float32 on the one side and float64 on the other.
TOLERANCE = 1e-4

show = every.show  # the fixture
Show = every.Show

MODULE = """async ([esm, prompts]) => {
  const page = new Blob([esm], { type: "text/javascript" });
  const { session, encode, gelu } = await import(URL.createObjectURL(page));
  const logits = (text, floats) => {
    const s = session(floats);
    return [...encode(text).map((t) => s.feed(t)).at(-1)];
  };
  const gelus = [];
  for (let x = -10; x <= 10; x += 1 / 1024) gelus.push(gelu(x));
  return [prompts.map((p) => logits(p, false)), logits(prompts.at(-1), true), gelus];
}"""


def run(page: Page, model: CharGPT, prompts: list[str]) -> list[torch.Tensor]:
    """Logits after each prompt on bits, after the last on floats; GELU from -10 to 10."""
    data = json.dumps(OneBitWriter(model)._data)
    engine = script_text("one_bit_model.js")
    esm = f"const DATA = {data};\n{engine}\nexport {{ session, encode, gelu }};"
    return [torch.tensor(v, dtype=torch.float64) for v in page.evaluate(MODULE, [esm, prompts])]


@torch.no_grad()
def reference(model: CharGPT, prompts: list[str]) -> torch.Tensor:
    return torch.stack([model(model.encode(p)[None], False).logits[0, -1] for p in prompts])


def test_logits_equal_qtools_on_50_prompts(open_page: OpenPage) -> None:
    rng = random.Random(every.SEED)
    _, text = split()
    prompts = []
    for length in [1, 2, 256, *(rng.randint(3, 50) for _ in range(PROMPTS - 3))]:
        start = rng.randrange(len(text) - 256)
        prompts.append(text[start : start + length])
    # Half of them under random signs, as far from the trained ones as signs can be.
    noisy = OneBitWriter(large(), share=50.0).flipped()
    page, worst = open_page("about:blank"), 0.0
    for model, part in ((large(), prompts[::2]), (noisy, prompts[1::2])):
        bits, floats, gelus = run(page, model, part)
        expected = reference(model, part)
        assert expected.std() > 1
        worst = max(worst, float((bits - expected).abs().max()))
        precise = reference(copy.deepcopy(model).double(), part[-3:])
        assert (bits[-3:] - precise).abs().max() <= 1e-5  # angles are float32 here and there
        assert (bits[-1] - floats).abs().max() <= 1e-11
    print(f"largest difference of a logit on {PROMPTS} prompts: {worst:.2e}")
    assert worst <= TOLERANCE
    x = torch.arange(-10, 10 + 1 / 1024, 1 / 1024, dtype=torch.float64)
    assert (gelus - torch.nn.functional.gelu(x)).abs().max() <= 1e-8


def test_rows_that_are_padded(open_page: OpenPage) -> None:
    prompts = ["T", "The white ", "now all five thousand fowls rolled on"]
    bits, floats, _ = run(open_page("about:blank"), small(), prompts)
    assert (bits - reference(small(), prompts)).abs().max() <= TOLERANCE
    assert (bits[-1] - floats).abs().max() <= 1e-11


def rest(page: Page) -> None:
    """Wait until nothing is written or measured any more."""
    page.wait_for_function("!document.querySelector('[data-busy]')", timeout=60_000)


def write(page: Page) -> str:
    page.get_by_role("button", name="Write").click()
    rest(page)
    return page.locator(".ow-text").inner_text()


def flowing(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize(
    "setting",
    [
        {},
        {"temperature": 0.0, "prompt": "Call me "},
        {"temperature": 1.5, "seed": 2**31 - 1, "prompt": "Thé “white” " + "whale " * 20},
        {"share": 2.0, "where": "blocks.1", "hand": [0, 311]},
        {"prompt": ""},
    ],
    ids=str,
)
def test_writes_what_qtools_writes(setting: dict[str, Any], show: Show) -> None:
    widget = SmallWriter(**setting)
    page = show(widget)
    rest(page)
    assert flowing(write(page)) == flowing(known(small(), widget.prompt) + widget.write())


def test_the_large_one_writes_and_is_fast_enough(show: Show) -> None:
    widget = OneBitWriter(large(), prompt="Whales ", temperature=0.5)
    page = show(widget)
    text = write(page)
    assert flowing(text).startswith(flowing("Whales " + widget.write(80))[:-1])
    speeds = page.locator(".ow-fast .qx-big")
    page.wait_for_function(
        "[...document.querySelectorAll('.ow-fast .qx-big')].every((n) => n.textContent !== '–')"
    )
    bits, floats = (float(t.replace(",", "")) for t in speeds.all_inner_texts())
    print(f"{bits} characters a second on bits, {floats} on floats")
    assert bits >= 30


def test_reads_what_a_keyboard_types(show: Show) -> None:
    typed = '"Ahoy", cried the captain\'s ("first") matë: '
    page = show(OneBitWriter(large(), prompt=typed))
    page.get_by_role("button", name="Write").click()
    printed = "“Ahoy”, cried the captain’s (“first”) mat: "
    assert page.locator(".ow-text span").first.text_content() == printed
    assert known(large(), typed) == printed


def numbers(page: Page, **setting: Any) -> dict[str, float]:
    every.set_and_read(page, [setting])
    rest(page)
    return every.set_and_read(page, [{}])[0]


def test_damage_is_the_number_of_qtools_and_repair_undoes_it(show: Show) -> None:
    page = show(SmallWriter())
    for setting in (
        {},
        {"share": 0.5},
        {"where": "blocks.0.down", "share": 20.0},
        {"where": "blocks.1", "share": 100.0, "hand": [17, 599]},
        {"share": 0.0, "hand": [3]},
        {"hand": []},
    ):
        got = numbers(page, **setting)
        state = dict(
            zip(SmallWriter().state(), every.state(page, *SmallWriter().state()), strict=True)
        )
        assert got == pytest.approx(SmallWriter(**state).compute(), rel=1e-8), setting
    assert got["surprise"] == pytest.approx(got["intact"], rel=1e-8)
    assert got["flipped"] == 0


def test_a_page_that_starts_damaged(show: Show) -> None:
    widget = SmallWriter(share=10.0)
    page = show(widget)
    rest(page)
    assert every.set_and_read(page, [{}])[0] == pytest.approx(widget.compute(), rel=1e-8)
    heat = page.locator(".ow-sentence span").evaluate_all("ns => ns.map((n) => n.style.background)")
    assert len(heat) == len(known(small(), widget._data["sentence"]))
    redder = [round(min(50, 9 * v)) for v in surprises(widget.flipped()).tolist()]
    assert [int(h.split("%")[0].split()[-1]) for h in heat[1:]] == pytest.approx(redder, abs=1)


def test_the_mouse_does_all_of_it(show: Show) -> None:
    page = show(SmallWriter())
    first = write(page)
    page.get_by_role("button", name="Another text").click()
    rest(page)
    assert every.state(page, "seed") == [2]
    assert page.locator(".ow-text").inner_text() != first
    box = page.locator("canvas").bounding_box()
    assert box
    # Draw along the first row of cells, out of the picture and back over it.
    page.mouse.move(box["x"] + 4, box["y"] + 4)
    page.mouse.down()
    for part in (0.3, 0.5, 0.7, 0.9, 1.5):
        page.mouse.move(box["x"] + part * box["width"], box["y"] + 4)
    page.mouse.up()
    assert sorted(every.state(page, "hand")[0]) == [0, 1, 2, 3, 4]
    rest(page)
    assert every.shown(page, "flipped") == 5 * 64
    assert page.locator(".ow-text i").count() == 1  # what damaged bits wrote looks different
    page.mouse.click(box["x"] + 4, box["y"] + 4)  # a second time takes it back
    assert sorted(every.state(page, "hand")[0]) == [1, 2, 3, 4]
    page.get_by_role("button", name="Repair").click()
    rest(page)
    assert every.state(page, "hand", "share") == [[], 0]
    assert every.shown(page, "flipped") == 0
    page.locator('[data-control="seed"]').fill("77")
    page.keyboard.press("Tab")
    rest(page)
    assert every.state(page, "seed") == [77]
    widget = SmallWriter(seed=77)
    assert flowing(page.locator(".ow-text").inner_text()) == flowing(widget.prompt + widget.write())


def test_the_keyboard_does_all_of_it(show: Show) -> None:
    page = show(SmallWriter(prompt=""))
    page.get_by_label("Beginning of the text").focus()
    page.keyboard.type("The ")
    assert "Press Write" in page.locator(".ow-text").inner_text()
    page.keyboard.press("Enter")
    rest(page)
    text = page.locator(".ow-text").inner_text()
    assert flowing(text) == flowing("The " + SmallWriter(prompt="The ").write())
    every.press(page, "share", "ArrowRight", "ArrowRight")
    assert every.state(page, "share") == [0.2]
    assert every.control(page, "share").get_attribute("aria-valuetext") == "0.2 %"
    every.press(page, "share", "End")
    assert every.state(page, "share") == [100]
    every.press(page, "share", "Home")
    page.locator('[data-control="where"]').select_option(label="block 2 key")
    assert every.state(page, "where") == ["blocks.1.key"]
    every.press(page, "hand", "ArrowRight", "ArrowDown", "Space", "ArrowLeft", "Space", "Space")
    first = 300 + 25  # cells before that matrix
    assert every.state(page, "hand") == [[first + 6]]
    rest(page)
    assert every.shown(page, "flipped") == 64


def test_it_stops(show: Show) -> None:
    page = show(OneBitWriter(large()))
    page.get_by_role("button", name="Write").click()
    page.get_by_role("button", name="Stop").click()
    before = page.locator(".ow-text").inner_text()
    assert before.startswith("The white whale")
    page.wait_for_timeout(200)
    assert page.locator(".ow-text").inner_text() == before
    assert len(before) < 300
    assert page.get_by_role("button", name="Write").count() == 1


def test_a_screen_reader_hears_the_end_and_not_each_character(show: Show) -> None:
    page = show(SmallWriter())
    page.evaluate(
        """() => {
          globalThis.heard = [];
          const says = document.querySelector("[role=status]");
          const listen = () => heard.push(says.textContent);
          new MutationObserver(listen).observe(says, { childList: true });
        }"""
    )
    assert page.locator("[aria-live]").count() == 1
    every.press(page, "share", "ArrowRight")
    rest(page)
    page.wait_for_function("heard.some((t) => t.includes('The model wrote'))")
    heard = page.evaluate("heard")
    assert len(heard) <= 2
    widget = SmallWriter(share=0.1)
    assert f"{widget.compute()['flipped']:.0f} bits flipped" in heard[-1]
    assert f"surprise {widget.compute()['surprise']:.2f} nats" in heard[-1]


@pytest.mark.parametrize("scheme", every.SCHEMES)
def test_axe_finds_nothing_serious(scheme: str, show: Show) -> None:
    page = show(SmallWriter(share=5.0), scheme=scheme)
    write(page)
    assert every.serious_violations(page) == []


def test_words_stay_inside_a_phone(show: Show) -> None:
    page = show(OneBitWriter(large(), where="blocks.0.down"), width=340)
    write(page)
    assert overflow(page) <= 0
