"""Hypothesis strategies shared by the tests: specs, tensors of awkward ranges, and their shapes."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from qtools import QuantSpec

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
KINDS = ("normal", "positive", "negative", "constant", "zero", "huge", "tiny", "outlier", "edges")


@st.composite
def specs(draw: st.DrawFn, granularities: tuple[str, ...] = ("tensor", "channel", "group")):
    granularity = draw(st.sampled_from(granularities))
    return QuantSpec(
        bits=draw(st.integers(2, 16)),
        signed=draw(st.booleans()),
        symmetric=draw(st.booleans()),
        granularity=granularity,
        axis=draw(st.integers(0, 1)) if granularity != "tensor" else 0,
        group_size=draw(st.sampled_from([1, 2, 3])) if granularity == "group" else None,
        narrow_range=draw(st.booleans()),
    )


@st.composite
def tensors(draw: st.DrawFn, dtypes: tuple[torch.dtype, ...] = DTYPES) -> torch.Tensor:
    """A [6, 6, k] tensor: 6 k is divided by every group size of `specs`, along both axes."""
    shape = (6, 6, draw(st.integers(1, 3)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    dtype, kind = draw(st.sampled_from(dtypes)), draw(st.sampled_from(KINDS))
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    largest = torch.finfo(dtype).max
    if kind == "positive":
        x = x.abs() + 1
    elif kind == "negative":
        x = -x.abs() - 1
    elif kind == "constant":
        x = torch.full(shape, float(draw(st.sampled_from([-3.7, 1e-3, 0.1, 2.0, 1000.0]))))
    elif kind == "zero":
        x = torch.zeros(shape)
    elif kind == "huge":
        x = (x / x.abs().max()) * largest
    elif kind == "tiny":
        x = x * torch.finfo(dtype).tiny
    elif kind == "outlier":
        x.view(-1)[0] = 1e4
    elif kind == "edges":  # halfway between codes of a step of 1/8, where rounding is decided
        x = torch.randint(-40, 40, shape, generator=generator) / 8 + 1 / 16
    return x.double().clamp(-largest, largest).to(dtype)
