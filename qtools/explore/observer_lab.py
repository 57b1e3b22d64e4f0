"""ObserverLab: five observers watch the same batches, and what each does with what it saw."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
import traitlets
from torch import Tensor

from qtools.affine import fake_quantize
from qtools.explore._base import Explorable, Finite, state_trait
from qtools.explore._hash import nearly_normal
from qtools.observer import Observer
from qtools.observers import (
    HistogramObserver,
    MinMaxObserver,
    MovingAverageObserver,
    PercentileObserver,
)
from qtools.spec import QuantSpec

STREAMS = ("calm", "relu", "growing", "outliers", "equal")
BATCHES, SIZE = 20, 1024


class ObserverLab(Explorable):
    """Feed batches of 1024 values to five observers; see the range and the error of each.

    Parameters
    ----------
    stream : {"calm", "relu", "growing", "outliers", "equal"}
        Where the values come from: see `batch`.
    batches : int
        How many have been fed, 1 to 20.
    bits : int
        2 to 8. Codes are unsigned and asymmetric.
    averaging_constant : float
        c of the moving average, 0.01 to 1.
    percentile : float
        p of the percentile observer, 98 to 100.
    """

    script, helpers = "observer_lab.js", ("_hash.js",)
    moves = (
        "Feed batch after batch to five observers; see the histogram grow, the range that each"
        " chooses, and what it costs."
    )

    stream = state_trait(traitlets.Enum(STREAMS, "outliers"))
    batches = state_trait(traitlets.Int(5, min=1, max=BATCHES))
    bits = state_trait(traitlets.Int(4, min=2, max=8))
    averaging_constant = state_trait(Finite(0.1, min=0.01, max=1.0))
    percentile = state_trait(Finite(99.9, min=98.0, max=100.0))

    def observers(self) -> dict[str, Observer]:
        """Return the five observers, each fed with the batches so far."""
        spec = QuantSpec(bits=self.bits, signed=False)
        five: dict[str, Observer] = {
            "minmax": MinMaxObserver(spec),
            "average": MovingAverageObserver(spec, self.averaging_constant),
            "percentile": PercentileObserver(spec, self.percentile),
            "mse": HistogramObserver(spec, "mse"),
            "kl": HistogramObserver(spec, "kl"),
        }
        for k in range(1, self.batches + 1):
            for observer in five.values():
                observer(batch(self.stream, k))
        return five

    def compute(self) -> dict[str, float]:
        """Return the numbers shown.

        Returns
        -------
        dict
            For each of ``minmax``, ``average``, ``percentile``, ``mse`` and ``kl``: ``_min`` and
            ``_max``, the ends of its range, widened to contain 0 as every quantizer's is; over all
            values seen, ``_sqnr``, the signal-to-noise ratio in dB,
            ``10 log10(Σ x² / Σ (x - x̂)²)``, infinite without error, and ``_outside``, the share
            of them beyond the range.
        """
        x = torch.cat([batch(self.stream, k) for k in range(1, self.batches + 1)])
        numbers: dict[str, float] = {}
        for name, observer in self.observers().items():
            low, high = (end.item() for end in observer.range())
            low, high = min(low, 0.0), max(high, 0.0)
            noise = (x - fake_quantize(x, observer.qparams())).square().sum().item()
            signal = x.square().sum().item()
            numbers |= {
                f"{name}_min": low,
                f"{name}_max": high,
                f"{name}_sqnr": 10 * math.log10(signal / noise) if noise else math.inf,
                f"{name}_outside": ((x < low) | (x > high)).double().mean().item(),
            }
        return numbers


@cache
def batch(stream: str, k: int) -> Tensor:
    """Return batch k of a stream, k = 1 .. 20: float64 [1024], multiples of 1/1024.

    The browser makes the same values, to the last bit. With z from `nearly_normal`,
    ``x = z + z³/16`` has heavier tails, as activations do. "calm" is x; "relu" is ``max(x, 0)``;
    "growing" is ``x (7 + k) / 8``; "outliers" is x, but six values of batch 6 are
    ``16 + 2 |x|``; "equal" is 1.5.
    """
    if stream not in STREAMS or not 1 <= k <= BATCHES:
        raise ValueError(f"no batch {k!r} of {stream!r}: streams are {STREAMS}, batches 1 to 20")
    if stream == "equal":
        return torch.full((SIZE,), 1.5, dtype=torch.float64)
    z = nearly_normal((k - 1) * SIZE, SIZE)
    x = z + z * z * z / 16
    if stream == "relu":
        x = np.maximum(x, 0)
    elif stream == "growing":
        x = x * (7 + k) / 8
    elif stream == "outliers" and k == 6:
        x[::171] = 16 + 2 * abs(x[::171])
    return torch.from_numpy(np.floor(x * 1024 + 0.5) / 1024)
