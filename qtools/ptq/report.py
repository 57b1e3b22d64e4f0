"""What of a network is integer, what stayed in float, and why."""

from __future__ import annotations

from typing import NamedTuple

from torch import fx


class Row(NamedTuple):
    """One operation: ``reason`` is empty where it is integer."""

    name: str
    operation: str
    integer: bool
    reason: str = ""


class Report(NamedTuple):
    """Operations in the order they run. ``print(report)`` shows a table."""

    rows: tuple[Row, ...]

    @property
    def integer(self) -> tuple[str, ...]:
        """Names of the operations on codes."""
        return tuple(row.name for row in self.rows if row.integer)

    @property
    def stayed_float(self) -> dict[str, str]:
        """Name and reason of the others."""
        return {row.name: row.reason for row in self.rows if not row.integer}

    def __str__(self) -> str:
        width = [max(len(str(row[i])) for row in (*self.rows, Row("name", "operation", False)))
                 for i in (0, 1)]  # fmt: skip
        lines = [f"{'name':{width[0]}}  {'operation':{width[1]}}  computed in"]
        for row in self.rows:
            where = "integers" if row.integer else f"float: {row.reason}"
            lines.append(f"{row.name:{width[0]}}  {row.operation:{width[1]}}  {where}")
        count = len(self.integer)
        lines.append(f"{count} of {len(self.rows)} operations are integer")
        return "\n".join(lines)


def report(m: fx.GraphModule) -> Report:
    """Return what `convert` did: which operations are integer, and why others are not.

    Raises
    ------
    ValueError
        If m does not come from `convert`.
    """
    found = m.meta.get("report") if isinstance(m, fx.GraphModule) else None
    if not isinstance(found, Report):
        raise ValueError(f"m must come from ptq.convert, got {type(m).__name__}")
    return found
