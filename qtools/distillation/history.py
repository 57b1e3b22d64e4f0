"""What a run measured, in memory and as CSV, cut back to the checkpoint it goes on from."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import IO, NamedTuple

from qtools.distillation.cost import Cost
from qtools.files import write_atomic

Row = dict[str, float]


class History(NamedTuple):
    """Rows of numbers, each with its ``step``: steps done, from 1 on.

    Attributes
    ----------
    steps : list of dict
        ``loss``, its parts, ``items``, ``rate``, ``norm`` of the gradient before it was shortened,
        and ``seconds`` of the step.
    evaluations : list of dict
        What the evaluation returned.
    cost : Cost, optional
        Items a second and memory, since the run was last started.
    """

    steps: list[Row]
    evaluations: list[Row]
    cost: Cost | None = None


class Table:
    """Rows that grow, and their CSV file if there is a path.

    Rows after the step `done` are dropped from the file: the run that wrote them was killed, and
    will write them again.
    """

    def __init__(self, path: Path | None, done: int) -> None:
        self.rows: list[Row] = []
        self._path = path
        self._file: IO[str] | None = None
        if path is not None and path.exists():
            self.rows = [row for row in _read(path) if row["step"] <= done]
            write_atomic(path, _text(self.rows).encode())

    def add(self, row: Mapping[str, float]) -> None:
        """Append a row, in the file at once: what a killed run has done can be seen.

        Raises
        ------
        ValueError
            If it has other names than the rows before.
        """
        if self.rows and list(self.rows[0]) != list(row):
            raise ValueError(f"a row must have the names {list(self.rows[0])}, got {list(row)}")
        self.rows.append(dict(row))
        if self._path is not None:
            head = len(self.rows) == 1
            if self._file is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                mode = "w" if head else "a"
                self._file = self._path.open(mode, 1, "utf-8", newline="")  # writes whole lines
            self._file.write(_text(self.rows[-1:], head))

    def close(self) -> None:
        """Close the file; a later row opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _text(rows: list[Row], head: bool = True) -> str:
    if not rows:
        return ""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    if head:
        writer.writerow(rows[0])
    writer.writerows(row.values() for row in rows)
    return out.getvalue()


def _read(path: Path) -> list[Row]:
    """Rows of a CSV file; the last may be cut short, if the run was killed while it wrote."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]
    return [{name: _number(value) for name, value in row.items()} for row in csv.DictReader(whole)]


def _number(text: str) -> float:
    return int(text) if text.lstrip("-").isdecimal() else float(text)
