"""What a run costs: items a second while it trains, and the memory it takes at most."""

from __future__ import annotations

import sys
import time
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]


class Cost(NamedTuple):
    """Of a run since it was last started; what ran before an interruption is not in it.

    Attributes
    ----------
    items : int
        That were learned from, over all processes: tokens of a language model.
    seconds : float
        In steps of training: evaluations and checkpoints are not counted.
    peak_memory_bytes : int or None
        Of the process that takes the most. On a GPU what torch had allocated there at most, else
        the process's resident memory; None where the system does not say.
    """

    items: int
    seconds: float
    peak_memory_bytes: int | None

    @property
    def items_per_second(self) -> float | None:
        """None if there was no step."""
        return self.items / self.seconds if self.seconds else None

    def as_json(self) -> dict[str, Any]:
        """What a record says of it."""
        rate = self.items_per_second
        return {
            "items": self.items,
            "training_seconds": round(self.seconds, 3),
            "items_per_second": None if rate is None else round(rate, 1),
            "peak_memory_bytes": self.peak_memory_bytes,
        }

    def __str__(self) -> str:
        rate, peak = self.items_per_second, self.peak_memory_bytes
        speed = "no step" if rate is None else f"{rate:,.0f} items a second"
        return speed + ("" if peak is None else f", at most {peak / 1e6:,.0f} MB of memory")


class Meter:
    """A clock that runs during steps of training, and a look at the memory afterwards."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._items, self._seconds = 0, 0.0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def begin(self) -> None:
        """Start a step."""
        self._start = time.perf_counter()

    def end(self, items: float) -> float:
        """End a step that learned from so many items; return its seconds."""
        seconds = time.perf_counter() - self._start
        self._items += int(items)
        self._seconds += seconds
        return seconds

    def cost(self, accelerator: Accelerator) -> Cost:
        """Of all steps so far. Every process has to ask: they compare their memory."""
        peak = torch.tensor([peak_memory(self._device)], device=self._device)
        largest = int(accelerator.gather(peak).max())
        return Cost(self._items, self._seconds, largest or None)


def peak_memory(device: torch.device) -> int:
    """Bytes: allocated on a GPU at most, else resident at most; 0 if that is not known."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if resource is None:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024  # what getrusage counts in
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
