"""The product of two int8 matrices, exact on every processor."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

# K products of two int8 numbers stay below 2^24 for K up to 1024: float32 adds them exactly.
_EXACT_IN_FLOAT32 = 1024


def int8_matmul(x: Tensor, w: Tensor) -> Tensor:
    """``sum_k x[i, k] w[j, k]`` in int32, exactly.

    Where the processor multiplies int8 exactly this is `torch._int_mm`, about four times as fast
    as float32. Elsewhere the same integers go through floating point, wide enough to be exact.

    Parameters
    ----------
    x, w : Tensor
        int8 [rows, K] and [columns, K].

    Returns
    -------
    Tensor
        int32 [rows, columns]; sums beyond int32 wrap around.
    """
    (rows, k), columns = x.shape, len(w)
    if 0 in (rows, k, columns):
        return torch.zeros(rows, columns, dtype=torch.int32)
    if k > 1 and is_int_mm_exact():  # for K = 1 torch 2.13's _int_mm returns wrong numbers
        return torch._int_mm(x, w.t())
    wide = torch.float32 if torch.get_float32_matmul_precision() == "highest" else torch.float64
    acc = torch.zeros(rows, columns, dtype=torch.int32)
    parts = zip(x.split(_EXACT_IN_FLOAT32, 1), w.split(_EXACT_IN_FLOAT32, 1), strict=True)
    for x_part, w_part in parts:
        acc += (x_part.to(wide) @ w_part.to(wide).t()).to(torch.int32)
    return acc


@cache
def is_int_mm_exact() -> bool:
    """Return whether `torch._int_mm` adds products exactly on this processor, by trying it.

    Processors with 8-bit dot-product instructions (VNNI on x86) do. On others oneDNN adds pairs
    of 16-bit products with an instruction that saturates: 255 · (-128) twice is -65280, and
    comes out as -32768.
    """
    extremes = torch.tensor([-128, 127], dtype=torch.int8)
    for k in (2, 64, 65):
        x = extremes.repeat_interleave(8)[:, None].expand(16, k).contiguous()
        exact = x.long() @ x.long().t()
        if not torch.equal(torch._int_mm(x, x.t()).long(), exact):
            return False
    return True
