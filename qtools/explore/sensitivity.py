"""Sensitivity: bits layer by layer, where every setting the hand can reach was measured."""

from __future__ import annotations

import base64
import json
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import traitlets

from qtools.explore._base import Explorable, module_text, state_trait
from qtools.metrics import wilson
from qtools.results import read_record

LAYERS = ("conv1", "conv2", "conv3", "fc1", "fc2")
BITS = (8, 6, 4, 3, 2)
RANGES = ("minmax", "mse")


class Sensitivity(Explorable):
    """Choose bits for the weights of each of SmallCNN's five layers; see what it costs.

    All 3125 combinations, with two ways to choose a scale, classified the 10,000 test images
    (simulated, activations at 8 bits): ``python -m benchmarks.sensitivity``. Nothing here is a
    model, but for ``predicted``, which is put beside the measured loss to be doubted.

    Parameters
    ----------
    weight_range : {"minmax", "mse"}
        How a channel's scale follows from its weights: see `qtools.ptq.Recipe`.
    conv1, conv2, conv3, fc1, fc2 : {8, 6, 4, 3, 2}
        Bits of the layer's weights.
    """

    script = "sensitivity.js"
    moves = (
        "Choose how many bits the weights of each layer get, and see the measured accuracy, the"
        " bytes, and which combinations are the best of their size."
    )

    weight_range = state_trait(traitlets.Enum(RANGES, "minmax"))
    conv1 = state_trait(traitlets.Enum(BITS, 4))
    conv2 = state_trait(traitlets.Enum(BITS, 4))
    conv3 = state_trait(traitlets.Enum(BITS, 4))
    fc1 = state_trait(traitlets.Enum(BITS, 4))
    fc2 = state_trait(traitlets.Enum(BITS, 4))

    def compute(self) -> dict[str, float]:
        """Return the numbers shown.

        Returns
        -------
        dict
            ``accuracy`` in percent with its 95 % Wilson interval, ``low`` and ``high``; ``bytes``
            of all weights, packed codes and scales; ``smaller``, how many times less that is than
            32-bit floats. In points of accuracy, against all layers at 8 bits: ``lost``;
            ``alone_conv1``, ..., ``alone_fc2``, lost when that layer alone is lowered; and
            ``predicted``, the sum of these five. ``best_accuracy`` and ``best_bytes`` of the best
            combination that is no larger.
        """
        m = measured(self.weight_range)
        path = tuple(BITS.index(getattr(self, name)) for name in LAYERS)
        right = int(m.right[path])
        share = wilson(right, m.images)
        size = int(m.bytes[path])
        points = (m.right[0, 0, 0, 0, 0] - m.right) * 100 / m.images
        alone = [float(points[(0,) * i + (b,) + (0,) * (4 - i)]) for i, b in enumerate(path)]
        best = best_within(m, size)
        return {
            "accuracy": 100 * right / m.images,
            "low": 100 * share.low,
            "high": 100 * share.high,
            "bytes": size,
            "smaller": 4 * m.weights / size,
            "lost": float(points[path]),
            **{f"alone_{name}": loss for name, loss in zip(LAYERS, alone, strict=True)},
            "predicted": sum(alone),
            "best_accuracy": 100 * int(m.right[best]) / m.images,
            "best_bytes": int(m.bytes[best]),
        }


class Measured(NamedTuple):
    """Right answers and bytes of all combinations, int64 [5, 5, 5, 5, 5], one axis a layer."""

    right: np.ndarray
    bytes: np.ndarray
    images: int
    weights: int


@cache
def measured(weight_range: str) -> Measured:
    """Read the record; index i of an axis stands for ``BITS[i]`` bits of that layer."""
    record = read_record("sensitivity")
    right = np.array(record[f"right_{weight_range}"].split(), dtype=np.int64)
    sizes = np.ix_(*(np.array(record["weight_bytes"][name]) for name in LAYERS))
    total = np.broadcast_arrays(*sizes)
    return Measured(
        right.reshape((5,) * 5), np.sum(total, axis=0), record["test_images"], record["weights"]
    )


def best_within(m: Measured, size: int) -> tuple[int, ...]:
    """Most right answers in at most ``size`` bytes; if several, the smallest, then the first."""
    right = np.where(m.bytes <= size, m.right, -1).ravel()
    tied = np.flatnonzero(right == right.max())
    first = tied[m.bytes.ravel()[tied].argmin()]
    return tuple(int(i) for i in np.unravel_index(first, m.right.shape))


def data_script() -> str:
    """Return the record as one line of JavaScript, counts as uint16 in base64."""
    record = read_record("sensitivity")
    data: dict[str, Any] = {
        "images": record["test_images"],
        "weights": record["weights"],
        "inFloat": record["float_right"],
        "bytes": [record["weight_bytes"][name] for name in LAYERS],
        "right": {
            name: base64.b64encode(measured(name).right.astype("<u2").tobytes()).decode()
            for name in RANGES
        },
    }
    return f"const DATA = {json.dumps(data, separators=(',', ':'))};\n"


# The table is no state: it never changes, and a notebook would store it with every copy.
Sensitivity._esm = data_script() + module_text(Sensitivity.script)
