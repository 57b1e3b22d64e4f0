"""Every page of the built book in a real browser, opened from disk with the network cut.

The pages are those of ``_toc.yml``: a new chapter is tested without a change here. ``make test``
builds the book first; the variable BOOK_HTML points the tests to a book built elsewhere. Each page
is read once (pages.py) and its faults are shared among its tests. That each family of faults is
found when it is there, test_page_faults.py shows.
"""

from __future__ import annotations

import functools
import http.server
import os
import re
import threading
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from playwright.sync_api import Error, Page

from tests.browser.conftest import OpenPage, Tabs, overflow, serious_violations
from tests.browser.pages import Reading, read
from tools.repository import ROOT, address

BOOK = Path(os.environ.get("BOOK_HTML") or ROOT / "_build/html").resolve()
# What the build adds to the pages of the table of contents; the last two are the theme's own
# leftovers, linked from nowhere.
GENERATED = {
    "index.html",
    "search.html",
    "_static/webpack-macros.html",
    "_static/sbt-webpack-macros.html",
}
THEME_BUTTONS = (
    "Toggle primary sidebar",
    "Source repositories",
    "Download this page",
    "Fullscreen mode",
    "Color mode",
    "Search",
    "Toggle secondary sidebar",
)
FAMILIES = (
    "quiet",
    "head",
    "mathematics",
    "anchors",
    "images",
    "width",
    "print",
    "themes",
    "folds",
    "focus",
    "explorables",
    "axe",
)


def contents(node: Any) -> list[str]:
    """Every page named in a table of contents, in order."""
    if isinstance(node, list):
        return [name for item in node for name in contents(item)]
    if not isinstance(node, dict):
        return []
    own = [node[key] for key in ("root", "file") if key in node]
    return own + [name for value in node.values() for name in contents(value)]


PAGES = contents(yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8")))
CHAPTERS = [name for name in PAGES if (ROOT / f"{name}.ipynb").exists()]


def by_name(pages: list[str]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("name", pages, ids=[Path(page).name for page in pages])


@pytest.fixture(scope="module")
def book() -> Path:
    if not (BOOK / "index.html").exists():
        pytest.fail(f"no book at {BOOK}: run `make book`", pytrace=False)
    return BOOK


@pytest.fixture(scope="module")
def reading(tabs: Tabs, book: Path) -> Callable[[str], Reading]:
    done: dict[str, Reading | Error] = {}

    def reading_(name: str) -> Reading:
        path = book / f"{name}.html"
        if not path.exists():
            pytest.fail(f"{path} is not built: run `make book`", pytrace=False)
        if name not in done:
            try:
                done[name] = read(tabs, path.as_uri())
            except Error as error:  # kept too: a page that hangs hangs once, not for every family
                done[name] = error
        result = done[name]
        if isinstance(result, Error):
            raise result
        return result

    return reading_


@pytest.fixture(scope="module")
def server(book: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(book))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_the_pages_are_those_of_the_table_of_contents(book: Path) -> None:
    built = {path.relative_to(book).as_posix() for path in book.rglob("*.html")}
    assert built == {f"{name}.html" for name in PAGES} | GENERATED


class Ids(HTMLParser):
    """Collects what links can lead to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids |= {value for key, value in attrs if value and key in ("id", "name")}


@functools.cache
def ids_of(path: Path) -> set[str]:
    return Ids(path.read_text(encoding="utf-8")).ids


def dead_links(facts: dict[str, Any], book: Path) -> list[str]:
    """Links that lead nowhere: no such file in the book, no such place in the page."""
    dead = []
    for link in facts["links"]:
        url = urlsplit(link["url"])
        shown = f"{link['text'][:40]!r} -> {link['href']}"
        if url.scheme in ("https", "mailto"):
            continue
        path = Path(unquote(url.path))
        if url.scheme != "file" or not path.is_relative_to(book) or not path.is_file():
            dead.append(shown)
        elif url.fragment and unquote(url.fragment) not in ids_of(path):
            dead.append(f"{shown} (no such place)")
        if not link["text"]:
            dead.append(f"{shown} (no words)")
    return dead


class EachPage:
    """The tests of one page. Classes are what two workers share among them."""

    @pytest.mark.parametrize("family", FAMILIES)
    def test_page(self, name: str, family: str, reading: Callable[[str], Reading]) -> None:
        faults = reading(name).faults[family]
        assert not faults, "\n".join(faults)

    def test_links_lead_somewhere(
        self, name: str, reading: Callable[[str], Reading], book: Path
    ) -> None:
        facts = reading(name).facts
        assert len(facts["links"]) > len(PAGES)
        assert dead_links(facts, book) == []

    def test_buttons_lead_to_this_repository(
        self, name: str, reading: Callable[[str], Reading], book: Path
    ) -> None:
        """Colab opens the notebook of the page; a page without a notebook has no such button."""
        facts = reading(name).facts
        links = {link["href"] for link in facts["links"]}
        config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
        repository, branch = address(), config["repository"]["branch"]
        colab = repository.replace("https://github.com", "https://colab.research.google.com/github")
        notebook = re.compile(rf"colab\..*/{Path(name).name}\.ipynb$")
        buttons = {link for link in links if notebook.search(link)}
        if name in CHAPTERS:
            assert buttons == {f"{colab}/blob/{branch}/{name}.ipynb"}
            assert (book / f"_sources/{name}.ipynb").is_file()
        else:
            assert not buttons
        assert repository in links
        for link in links:
            if "/blob/" in link and (repository.split("/")[-1] in link):
                assert link.startswith((f"{repository}/blob/{branch}/", f"{colab}/blob/{branch}/"))
        assert not [image for image in facts["images"] if "badge" in image["html"]]

    def test_a_chapter_has_what_the_tests_look_for(
        self, name: str, reading: Callable[[str], Reading]
    ) -> None:
        """Without these the tests above would pass on nothing; elsewhere nothing moves."""
        facts = reading(name).facts
        assert (facts["explorables"] >= 1) == (name in CHAPTERS)
        if name in CHAPTERS:
            assert facts["statements"]
            assert any(formula["tags"] for formula in facts["formulas"])
            assert [text for text in facts["captions"] if text["text"].startswith("Figure")]


@by_name([*PAGES, "search"][::2])
class TestEvenPages(EachPage):
    """The first of every two pages."""


@by_name([*PAGES, "search"][1::2])
class TestOddPages(EachPage):
    """The second of every two pages."""


def test_the_front_door_leads_to_the_home_page(open_page: OpenPage, book: Path) -> None:
    page = open_page((book / "index.html").as_uri())
    page.wait_for_url("**/book/intro.html")
    assert page.locator("article h1").inner_text().startswith("Down to One Bit")


def follow_first_result(page: Page, term: str, home: str = "2 Affine quantization") -> None:
    """A term's meaning comes first; the chapter where it is at home is among the next."""
    results = page.locator("#search-results li a")
    results.nth(3).wait_for()
    assert home in [results.nth(i).inner_text() for i in range(1, 4)]
    results.first.click()
    page.wait_for_url(f"**/glossary.html*#term-{term.replace(' ', '-')}")
    assert term in page.locator(":target").inner_text()


def test_search_page_finds_zero_point(open_page: OpenPage, server: str) -> None:
    page = open_page(f"{server}/search.html?q=zero+point")
    follow_first_result(page, "zero point")


def test_search_from_the_keyboard(open_page: OpenPage, server: str) -> None:
    page = open_page(f"{server}/book/notation.html")
    page.keyboard.press("Control+k")
    page.keyboard.type("zero point")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search.html?q=zero+point*")
    follow_first_result(page, "zero point")


def test_search_finds_a_chinese_term(open_page: OpenPage, server: str) -> None:
    page = open_page(f"{server}/search.html?q=零点")
    page.locator("#search-results li a").first.click()
    page.wait_for_url("**/glossary.html*#term-zero-point")


def test_search_finds_nothing_where_there_is_nothing(open_page: OpenPage, server: str) -> None:
    page = open_page(f"{server}/search.html?q=xylophone")
    page.get_by_text("did not match any documents").wait_for()


def test_search_works_from_disk(tabs: Tabs, book: Path) -> None:
    """Readers open the book from disk, where a page may not read another one for a summary."""
    with tabs.open() as (page, _):
        page.goto((book / "search.html").as_uri() + "?q=zero+point")
        page.wait_for_function("document.querySelectorAll('#search-results li a').length > 1")
        follow_first_result(page, "zero point")


def test_the_theme_s_buttons_say_what_they_do(open_page: OpenPage, book: Path) -> None:
    page = open_page((book / "book/notation.html").as_uri(), width=1000)
    for name in THEME_BUTTONS:
        assert page.get_by_role("button", name=name).count() >= 1, name
    nameless = page.get_by_role("button", name=re.compile(r"^\s*$"))
    assert nameless.count() == 0
    page.get_by_role("button", name="Download this page").focus()
    page.keyboard.press("Enter")
    source = page.get_by_role("link", name=re.compile(r"^\s*\.md"))
    source.wait_for()
    assert (source.get_attribute("href") or "").endswith("_sources/book/notation.md")


def test_skip_link_is_first_and_skips(open_page: OpenPage, book: Path) -> None:
    page = open_page((book / "book/notation.html").as_uri(), width=1280)
    skip = page.get_by_role("link", name="Skip to main content")
    assert not in_view(page, skip)
    page.keyboard.press("Tab")
    assert skip.evaluate("(node) => node === document.activeElement")
    page.wait_for_timeout(300)
    assert in_view(page, skip)
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    inside = "document.activeElement.closest('main') !== null"
    assert page.evaluate(inside)


def in_view(page: Page, node: Any) -> bool:
    box = node.bounding_box()
    return bool(box and box["height"] > 1 and box["y"] >= 0 and box["x"] >= 0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_sidebars_pass_axe(width: int, scheme: str, open_page: OpenPage, book: Path) -> None:
    page = open_page((book / "book/notation.html").as_uri(), width=width, scheme=scheme)
    if width < 1000:
        page.get_by_role("button", name="Toggle primary sidebar").click()
        page.wait_for_timeout(400)
        assert overflow(page) <= 0
    assert page.locator("nav.bd-links").is_visible()
    assert serious_violations(page) == []
