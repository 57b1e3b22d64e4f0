"""Random codes and quantization parameters for hypothesis tests of integer modules."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from qtools import QParams, QuantSpec

seeds = st.integers(0, 2**32 - 1)


def qp(draw, symmetric: bool = False, channels: int | None = None, scale: float = 1.0) -> QParams:
    signed = draw(st.booleans())
    spec = QuantSpec(signed=signed, symmetric=symmetric,
                     granularity="tensor" if channels is None else "channel")  # fmt: skip
    shape = () if channels is None else (channels,)
    generator = torch.Generator().manual_seed(draw(seeds))
    z = torch.randint(spec.qmin, spec.qmax + 1, shape, generator=generator)
    z = torch.full_like(z, 0 if signed else 128) if symmetric else z
    s = (torch.rand(shape, generator=generator) * 0.1 + 1e-3) * scale
    return QParams(s, z.to(torch.int32), spec)


def codes(shape, q: QParams, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    low, high = q.spec.qmin, q.spec.qmax
    return torch.randint(low, high + 1, shape, generator=generator).to(q.spec.dtype)
