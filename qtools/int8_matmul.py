"""The product of two matrices of 8-bit codes, exact on every processor."""

from __future__ import annotations

import timeit
from functools import cache

import torch
from torch import Tensor

# K products of at most 255 · 128 stay below 2^24 for K up to 512: float32 adds them exactly.
_EXACT_IN_FLOAT32 = 512
_ROWS = 2048


def int8_matmul(x: Tensor, w: Tensor) -> Tensor:
    """``sum_k x[i, k] w[j, k]`` in int32, exactly.

    Where the processor multiplies 8-bit integers exactly and in hardware this is `torch._int_mm`,
    about four times as fast as float32. Elsewhere the same integers go through floating point,
    wide enough to be exact.

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
        if is_int_mm_exact(x.dtype) and is_int_mm_fast(x.dtype):
            return torch._int_mm(x, w.t())
        if is_int_mm_exact(torch.int8) and is_int_mm_fast(torch.int8):
            # Σ x w = Σ (x - 128) w + 128 Σ w
            acc = torch._int_mm(x.bitwise_xor(128).view(torch.int8), w.t())
            return acc.add_(128 * w.sum(1, dtype=torch.int32))
    return _in_float(x, w)


def _in_float(x: Tensor, w: Tensor) -> Tensor:
    wide = torch.float32 if torch.get_float32_matmul_precision() == "highest" else torch.float64
    acc = torch.zeros(len(x), len(w), dtype=torch.int32)
    for x_part, w_part in zip(
        x.split(_EXACT_IN_FLOAT32, 1), w.split(_EXACT_IN_FLOAT32, 1), strict=True
    ):
        w_wide = w_part.to(wide).t()
        # A few rows at a time: what is wide for a moment stays in the cache.
        for rows, target in zip(x_part.split(_ROWS), acc.split(_ROWS), strict=True):
            target.add_((rows.to(wide) @ w_wide).to(torch.int32))
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


@cache
def is_int_mm_fast(dtype: torch.dtype = torch.int8) -> bool:
    """Return whether `torch._int_mm` is no slower than floating point here, by timing both once.

    Where oneDNN has no instructions for it torch adds the products one by one: exact, and twenty
    times slower.

    Parameters
    ----------
    dtype : torch.dtype
        int8 or uint8, of the first matrix; the second is int8.
    """
    x, w = torch.ones(256, 256, dtype=dtype), torch.ones(64, 256, dtype=torch.int8)
    seconds = [
        min(timeit.repeat(way, number=1, repeat=5))
        for way in (lambda: torch._int_mm(x, w.t()), lambda: _in_float(x, w))
    ]
    return seconds[0] <= seconds[1]
