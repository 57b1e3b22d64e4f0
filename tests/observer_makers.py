"""One observer of each kind, and data to show them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import strategies as st

from qtools.observers import (
    HistogramObserver,
    MinMaxObserver,
    MovingAverageObserver,
    Observer,
    PercentileObserver,
)

from .strategies import tensors

MAKERS = {
    "minmax": MinMaxObserver,
    "average": MovingAverageObserver,
    "percentile": lambda spec: PercentileObserver(spec, 99.0, bins=64),
    "mse": lambda spec: HistogramObserver(spec, "mse", bins=64),
    "kl": lambda spec: HistogramObserver(spec, "kl", bins=64),
}
COUNTING = ("percentile", "mse", "kl")
every = pytest.mark.parametrize("name", MAKERS)
counting = pytest.mark.parametrize("name", COUNTING)


def watch(obs: Observer, *batches: torch.Tensor) -> Observer:
    for x in batches:
        assert obs(x) is x
    return obs


def normal(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed))


def same(a: Observer, b: Observer) -> bool:
    """Same state and same range, to the last bit; a buffer of first values may be in any order."""
    states = [{k: v for k, v in o.state_dict().items() if not k.endswith("values")} for o in (a, b)]
    return all(torch.equal(states[0][k], states[1][k]) for k in states[0]) and all(
        torch.equal(x, y) for x, y in zip(a.range(), b.range(), strict=True)
    )


@st.composite
def samples(draw: st.DrawFn) -> torch.Tensor:
    x = draw(tensors((torch.float32,))).reshape(-1)
    if draw(st.booleans()):
        x = x.relu()
    return x
