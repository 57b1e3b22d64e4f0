"""The checks of the pages find what they look for: each on a small page with one thing broken."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urljoin

import pytest

from qtools.explore import Budget
from tests.browser.conftest import Tabs
from tests.browser.pages import read
from tests.browser.test_pages import BOOK, FAMILIES, dead_links

GOOD = """<!doctype html><html lang="en" data-theme="light" data-mode="auto"><head>
<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>A page - Book</title>
<style>
html[data-theme=light] { --ink: #111; --ground: #fff } html[data-theme=dark] { --ink: #eee;
--ground: #111 } body { color: var(--ink); background: var(--ground); margin: 8px }
:focus-visible { outline: 3px solid #0072b2 } button { color: #111; background: #eee }
a { color: inherit }
@media print { .bd-sidebar-primary { display: none } }
</style>
<script>MathJax = { tex: { tags: "none" }, options: { enableMenu: false } };</script>
<script defer src="MATHJAX"></script>
<script>
const root = document.documentElement, dark = matchMedia("(prefers-color-scheme: dark)");
const apply = () => root.dataset.theme = root.dataset.mode !== "auto" ? root.dataset.mode
  : dark.matches ? "dark" : "light";
dark.onchange = apply;
const turn = () => {
  root.dataset.mode = { auto: "light", light: "dark", dark: "auto" }[root.dataset.mode]; apply();
};
let kept;
addEventListener("beforeprint", () => {
  kept = root.dataset.theme; root.dataset.theme = "light";
  for (const fold of document.querySelectorAll("details")) fold.open = true;
});
addEventListener("afterprint", () => {
  root.dataset.theme = kept;
  for (const fold of document.querySelectorAll("details")) fold.open = false;
});
</script></head><body>
<nav class="bd-sidebar-primary"><a href="#lemma-1-1">Lemma</a></nav>
<button class="theme-switch-button" onclick="turn()">Color mode</button>
<main><article><h1>A page</h1>
<p>It costs $5 or $10, and <span class="math">\\(x\\)</span> is a formula.</p>
<div class="math" id="eq-1-1">\\[ y = x^2 \\tag{1.1} \\]</div>
<div class="box statement" id="lemma-1-1"><p><strong class="box-label">Lemma 1.1 (Small).</strong>
It holds.</p></div>
<p id="figure-1-1"><em>Figure 1.1. A square.</em></p>
<img alt="A square in grey." width="9" height="9" src="data:image/svg+xml,%3Csvg
 xmlns='http://www.w3.org/2000/svg' width='9' height='9'/%3E">
<svg role="img" aria-label="A line that rises." width="9" height="9"></svg>
<details class="fold"><summary>Proof</summary><div>Clear.</div></details>
EXPLORABLE
</article></main></body></html>"""
MATHJAX = (BOOK / "_static/mathjax/tex-svg-full.js").as_uri()

# Name of what is broken: family, what stands in the good page, what stands in the broken one.
BROKEN = {
    "console error": ("quiet", "let kept;", "let kept; console.error('oh');"),
    "console warning": ("quiet", "let kept;", "let kept; console.warn('hm');"),
    "exception": ("quiet", "let kept;", "let kept; setTimeout(() => nothing());"),
    "missing file": ("quiet", "</head>", '<script src="gone.js"></script></head>'),
    "another host": ("quiet", "</head>", '<script src="https://example.org/a.js"></script></head>'),
    "later request": ("quiet", "let kept;", "let kept; new Image().src = 'http://example.org/a';"),
    "no language": ("head", '<html lang="en"', "<html"),
    "no heading": ("head", "<h1>A page</h1>", "<h2>A page</h2>"),
    "two headings": ("head", "<h1>A page</h1>", "<h1>A page</h1><h1>Another</h1>"),
    "wrong title": ("head", "<title>A page", "<title>Another"),
    "error in a formula": ("mathematics", "x^2", "\\frac{x}"),
    "unknown command": ("mathematics", "x^2", "\\sqare x"),
    "formula left alone": ("mathematics", "\\(x\\)", "x"),
    "dollars": ("mathematics", "a formula.", "a formula, $8 x$."),
    "one letter in dollars": ("mathematics", "a formula.", "a formula, $x$."),
    "stray tag": ("mathematics", "a formula.", "a formula \\tag{2}."),
    "stray bold": ("mathematics", "a formula.", "a formula, **bold**."),
    "hidden number": (
        "mathematics",
        "</style>",
        "[data-mml-node=mlabeledtr] > :first-child { display: none }</style>",
    ),
    "same id twice": ("anchors", "<h1>", '<h1 id="lemma-1-1">'),
    "statement without id": ("anchors", ' id="lemma-1-1"', ""),
    "statement with another id": ("anchors", 'id="lemma-1-1"', 'id="lemma-1-2"'),
    "statement without box": (
        "anchors",
        "<details",
        "<blockquote><p><strong>Lemma 1.2.</strong></p></blockquote><details",
    ),
    "caption without id": ("anchors", ' id="figure-1-1"', ""),
    "equation without id": ("anchors", 'id="eq-1-1"', 'id="eq-1-2"'),
    "image without alt": ("images", 'alt="A square in grey."', 'role="presentation"'),
    "file name as alt": ("images", "A square in grey.", "_images/square.png"),
    "image that does not load": ("images", "data:image/svg+xml,%3Csvg", "data:image/svg+xml,"),
    "drawing without words": ("images", 'aria-label="A line that rises."', 'aria-label="x"'),
    "too wide": ("width", "<h1>", '<div style="width: 1500px">wide</div><h1>'),
    "too wide for a phone": ("width", "<h1>", '<div style="width: 500px">wide</div><h1>'),
    "printed sidebar": ("print", ".bd-sidebar-primary { display: none }", ""),
    "fold shut on paper": ("print", "fold.open = true", "0"),
    "light ink": ("print", 'root.dataset.theme = "light";', ""),
    "deaf to the system": ("themes", "dark.onchange = apply;", ""),
    "dead switch": ("themes", 'onclick="turn()"', ""),
    "no switch": ("themes", "theme-switch-button", "button"),
    "switch without dark": ("themes", 'light: "dark"', 'light: "auto"'),
    "fold without keyboard": ("folds", "<summary>", '<summary onkeydown="return false">'),
    "fold out of reach": (
        "folds",
        "</article>",
        "<details><summary>a</summary><p>a</p></details>" * 2
        + '<details><summary tabindex="-1" inert>b</summary><p>b</p></details></article>',
    ),
    "no mark on focus": ("focus", "outline: 3px solid #0072b2", "outline: none"),
    "dead explorable": ("explorables", "explorable.render({", "({"),
    "wrong number": ("explorables", "(parameters * bits) / 8", "(parameters * bits) / 9"),
    "grey on grey": ("axe", "<h1>", '<div style="color: #999; background: #888">faint</div><h1>'),
    "faint in the dark": ("axe", "</style>", "html[data-theme=dark] h1 { color: #333 }</style>"),
    "faint word, the paragraph like many": (
        "axe",
        "<h1>",
        "<p>a <b>word</b></p>" * 5
        + '<p>a <b style="color: #999; background: #888">word</b></p><h1>',
    ),
    "button without name": ("axe", ">Color mode<", "><"),
    "faint in a fold": ("axe", "<div>Clear.", '<div style="color: #999; background: #888">Clear.'),
}
# A page that breaks one thing may break another with it.
ALSO = {
    "dead explorable": {"quiet"},
}


FORMULAS = ("mathematics", "anchors")


def page_with(tmp_path: Path, family: str = "", old: str = "", new: str = "") -> str:
    """Write the good page with one change; without what other families need and loads slowly."""
    if not (BOOK / "index.html").exists():
        pytest.fail(f"no book at {BOOK}: run `make book`", pytrace=False)
    lines = GOOD.splitlines()
    if family and family not in FORMULAS:
        lines = [line for line in lines if 'class="math"' not in line and "MATHJAX" not in line]
    explorable = Budget().to_html() if family in ("", "explorables") else ""
    text = "\n".join(lines).replace("MATHJAX", MATHJAX).replace("EXPLORABLE", explorable)
    assert old in text
    path = tmp_path / "page.html"
    path.write_text(text.replace(old, new) if old else text, encoding="utf-8")
    return path.as_uri()


def test_a_good_page_has_no_fault(tabs: Tabs, tmp_path: Path) -> None:
    reading = read(tabs, page_with(tmp_path))
    assert {family: found for family, found in reading.faults.items() if found} == {}
    assert reading.faults.keys() == set(FAMILIES)
    assert len(reading.facts["formulas"]) == 2
    assert reading.facts["explorables"] == 1


def test_every_family_is_broken_once() -> None:
    assert {family for family, _, _ in BROKEN.values()} == set(FAMILIES)


@pytest.mark.parametrize("broken", BROKEN)
def test_what_is_broken_is_found(broken: str, tabs: Tabs, tmp_path: Path) -> None:
    family, old, new = BROKEN[broken]
    address = page_with(tmp_path, family, old, new)
    faults = read(tabs, address, axe=family == "axe").faults
    found = {name for name, listed in faults.items() if listed}
    assert family in found
    assert found <= {family} | ALSO.get(broken, set()), faults


@pytest.mark.parametrize(
    "href", ["gone.html", "page.html#gone", "#gone", "/etc/hostname", "http://example.org/"]
)
def test_dead_links_are_found(href: str, tabs: Tabs, tmp_path: Path) -> None:
    reading = read(tabs, page_with(tmp_path, "links"), axe=False)
    assert dead_links(reading.facts, tmp_path) == []
    facts = {"links": [{"href": href, "url": address(href, tmp_path), "text": "there"}]}
    assert len(dead_links(facts, tmp_path)) == 1


def address(href: str, folder: Path) -> str:
    """Resolve ``href`` as a browser does in ``page.html`` of ``folder``."""
    return urljoin((folder / "page.html").as_uri(), href)
