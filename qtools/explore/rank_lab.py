"""RankLab: a trained layer and a picture cut down to rank k."""

from __future__ import annotations

import base64
import json
from functools import cache
from typing import Any

import torch
import traitlets
from torch import Tensor

from qtools.explore._base import Explorable, module_text, state_trait
from qtools.results import read_record

SUBJECTS = ("layer", "picture")
BYTES = 4  # of a number, float32
DIGITS = 9  # of a singular value in the page


class RankLab(Explorable):
    """Cut a matrix after k terms of its singular value decomposition; see what is left of it.

    The layer is SmallCNN's ``fc1.weight``, whose accuracy at every rank was measured on the 10,000
    test images (``python -m benchmarks.rank_lab``). The picture is a matrix of grey values; the
    page decomposes it by itself.

    Parameters
    ----------
    subject : {"layer", "picture"}
    rank : int
        k, 1 to 128. The picture has 84 rows, 15 of them black, and is whole from rank 69 on.
    """

    script, helpers = "rank_lab.js", ("_jacobi.js",)
    moves = (
        "Move the rank of a trained layer, or of a picture, and see its relative error, the bytes"
        " of its two factors against those of the whole, and what the network still gets right."
    )

    subject = state_trait(traitlets.Enum(SUBJECTS, "layer"))
    rank = state_trait(traitlets.Int(16, min=1, max=128))

    def compute(self) -> dict[str, float]:
        """Return the numbers shown.

        Returns
        -------
        dict
            ``k``, the rank, at most the matrix's own; ``error``, the relative error
            ``‖W - Wₖ‖_F / ‖W‖_F`` in percent; ``energy``, the share of ``‖W‖²_F`` kept, in
            percent; ``factor_bytes`` and ``full_bytes`` in float32; ``ratio``, the first over the
            second; and ``break_even``, the largest rank whose factors are smaller than the whole.
            Of the layer also ``weights`` and ``outputs``, in percent of the test images right:
            nearest of rank k in its weights, and in its outputs.
        """
        m, n = shape(self.subject)
        k = min(self.rank, m, n)
        squares = torch.tensor(singular_values(self.subject), dtype=torch.float64) ** 2
        lost = squares[k:].sum() / squares.sum()
        numbers = {
            "k": k,
            "error": 100 * float(lost.sqrt()),
            "energy": 100 * float(squares[:k].sum() / squares.sum()),
            "factor_bytes": BYTES * k * (m + n),
            "full_bytes": BYTES * m * n,
            "ratio": k * (m + n) / (m * n),
            "break_even": (m * n - 1) // (m + n),
        }
        if self.subject == "layer":
            record = read_record("rank_lab")
            for name, counts in record["right"].items():
                numbers[name] = 100 * int(counts.split()[k - 1]) / record["test_images"]
        return numbers


def shape(subject: str) -> tuple[int, int]:
    """Rows and columns of the layer's weight or of the picture."""
    m, n = read_record("rank_lab")["shape" if subject == "layer" else "picture_shape"]
    return m, n


@cache
def picture() -> Tensor:
    """Twelve test images of Fashion-MNIST side by side: uint8 [84, 112]."""
    content = bytearray(base64.b64decode(read_record("rank_lab")["picture"]))
    return torch.frombuffer(content, dtype=torch.uint8).reshape(shape("picture"))


@cache
def singular_values(subject: str) -> tuple[float, ...]:
    """Of the layer as the page carries them; of the picture in float64."""
    if subject == "picture":
        return tuple(torch.linalg.svdvals(picture().double()).tolist())
    return tuple(rounded(read_record("rank_lab")["singular_values"]))


def rounded(values: list[float]) -> list[float]:
    """Return the values to 9 significant digits."""
    return [float(f"{v:.{DIGITS}g}") for v in values]


def data_script() -> str:
    """Return the record as one line of JavaScript."""
    record = read_record("rank_lab")
    data: dict[str, Any] = {
        "images": record["test_images"],
        "shape": {subject: shape(subject) for subject in SUBJECTS},
        "layer": singular_values("layer"),
        "random": [float(f"{v:.4g}") for v in record["random_singular_values"]],
        "right": {name: list(map(int, r.split())) for name, r in record["right"].items()},
        "picture": record["picture"],
    }
    return f"const DATA = {json.dumps(data, separators=(',', ':'))};\n"


# The data are no state: they never change, and a notebook would store them with every copy.
RankLab._esm = data_script() + module_text(RankLab.script, RankLab.helpers)
