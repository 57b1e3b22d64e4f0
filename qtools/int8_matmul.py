"""The product of two matrices of 8-bit codes, exact on every processor."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

# K products of at most 255 · 128 stay below 2^24 for K up to 512: float32 adds them exactly.
_EXACT_IN_FLOAT32 = 512


def int8_matmul(x: Tensor, w: Tensor) -> Tensor:
    """``sum_k x[i, k] w[j, k]`` in int32, exactly.

    Where the processor multiplies 8-bit integers exactly this is `torch._int_mm`, about four times
    as fast as float32. Elsewhere the same integers go through floating point, wide enough to be
    exact.

    Parameters
    ----------
    x : Tensor
        int8 or uint8 [rows, K].
    w : Tensor
        int8 [columns, K].

    Returns
    -------
    Tensor
        int32 [rows, columns]; sums beyond int32 wrap around.
    """
    (rows, k), columns = x.shape, len(w)
    if 0 in (rows, k, columns):
        return torch.zeros(rows, columns, dtype=torch.int32)
    if k > 1:  # for K = 1 torch 2.13's _int_mm returns wrong numbers
        if is_int_mm_exact(x.dtype):
            return torch._int_mm(x, w.t())
        if is_int_mm_exact(torch.int8):  # Σ x w = Σ (x - 128) w + 128 Σ w
            acc = torch._int_mm(x.bitwise_xor(128).view(torch.int8), w.t())
            return acc.add_(128 * w.sum(1, dtype=torch.int32))
    wide = torch.float32 if torch.get_float32_matmul_precision() == "highest" else torch.float64
    acc = torch.zeros(rows, columns, dtype=torch.int32)
    parts = zip(x.split(_EXACT_IN_FLOAT32, 1), w.split(_EXACT_IN_FLOAT32, 1), strict=True)
    for x_part, w_part in parts:
        acc += (x_part.to(wide) @ w_part.to(wide).t()).to(torch.int32)
    return acc


@cache
def is_int_mm_exact(dtype: torch.dtype = torch.int8) -> bool:
    """Return whether `torch._int_mm` adds products exactly on this processor, by trying it.

    Processors with 8-bit dot-product instructions (VNNI on x86) do. On others oneDNN adds pairs
    of 16-bit products with an instruction that saturates: 255 · (-128) twice is -65280, and
    comes out as -32768.

    Parameters
    ----------
    dtype : torch.dtype
        int8 or uint8, of the first matrix; the second is int8.
    """
    info = torch.iinfo(dtype)
    x_ends = torch.tensor([info.min, info.max], dtype=dtype).repeat_interleave(8)
    w_ends = torch.tensor([-128, 127], dtype=torch.int8).repeat_interleave(8)
    for k in (2, 64, 65):
        x, w = (ends[:, None].expand(16, k).contiguous() for ends in (x_ends, w_ends))
        try:
            if not torch.equal(torch._int_mm(x, w.t()).long(), x.long() @ w.long().t()):
                return False
        except RuntimeError:  # a build without this pair of types
            return False
    return True
