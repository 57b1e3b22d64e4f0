"""Every chapter obeys every rule of tools/structure.py, and every rule can fail."""

import copy
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tools import repository
from tools.notebooks import normalise, setup_source
from tools.structure import RULES, Chapter, Rule, shows_something

CHAPTERS = repository.chapters()
CONFIG = "repository:\n  url: https://github.com/octocat/book\n"
PROJECT = '[project]\nversion = "1.2.3"\n'


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_chapter(path: Path, rule: Rule) -> None:
    problems = list(rule(Chapter.load(path)))
    assert not problems, f"{path.name} breaks the rule: {rule.__doc__}\n- " + "\n- ".join(problems)


def test_there_are_chapters_and_all_are_in_the_table_of_contents() -> None:
    toc = (repository.ROOT / "_toc.yml").read_text(encoding="utf-8")
    assert CHAPTERS, "book/ holds no chapter"
    for path in CHAPTERS:
        assert f"book/{path.stem}" in toc, f"{path.name} is missing in _toc.yml"


# ---- the rules themselves, on a notebook that is right and on copies with one thing wrong


def stream(text: str) -> NotebookNode:
    return new_output("stream", name="stdout", text=text)


def good_notebook(root: Path) -> NotebookNode:
    """Return a small notebook that breaks no rule."""
    claim_line = "✓ two: 2 (expected 2)\n"
    checked = "# NBVAL_CHECK_OUTPUT\nprint(1)"
    figure = {"mystnb": {"image": {"alt": "One line that rises to the right."}}}
    svg = new_output("display_data", data={"image/svg+xml": "<svg/>", "text/plain": "<Figure>"})
    html = new_output("display_data", data={"text/html": "<p>", "text/plain": "NumberLines()"})
    exercise = "Do it.\n\n<details><summary>Solution</summary>\n\nDone.\n\n</details>\n"
    cells = [
        new_markdown_cell("# 2 Affine quantization\n\nFrom real numbers to codes."),
        new_code_cell(setup_source(root), id="setup"),
        new_markdown_cell(
            "> **What you will be able to do.**\n> - Derive $s$ and $z$.\n>\n"
            "> **Minutes.** 40 to read, 2 to run on a free CPU.\n>\n"
            "> **Before you start.** School algebra."
        ),
        new_markdown_cell("## The question\n\nWhy `{role}` and [a link](02_good.ipynb#x)?"),
        new_code_cell("claim('two', 2, 2)", outputs=[stream(claim_line)]),
        new_code_cell(checked, outputs=[stream("1\n")]),
        new_code_cell(checked, outputs=[stream("1\n")]),
        new_code_cell(checked, outputs=[stream("1\n")]),
        new_code_cell("draw()", outputs=[svg], metadata=figure),
        new_code_cell("from qtools.explore import NumberLines\nNumberLines()", outputs=[html]),
        new_markdown_cell("## Where it breaks\n\nHere.\n\n## Summary\n\nThat."),
        new_markdown_cell(f"## Exercises\n\n{exercise * 3}"),
        new_markdown_cell("## References\n\n- [A paper](https://arxiv.org/abs/1), eq. 1"),
    ]
    notebook = new_notebook(cells=cells)
    for count, cell in enumerate((c for c in cells if c.cell_type == "code"), start=1):
        cell.execution_count = count
    normalise(notebook, root)
    return notebook


@pytest.fixture
def good(tmp_path: Path) -> Chapter:
    (tmp_path / "book").mkdir()
    (tmp_path / "_config.yml").write_text(CONFIG)
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    path = tmp_path / "book/02_good.ipynb"
    notebook = good_notebook(tmp_path)
    nbformat.write(notebook, path)
    return Chapter(notebook, path, tmp_path)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_good_notebook_passes(good: Chapter, rule: Rule) -> None:
    assert list(rule(good)) == []


def replace(old: str, new: str) -> Callable[[NotebookNode], None]:
    """Return a change that replaces text in the source of all cells, and must find it."""

    def change(notebook: NotebookNode) -> None:
        assert any(old in cell.source for cell in notebook.cells)
        for cell in notebook.cells:
            cell.source = cell.source.replace(old, new)

    return change


def edit(index: int, **values: object) -> Callable[[NotebookNode], None]:
    """Return a change that sets attributes of one cell."""

    def change(notebook: NotebookNode) -> None:
        for name, value in values.items():
            notebook.cells[index][name] = value

    return change


def drop(*indices: int) -> Callable[[NotebookNode], None]:
    """Return a change that removes cells."""

    def change(notebook: NotebookNode) -> None:
        notebook.cells = [c for i, c in enumerate(notebook.cells) if i not in indices]

    return change


def colab_metadata(notebook: NotebookNode) -> None:
    notebook.metadata["colab"] = {"provenance": []}


TITLE, SETUP, BOX, QUESTION, CLAIM, CHECKED, _, _, FIGURE, WIDGET = range(10)
WARNING = new_output("stream", name="stderr", text="UserWarning")
ERROR = new_output("error", ename="E", evalue="", traceback=[])
HOME = stream("/home/ada/book/x.py:3")
PLAIN = new_output("display_data", data={"text/plain": "x"})
NO_CLAIM = stream("✓ two is 2\n")

BAD = [
    ("valid_notebook", "not a valid notebook", edit(CLAIM, outputs=[{"output_type": "nonsense"}])),
    ("valid_notebook", "an editor's", colab_metadata),
    ("title_and_setup", "# 2 Title", replace("# 2 Affine", "# 3 Affine")),
    ("title_and_setup", "subtitle", replace("\n\nFrom real numbers to codes.", "")),
    ("title_and_setup", "heading of level 1", replace("## Summary", "# Summary")),
    ("title_and_setup", "not the template's", replace("@v1.2.3", "@main")),
    ("title_and_setup", "second cell", drop(SETUP)),
    ("objectives", "no box", drop(BOX)),
    ("objectives", "no list", replace("> - Derive", "> Derive")),
    ("objectives", "Minutes", replace("40 to read", "some to read")),
    ("objectives", "Before you start", replace("School algebra.", "")),
    ("sections", "The question", replace("## The question", "## A question")),
    ("sections", "Where it breaks", replace("## Where it breaks", "## Limits")),
    ("sections", "Summary", replace("## Summary", "## In short")),
    ("sections", "Exercises", replace("## Exercises", "## Problems")),
    ("sections", "References", replace("## References", "## Reading")),
    ("sections", "order", replace("## The question", "## Summary of the question")),
    ("sections", "list of links", replace("https://arxiv.org/abs/1", "paper.pdf")),
    ("exercises", "0 folded solutions", replace("<summary>Solution", "<summary>Proof")),
    ("explorable", "no explorable", drop(WIDGET)),
    ("explorable", "no text/html", edit(WIDGET, outputs=[PLAIN])),
    ("claims", "no claim", drop(CLAIM)),
    ("claims", "holds no claim", edit(CLAIM, outputs=[stream("2\n")])),
    ("claims", "not what claim() prints", edit(CLAIM, outputs=[NO_CLAIM])),
    ("checked_outputs", "2 cells", drop(CHECKED)),
    ("checked_outputs", "prints nothing", edit(CHECKED, outputs=[PLAIN])),
    ("checked_outputs", "more than text", replace("draw()", "# NBVAL_CHECK_OUTPUT\ndraw()")),
    ("stored_outputs", "execution counts", edit(CLAIM, execution_count=None)),
    ("stored_outputs", "execution counts", edit(CLAIM, execution_count=7)),
    ("stored_outputs", "no stored output", edit(CLAIM, outputs=[])),
    ("stored_outputs", "stored an error", edit(CLAIM, outputs=[ERROR])),
    ("stored_outputs", "stored a warning", edit(CLAIM, outputs=[WARNING])),
    ("stored_outputs", "is empty", edit(CLAIM, source=" \n")),
    ("short_cells", "26 lines", edit(CLAIM, source="\n".join(["x = 1"] * 26))),
    ("plain_markdown", "a directive", replace("Here.", "```{note}\nHere.\n```")),
    ("plain_markdown", "a colon fence", replace("Here.", ":::{note}\nHere.\n:::")),
    ("plain_markdown", "a role", replace("Here.", "See {ref}`there`.")),
    ("plain_markdown", "a role", replace("Here.", "See {numref}`Figure %s <there>`.")),
    ("plain_markdown", "a target", replace("Here.", "\n(here)=\nHere.")),
    ("plain_markdown", "a block break", replace("Here.", "\n+++\nHere.")),
    ("portable", "'/home/ada'", edit(CLAIM, outputs=[HOME])),
    ("portable", "'/content/data'", edit(CLAIM, source="open('/content/data')")),
    ("portable", "'C:", edit(CLAIM, source=r"open('C:\data')")),
    ("alt_texts", "without a sentence", edit(FIGURE, metadata={})),
    ("alt_texts", "in the prose", replace("Here.", "![](https://x.org/a.svg)")),
    ("alt_texts", "in the prose", replace("Here.", '<img src="a.svg">')),
    ("links", "'03_missing.ipynb'", replace("02_good.ipynb", "03_missing.ipynb")),
]


@pytest.mark.parametrize(
    ("name", "message", "change"), BAD, ids=[f"{name}-{message}" for name, message, _ in BAD]
)
def test_bad_notebook_fails(
    good: Chapter, name: str, message: str, change: Callable[[NotebookNode], None]
) -> None:
    rule = next(rule for rule in RULES if rule.__name__ == name)
    bad = Chapter(copy.deepcopy(good.notebook), good.path, good.root)
    change(bad.notebook)
    problems = list(rule(bad))
    assert any(message in problem for problem in problems), problems


def test_every_rule_is_shown_to_fail() -> None:
    assert {rule.__name__ for rule in RULES} == {name for name, _, _ in BAD}


def test_a_claim_may_be_shown_failing(good: Chapter) -> None:
    (rule,) = [rule for rule in RULES if rule.__name__ == "claims"]
    caught = "try:\n    claim('three', 2, 3)\nexcept AssertionError as error:\n    print(error)"
    cell = new_code_cell(caught, outputs=[stream("✗ three: 2 (expected 3)\n")])
    good.notebook.cells.append(cell)
    assert list(rule(good)) == []
    cell.outputs = [stream("nothing\n")]
    assert any("holds no claim" in problem for problem in rule(good))


def test_exercises_need_their_link(good: Chapter) -> None:
    (good.root / "book/exercises/release/02-good").mkdir(parents=True)
    (rule,) = [rule for rule in RULES if rule.__name__ == "exercises"]
    assert any("no link" in problem for problem in rule(good))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("print(1)", True),
        ("for i in x:\n    print(i)", True),
        ("x = 1\nx", True),
        ("x == y", True),
        ("fig.show()", True),
        ("x = 1", False),
        ("x;", False),
        ("f(x)", False),
        ("def f():\n    print(1)", False),
        ("%pip install x", False),
    ],
)
def test_shows_something(source: str, expected: bool) -> None:
    assert shows_something(source) is expected
