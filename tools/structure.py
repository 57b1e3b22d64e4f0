"""The rules every chapter obeys, as functions that return what is wrong.

A rule takes a `Chapter` and yields one sentence per problem; no sentence means the rule holds.
``tests/notebooks/test_structure.py`` runs each rule on each chapter, and on bad notebooks.
"""

from __future__ import annotations

import ast
import getpass
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from qtools.claims import CLAIM_LINE
from tools.notebooks import find_setup, read, setup_source
from tools.repository import ROOT

LONGEST_CELL = 25
CHECKED_CELLS = 3
CHECK = "# NBVAL_CHECK_OUTPUT"
_IMAGES = ("image/svg+xml", "image/png", "image/jpeg")
_FENCE = re.compile(r"^(`{3,}|~{3,}).*?^\1[`~]*\s*$", re.MULTILINE | re.DOTALL)
_CODE_SPAN = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)", re.DOTALL)
_MYST = {
    "a directive in a fence": re.compile(r"^\s*(?:`{3,}|~{3,})\s*\{", re.MULTILINE),
    "a colon fence": re.compile(r"^\s*:{3,}", re.MULTILINE),
    "a role": re.compile(r"(?<!`)\{[A-Za-z][\w:.+-]*\}`"),
    "a target label": re.compile(r"^\([\w-]+\)=\s*$", re.MULTILINE),
    "a block break or comment": re.compile(r"^(?:\+\+\+|% )", re.MULTILINE),
}
_ABSOLUTE = re.compile(
    r"(?<![\w.:/<\\-])(?:/(?:home|Users|root|tmp|work|mnt|var|opt|usr|private|content)/[\w.~-]+"
    r"|[A-Za-z]:\\\\?[\w.~-]+)"
)
_LINK = re.compile(r"\]\(([^)\s]+)\)|href=\"([^\"]+)\"")
_SYSTEM_USERS = ("root", "runner", "user", "nobody")


@dataclass
class Chapter:
    """A notebook and where it stands, so that its rules can look around."""

    notebook: NotebookNode
    path: Path
    root: Path = field(default=ROOT)

    @classmethod
    def load(cls, path: Path, root: Path = ROOT) -> Chapter:
        """Read a chapter from disk."""
        return cls(read(path), path, root)

    @property
    def number(self) -> int:
        """Return the number in the file's name."""
        return int(self.path.name[:2])

    def markdown(self) -> str:
        """Return all prose, cells separated by blank lines."""
        return "\n\n".join(c.source for c in self.notebook.cells if c.cell_type == "markdown")

    def prose(self) -> str:
        """Return the prose without code: what is between backticks is not read as Markdown."""
        return _CODE_SPAN.sub("", _FENCE.sub("", self.markdown()))

    def code(self) -> Iterator[tuple[int, NotebookNode]]:
        """Yield the code cells with their index in the notebook."""
        for index, cell in enumerate(self.notebook.cells):
            if cell.cell_type == "code":
                yield index, cell


Rule = Callable[[Chapter], Iterator[str]]


def _has_heading(chapter: Chapter, words: str) -> bool:
    return bool(re.search(rf"^##+ .*{words}", chapter.markdown(), re.MULTILINE | re.IGNORECASE))


def _printed(cell: NotebookNode) -> str:
    return "".join(o.text for o in cell.outputs if o.output_type == "stream")


def shows_something(source: str) -> bool:
    """Return whether running ``source`` leaves an output: a call that prints, or a last value."""
    lines = [line for line in source.splitlines() if not line.lstrip().startswith(("%", "!"))]
    try:
        body = ast.parse("\n".join(lines)).body
    except SyntaxError:
        return False
    last = body[-1] if body and not source.rstrip().endswith(";") else None
    # A call may return None; a name, a comparison or an item shows itself.
    if isinstance(last, ast.Expr) and not isinstance(last.value, ast.Call | ast.Constant):
        return True
    todo: list[ast.AST] = list(body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef | ast.Lambda | ast.ClassDef):
            continue  # defined here, not run here
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if name in ("print", "claim", "display", "show"):
                return True
        todo.extend(ast.iter_child_nodes(node))
    return False


def valid_notebook(chapter: Chapter) -> Iterator[str]:
    """The file is a valid notebook, format 4.5, kernel python3, free of stray metadata."""
    notebook = chapter.notebook
    try:
        nbformat.validate(notebook)
    except nbformat.ValidationError as error:
        yield f"not a valid notebook: {error.message}"
    if (notebook.nbformat, notebook.nbformat_minor) != (4, 5):
        yield f"format {notebook.nbformat}.{notebook.nbformat_minor}, must be 4.5"
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        yield "the kernel must be python3"
    extra = set(notebook.metadata) - {"kernelspec", "language_info", "mystnb"}
    if extra:
        yield f"metadata {sorted(extra)} is an editor's: `make execute` removes it"


def title_and_setup(chapter: Chapter) -> Iterator[str]:
    """The first cell is `# N Title` and a subtitle, the second the setup cell."""
    cells = chapter.notebook.cells
    title = rf"# {chapter.number} \S.*\n+\S"
    if not cells or cells[0].cell_type != "markdown" or not re.match(title, cells[0].source):
        yield f"the first cell must be '# {chapter.number} Title', then one line of subtitle"
    if len(re.findall(r"^# ", chapter.prose(), re.MULTILINE)) > 1:
        yield "only the title may be a heading of level 1"
    if find_setup(chapter.notebook) != 1:
        yield "the second cell must be the setup cell: run `python -m tools.notebooks stamp`"
    elif cells[1].source != setup_source(chapter.root):
        yield "the setup cell is not the template's: run `python -m tools.notebooks stamp`"


def objectives(chapter: Chapter) -> Iterator[str]:
    """A box says what the reader will be able to do, the minutes, and what to know before."""
    text = chapter.markdown()
    box = re.search(r"^> \*\*What you will be able to do\.\*\*.*(?:\n>.*)*", text, re.MULTILINE)
    if not box:
        yield "no box '> **What you will be able to do.** ...'"
        return
    if not re.search(r"^> *(?:[-*]|\d+\.) ", box[0], re.MULTILINE):
        yield "the objectives box holds no list"
    if not re.search(
        r"^> \*\*Minutes\.\*\* \d+ to read, \d+ to run on a free CPU\.", text, re.MULTILINE
    ):
        yield "no line '> **Minutes.** 40 to read, 2 to run on a free CPU.'"
    if not re.search(r"^> \*\*Before you start\.\*\* \S", text, re.MULTILINE):
        yield "no line '> **Before you start.** ...'"


def sections(chapter: Chapter) -> Iterator[str]:
    """The question opens; a broken version, summary, exercises and references close, in order."""
    wanted = ("The question", "Where it breaks", "Summary", "Exercises", "References")
    headings = re.findall(r"^## (.+)$", chapter.prose(), re.MULTILINE)
    places = []
    for words in wanted:
        found = [i for i, text in enumerate(headings) if words.lower() in text.lower()]
        if not found:
            yield f"no heading '## {words}'"
        places += found[:1]
    if places != sorted(places):
        yield f"the order must be {', '.join(wanted)}"
    if headings and _has_heading(chapter, "References"):
        references = chapter.markdown().rsplit("## References", 1)[-1]
        if not re.search(r"^(?:[-*]|\d+\.) .*\]\(https?://", references, re.MULTILINE):
            yield "'## References' must be a list of links"


def exercises(chapter: Chapter) -> Iterator[str]:
    """Three exercises at least, with folded solutions and the link to their notebook."""
    if not _has_heading(chapter, "Exercises"):
        return  # `sections` says so
    text = chapter.markdown().split("## Exercises", 1)[-1]
    folded = len(re.findall(r"<summary>\s*Solution\b", text))
    if folded < 3:
        yield f"{folded} folded solutions, at least 3 exercises are due"
    release = chapter.root / "book/exercises/release"
    if any(release.glob(f"{chapter.number:02d}-*")) and "exercises/release/" not in text:
        yield "no link to the exercise notebook under exercises/release/"


def explorable(chapter: Chapter) -> Iterator[str]:
    """At least one cell shows an explorable, stored as HTML that needs no kernel."""
    cells = [c for _, c in chapter.code() if "qtools.explore" in c.source]
    if not cells:
        yield "no explorable: a cell 'from qtools.explore import ...'"
    elif not any("text/html" in o.get("data", {}) for c in cells for o in c.outputs):
        yield "the explorable's cell has no text/html output: run `make execute`"


def claims(chapter: Chapter) -> Iterator[str]:
    """At least one number of the chapter is claimed, and every claim printed its line."""
    printed = 0
    for index, cell in chapter.code():
        calls = len(re.findall(r"\bclaim\(", cell.source))
        lines = [line for line in _printed(cell).splitlines() if line.startswith("✓ ")]
        printed += len(lines)
        # A broken version is shown failing its claim: the cell catches and prints the refusal.
        refused = "except AssertionError" in cell.source and "✗ " in _printed(cell)
        if calls and not lines and not refused:
            yield f"cell {index} calls claim() but its output holds no claim"
        for line in lines:
            if not CLAIM_LINE.match(line):
                yield f"cell {index}: the line {line!r} is not what claim() prints"
    if not printed:
        yield "no claim: state at least one number with claim()"


def checked_outputs(chapter: Chapter) -> Iterator[str]:
    """Three cells at least are compared with their stored output, which is text."""
    checked = [(i, c) for i, c in chapter.code() if CHECK in c.source]
    if len(checked) < CHECKED_CELLS:
        yield f"{len(checked)} cells with '{CHECK}', at least {CHECKED_CELLS} are due"
    for index, cell in checked:
        if not _printed(cell).strip():
            yield f"cell {index} has '{CHECK}' but prints nothing to compare"
        if any("data" in o and set(o.data) - {"text/plain"} for o in cell.outputs):
            yield f"cell {index} has '{CHECK}' and shows more than text: split it"


def stored_outputs(chapter: Chapter) -> Iterator[str]:
    """Every code cell ran, in order, without error, and what shows something stored it."""
    counts = [cell.execution_count for _, cell in chapter.code() if cell.source.strip()]
    if counts != list(range(1, len(counts) + 1)):
        yield f"execution counts {counts}: run `make execute` on the whole notebook"
    for index, cell in chapter.code():
        if not cell.source.strip():
            yield f"cell {index} is empty"
        if any(o.output_type == "error" for o in cell.outputs):
            yield f"cell {index} stored an error"
        if shows_something(cell.source) and not cell.outputs:
            yield f"cell {index} prints or plots, but has no stored output"
        if any(o.output_type == "stream" and o.name == "stderr" for o in cell.outputs):
            yield f"cell {index} stored a warning (stderr): cure it or silence it"


def short_cells(chapter: Chapter) -> Iterator[str]:
    """Code cells have at most 25 lines; longer code belongs in qtools."""
    for index, cell in chapter.code():
        lines = cell.source.count("\n") + 1
        if lines > LONGEST_CELL:
            yield f"cell {index} has {lines} lines, at most {LONGEST_CELL}"


def plain_markdown(chapter: Chapter) -> Iterator[str]:
    """No MyST syntax: it shows as raw text in Colab and on GitHub."""
    for index, cell in enumerate(chapter.notebook.cells):
        if cell.cell_type != "markdown":
            continue
        for name, pattern in _MYST.items():
            match = pattern.search(cell.source)
            if match:
                yield f"cell {index} has {name}: {match[0].strip()!r}"


def portable(chapter: Chapter) -> Iterator[str]:
    """No absolute path and no user name, in source or output."""
    user = getpass.getuser()
    name = re.compile(rf"\b{re.escape(user)}\b") if user not in _SYSTEM_USERS else None
    for index, cell in enumerate(chapter.notebook.cells):
        texts = [("source", cell.source)]
        for output in cell.get("outputs", []):
            texts.append(("output", output.get("text", "")))
            for mime, value in output.get("data", {}).items():
                if isinstance(value, str) and mime not in ("image/png", "image/jpeg"):
                    texts.append(("output", value))
        for where, text in texts:
            match = _ABSOLUTE.search(text) or (name.search(text) if name else None)
            if match:
                yield f"cell {index}: {where} names {match[0]!r}, which is this machine's"


def alt_texts(chapter: Chapter) -> Iterator[str]:
    """Every image says in words what it shows."""
    for index, cell in chapter.code():
        if any(mime in o.get("data", {}) for o in cell.outputs for mime in _IMAGES):
            alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
            if len(str(alt).split()) < 4:
                yield f"cell {index} shows an image without a sentence in mystnb.image.alt"
    prose = chapter.prose()
    if re.search(r"!\[\s*\]\(", prose) or re.search(r"<img(?![^>]*\balt=\"[^\"]+\")", prose):
        yield "an image in the prose has no alternative text"


def links(chapter: Chapter) -> Iterator[str]:
    """Every relative link leads to a file that is there."""
    for match in _LINK.finditer(chapter.prose()):
        target = (match[1] or match[2]).split("#")[0]
        if not target or re.match(r"[a-z]+:", target):
            continue
        if not (chapter.path.parent / target).exists():
            yield f"the link to {target!r} leads nowhere"


RULES: tuple[Rule, ...] = (
    valid_notebook,
    title_and_setup,
    objectives,
    sections,
    exercises,
    explorable,
    claims,
    checked_outputs,
    stored_outputs,
    short_cells,
    plain_markdown,
    portable,
    alt_texts,
    links,
)
