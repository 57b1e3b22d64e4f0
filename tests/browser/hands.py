"""Hands on the explorables of a page: mouse, keyboard, and the numbers they should show."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Locator, Page

from qtools import explore

STATE = "(el, names) => Object.fromEntries(names.map((name) => [name, el.qtoolsModel.get(name)]))"
NUMBERS = """(el) => Object.fromEntries([...el.querySelectorAll("output[data-name]")].map(
  (output) => [output.dataset.name, [Number(output.dataset.value), output.textContent.trim()]]))"""
GRIPS = (".qx-handle .qx-hit", "input[type=range]")
QUIET = "(el) => !el.matches('[data-busy]') && !el.querySelector('[data-busy]')"
OUTSIDE = """([words, frame]) => [...document.querySelectorAll(words)].filter((n) => {
  const [b, s] = [n, n.closest(frame)].map((m) => m.getBoundingClientRect());
  return b.left < s.left - 1 || b.right > s.right + 1 || b.bottom > s.bottom + 1;
}).map((n) => n.textContent)"""


def outside(page: Page, words: str = ".qx svg text", frame: str = "svg") -> list[str]:
    """Words that stick out of their frame to the left, the right or below."""
    found: list[str] = page.evaluate(OUTSIDE, [words, frame])
    return found


def pull(page: Page, grip: Locator, *moves: tuple[float, float]) -> None:
    """Put a finger on the middle of a grip, move it to these distances in turn, lift it."""
    grip.scroll_into_view_if_needed()
    box = grip.bounding_box()
    assert box
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    session = page.context.new_cdp_session(page)
    for kind, (dx, dy) in [("touchStart", (0.0, 0.0)), *(("touchMove", move) for move in moves)]:
        points = [{"x": x + dx, "y": y + dy}]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


def explorable_faults(page: Page) -> list[str]:
    """Move every explorable of the page with the mouse and the keyboard; compare its numbers."""
    return [
        f"{index + 1}. {root.get_attribute('data-explorable')}: {fault}"
        for index, root in enumerate(page.locator(".qtools-explorable").all())
        for fault in _faults(page, root)
    ]


def _faults(page: Page, root: Locator) -> list[str]:
    kind = getattr(explore, root.get_attribute("data-explorable") or "", None)
    if kind is None or not issubclass(kind, explore.Explorable):
        return ["qtools has no such explorable"]
    names = list(kind().state())
    if not root.evaluate("(el) => Boolean(el.qtoolsModel && el.querySelector('output'))"):
        return ["is not alive"]

    def state() -> dict[str, Any]:
        return root.evaluate(STATE, names)

    faults = _wrong_numbers(root, kind, state(), "at first")
    grips = [root.locator(grip).first for grip in GRIPS if root.locator(grip).count()]
    if not grips:
        faults.append("has nothing to drag")
    for grip in grips:
        before = state()
        drag(page, grip)
        if state() == before:  # it may stand at its right end
            drag(page, grip, -1)
        if state() == before:
            faults.append(f"the mouse does not move {grip}")
    faults += _wrong_numbers(root, kind, state(), "after a drag")
    for control in root.locator("[data-control]:not(:disabled)").all():
        before = state()
        control.evaluate("(node) => node.focus()")
        for key in _keys(control):
            page.keyboard.press(key)
            if state() != before:
                break
        else:
            faults.append(f"no key moves {control.get_attribute('data-control')}")
    return faults + _wrong_numbers(root, kind, state(), "after the keyboard")


def _keys(control: Locator) -> list[str]:
    kind = control.get_attribute("type")
    if kind in ("checkbox", "text"):
        return ["Space"]
    if control.get_attribute("role") == "application":  # arrows move a cursor, Space marks
        return ["ArrowRight", "Space"]
    return ["ArrowRight", "ArrowLeft", "ArrowDown", "ArrowUp"]


def drag(page: Page, grip: Locator, way: int = 1) -> None:
    """Take ``grip`` by its middle and pull it 40 pixels to the right, or to the left for -1."""
    grip.scroll_into_view_if_needed()
    box = grip.bounding_box()
    assert box
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 20 * way, y)
    page.mouse.move(x + 40 * way, y)
    page.mouse.up()


def _wrong_numbers(
    root: Locator, kind: type[explore.Explorable], state: dict[str, Any], when: str
) -> list[str]:
    expected = kind(**state).compute()
    # What counts in slices says that it is not done yet.
    root.page.wait_for_function(QUIET, arg=root.element_handle(), timeout=60_000)
    shown = root.evaluate(NUMBERS)
    if shown.keys() != expected.keys():
        return [f"{when}: shows {sorted(shown)}, qtools computes {sorted(expected)}"]
    return [
        f"{when}: {name} is {shown[name]}, qtools says {value} at {state}"
        for name, value in expected.items()
        if (value and not shown[name][1])
        or shown[name][0] != pytest.approx(value, rel=1e-6, abs=1e-8, nan_ok=True)
    ]
