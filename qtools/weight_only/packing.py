"""Codes of 1 to 8 bits, row by row, with nothing between them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def row_bytes(columns: int, bits: int) -> int:
    """``ceil(columns * bits / 8)``: bytes of one packed row; only its last byte can have padding.

    Examples
    --------
    >>> row_bytes(64, 3), row_bytes(3, 3)
    (24, 2)
    """
    return -(-columns * bits // 8)


def pack_rows(codes: Tensor, bits: int) -> Tensor:
    """Bit k of the code in column j is bit ``(j * bits + k) % 8`` of its byte in the row.

    Little-endian, least significant bit first, as `qtools.metrics.pack_codes`, but each row starts
    with a byte of its own. Eight codes always fill ``bits`` bytes: 3 bits are 3 bits.

    Parameters
    ----------
    codes : Tensor
        uint8 [rows, columns], each below ``2^bits``.
    bits : int
        1 to 8.

    Returns
    -------
    Tensor
        uint8 [rows, row_bytes(columns, bits)], zeros behind the last code.

    Raises
    ------
    ValueError
        If codes is no such tensor or bits is not from 1 to 8.

    Examples
    --------
    >>> [f"{byte:08b}" for byte in pack_rows(torch.tensor([[1, 2, 3]], dtype=torch.uint8), 3)[0]]
    ['11010001', '00000000']
    """
    check_bits(bits)
    if codes.dtype != torch.uint8 or codes.ndim != 2:
        raise ValueError(f"codes must be a uint8 matrix, got {codes.dtype} {list(codes.shape)}")
    if codes.numel() and int(codes.max()) >= 1 << bits:
        raise ValueError(f"codes must be below {1 << bits} for bits={bits}, got {int(codes.max())}")
    rows, columns = codes.shape
    octets = F.pad(codes, (0, -columns % 8)).view(rows, -1, 8).to(_word(bits))
    words = (octets << _shifts(8, bits, octets)).sum(-1, dtype=octets.dtype)
    parts = (words[..., None] >> _shifts(bits, 8, octets)) & 255
    return parts.to(torch.uint8).flatten(1)[:, : row_bytes(columns, bits)].contiguous()


def unpack_rows(packed: Tensor, columns: int, bits: int) -> Tensor:
    """Inverse of `pack_rows`: uint8 [rows, columns].

    Raises
    ------
    ValueError
        If packed is not uint8 [rows, row_bytes(columns, bits)].
    """
    check_bits(bits)
    expected = row_bytes(columns, bits)
    if packed.dtype != torch.uint8 or packed.ndim != 2 or packed.shape[1] != expected:
        raise ValueError(
            f"packed must be uint8 [rows, {expected}] for {columns} columns of {bits} bits, "
            f"got {packed.dtype} {list(packed.shape)}"
        )
    if bits == 8:
        return packed
    parts = F.pad(packed, (0, -expected % bits)).view(len(packed), -1, bits).to(_word(bits))
    words = (parts << _shifts(bits, 8, parts)).sum(-1, dtype=parts.dtype)
    octets = (words[..., None] >> _shifts(8, bits, parts)) & ((1 << bits) - 1)
    return octets.to(torch.uint8).flatten(1)[:, :columns]


def padding_is_zero(packed: Tensor, columns: int, bits: int) -> bool:
    """Whether no bit is set behind the last code of any row."""
    used = columns * bits % 8
    return used == 0 or not packed.numel() or not bool((packed[:, -1] >> used).any())


def check_bits(bits: object) -> None:
    """Refuse a number of bits that no code has."""
    if type(bits) is not int or not 1 <= bits <= 8:
        raise ValueError(f"bits must be an int from 1 to 8, got {bits!r}")


def _word(bits: int) -> torch.dtype:
    """Eight codes in one integer. The sign bit takes part: what it drags along is masked away."""
    return torch.int32 if bits <= 4 else torch.int64


def _shifts(count: int, step: int, like: Tensor) -> Tensor:
    return torch.arange(0, count * step, step, dtype=like.dtype, device=like.device)
