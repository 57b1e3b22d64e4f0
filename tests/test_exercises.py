"""Every exercise: the source passes, the untouched release gets nothing, mistakes are explained."""

import os
import re
from collections.abc import Iterator
from typing import Any

import nbformat
import pytest
import torch
from nbclient import NotebookClient
from nbformat import NotebookNode

from tests.exercise_mistakes import MISTAKES, Mistake
from tools import exercises, forks, repository
from tools.notebooks import read

SLUGS = exercises.slugs()
each_exercise = pytest.mark.parametrize("slug", SLUGS)


def nbgrader_of(cell: NotebookNode) -> dict[str, Any]:
    return cell.metadata.get("nbgrader", {})


def graded(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if nbgrader_of(cell).get("grade")]


def solutions(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if nbgrader_of(cell).get("solution")]


def test_there_are_exercises() -> None:
    assert SLUGS, "book/exercises/source holds no exercise"


@pytest.fixture(scope="module")
def course() -> Iterator[exercises.Course]:
    with exercises.course() as made:
        yield made


@pytest.mark.slow
@each_exercise
def test_release_is_what_the_source_generates(slug: str, course: exercises.Course) -> None:
    stored = exercises.release(slug).read_text(encoding="utf-8")
    assert stored == course.generate(slug), f"{slug}: run `make exercises` and commit"


def test_no_release_without_source() -> None:
    assert [path.stem for path in repository.exercise_releases()] == SLUGS


@pytest.mark.slow
@each_exercise
def test_source_gets_every_point(slug: str, course: exercises.Course) -> None:
    grades = course.grade(slug, "source", exercises.source(slug).read_text(encoding="utf-8"))
    lost = [f"{g.cell}: {g.message}" for g in grades if g.score != g.points]
    assert grades, f"{slug} has no points to give"
    assert not lost, f"{slug}: the solution fails its own tests\n" + "\n".join(lost)


@pytest.mark.slow
@each_exercise
def test_untouched_release_gets_no_point(slug: str, course: exercises.Course) -> None:
    grades = course.grade(slug, "untouched", exercises.release(slug).read_text(encoding="utf-8"))
    free = [f"{g.cell}: {g.score} of {g.points}" for g in grades if g.score != 0]
    assert grades, f"{slug} has no points to give"
    assert not free, f"{slug}: points for no work\n" + "\n".join(free)


@each_exercise
def test_source_has_the_shape_of_an_exercise(slug: str) -> None:
    notebook = read(exercises.source(slug))
    nbformat.validate(notebook)
    ids = [nbgrader_of(cell)["grade_id"] for cell in notebook.cells if nbgrader_of(cell)]
    assert len(ids) == len(set(ids)), "grade_id must be unique"
    assert not any(cell.get("outputs") for cell in notebook.cells), "clear the outputs"
    headings = re.findall(r"^## Exercise (\d+)\.(\d+) ", _prose(notebook), re.MULTILINE)
    chapter = int(slug[:2])
    assert headings == [(str(chapter), str(i)) for i in range(1, len(headings) + 1)]
    assert len(headings) == len(solutions(notebook)), "one solution cell under each heading"
    assert _prose(notebook).count("<summary>Hint</summary>") >= len(headings), "hints are missing"
    for cell in solutions(notebook):
        assert "### BEGIN SOLUTION" in cell.source, nbgrader_of(cell)["grade_id"]
    for cell in graded(notebook):
        name = nbgrader_of(cell)["grade_id"]
        assert nbgrader_of(cell)["points"] > 0, name
        assert nbgrader_of(cell)["locked"], name
        silent = [line for line in cell.source.splitlines() if re.match(r"\s*assert [^,]+$", line)]
        assert not silent, f"{name}: an assertion without a message teaches nothing: {silent}"
    hidden = sum("### BEGIN HIDDEN TESTS" in cell.source for cell in graded(notebook))
    assert hidden >= 1, "no hidden test"


def _prose(notebook: NotebookNode) -> str:
    return "\n\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")


@each_exercise
def test_every_exercise_has_a_known_mistake(slug: str) -> None:
    known = {mistake.cell for mistake in MISTAKES if mistake.slug == slug}
    cells = {nbgrader_of(cell)["grade_id"] for cell in solutions(read(exercises.source(slug)))}
    assert cells == known, "tests/exercise_mistakes.py: one mistake at least for each exercise"


def first_failure(notebook: NotebookNode, cell_id: str, answer: str) -> str:
    """Run the solutions, one of them replaced, and its tests; return what the student reads."""
    torch.manual_seed(0)
    namespace: dict[str, Any] = {"torch": torch}
    tested = False  # inside the tests of the replaced answer
    for cell in notebook.cells:
        data = nbgrader_of(cell)
        if cell.cell_type != "code" or cell.get("id") == "setup":
            continue
        replaced = data.get("grade_id") == cell_id
        tested = replaced or (tested and not data.get("solution"))
        try:
            exec(compile(answer if replaced else cell.source, f"<{cell_id}>", "exec"), namespace)
        except Exception as error:
            if not tested:
                raise
            return f"{type(error).__name__}: {error}"
    return ""


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda m: f"{m.cell}: {m.message}")
def test_mistake_is_explained_by_a_visible_test(mistake: Mistake) -> None:
    notebook = read(exercises.release(mistake.slug))
    source = read(exercises.source(mistake.slug))
    for cell, full in zip(notebook.cells, source.cells, strict=True):
        if nbgrader_of(cell).get("solution"):
            cell.source = full.source  # the other answers are right
    said = first_failure(notebook, mistake.cell, mistake.answer)
    assert mistake.message in said, f"the student reads: {said or 'nothing, all tests pass'}"


@pytest.mark.slow
def test_hidden_tests_take_points_from_an_answer_made_for_the_visible_ones(
    course: exercises.Course,
) -> None:
    slug, cell_id = "02-affine-quantization", "scale-and-zero-point"
    notebook = read(exercises.release(slug))
    (cell,) = (c for c in solutions(notebook) if nbgrader_of(c)["grade_id"] == cell_id)
    cell.source = (
        "def scale_and_zero_point(x_min, x_max, q_min, q_max):\n"
        "    s = (4 if x_min == -1 else 6) / 255\n"
        "    return s, q_min - round(min(x_min, 0) / s)"
    )
    assert first_failure(notebook, cell_id, cell.source).startswith("AssertionError: for [")
    grades = {g.cell: g for g in course.grade(slug, "clever", nbformat.writes(notebook))}
    assert grades["test-scale"].score == 0
    assert "for [-6, -2] in 4 bits" in grades["test-scale"].message


@pytest.mark.slow
def test_a_forked_kernel_is_fresh_and_can_be_interrupted() -> None:
    look = (
        "import os, sys\n"
        "print(os.getpid(), os.environ['WHO'], 'torch' in sys.modules, 'x' in globals())"
    )
    said = []
    for who in "ab":
        cells = [nbformat.v4.new_code_cell(text) for text in (look, "x = 1", "while True: pass")]
        client = NotebookClient(nbformat.v4.new_notebook(cells=cells), timeout=1)
        client.allow_errors = client.interrupt_on_timeout = True
        with forks.kernels():
            notebook = client.execute(env={**os.environ, "WHO": who})
        assert notebook.cells[2].outputs[0].ename == "KeyboardInterrupt"
        said.append(notebook.cells[0].outputs[0].text.split())
    (a, *first), (b, *second) = said
    assert a != b
    assert first == ["a", "True", "False"]
    assert second == ["b", "True", "False"]
