"""How far rounding can take a result: bounds that tests of several modules use."""

from __future__ import annotations

import torch


def gamma(n: int, dtype: torch.dtype) -> float:
    """``n u / (1 - n u)``: how far n roundings take a sum, relative to the sum of magnitudes."""
    u = torch.finfo(dtype).eps / 2
    return n * u / (1 - n * u)
