"""Records for BitsChart in the format of benchmarks.weight_only: drawn, not measured."""

from __future__ import annotations

import math
import random
from typing import Any

from qtools.explore.bits_chart import BITS, GROUPS, METHODS, BitsChart

TEACHER = {
    "nats_per_char": 1.4,
    "perplexity": math.exp(1.4),
    "top1": 0.5,
    "bytes": 4_500_000,
    "bits_per_weight": 16.0,
}


def record(seed: int = 0, step: float = 1e-4) -> dict[str, Any]:
    """24 rows at sizes as they are in a file, and losses that are multiples of a step."""
    rng, rows = random.Random(seed), []
    for bits in BITS:
        for group in GROUPS:
            own = bits + (0.1 if group is None else 0.3)
            for method in METHODS:
                nats = 1.4 + round(rng.uniform(0.3, 2) ** 2 * 4.0**-bits / step) * step
                row = {"method": method, "bits": bits, "group_size": group, "nats": nats}
                size = {"bits_per_weight": own, "bytes": int(own * 276_480) + 104_000}
                spread = {"deviation": 0.002, "seeds": 3} if bits == 2 else {}
                rows.append({**row, **size, "deviation": 0.0, "seeds": 1, **spread})
                rows[-1]["perplexity"] = round(math.exp(nats), 4)
    rng.shuffle(rows)  # the chart has an order of its own
    extra = {**rows[0], "method": "gptq, in order"}
    return {"teacher": TEACHER, "summary": [*rows, extra]}


def trained(nats: float = 1.43) -> dict[str, Any]:
    """A record of the distilled network."""
    found = {"nats_per_char": nats, "perplexity": math.exp(nats), "bits_per_weight": 1.15}
    return {"found": {**found, "bytes": 425_000, "top1": 0.5}}


class DrawnChart(BitsChart):
    """A chart that needs no record in results/."""

    def __init__(self, **state: Any) -> None:
        super().__init__(record(), trained(), **state)
