"""The book's Sphinx extension on two tiny books: one that is right, one where everything is wrong.

Both are built with the real `_config.yml` and, as `make book` does, with warnings as errors.
"""

from __future__ import annotations

import doctest
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from bs4 import BeautifulSoup, Tag

from qtools import plotting
from tests.book_samples import BAD, BIB, FIRST, GOOD, INTRO, NOTES, SVG

ROOT = Path(__file__).resolve().parent.parent
EXT = ROOT / "book/_ext"
sys.path.insert(0, str(EXT))
MODULES = sorted(f"dtob.{path.stem}" for path in (EXT / "dtob").glob("[a-z]*.py"))


def cell(kind: str, source: str, **extra: Any) -> dict[str, Any]:
    base: dict[str, Any] = {"cell_type": kind, "metadata": {}, "source": source, "id": "x"}
    if kind == "code":
        base |= {"execution_count": 1, "outputs": []}
    return base | extra


def output(**data: str) -> dict[str, Any]:
    bundle = {key.replace("_", "/", 1): value for key, value in data.items()}
    return {"output_type": "display_data", "metadata": {}, "data": bundle}


def notebook(*cells: dict[str, Any]) -> str:
    numbered = [c | {"id": f"cell{i}"} for i, c in enumerate(cells)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    content = {"cells": numbered, "metadata": {"kernelspec": kernel}}
    return json.dumps(content | {"nbformat": 4, "nbformat_minor": 5})


@dataclass
class Built:
    folder: Path
    code: int
    log: str

    def page(self, name: str) -> BeautifulSoup:
        return BeautifulSoup((self.folder / name).read_text(encoding="utf-8"), "html.parser")


def build(folder: Path, pages: dict[str, str], code: str) -> Built:
    book = folder / "book"
    shutil.copytree(EXT, book / "_ext", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "book/_static", book / "_static")
    shutil.copy(ROOT / "_config.yml", folder)
    (book / "references.bib").write_text(BIB, encoding="utf-8")
    (folder / "qtools").mkdir()
    (folder / "qtools/first.py").write_text(code, encoding="utf-8")
    (folder / "qtools/second.py").write_text('"""2."""\ndef f():\n    """F."""\n', encoding="utf-8")
    exercise = book / "exercises/release/one/one.ipynb"
    exercise.parent.mkdir(parents=True)
    exercise.write_text(notebook(cell("markdown", "# One")), encoding="utf-8")
    toc = "format: jb-book\nroot: book/intro\nchapters:\n"
    for name, text in pages.items():
        (book / name).write_text(text, encoding="utf-8")
        if name != "intro.md":
            toc += f"- file: book/{name.split('.')[0]}\n"
    (folder / "_toc.yml").write_text(toc, encoding="utf-8")
    done = subprocess.run(
        [Path(sys.executable).parent / "jupyter-book", "build", ".", "-n", "-W", "--keep-going"],
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | {"NO_COLOR": "1", "OMP_NUM_THREADS": "1"},
    )
    log = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
    return Built(folder / "_build/html", done.returncode, log)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Built:
    alt = {"mystnb": {"image": {"alt": 'A line & a "dot".'}}, "tags": ["hide-input"]}
    live = "<p id='live'>I move</p>"
    widget = "application_vnd.jupyter.widget-view+json"
    chapter = notebook(
        cell("markdown", GOOD),
        cell("code", "plot()", metadata=alt, outputs=[output(**{"image_svg+xml": SVG})] * 2),
        cell("code", "E()", outputs=[output(text_html=live, **{widget: "{}"})]),
    )
    pages = {"intro.md": INTRO, "notes.md": NOTES, "02_good.ipynb": chapter}
    return build(tmp_path_factory.mktemp("good"), pages, FIRST)


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Built:
    pages = {name: text for name, text, _ in BAD}
    pages["intro.md"] = INTRO.replace("See [the notes](notes.md).", "")
    pages["09_figure.ipynb"] = notebook(
        cell("markdown", "# 9 Figure"),
        cell("code", "plot()", outputs=[output(**{"image_svg+xml": SVG})]),
    )
    code = FIRST.replace("hidden()", "undocumented()").replace('"shown"]', '"undocumented"]')
    return build(tmp_path_factory.mktemp("bad"), pages, code)


@pytest.fixture(scope="module")
def chapter(good: Built) -> BeautifulSoup:
    return good.page("book/02_good.html")


def the(found: Any) -> Tag:
    assert isinstance(found, Tag)
    return found


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


def test_good_book_builds_without_a_warning(good: Built) -> None:
    assert good.code == 0, good.log
    assert "WARNING" not in good.log


def test_statement_is_a_box_with_an_id(chapter: BeautifulSoup) -> None:
    box = the(chapter.find(id="proposition-2-1"))
    assert box.name == "div"
    assert {"box", "statement", "statement-proposition"} <= set(box["class"])
    assert the(box.find("strong")).get_text().startswith("Proposition 2.1 (Bound")
    assert the(box.find("a", class_="box-link"))["href"] == "#proposition-2-1"
    assert the(chapter.find(id="definition-2-2")).name == "div"


def test_statement_links_resolve(good: Built, chapter: BeautifulSoup) -> None:
    links = [a["href"] for a in chapter.find_all("a") if a.get_text() == "Proposition 2.1"]
    assert links == ["#proposition-2-1", "#proposition-2-1"]
    away = [a["href"] for a in chapter.find_all("a") if a.get_text() == "Lemma A.1"]
    assert away == ["notes.html#lemma-a-1"]
    assert good.page("book/notes.html").find(id="lemma-a-1") is not None


def test_objectives_are_a_box_with_one_paragraph_a_label(chapter: BeautifulSoup) -> None:
    box = the(chapter.find(class_="box-objectives"))
    labels = [p.get_text().split(".")[0] for p in box.find_all("p", recursive=False)]
    assert labels == ["What you will be able to do", "Minutes", "Before you start"]


def test_ordinary_quotation_stays_one(chapter: BeautifulSoup) -> None:
    assert "ordinary quotation" in the(chapter.find("blockquote")).get_text()


def test_fold_holds_markdown_and_mathematics(chapter: BeautifulSoup) -> None:
    fold = the(chapter.find("details", class_="fold-proof"))
    assert the(fold.find("summary")).get_text() == "Proof"
    assert not fold.has_attr("open")
    assert fold.find("em") is not None
    assert fold.find(id="eq-2-2") is not None
    assert the(fold.find_all("p")[-1]).get_text() == "Done."


def test_displays_are_unwrapped(chapter: BeautifulSoup) -> None:
    one = the(chapter.find(id="eq-2-1")).get_text()
    assert one.strip().startswith(r"\[\begin{aligned}")
    assert one.strip().endswith(r"\end{aligned} \tag{2.1}\]")
    two = the(chapter.find(id="eq-2-2")).get_text()
    assert two.strip().endswith(r"\end{aligned}\tag{2.2}\]")
    three = the(chapter.find(id="eq-2-4")).get_text()
    assert three.strip().startswith(r"\begin{align}")
    assert chapter.find(id="eq-2-3") is not None
    assert "split" not in chapter.get_text()
    assert chapter.find(class_="eqno") is None


def test_citations_carry_the_title(chapter: BeautifulSoup) -> None:
    links = chapter.find_all("a", class_="citation-link")
    assert [a["title"] for a in links] == ["OneBit: Few Bits", "On Graphs"]


def test_links_to_repository_files(chapter: BeautifulSoup) -> None:
    links = [a["href"] for a in chapter.find_all("a", class_="repository-link")]
    colab = "https://colab.research.google.com/github/"
    assert links[0].startswith(colab)
    assert links[0].endswith("/blob/main/book/exercises/release/one/one.ipynb")
    assert links[1].startswith("https://github.com/")
    assert links[1].endswith("/blob/main/qtools/first.py")


def test_caption(chapter: BeautifulSoup) -> None:
    caption = the(chapter.find("p", class_="figure-caption"))
    assert caption["id"] == "figure-2-1"
    assert len(chapter.find_all("p", class_="figure-caption")) == 1


def test_figures_are_inlined_with_alt_theme_colours_and_own_ids(chapter: BeautifulSoup) -> None:
    figures = chapter.find_all("svg", class_="book-figure")
    assert len(figures) == 2
    for figure in figures:
        assert figure["role"] == "img"
        assert figure["aria-label"] == 'A line & a "dot".'
        assert "currentColor" in str(figure)
        assert "var(--fig-blue" in str(figure)
        assert not figure.find_all(["metadata", "style"])
    ids = [tag["id"] for figure in figures for tag in figure.find_all(id=True)]
    assert len(ids) == len(set(ids)) == 2
    assert f"url(#{ids[1]})" in str(figures[1])


def test_figure_colours_are_those_of_plotting() -> None:
    known = {str(colour).lower() for colour in plotting.COLORS.values()}
    outputs = importlib.import_module("dtob.outputs")
    assert set(outputs.COLOURS) <= known
    assert outputs.COLOURS[str(plotting.COLORS["grey"]).lower()] == "currentColor"


def test_explorable_shows_its_html_not_the_widget(chapter: BeautifulSoup) -> None:
    assert the(chapter.find(id="live")).get_text() == "I move"
    assert "widget-view" not in str(chapter)


def test_home_page_links_what_exists(good: Built) -> None:
    page = good.page("book/intro.html")
    existing, planned = the(page.find(class_="exists")), the(page.find(class_="to-come"))
    assert the(existing.find("a"))["href"] == "02_good.html"
    assert planned.find("a") is None
    assert "planned" in planned.get_text()
    assert len(the(page.find("figure", class_="steps")).find_all("svg")) == 5


def test_glossary_marks_chinese(good: Built) -> None:
    term = the(good.page("book/notes.html").find(id="term-apple"))
    assert the(term.find("span", attrs={"lang": "zh-Hans"})).get_text() == "苹果"


def test_reference_of_the_package(good: Built) -> None:
    page = good.page("book/notes.html")
    modules = [s["id"] for s in page.find_all("section") if str(s.get("id")).startswith("qtools")]
    assert modules == [
        "qtools.second",
        "qtools.second.f",
        "qtools.first",
        "qtools.first.shown",
        "qtools.first.Thing",
    ]
    shown = the(page.find(id="qtools.first.shown"))
    assert "shown(x: int, /, *rest: float, axis: int = 0) -> int" in shown.get_text()
    assert "q = x * 2, for |x| <= 3 and [out, in] with a < b." in shown.get_text()
    assert "If x * 2 < 0." in shown.get_text()
    assert the(shown.find("a", class_="api-source"))["href"].endswith("qtools/first.py#L5")
    thing = the(page.find(id="qtools.first.Thing")).get_text()
    assert "class Thing(bits: int = 8)" in thing
    assert "largest -> int" in thing


def test_references_are_listed_with_links(good: Built) -> None:
    page = " ".join(good.page("book/notes.html").get_text().split())
    assert "Yuzhuang Xu and Xu Han. OneBit: Few Bits. In A Conference, 2024. arXiv:2402" in page
    assert "Paul Erdős. On Graphs. A Journal, 6, pages 290–297, 1959. doi:10.1000/XYZ." in page


def test_index_leads_to_the_first_page(good: Built) -> None:
    page = good.page("index.html")
    assert the(page.find("html"))["lang"] == "en"
    assert the(page.find("a"))["href"] == "book/intro.html"
    refresh = the(page.find("meta", attrs={"http-equiv": "refresh"}))
    assert refresh["content"] == "0; url=book/intro.html"


def test_pages_ask_no_other_host_for_anything(good: Built) -> None:
    for path in good.folder.rglob("*.html"):
        page = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
        for tag in page.find_all(["script", "img", "iframe", "source", "video", "audio"]):
            assert not str(tag.get("src", "")).startswith(("http:", "https:", "//")), (path, tag)
        for tag in page.find_all("link"):
            assert not str(tag.get("href", "")).startswith(("http:", "https:", "//")), (path, tag)
        assert "unpkg" not in str(page)
        assert "jsdelivr" not in str(page)


def test_mathjax_is_local_and_small(good: Built) -> None:
    files = list((good.folder / "_static/mathjax").rglob("*"))
    assert {f.name for f in files} == {"tex-svg-full.js", "NOTICE.txt"}
    assert sum(f.stat().st_size for f in files) < 3_000_000
    sources = [str(s.get("src")) for s in good.page("book/02_good.html").find_all("script")]
    assert any("_static/mathjax/tex-svg-full.js" in source for source in sources)


def test_icon_language_and_launch_buttons(chapter: BeautifulSoup) -> None:
    assert the(chapter.find("html"))["lang"] == "en"
    assert the(chapter.find("link", rel="icon"))["href"].endswith("favicon.svg")
    buttons = [str(a.get("href")) for a in chapter.find_all("a")]
    assert any(b.startswith("https://colab.research.google.com/github/") for b in buttons)
    assert any(b.endswith("02_good.ipynb") for b in buttons)


def test_bad_book_fails(bad: Built) -> None:
    assert bad.code != 0


@pytest.mark.parametrize(
    ("page", "message"), [(name, message) for name, _, messages in BAD for message in messages]
)
def test_every_fault_is_reported(bad: Built, page: str, message: str) -> None:
    lines = [line for line in bad.log.splitlines() if message in line]
    assert lines, f"{message!r} not in:\n{bad.log}"
    # Directives report through nodes that have no line yet; the rest names the page.
    if "[dtob.terms]" not in lines[0] and "[dtob.api]" not in lines[0]:
        assert page in lines[0]


def test_figure_without_text_alternative_is_reported(bad: Built) -> None:
    assert "figure without text alternative" in bad.log


def test_chapter_missing_from_the_home_page_is_reported(bad: Built) -> None:
    assert "chapter book/04_numbers is on no card of the home page" in bad.log


def test_no_fault_is_reported_without_cause(bad: Built) -> None:
    expected = [message for _, _, messages in BAD for message in messages]
    expected += ["figure without text alternative", "is on no card of the home page"]
    warnings = [line for line in bad.log.splitlines() if "WARNING" in line]
    stray = [line for line in warnings if not any(message in line for message in expected)]
    assert not stray
