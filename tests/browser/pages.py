"""Read a page of the built book in the browser, once, and list what is wrong with it.

``read(tabs, address)`` opens a page, looks, works its keyboard and its theme switch, makes it
narrow and prints it. The result holds the faults by family, so that many tests share one load.
Nothing here knows which pages there are: test_pages.py reads the book's, test_page_faults.py
broken ones.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

from tests.browser.conftest import Tabs, serious_violations
from tests.browser.hands import explorable_faults

SCRIPT = (Path(__file__).parent / "pages.js").read_text(encoding="utf-8")
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
COLOUR = ("color-contrast", "link-in-text-block")
KIND = r"(Definition|Lemma|Proposition|Theorem|Corollary|Remark|Example)"
STATEMENT = re.compile(rf"{KIND} ([0-9]+|[A-Z])\.([0-9]+)\b")
CAPTION = re.compile(r"(Figure|Table) ([0-9]+|[A-Z])\.([0-9]+)\. ")
# A price or a shell's variable is no formula; any other dollar sign is.
MONEY = re.compile(r"\$(\d[\d,.]*|[A-Z]{3}[A-Z_]*)(?=[\s.,;:)]|$)")
RAW_TEX = re.compile(r"\$|\\[\[\]()]|\\(tag|begin|end|frac|text|mathbf|le|ge|cdot|times)\b")
RAW_MARKDOWN = re.compile(r"\*\*\S|```|\]\(\S+\)|^:::|\{(ref|eq|doc|cite|math)\}")
FOLDS = "(open) => document.querySelectorAll('details').forEach((node) => { node.open = open; })"
FILE_NAME = re.compile(r"\.(png|svg|jpe?g|gif|webp)\b|^\S*[_/]\S*$", re.IGNORECASE)


@dataclass
class Reading:
    """What one page showed, and its faults by family."""

    facts: dict[str, Any]
    faults: dict[str, list[str]] = field(default_factory=dict)


def prefer(page: Page, scheme: str) -> None:
    """Let the system prefer ``scheme``, and give the page's listeners time to follow."""
    page.emulate_media(media="screen", color_scheme=scheme)
    frames(page)


def frames(page: Page) -> None:
    """Wait until the page has been drawn twice: listeners have run, styles are new."""
    page.evaluate(
        "() => new Promise((go) => requestAnimationFrame(() => requestAnimationFrame(go)))"
    )


def look(page: Page, name: str) -> Any:
    """Evaluate one function of pages.js."""
    return page.evaluate(f"({SCRIPT}).{name}()")


def settle(page: Page) -> None:
    """Wait until MathJax has set every formula."""
    page.evaluate("async () => { await globalThis.MathJax?.startup?.promise; }")


def read(tabs: Tabs, address: str, axe: bool = True) -> Reading:
    """Open ``address`` from disk in light mode, do everything a reader does, list the faults.

    Axe takes much of the time; without it, its family has no entry.
    """
    with tabs.open(**WIDE, reduced_motion="reduce") as (page, complaints):
        page.goto(address)
        settle(page)
        facts = look(page, "look")
        reading = Reading(facts)
        faults = reading.faults
        for name, family in STILL.items():
            faults[name] = family(facts)
        faults["width"] = look(page, "overflow")
        look(page, "empty")
        page.keyboard.press("Tab")
        faults["focus"] = [f"no visible focus: {kind}" for kind in look(page, "unmarked")]
        faults["folds"] = open_folds(page)
        page.set_viewport_size(NARROW)
        faults["width"] += look(page, "overflow")
        # From here on the page grows smaller: each new width, theme or medium costs a layout of it.
        look(page, "thin")
        if axe:
            page.wait_for_timeout(350)  # the theme thinks about a new width for 300 ms
            found = serious_violations(page, only=("scrollable-region-focusable",))
        page.set_viewport_size(WIDE)
        faults["explorables"] = explorable_faults(page)
        if axe:
            found += serious_violations(page, without=COLOUR)
        faults["themes"] = theme(page, "light")
        prefer(page, "dark")
        faults["themes"] += theme(page, "dark")
        faults["print"] = on_paper(page)
        look(page, "sample")
        if axe:
            page.set_viewport_size(NARROW)
            found += [f"dark: {fault}" for fault in serious_violations(page, only=COLOUR)]
            page.set_viewport_size(WIDE)
        prefer(page, "light")
        if axe:
            found += [f"light: {fault}" for fault in serious_violations(page, only=COLOUR)]
            faults["axe"] = found
        faults["themes"] += theme(page, "light") + switch(page)
        faults["quiet"] = complaints + [f"names another host: {html}" for html in facts["remote"]]
    return reading


def head(facts: dict[str, Any]) -> list[str]:
    """Title, one heading of the first level, language."""
    faults = []
    if facts["lang"] != "en":
        faults.append(f"lang is {facts['lang']!r}")
    if len(facts["headings"]) != 1 or not all(facts["headings"]):
        return [*faults, f"one h1 wanted, got {facts['headings']}"]
    heading = facts["headings"][0]
    if not facts["title"] or RAW_TEX.search(facts["title"]):
        faults.append(f"title is {facts['title']!r}")
    elif heading not in facts["title"] and "search" not in facts["title"].lower():
        faults.append(f"title {facts['title']!r} does not name the page, {heading!r}")
    return faults


def mathematics(facts: dict[str, Any]) -> list[str]:
    """Every formula is set without error, every tag is shown, no source is left in the text."""
    faults = [f"not set: {html}" for html in facts["untouched"]]
    for formula in facts["formulas"]:
        tex = formula["tex"]
        if formula["wrong"] or not formula["set"]:
            faults.append(f"error in {tex!r}")
        faults += [f"unknown command {name} in {tex!r}" for name in formula["unknown"]]
        for tag in formula["tags"]:
            if formula["label"] != f"({tag})" or not formula["shown"]:
                faults.append(f"number ({tag}) is not shown: {formula['label']!r} in {tex!r}")
    for text in facts["text"]:
        if RAW_TEX.search(MONEY.sub("", text)):
            faults.append(f"TeX in the text: {text[:120]!r}")
        if RAW_MARKDOWN.search(text):
            faults.append(f"Markdown in the text: {text[:120]!r}")
    return faults


def anchors(facts: dict[str, Any]) -> list[str]:
    """Ids are unique; every statement, caption and equation has the id that links use."""
    ids = facts["ids"]
    faults = [f"id {name!r} stands {ids.count(name)} times" for name in sorted(set(ids))
              if ids.count(name) > 1]  # fmt: skip
    for statement in facts["statements"]:
        match = STATEMENT.match(statement["label"])
        if not match or statement["id"] != "-".join(match.groups()).lower():
            faults.append(f"statement {statement['label'][:40]!r} has id {statement['id']!r}")
    faults += [f"not a box: {text!r}" for text in facts["quotes"] if STATEMENT.match(text)]
    for caption in facts["captions"]:
        match = CAPTION.match(caption["text"])
        if match and caption["id"] != "-".join(match.groups()).lower():
            faults.append(f"caption {caption['text'][:40]!r} has id {caption['id']!r}")
    for formula in facts["formulas"]:
        for tag in formula["tags"]:
            anchor = f"eq-{tag.replace('.', '-')}".lower()
            if anchor not in ids:
                faults.append(f"equation ({tag}) has no anchor {anchor}")
    return faults


def images(facts: dict[str, Any]) -> list[str]:
    """Every image loads and has an alternative in words."""
    faults = []
    for image in facts["images"]:
        if image["broken"]:
            faults.append(f"does not load: {image['html']}")
        if image["alt"] is None or not (image["alt"].strip() or image["decorates"]):
            faults.append(f"no alternative text: {image['html']}")
        elif FILE_NAME.search(image["alt"]):
            faults.append(f"a file name is no alternative text: {image['html']}")
    for drawing in facts["drawings"]:
        alt = drawing["alt"] or ""
        if drawing["role"] != "img" or len(alt.split()) < 3 or FILE_NAME.search(alt):
            faults.append(f"no alternative text: {drawing['html']}")
        elif RAW_TEX.search(MONEY.sub("", alt)):
            faults.append(f"TeX in an alternative text: {alt[:120]!r}")
    return faults


STILL: dict[str, Callable[[dict[str, Any]], list[str]]] = {
    "head": head,
    "mathematics": mathematics,
    "anchors": anchors,
    "images": images,
}


def on_paper(page: Page) -> list[str]:
    """Print from dark mode, the harder case: folds open, no furniture, dark ink."""
    page.evaluate(FOLDS, False)
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    paper, colours = look(page, "paper"), look(page, "lightness")
    faults = [f"printed: {name}" for name in paper["furniture"]]
    faults += [f"not printed: {text!r}" for text in paper["hidden"]]
    if colours["text"] > 0.4:
        faults.append(f"printed in light ink: {json.dumps(colours)}")
    page.emulate_media(media="screen")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    page.evaluate(FOLDS, True)
    return faults


def open_folds(page: Page) -> list[str]:
    """Open folds and hidden cells with the keyboard, two of each kind; leave all of them open."""
    faults, tried, folds = [], Counter[str](), page.locator("details")
    shut = "(all) => all.map((node) => (node.open ? null : node.className))"
    for index, kind in enumerate(folds.evaluate_all(shut)):
        if kind is None or tried[kind] == 2:
            continue
        tried[kind] += 1
        fold = folds.nth(index)
        fold.locator("> summary").evaluate("(summary) => summary.focus()")
        page.keyboard.press("Enter")
        if not fold.evaluate("(node) => node.open && node.lastElementChild.checkVisibility()"):
            faults.append(f"Enter does not open {fold.inner_text()[:60]!r}")
    # All are opened first: to focus one measures the whole page anew after each change of it.
    missed = """(all) => all.map((node) => ((node.open = true), node)).filter((node) => {
      const summary = node.querySelector(":scope > summary");
      summary?.focus({ preventScroll: true });
      return !summary || document.activeElement !== summary;
    }).map((node) => node.textContent.trim().slice(0, 60))"""
    faults += [f"the keyboard does not reach {text!r}" for text in folds.evaluate_all(missed)]
    frames(page)
    return faults


def theme(page: Page, wanted: str, how: str = "preference") -> list[str]:
    """Whether the page is light or dark as it should be."""
    colours = look(page, "lightness")
    right = {
        "light": colours["text"] < 0.3 < 0.8 < colours["ground"],
        "dark": colours["ground"] < 0.2 < 0.6 < colours["text"],
    }
    return [] if right[wanted] else [f"not {wanted} by {how}: {json.dumps(colours)}"]


def switch(page: Page) -> list[str]:
    """Dark and light by the theme's switch, with the keyboard; left as the system says."""
    button = page.locator(".theme-switch-button:visible").first
    if button.count() == 0:
        return ["no theme switch"]
    faults, found = [], set()
    for _ in range(3):
        button.focus()
        page.keyboard.press("Enter")
        frames(page)
        mode = page.evaluate("document.documentElement.dataset.mode")
        found.add(mode)
        if mode in ("light", "dark"):
            faults += theme(page, mode, "the switch")
    if found != {"light", "dark", "auto"}:
        faults.append(f"the switch goes through {sorted(found)}")
    return faults
