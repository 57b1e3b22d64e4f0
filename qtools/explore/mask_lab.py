"""MaskLab: one block of SmallCNN's fc1 under every mask, and who gains from the zeros."""

from __future__ import annotations

import base64
import json
from functools import cache

import numpy as np
import torch
import traitlets
from torch import Tensor

from qtools import pruning
from qtools.explore._base import Explorable, module_text, state_trait
from qtools.results import read_record

MASKS = ("single", "n_m", "block", "column", "row")
SCORES = ("magnitude", "wanda")
GROUP, BLOCK = 4, (4, 4)


class MaskLab(Explorable):
    """``Ŵ = W ⊙ mask``, or the ``Ŵ`` of least output error with zeros in the same places.

    W is a block [24, 48] of SmallCNN's ``fc1``, H the Gram matrix of its inputs over 2048 training
    images: ``python -m benchmarks.mask_lab``.

    Parameters
    ----------
    mask : {"single", "n_m", "block", "column", "row"}
        What is dropped together: single weights, all but N of every 4 in a row, 4 × 4 blocks,
        columns, rows.
    sparsity : int
        Percent to drop, 0 to 95. N of every 4 takes the nearest N from 1 to 4.
    score : {"magnitude", "wanda"}
        Squares of ``|w|``, or of ``|w|`` times the root mean square of the input, summed over what
        is dropped together.
    compensate : bool
        Whether the picture and the list of masks show the weights after compensation.
    """

    script = "mask_lab.js"
    moves = (
        "Choose a mask and a sparsity, and see which weights stay, what the outputs lose, how many"
        " bytes it takes, and what the hardware gains."
    )

    mask = state_trait(traitlets.Enum(MASKS, "single"))
    sparsity = state_trait(traitlets.Int(50, min=0, max=95))
    score = state_trait(traitlets.Enum(SCORES, "magnitude"))
    compensate = state_trait(traitlets.Bool(False))

    def kept(self, kind: str | None = None) -> Tensor:
        """Return the mask, bool [24, 48], of `kind` or of the one chosen."""
        weight, gram = block()
        score = pruning.magnitude(weight)
        if self.score == "wanda":
            score = pruning.wanda(weight, gram.diagonal().sqrt())
        score = score.square()  # what goes together is scored by its squared norm
        s = self.sparsity / 100
        kind = kind or self.mask
        if kind == "n_m":
            return pruning.n_m_mask(score, max(1, round(GROUP * (1 - s))), GROUP)
        if kind == "block":
            return pruning.block_mask(score, s, BLOCK)
        makers = {
            "single": pruning.unstructured_mask,
            "column": pruning.column_mask,
            "row": pruning.row_mask,
        }
        return makers[kind](score, s)

    def error(self, mask: Tensor, compensate: bool) -> float:
        """Return the output error in percent of the squared output."""
        weight, gram = block()
        new = pruning.compensate(weight, mask, gram) if compensate else weight * mask
        whole = pruning.output_error(weight, torch.zeros_like(weight), gram)
        return 100 * pruning.output_error(weight, new, gram) / whole

    def compute(self) -> dict[str, float]:
        """Return the numbers shown.

        Returns
        -------
        dict
            ``kept`` weights; ``norm``, their share of the squared norm; ``plain`` and
            ``compensated`` output error; all three in percent. Bytes in float32: ``dense``,
            ``bitmap``, ``csr``, and ``own``, the form that the mask allows: bitmap, values with 2
            bits of place each, values with a bit a block, a smaller dense matrix. ``products`` that
            a dense loop does. ``error_single`` to ``error_row``: output error of all five masks,
            after compensation if that is chosen.
        """
        weight, _ = block()
        mask = self.kept()
        bare = weight * mask
        kept = int(mask.sum())
        values = bare.float()
        own = {
            "single": weight.numel() / 8,
            "n_m": kept * 2 / 8,
            "block": weight.numel() / (BLOCK[0] * BLOCK[1]) / 8,
            "column": 0.0,
            "row": 0.0,
        }[self.mask]
        return {
            "kept": kept,
            "norm": 100 * float(bare.square().sum() / weight.square().sum()),
            "plain": self.error(mask, False),
            "compensated": self.error(mask, True),
            "dense": values.nbytes,
            "bitmap": pruning.Bitmap.encode(values).nbytes,
            "csr": pruning.CSR.encode(values).nbytes,
            "own": 4 * kept + own,
            "products": kept if self.mask in ("column", "row") else weight.numel(),
            **{f"error_{k}": self.error(self.kept(k), self.compensate) for k in MASKS},
        }


@cache
def block() -> tuple[Tensor, Tensor]:
    """Weight float64 [24, 48] and Gram matrix float64 [48, 48], as the record has them."""
    record = read_record("mask_lab")
    weight = torch.tensor([[int(v) for v in row.split()] for row in record["weight"]])
    lower = torch.zeros(weight.shape[1], weight.shape[1], dtype=torch.float64)
    for i, row in enumerate(record["gram"]):
        lower[i, : i + 1] = torch.tensor([float(v) for v in row.split()])
    gram = lower + lower.tril(-1).T
    return weight.double() / 2 ** record["weight_bits"], gram / 2 ** record["gram_bits"]


def data_script() -> str:
    """Return the record as one line of JavaScript, integers of two bytes in base64."""
    record = read_record("mask_lab")

    def packed(rows: list[str]) -> str:
        numbers = np.array(" ".join(rows).split(), dtype=np.int64)
        return base64.b64encode(numbers.astype("<i2").tobytes()).decode()

    data = {
        "weight": packed(record["weight"]),
        "weightBits": record["weight_bits"],
        "gram": packed(record["gram"]),
        "gramBits": record["gram_bits"],
    }
    return f"const DATA = {json.dumps(data, separators=(',', ':'))};\n"


# The block is no state: it never changes, and a notebook would store it with every copy.
MaskLab._esm = data_script() + module_text(MaskLab.script)
