"""Pareto fronts: what no other row beats in size and loss at once."""

from __future__ import annotations

from collections.abc import Iterable

from qtools.scoreboard.row import Row


def beats(a: Row, b: Row) -> bool:
    """``bytes ≤ bytes'`` and ``loss ≤ loss'``, one of them strictly: b is dominated by a.

    Raises
    ------
    ValueError
        If the two are of different models, whose qualities have different units.
    """
    if a.model != b.model:
        raise ValueError(f"a and b must be of one model, got {a.model} and {b.model}")
    mine, theirs = (a.bytes, a.loss), (b.bytes, b.loss)
    return mine[0] <= theirs[0] and mine[1] <= theirs[1] and mine != theirs


def front(rows: Iterable[Row]) -> list[Row]:
    """Return the rows that none beats, the smallest first.

    One pass over the rows by size: a row is on the front if its loss is below all before it.
    Rows that are equal in both stay together.

    Raises
    ------
    ValueError
        If the rows are of more than one model.
    """
    ordered = sorted(rows, key=lambda r: (r.bytes, r.loss))
    if len({r.model for r in ordered}) > 1:
        raise ValueError(f"rows must be of one model, got {sorted({r.model for r in ordered})}")
    kept: list[Row] = []
    for row in ordered:
        if not kept or row.loss < kept[-1].loss or _equal(row, kept[-1]):
            kept.append(row)
    return kept


def rivals(row: Row, rows: Iterable[Row]) -> list[Row]:
    """Return those of the rows that beat this one, the smallest first."""
    return sorted((r for r in rows if beats(r, row)), key=lambda r: (r.bytes, r.loss))


def _equal(a: Row, b: Row) -> bool:
    return (a.bytes, a.loss) == (b.bytes, b.loss)
