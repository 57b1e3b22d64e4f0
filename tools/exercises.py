"""Generate the students' notebooks with nbgrader, and grade a notebook as a teacher would.

Commands::

    python -m tools.exercises           # write book/exercises/release from book/exercises/source
    python -m tools.exercises --check   # only say whether it is up to date
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nbgrader.api import Gradebook
from nbgrader.apps import NbGraderAPI
from sqlalchemy.exc import SAWarning
from traitlets.config import Config
from traitlets.config.loader import PyFileConfigLoader

from tools import forks, repository
from tools.repository import ROOT

CONFIG = "nbgrader_config.py"


@dataclass(frozen=True)
class Grade:
    """Points of one test cell, and what the student read when it failed."""

    cell: str
    score: float
    points: float
    message: str


def slugs(root: Path = ROOT) -> list[str]:
    """Return the names of the exercise notebooks, such as ``02-affine-quantization``."""
    return [path.stem for path in repository.exercise_sources(root)]


def source(slug: str, root: Path = ROOT) -> Path:
    """Return the path of an exercise's one source."""
    return root / "book/exercises/source" / slug / f"{slug}.ipynb"


def release(slug: str, root: Path = ROOT) -> Path:
    """Return the path of what students open."""
    return root / "book/exercises/release" / slug / f"{slug}.ipynb"


class Course:
    """A temporary nbgrader course that holds every exercise: see `course`."""

    def __init__(self, folder: Path, root: Path) -> None:
        shutil.copytree(root / "book/exercises/source", folder / "source")
        shutil.copy(root / "book/exercises" / CONFIG, folder / CONFIG)
        config: Config = PyFileConfigLoader(CONFIG, path=str(folder)).load_config()
        config.CourseDirectory.root = str(folder)
        self._api = NbGraderAPI(config=config)
        self._folder = folder

    def generate(self, slug: str) -> str:
        """Return the text of the students' notebook that nbgrader makes from the source.

        Raises
        ------
        RuntimeError
            If nbgrader refuses the source; the message holds its log.
        """
        generated = self._folder / "release" / slug / f"{slug}.ipynb"
        if not generated.exists():
            _must(self._api.generate_assignment(slug), f"generate {slug}")
        return generated.read_text(encoding="utf-8").rstrip("\n") + "\n"

    def grade(self, slug: str, student: str, text: str) -> list[Grade]:
        """Grade a notebook with nbgrader: visible and hidden tests.

        Parameters
        ----------
        slug
            The exercise notebook's name.
        student
            Who hands it in, a name for the folder.
        text
            The text of the notebook.

        Raises
        ------
        RuntimeError
            If nbgrader cannot generate the exercise or grade the notebook.
        """
        self.generate(slug)
        submitted = self._folder / "submitted" / student / slug / f"{slug}.ipynb"
        submitted.parent.mkdir(parents=True)
        submitted.write_text(text, encoding="utf-8")
        with warnings.catch_warnings(), forks.kernels():
            # nbgrader's own queries, harmless; in a test run they would bury real warnings.
            warnings.simplefilter("ignore", SAWarning)
            _must(self._api.autograde(slug, student), f"grade {slug}")
        said = _messages(self._folder / "autograded" / student / slug / f"{slug}.ipynb")
        where = self._api.coursedir
        with Gradebook(where.db_url, where.course_id) as book:
            return [
                Grade(g.name, float(g.score), float(g.max_score), said.get(g.name, ""))
                for g in book.find_submission_notebook(slug, slug, student).grades
            ]


@contextmanager
def course(root: Path = ROOT) -> Iterator[Course]:
    """Make a temporary nbgrader course; one for all exercises, as making its database is slow."""
    # nbgrader starts `alembic` by name; it lies beside the Python that runs us.
    here = str(Path(sys.executable).parent)
    if here not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = os.pathsep.join([here, os.environ.get("PATH", "")])
    with tempfile.TemporaryDirectory(prefix="nbgrader-") as name:
        yield Course(Path(name), root)


def _must(result: dict[str, object], what: str) -> None:
    if not result["success"]:
        raise RuntimeError(
            f"nbgrader could not {what}:\n{result.get('log', '')}\n{result.get('error', '')}"
        )


def _messages(path: Path) -> dict[str, str]:
    """Return the error, if any, under each cell of a graded notebook."""
    import nbformat

    found = {}
    for cell in nbformat.read(path, as_version=4).cells:
        name = cell.metadata.get("nbgrader", {}).get("grade_id", "")
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                found[name] = f"{output.ename}: {output.evalue}"
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check the students' notebooks; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.exercises")
    parser.add_argument("--check", action="store_true", help="write nothing, fail if out of date")
    options = parser.parse_args(arguments)
    status = 0
    with course() as made:
        texts = {slug: made.generate(slug) for slug in slugs()}
    for slug, text in texts.items():
        target = release(slug)
        if target.exists() and target.read_text(encoding="utf-8") == text:
            print(f"{slug}: up to date")
        elif options.check:
            print(f"{slug}: out of date, run `make exercises`", file=sys.stderr)
            status = 1
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
            print(f"{slug}: wrote {target.relative_to(ROOT)}")
    return status


if __name__ == "__main__":
    sys.exit(main())
