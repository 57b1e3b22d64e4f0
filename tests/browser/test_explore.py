"""The explorables in a page with no kernel and no network: numbers, hands, looks.

Each is drawn from its ``text/html`` in a page on disk. The random settings are drawn from the
seed in QTOOLS_SEED (0 if unset); a failure prints the setting.
"""

from __future__ import annotations

import json
import math
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page

from qtools.explore import (
    BitsChart,
    Budget,
    ErrorLab,
    Explorable,
    FixedPoint,
    MaskLab,
    NumberLines,
    ObserverLab,
    OneBitAblations,
    OneBitWriter,
    PackedDot,
    RankLab,
    RankOne,
    Scoreboard,
    Sensitivity,
    SignFlip,
    StraightThrough,
    SVIDLab,
    Temperature,
)
from qtools.explore._base import escape_script
from tests.browser.conftest import OpenPage, Tabs, overflow, serious_violations
from tests.browser.hands import pull

SEED = int(os.environ.get("QTOOLS_SEED", "0"))
SETTINGS = 250
KINDS: tuple[type[Explorable], ...] = (Budget, NumberLines, ErrorLab, FixedPoint)
# With those whose numbers and hands have a test file of their own.
EVERY: tuple[type[Explorable], ...] = (
    *KINDS,
    BitsChart,
    MaskLab,
    ObserverLab,
    OneBitAblations,
    OneBitWriter,
    PackedDot,
    RankLab,
    RankOne,
    Scoreboard,
    Sensitivity,
    SignFlip,
    StraightThrough,
    SVIDLab,
    Temperature,
)
SCHEMES = {"light": ("#222832", "#ffffff"), "dark": ("#ced6dd", "#14181e")}

Show = Callable[..., Page]


@pytest.fixture
def show(open_page: OpenPage, tmp_path: Path) -> Show:
    """Open a page that holds these explorables, each from its own HTML."""

    def show_(*widgets: Explorable, scheme: str = "light", **options: Any) -> Page:
        colour, background = SCHEMES[scheme]
        body = "\n".join(widget.to_html() for widget in widgets)
        path = tmp_path / "page.html"
        path.write_text(
            '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Explorable</title>'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<style>body {{ margin: 12px; font-family: sans-serif; color: {colour};"
            f" background: {background} }}</style></head>"
            f"<body><main><h1>Explorable</h1>{body}</main></body></html>",
            encoding="utf-8",
        )
        return open_page(path.as_uri(), scheme=scheme, **options)

    return show_


def root(page: Page, index: int = 0) -> Locator:
    return page.locator(".qtools-explorable").nth(index)


def state(page: Page, *names: str) -> list[Any]:
    return root(page).evaluate("(el, names) => names.map((n) => el.qtoolsModel.get(n))", names)


def shown(page: Page, name: str) -> float:
    return float(page.locator(f'output[data-name="{name}"]').get_attribute("data-value") or "nan")


def moved(kind: type[Explorable]) -> tuple[str, int, float]:
    """A control, a value, and where the right arrow takes it."""
    if kind is OneBitAblations:
        return "at", 20, 20 + kind()._data["stride"]
    controls: dict[type[Explorable], tuple[str, int, float]] = {
        BitsChart: ("bits", 3, 4),
        MaskLab: ("sparsity", 4, 5),
        OneBitWriter: ("temperature", 0.7, 0.8),
        PackedDot: ("step", 4, 5),
        RankLab: ("rank", 4, 5),
        RankOne: ("b1", 1, 1.1),
        SVIDLab: ("rows", 0.4, 0.5),
        Scoreboard: ("bits", 3, 4),
        Sensitivity: ("conv1", 3, 4),
        SignFlip: ("step", 9, 10),
        Temperature: ("temperature", 4, 4.36),
    }
    return controls.get(kind, ("bits", 4, 5))


def control(page: Page, name: str) -> Locator:
    return page.locator(f'[data-control="{name}"]')


def set_and_read(page: Page, settings: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Set each state in turn through the model and read every output at full precision."""
    return root(page).evaluate(
        """async (el, settings) => {
          const all = [];
          for (const values of settings) {
            for (const [name, value] of Object.entries(values)) el.qtoolsModel.set(name, value);
            el.qtoolsModel.save_changes();
            await null;
            all.push(Object.fromEntries([...el.querySelectorAll("output[data-name]")].map(
              (n) => [n.dataset.name, Number(n.dataset.value)])));
          }
          return all;
        }""",
        settings,
    )


def random_setting(kind: type[Explorable], rng: random.Random) -> dict[str, Any]:
    if kind is Budget:
        return {
            "parameters": 10 ** rng.uniform(5, 12)
            if rng.random() < 0.5
            else rng.choice([1e5, 7e9]),
            "bits": rng.randint(1, 32),
            "group_size": rng.choice([0, 0, 1, 32, 100, 128, 65536]),
            "bandwidth": 10 ** rng.uniform(0, 4),
            "memory": 10 ** rng.uniform(-1, 4),
        }
    if kind is ErrorLab:
        return {
            "distribution": rng.choice(["gaussian", "laplace", "student_t", "uniform"]),
            "bits": rng.randint(2, 8),
            "clip": math.exp(rng.uniform(math.log(0.3), math.log(40))),
        }
    if kind is FixedPoint:
        near_one = [1.0, 0.5, 0.999999, 1 - 2**-33, 2**-16, 0.3]
        return {
            "factor": rng.choice([2 ** rng.uniform(-16, 0), rng.choice(near_one)]),
            "bits": rng.randint(4, 31),
            "acc": rng.choice([-(2**31), 2**31 - 1, 0, rng.randint(-(2**31), 2**31 - 1)])
            if rng.random() < 0.4
            else rng.randint(-65536, 65536),
        }
    low, high = sorted(rng.uniform(-4, 4) for _ in range(2))
    if rng.random() < 0.3:  # what a hand can reach: a grid of 0.05, where ties are common
        low, high = (round(20 * v) / 20 for v in (low, high))
    setting = {
        "x_min": low,
        "x_max": high if rng.random() < 0.95 else low,
        "bits": rng.randint(2, 8),
        "signed": rng.random() < 0.5,
        "symmetric": rng.random() < 0.5,
        "narrow_range": rng.random() < 0.5,
    }
    if rng.random() < 0.3:  # halfway between two codes, where half to even decides
        scale = NumberLines(**setting).compute()["scale"]
        x = scale * (rng.randint(-4, 4) + 0.5)
    else:
        x = rng.choice([rng.uniform(-4, 4), rng.uniform(low, high), low, high, 0.0])
    return {**setting, "x": min(4.0, max(-4.0, x))}


def test_number_lines_multiplies_by_the_inverse(show: Show) -> None:
    """Halfway between codes ``x / s`` and ``x (1/s)`` may differ; qtools takes the latter."""
    rng, settings = random.Random(SEED), []
    while len(settings) < 20:
        high, step = rng.uniform(1, 4), rng.randint(-6, 6) + 0.5
        scale = high / 7
        x = scale * step
        if abs(x) <= 4 and round(x / scale) != round(x * (1 / scale)):
            settings.append({"x_min": -high, "x_max": high, "x": x, "symmetric": True})
    page = show(NumberLines(bits=4))
    for setting, numbers in zip(settings, set_and_read(page, settings), strict=True):
        assert numbers["code"] == NumberLines(bits=4, **setting).compute()["code"], setting


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_equal_qtools(kind: type[Explorable], show: Show) -> None:
    rng = random.Random(SEED)
    settings = [kind().state(), *(random_setting(kind, rng) for _ in range(SETTINGS))]
    widget = kind()
    page = show(widget)
    for setting, numbers in zip(settings, set_and_read(page, settings), strict=True):
        with widget.hold_trait_notifications():
            for name, value in setting.items():
                setattr(widget, name, value)
        expected = widget.compute()
        assert numbers.keys() == expected.keys()
        for name, value in expected.items():
            # Scale, codes and the rest of the map are the same float64 operations: no tolerance.
            # Quadratures sum in another order. The best clip is where a flat curve has its lowest
            # point: rounding noise moves it by 1e-8 or so, and its error not at all.
            tolerance = {NumberLines: 0.0, Budget: 1e-12, ErrorLab: 1e-9, FixedPoint: 0.0}[kind]
            if name == "best_clip":
                tolerance = 1e-6
            # Decibels are a logarithm, so they count absolutely; subnormal numbers have few digits.
            near = 1e-8 if name.endswith("sqnr") else 1e-300 * (tolerance > 0)
            assert numbers[name] == pytest.approx(value, rel=tolerance, abs=near), (name, setting)


def test_every_best_clip_equals_qtools(show: Show) -> None:
    settings = [
        {"distribution": distribution, "bits": bits, "clip": 2.0}
        for distribution in ("gaussian", "laplace", "student_t", "uniform")
        for bits in range(2, 9)
    ]
    page = show(ErrorLab())
    for setting, numbers in zip(settings, set_and_read(page, settings), strict=True):
        expected = ErrorLab(**setting).compute()
        assert numbers["best_clip"] == pytest.approx(expected["best_clip"], rel=1e-6), setting
        assert numbers["best_total"] == pytest.approx(expected["best_total"], rel=1e-9), setting


def test_text_is_the_number_rounded(show: Show) -> None:
    page = show(NumberLines(x=1.0, x_min=-1.5, x_max=3.0))
    assert page.locator('output[data-name="scale"]').inner_text() == "0.3"
    assert page.locator('output[data-name="zero_point"]').inner_text() == "−3"
    assert page.locator('output[data-name="x_hat"]').inner_text() == "0.9"
    page = show(Budget(parameters=7e9, bits=4, memory=16.0, bandwidth=90.0))
    assert page.locator('output[data-name="bytes"]').inner_text() == "3.5 GB"
    assert page.locator('output[data-name="versus_fp32"]').inner_text() == "8× smaller"
    assert page.locator('output[data-name="tokens_per_second"]').inner_text() == "25.7 tokens/s"
    assert page.locator('output[data-name="fits"]').inner_text() == "✓ yes"


def drag(page: Page, target: Locator, dx: float) -> None:
    target.scroll_into_view_if_needed()
    box = target.bounding_box()
    assert box
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    for part in (0.3, 0.6, 1.0):
        page.mouse.move(x + part * dx, y)
    page.mouse.up()


def test_mouse_drags_the_number_lines(show: Show) -> None:
    page = show(NumberLines(x=1.0, x_min=-1.5, x_max=3.0))
    before = {name: shown(page, name) for name in ("scale", "code", "zero_point")}
    drag(page, control(page, "x").locator("circle.qx-hit"), 80)
    (x,) = state(page, "x")
    assert 1.5 < x < 2.5
    assert shown(page, "code") > before["code"]
    drag(page, control(page, "x_max").locator("rect.qx-hit"), -100)
    assert shown(page, "scale") < before["scale"]
    drag(page, control(page, "x_min").locator("rect.qx-hit"), -100)
    assert shown(page, "zero_point") > before["zero_point"]
    # Pushed through the other end, a handle stops beside it.
    drag(page, control(page, "x_min").locator("rect.qx-hit"), 2000)
    x_min, x_max = state(page, "x_min", "x_max")
    assert x_min == pytest.approx(x_max - 0.05)
    # Beyond the range: clipped, and the error is the distance.
    drag(page, control(page, "x").locator("circle.qx-hit"), 2000)
    assert shown(page, "clipped") == 1
    assert shown(page, "error") == shown(page, "bound") > shown(page, "scale") / 2


def test_a_press_on_the_real_line_moves_x(show: Show) -> None:
    page = show(NumberLines(x=1.0))
    box = page.locator("svg.qx-lines > rect.qx-hit").bounding_box()
    assert box
    page.mouse.click(box["x"] + box["width"] * 0.75, box["y"] + box["height"] - 4)
    assert state(page, "x")[0] == pytest.approx(2.1, abs=0.15)


def test_a_finger_drags_the_number_lines(show: Show) -> None:
    page = show(NumberLines(x=1.0), width=390, has_touch=True, is_mobile=True)
    handle = control(page, "x").locator("circle.qx-hit")
    pull(page, handle, (-30, 0), (-60, 0))
    page.wait_for_function("document.querySelector('.qtools-explorable').qtoolsModel.get('x') < 0")


def test_mouse_drags_the_clip(show: Show) -> None:
    page = show(ErrorLab(distribution="gaussian", bits=4, clip=6.0))
    rounding, clipping = shown(page, "rounding"), shown(page, "clipping")
    drag(page, page.locator("svg.qx-grab circle.qx-now"), -120)
    assert state(page, "clip")[0] < 4
    assert shown(page, "rounding") < rounding
    assert shown(page, "clipping") > clipping


def test_mouse_and_buttons_move_the_budget(show: Show) -> None:
    page = show(Budget())
    page.get_by_role("button", name="70 B").click()
    assert state(page, "parameters") == [7e10]
    assert shown(page, "fits") == 0
    page.get_by_role("button", name="A100").click()
    assert state(page, "memory", "bandwidth") == [80, 2000]
    assert shown(page, "fits") == 1
    assert page.get_by_role("button", name="A100").get_attribute("aria-pressed") == "true"
    assert page.get_by_role("button", name="T4").get_attribute("aria-pressed") == "false"
    size = shown(page, "bytes")
    control(page, "group_size").select_option(label="64 weights")
    assert shown(page, "bytes") == size + 2 * 7e10 / 64
    box = control(page, "bits").bounding_box()
    assert box
    page.mouse.click(box["x"] + 2, box["y"] + box["height"] / 2)
    assert state(page, "bits") == [1]


def press(page: Page, name: str, *keys: str) -> None:
    control(page, name).focus()
    for key in keys:
        page.keyboard.press(key)


def test_keyboard_moves_the_number_lines(show: Show) -> None:
    page = show(NumberLines(x=1.0, x_min=-1.5, x_max=3.0))
    for name, keys, value in (
        ("x", ["ArrowRight"], 1.05),
        ("x", ["ArrowUp", "ArrowDown", "ArrowLeft"], 1.0),
        ("x", ["PageUp"], 1.5),
        ("x", ["PageDown", "PageDown"], 0.5),
        ("x", ["Home"], -4.0),
        ("x", ["End", "ArrowRight"], 4.0),
        ("x_max", ["Home"], -1.45),
        ("x_max", ["End"], 4.0),
        ("x_min", ["End"], 3.95),
        ("bits", ["Home"], 2),
        ("bits", ["ArrowRight", "ArrowRight"], 4),
    ):
        press(page, name, *keys)
        assert state(page, name) == [value], (name, keys)
        if name != "bits":
            assert float(control(page, name).get_attribute("aria-valuenow") or "nan") == value
    for name in ("signed", "symmetric", "narrow_range"):
        (before,) = state(page, name)
        press(page, name, "Space")
        assert state(page, name) == [not before]


def test_keyboard_moves_the_error_lab(show: Show) -> None:
    page = show(ErrorLab(clip=4.0, bits=4))
    rounding = shown(page, "rounding")
    press(page, "clip", "ArrowRight")
    assert 4.0 < state(page, "clip")[0] < 4.2
    assert shown(page, "rounding") > rounding
    press(page, "bits", "ArrowRight")
    assert state(page, "bits") == [5]
    assert shown(page, "rounding") < rounding
    press(page, "clip", "Home")
    assert state(page, "clip") == [0.3]
    press(page, "clip", "End")
    assert state(page, "clip")[0] == pytest.approx(40, rel=0.01)
    page.get_by_role("button", name="Go to the best clip").focus()
    page.keyboard.press("Enter")
    assert state(page, "clip") == [shown(page, "best_clip")]
    assert shown(page, "total") == shown(page, "best_total")
    control(page, "distribution").select_option(label="Laplace")
    assert state(page, "distribution") == ["laplace"]
    assert shown(page, "total") > shown(page, "best_total")


def test_keyboard_moves_the_budget(show: Show) -> None:
    page = show(Budget(bits=4))
    size, speed = shown(page, "bytes"), shown(page, "tokens_per_second")
    press(page, "bits", "ArrowLeft")
    assert state(page, "bits") == [3]
    assert shown(page, "bytes") < size
    assert shown(page, "tokens_per_second") > speed
    press(page, "parameters", "ArrowRight")
    assert shown(page, "bytes") > 0.75 * size
    press(page, "parameters", "Home")
    assert state(page, "parameters") == [1e5]
    press(page, "memory", "Home")
    assert state(page, "memory") == [0.1]
    press(page, "bandwidth", "End")
    assert state(page, "bandwidth") == [1e4]


def test_mouse_and_keyboard_move_the_fixed_point(show: Show) -> None:
    page = show(FixedPoint())
    page.get_by_role("button", name="Two roundings").click()
    assert state(page, "factor", "bits", "acc") == [0.3, 31, 8]
    assert (shown(page, "result"), shown(page, "twice")) == (2, 3)
    assert page.locator('output[data-name="differs"]').inner_text() == "✓ the same code"
    page.get_by_role("button", name="Too few bits").click()
    assert shown(page, "differs") == 1
    assert page.locator('output[data-name="differs"]').inner_text() == "✗ another code"
    press(page, "bits", "End")
    assert state(page, "bits") == [31]
    assert shown(page, "differs") == 0
    product = shown(page, "product")
    press(page, "acc", "ArrowLeft")
    assert state(page, "acc") == [59999]
    assert shown(page, "product") == product - shown(page, "mantissa")
    press(page, "factor", "Home")
    assert state(page, "factor")[0] == pytest.approx(2**-16, rel=1e-3)
    assert shown(page, "shift") == 46
    box = control(page, "factor").bounding_box()
    assert box
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert 2**-9 < state(page, "factor")[0] < 2**-7


@pytest.mark.parametrize("kind", KINDS)
def test_screen_reader_hears_the_result_when_the_hand_rests(
    kind: type[Explorable], show: Show
) -> None:
    page = show(kind())
    says = page.locator('[role="status"]')
    assert says.inner_text() == ""
    press(page, "bits", "ArrowRight")
    page.wait_for_function("document.querySelector('[role=status]').textContent !== ''")
    assert any(digit in says.inner_text() for digit in "0123456789")


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("kind", EVERY)
def test_axe_finds_nothing_serious(kind: type[Explorable], scheme: str, show: Show) -> None:
    assert serious_violations(show(kind(), scheme=scheme)) == []


@pytest.mark.parametrize("kind", EVERY)
def test_fits_and_follows_the_window(kind: type[Explorable], show: Show) -> None:
    page = show(kind(), width=1280)
    widths = []
    for width in (1280, 768, 390, 340):
        page.set_viewport_size({"width": width, "height": 800})
        # The last picture is as wide as the explorable: it was drawn again at the new width.
        page.wait_for_function(
            """() => document.querySelector(".qx").clientWidth
                  === [...document.querySelectorAll(".qx svg")].at(-1).clientWidth"""
        )
        assert overflow(page) <= 0
        spilled = page.evaluate(
            """() => [...document.querySelectorAll(".qx, .qx svg text, .qx output, .qx button")]
              .filter((n) => n.getBoundingClientRect().right > innerWidth
                          || n.getBoundingClientRect().left < 0)
              .map((n) => n.textContent)"""
        )
        assert spilled == [], width
        widths.append(page.locator(".qx").evaluate("(el) => el.clientWidth"))
    assert widths[0] <= 46 * 16
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] == 340 - 24


@pytest.mark.parametrize("kind", EVERY)
def test_targets_are_large_enough_for_a_finger(kind: type[Explorable], show: Show) -> None:
    page = show(kind(), width=390)
    for box in page.evaluate(
        """() => [...document.querySelectorAll(
             ".qx input[type=range], .qx select, .qx button, .qx-check, .qx-handle")]
           .map((n) => n.getBoundingClientRect()).map((b) => [b.width, b.height])"""
    ):
        assert min(box) >= 24


@pytest.mark.parametrize("kind", EVERY)
def test_nothing_moves_by_itself(kind: type[Explorable], show: Show) -> None:
    page = show(kind(), reduced_motion="reduce")
    press(page, moved(kind)[0], "ArrowRight")
    assert page.evaluate("document.getAnimations().length") == 0


HOST = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Host</title>
<body><main><div class="view"></div><div class="view"></div></main><script type="module">
const esm = JSON.parse(document.getElementById("esm").textContent);
const widget = (await import(URL.createObjectURL(new Blob([esm], { type: "text/javascript" }))))
  .default;
// The model of a notebook, as anywidget hands it over: changes wait until they are saved.
const values = JSON.parse(document.getElementById("state").textContent);
const heard = new EventTarget();
globalThis.saved = [];
let unsaved = {};
globalThis.model = {
  get: (name) => values[name],
  set(name, value) {
    values[name] = unsaved[name] = value;
    heard.dispatchEvent(new Event("change:" + name));
  },
  save_changes() { saved.push(unsaved); unsaved = {}; },
  on: (name, f) => heard.addEventListener(name, f),
  off: (name, f) => heard.removeEventListener(name, f),
};
globalThis.stops = [...document.querySelectorAll(".view")].map(
  (el) => widget.render({ model, el }));
</script>"""


@pytest.mark.parametrize("kind", EVERY)
def test_the_same_module_runs_as_an_anywidget(
    kind: type[Explorable], open_page: OpenPage, tmp_path: Path
) -> None:
    """What Jupyter and Colab do: import the module, render two views of one model, drop one."""
    name, before, after = moved(kind)
    widget = kind(**{name: before})
    path = tmp_path / "host.html"
    data = {"esm": escape_script(json.dumps(widget._esm)), "state": json.dumps(widget.state())}
    scripts = "".join(
        f'<script type="application/json" id="{key}">{text}</script>' for key, text in data.items()
    )
    path.write_text(HOST.replace("<script", scripts + "<script", 1), encoding="utf-8")
    page = open_page(path.as_uri())
    page.wait_for_function("globalThis.stops?.length === 2")
    views = [page.locator(".view").nth(i) for i in range(2)]
    views[0].locator(f'[data-control="{name}"]').focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("saved") == [{name: after}]
    # Without this attribute JupyterLab takes the arrow keys.
    focusable = views[0].locator("input, select, button, [tabindex]")
    shielded = views[0].locator("[data-lm-suppress-shortcuts]")
    assert focusable.count() == shielded.count() >= 4
    for view in views:
        for number, value in kind(**{name: after}).compute().items():
            text = view.locator(f'output[data-name="{number}"]').get_attribute("data-value")
            assert float(text or "nan") == pytest.approx(value, rel=1e-6), number
    page.evaluate("stops[1]()")
    stopped = views[1].inner_text()
    page.evaluate(f"model.set('{name}', 2)")
    page.wait_for_timeout(50)
    assert views[1].inner_text() == stopped
    assert views[0].inner_text() != stopped


def test_many_on_one_page_are_independent(show: Show) -> None:
    page = show(NumberLines(bits=2), Budget(), NumberLines(bits=5), ErrorLab(), Budget(bits=1))
    assert page.locator(".qtools-explorable .qx").count() == 5
    root(page, 0).evaluate("(el) => el.qtoolsModel.set('bits', 8)")
    bits = [root(page, i).evaluate("(el) => el.qtoolsModel.get('bits')") for i in range(5)]
    assert bits == [8, 4, 5, 4, 1]
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((n) => n.id)")
    assert len(ids) == len(set(ids)) > 0
    assert serious_violations(page) == []


@pytest.mark.parametrize("kind", EVERY)
def test_without_scripts_a_sentence_says_what_to_do(kind: type[Explorable], show: Show) -> None:
    page = show(kind(), java_script_enabled=False)
    text = root(page).inner_text()
    assert kind.moves in text
    assert "Open this chapter in the built book or run the cell." in text


def test_a_broken_drawing_leaves_the_sentence(tabs: Tabs, tmp_path: Path) -> None:
    path = tmp_path / "broken.html"
    html = Budget(parameters=7e9).to_html().replace("7000000000.0", "not JSON")
    path.write_text(f'<!doctype html><meta charset="utf-8">{html}', encoding="utf-8")
    with tabs.open() as (page, errors):
        page.goto(path.as_uri())
        assert "built book" in root(page).inner_text()
        assert len(errors) == 1
        assert "JSON" in errors[0]
