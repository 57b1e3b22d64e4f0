"""Scoreboard: size against quality, every measured network of the book, filtered as you like."""

from __future__ import annotations

import json
from collections.abc import Iterable

import traitlets

from qtools.explore._base import Explorable, module_text, state_trait
from qtools.scoreboard import FAMILIES, MODELS, Row, board, front, rivals

ALL = "all"
BITS = (1, 2, 3, 4, 6, 8, 16, 32)

#: What the browser gets of a row.
_SENT = (
    "model", "family", "method", "bits", "activations", "quality", "deviation", "seeds", "bytes",
    "ms", "ort_ms", "real", "epochs", "chapter",
)  # fmt: skip


class Scoreboard(Explorable):
    """Choose a model and which rows count; see the front, and what a row cost.

    A row is beaten if another that is shown is at most as large and at most as lossy, and not equal
    in both. Those that no other beats make the front.

    Parameters
    ----------
    rows : iterable of Row, optional
        By default `qtools.scoreboard.board`, made of the records in results/.
    model : {"SmallCNN", "CharGPT"}
    family : str
        One of `qtools.scoreboard.FAMILIES`, or "all".
    bits : {1, 2, 3, 4, 6, 8, 16, 32}
        The most bits that a stored weight of a row may have.
    real : bool
        Leave out what is only simulated.
    row : int
        Which row is chosen, by its place among all; if it is not shown, the smallest on the front.

    Raises
    ------
    ValueError
        If there is no row of one of the models.
    """

    script = "scoreboard.js"
    moves = (
        "Choose a model, a family of methods, the most bits a weight, and whether simulated"
        " networks count; walk from point to point and see size, quality, time and training cost."
    )

    model = state_trait(traitlets.Enum(MODELS, "SmallCNN"))
    family = state_trait(traitlets.Enum((ALL, *FAMILIES), ALL))
    bits = state_trait(traitlets.Enum(BITS, 32))
    real = state_trait(traitlets.Bool(False))
    row = state_trait(traitlets.Int(0, min=0))

    def __init__(self, rows: Iterable[Row] | None = None, **state: object) -> None:
        self._rows = board() if rows is None else list(rows)
        self._whole: dict[str, Row] = {}
        for model in MODELS:
            of = [r for r in self._rows if r.model == model]
            if not of:
                raise ValueError(f"rows must hold rows of {MODELS}, has none of {model}")
            self._whole[model] = max(of, key=lambda r: r.bytes)
        # Of the instance, for the rows' sake. AnyWidget makes it the trait that is sent.
        self._esm = self._data_script() + module_text(self.script)
        super().__init__(**state)

    @traitlets.validate("row")
    def _there(self, proposal: dict[str, int]) -> int:
        if proposal["value"] >= len(self._rows):
            raise traitlets.TraitError(
                f"row must be below {len(self._rows)}, the number of rows, got {proposal['value']}"
            )
        return proposal["value"]

    def shown(self) -> list[Row]:
        """Return the rows that the settings let through, the smallest first."""
        kept = [
            r
            for r in self._rows
            if r.model == self.model
            and self.family in (ALL, r.family)
            and r.bits <= self.bits
            and (r.real or not self.real)
        ]
        return sorted(kept, key=lambda r: (r.bytes, r.loss))

    def chosen(self) -> Row | None:
        """Return the row that the readout is about; none if no row is shown."""
        shown, row = self.shown(), self._rows[self.row]
        return row if row in shown else front(shown)[0] if shown else None

    def compute(self) -> dict[str, float]:
        """Return the numbers shown.

        Returns
        -------
        dict
            ``shown`` and ``front``, how many rows there are and on the front. Of the chosen row
            ``bytes``, ``quality``, ``deviation``, ``seeds``; ``smaller``, how many times smaller
            its file is than the largest of its model; ``ms``, ``ort_ms`` and ``epochs``, 0 where
            they are not known; ``beaten``, by how many that are shown, and ``rival_bytes`` and
            ``rival_quality`` of the smallest of these, or its own. All 0 if no row is shown.
        """
        shown, row = self.shown(), self.chosen()
        names = ("bytes", "quality", "deviation", "seeds", "smaller", "ms", "ort_ms", "epochs",
                 "beaten", "rival_bytes", "rival_quality")  # fmt: skip
        counts: dict[str, float] = {"shown": len(shown), "front": len(front(shown))}
        if row is None:
            return counts | dict.fromkeys(names, 0)
        better = rivals(row, shown)
        rival = better[0] if better else row
        smaller = self._whole[row.model].bytes / row.bytes
        values = (row.bytes, row.quality, row.deviation, row.seeds, smaller, row.ms or 0,
                  row.ort_ms or 0, row.epochs or 0, len(better), rival.bytes,
                  rival.quality)  # fmt: skip
        return counts | dict(zip(names, values, strict=True))

    def _data_script(self) -> str:
        """Return the rows as one line of JavaScript."""
        data = {
            "names": _SENT,
            "families": FAMILIES,
            "rows": [[getattr(row, name) for name in _SENT] for row in self._rows],
        }
        return f"const DATA = {json.dumps(data, separators=(',', ':'), ensure_ascii=False)};\n"
