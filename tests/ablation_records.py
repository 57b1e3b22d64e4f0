"""Records to try OneBitAblations on, of the format of results/onebit_chargpt.json."""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

from qtools.explore import OneBitAblations
from qtools.explore.one_bit_ablations import BASE, FIELDS

WORDS = ("the", "whale", "rose", "slowly\n\n", "and", "Ahab", "said", "nothing", "to", "me")


def record(seed: int = 0, steps: int = 120) -> dict[str, Any]:
    """Twelve combinations, single changes and rivals; some have three seeds, each its own curve."""
    rng = random.Random(seed)
    base = BASE | {"steps": steps}
    combined = itertools.product(FIELDS["start"], FIELDS["layer_norm"], (1.0, 0.0))
    settings = [
        base | {"start": start, "layer_norm": norm, "alpha": alpha}
        for start, norm, alpha in combined
    ]
    settings += [base | {"layer": layer, "start": "copied"} for layer in FIELDS["layer"][1:]]
    settings += [base | {"alpha": alpha} for alpha in (0.1, 10.0)]
    single = {"latent": ("sign",), "gradient": FIELDS["gradient"][1:], "data": ("written", "both")}
    settings += [base | {f: v} for f, values in single.items() for v in values]
    settings += [base | {"steps": n} for n in (steps // 2, 2 * steps)]
    runs = [run(s, k, rng) for i, s in enumerate(settings) for k in range(3 if i % 3 == 0 else 1)]
    rng.shuffle(runs)
    return {
        "value": 0.0,
        "teacher": {"nats_per_char": 1.4, "perplexity": math.exp(1.4), "sample": text(rng)},
        "summary": [summary(s, runs) for s in settings],
        "runs": runs,
    }


def run(setting: dict[str, Any], seed: int, rng: random.Random) -> dict[str, Any]:
    nats = round(rng.uniform(1.5, 2.2), 4)
    last, slope = setting["steps"], rng.uniform(20, 60)
    curve = [
        [t, round(nats + 3 * math.exp(-t / slope) + rng.gauss(0, 0.02), 4)]
        for t in range(1, last + 1, rng.choice((1, 5)))
    ]
    return setting | {
        "seed": seed,
        "nats": nats,
        "perplexity": round(math.exp(nats), 4),
        "top1": round(rng.uniform(0.4, 0.57), 4),
        "bytes": rng.randrange(300_000, 700_000),
        "bits_per_weight": round(rng.uniform(1, 2), 3),
        "seconds": 100.0,
        "curve": curve,
        "sample": None if seed else text(rng),
    }


def summary(setting: dict[str, Any], runs: list[dict[str, Any]]) -> dict[str, Any]:
    own = [r for r in runs if all(r[k] == v for k, v in setting.items())]
    names = ("nats", "perplexity", "top1", "bytes", "bits_per_weight")
    means = {k: sum(r[k] for r in own) / len(own) for k in names}
    squares = sum((r["nats"] - means["nats"]) ** 2 for r in own)
    deviation = math.sqrt(squares / (len(own) - 1)) if len(own) > 1 else 0.0
    return setting | means | {"deviation": deviation, "seeds": len(own)}


def text(rng: random.Random) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(70))


class SmallAblations(OneBitAblations):
    """Ablations that need no argument."""

    def __init__(self, **state: Any) -> None:
        super().__init__(record(), **state)
