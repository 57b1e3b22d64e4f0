"""The format of signs: one bit each, row after row."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_WORD = 64  # bits: a row ends where a 64-bit word ends, so that kernels read whole words


def row_bytes(in_features: int) -> int:
    """``8 ceil(in_features / 64)``: bytes of one packed row."""
    return -(-in_features // _WORD) * (_WORD // 8)


def pack_signs(weight: Tensor) -> Tensor:
    """Column j of a row is bit ``j % 8`` of its byte ``j // 8``: 1 where the weight is below 0.

    Eight columns to a byte, least significant bit first, rows padded with zeros to a whole number
    of 64-bit words. So the bits of a row read as little-endian words have column j at bit
    ``j % 64`` of word ``j // 64``.

    Parameters
    ----------
    weight : Tensor
        [out, in], floating point; only its signs count, and 0, -0.0 and NaN are positive.

    Returns
    -------
    Tensor
        uint8 [out, row_bytes(in)] on the device of weight.

    Raises
    ------
    ValueError
        If weight is no matrix.

    Examples
    --------
    >>> pack_signs(torch.tensor([[-1.0, 1.0, -1.0, 0.0]])).tolist()
    [[5, 0, 0, 0, 0, 0, 0, 0]]
    """
    if weight.dim() != 2:
        raise ValueError(f"weight must be a matrix, got shape {list(weight.shape)}")
    rows, columns = weight.shape
    negative = weight.detach() < 0
    padded = F.pad(negative.to(torch.uint8), (0, 8 * row_bytes(columns) - columns))
    powers = 1 << torch.arange(8, dtype=torch.uint8, device=weight.device)
    octets = padded.reshape(rows, row_bytes(columns), 8)
    return (octets * powers).sum(-1, dtype=torch.uint8)


def unpack_signs(bits: Tensor, in_features: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Inverse of `pack_signs`: [out, in_features] of -1 and +1.

    Raises
    ------
    ValueError
        If bits is not uint8 [out, row_bytes(in_features)].
    """
    if bits.dtype != torch.uint8 or bits.dim() != 2 or bits.shape[1] != row_bytes(in_features):
        raise ValueError(
            f"bits must be uint8 [out, {row_bytes(in_features)}] for {in_features} columns, "
            f"got {bits.dtype} {list(bits.shape)}"
        )
    # A table of the eight signs of every byte: one look-up a byte, no arithmetic a bit.
    byte = torch.arange(256, device=bits.device)[:, None]
    table = (1 - 2 * (byte >> torch.arange(8, device=bits.device) & 1)).to(dtype)
    return F.embedding(bits.int(), table).flatten(1)[:, :in_features]


def padding_is_zero(bits: Tensor, in_features: int) -> bool:
    """Whether no bit is set behind the last column."""
    whole, rest = divmod(in_features, 8)
    tail = bits[:, whole:]
    if rest and (tail[:, 0] >> rest).any():
        return False
    return not tail[:, 1 if rest else 0 :].any()
