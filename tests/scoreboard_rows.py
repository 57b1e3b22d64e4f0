"""Drawn rows for the scoreboard: sizes and qualities of few values, so that many are equal."""

from __future__ import annotations

import random

from qtools.scoreboard import FAMILIES, MODELS, Row

BITS = (1, 2, 3, 4, 6, 8, 16, 32)


def drawn(seed: int, count: int = 60) -> list[Row]:
    """Rows of both models."""
    rng = random.Random(seed)
    rows = []
    for i in range(count):
        model = MODELS[i % 2]
        step = rng.randrange(12)
        quality = 93.5 - step**2 / 4 if model == "SmallCNN" else 1.4 + step**2 / 100
        seeds = rng.choice((1, 3, 5))
        rows.append(
            Row(
                model=model,
                family=rng.choice(FAMILIES),
                method=f"method {i}",
                bits=rng.choice(BITS),
                activations=rng.choice((4, 8, 32)),
                quality=round(quality, 3),
                deviation=0.25 if seeds > 1 else 0.0,
                seeds=seeds,
                bytes=rng.choice((10_000, 20_000, 31_252, 104_904, 396_736.5)),
                ms=rng.choice((None, 0.25, 1.5)),
                batch_ms=None,
                ort_ms=rng.choice((None, 0.1)),
                ort_batch_ms=None,
                real=rng.random() < 0.8,
                epochs=rng.choice((None, 0.0, 0.1825, 4.0)),
                seconds=None,
                record="drawn",
                chapter=rng.randrange(1, 17),
            )
        )
    return rows
