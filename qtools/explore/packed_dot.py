"""PackedDot: sixteen signs times sixteen activations, step by step, three ways."""

from __future__ import annotations

import torch
import traitlets
from torch import Tensor

from qtools.explore._base import Explorable, Finite, state_trait
from qtools.onebit.packing import row_bytes, unpack_signs

COLUMNS, GROUP = 16, 4
ACTIVATION = 4.0
START = (1.5, -0.5, 2.0, 1.0, -1.5, 0.5, 3.0, -2.0, 0.5, 1.0, -1.0, 2.5, -0.5, 1.5, 1.0, -3.0)

#: Steps of a row; operations of a step; operations done once for all rows. A table of 16 sums
#: takes 3 additions for the first, 4 doublings, and a subtraction for each other entry.
STEPS = {"flip": COLUMNS, "mask": COLUMNS + 1, "table": COLUMNS // GROUP}
OPERATIONS = {"flip": 3, "mask": 1, "table": 3}
SHARED = {"flip": 0, "mask": COLUMNS - 1, "table": (3 + 4 + 15) * COLUMNS // GROUP}


class PackedDot(Explorable):
    """``s·x`` for one row of packed signs s, 1 for -1: flip signs, mask a sum, or look sums up.

    Parameters
    ----------
    way : {"flip", "mask", "table"}
        Add ±x column by column; ``Σx - 2 Σ_{bit=1} x``; one of 16 sums for each four columns.
    bits : int
        The row's two bytes: column j is bit j, 0 to 65,535.
    step : int
        Steps done, 0 to 17; a way with fewer has them all done.
    rows : int
        Rows of the matrix that share what is prepared, 1 to 4,096.
    x0, ..., x15 : float
        Activations, -4 to 4.
    """

    script = "packed_dot.js"
    moves = (
        "Set sixteen bits and sixteen activations and step through their product in three ways,"
        " with the operations done and the bytes read."
    )

    way = state_trait(traitlets.Enum(tuple(STEPS), "flip"))
    bits = state_trait(traitlets.Int(141 + 256 * 90, min=0, max=2**COLUMNS - 1))
    step = state_trait(traitlets.Int(0, min=0, max=COLUMNS + 1))
    rows = state_trait(traitlets.Int(64, min=1, max=4096))
    for _j, _x in enumerate(START):
        locals()[f"x{_j}"] = state_trait(Finite(_x, min=-ACTIVATION, max=ACTIVATION))
    del _j, _x

    def packed(self) -> Tensor:
        """Return the row as `pack_signs` stores it: uint8 [1, 8]."""
        row = [self.bits % 256, self.bits // 256] + [0] * (row_bytes(COLUMNS) - 2)
        return torch.tensor([row], dtype=torch.uint8)

    def activations(self) -> Tensor:
        """Return x, float64 [16]."""
        values = [getattr(self, f"x{j}") for j in range(COLUMNS)]
        return torch.tensor(values, dtype=torch.float64)

    def tables(self) -> Tensor:
        """Return the signed sums of each group, float64 [4, 16]: bit j of an index negates x_j."""
        signs = unpack_signs(
            torch.arange(16, dtype=torch.uint8)[:, None].repeat(1, 8), GROUP, torch.float64
        )
        return self.activations().view(-1, GROUP) @ signs.T

    def compute(self) -> dict[str, float]:
        """Return the numbers shown.

        Returns
        -------
        dict
            ``sum``, what has been summed up after these steps (of the mask's way the sum under the
            1-bits until the last step); ``result``, S x; ``operations`` and ``bytes`` of weights
            for this row so far; ``shared``, operations done once for all rows; ``per_row``, those
            of a whole row with its share of the shared ones.
        """
        x, signs = self.activations(), unpack_signs(self.packed(), COLUMNS, torch.float64)[0]
        result, done = float(signs @ x), min(self.step, STEPS[self.way])
        negative = float(x[:done][signs[:done] < 0].sum())
        columns = min(COLUMNS, done * (GROUP if self.way == "table" else 1))
        partial = float(signs[:columns] @ x[:columns])
        if self.way == "mask":
            partial = float(x.sum()) - 2 * negative if done > COLUMNS else negative
        own = OPERATIONS[self.way] * STEPS[self.way]
        return {
            "sum": partial,
            "result": result,
            "operations": float(OPERATIONS[self.way] * done),
            "bytes": float(-(-columns // 8)),
            "shared": float(SHARED[self.way]),
            "per_row": own + SHARED[self.way] / self.rows,
        }
