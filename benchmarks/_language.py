"""What the benchmarks of language models share: what is measured, and its mean over the seeds."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

from benchmarks._runs import Row, Setting, deviation, is_of
from qtools.evaluation import Evaluation

#: What a row says of a network.
MEASURED = ("nats", "perplexity", "top1", "bytes", "bits_per_weight")


def measured(found: Evaluation) -> Row:
    """Return what stands in a row, by `MEASURED`."""
    return {name: round(value, 4) for name, value in zip(MEASURED, found, strict=True)}


def summary(
    rows: list[Row], settings: Iterable[Setting], further: tuple[str, ...] = ()
) -> list[Row]:
    """Mean over the seeds of each setting, and the deviation of the nats."""
    table = []
    for setting in settings:
        of = [r for r in rows if is_of(r, setting)]
        mean = {n: round(statistics.mean(r[n] for r in of), 4) for n in (*MEASURED, *further)}
        spread = {"deviation": deviation([r["nats"] for r in of]), "seeds": len(of)}
        table.append({**setting._asdict(), **mean, **spread})
    return table
