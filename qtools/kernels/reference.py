"""``h ⊙ (S (g ⊙ x))`` in plain torch, two ways: what every faster path has to agree with."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from qtools.kernels.bits import row_bytes, unpack_signs


def unpacked(
    x: Tensor, bits: Tensor, in_features: int, g: Tensor | None, h: Tensor | None
) -> Tensor:
    """``h ⊙ (S (g ⊙ x))`` by a matrix of -1 and +1: the definition.

    Parameters
    ----------
    x : Tensor
        [..., in_features]. float16 and bfloat16 are computed in float32.
    bits : Tensor
        uint8 [out, row_bytes(in_features)], see `pack_signs`.
    in_features : int
    g, h : Tensor or None
        [in_features] and [out]; None is a vector of ones.

    Returns
    -------
    Tensor
        [..., out] in the type of x.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    y = scaled(x, g, wide) @ unpack_signs(bits, in_features, wide).T
    return (y if h is None else y * h.to(wide)).to(x.dtype)


def by_table(
    x: Tensor, bits: Tensor, in_features: int, g: Tensor | None, h: Tensor | None
) -> Tensor:
    """As `unpacked`, with no matrix: the 256 signed sums of every eight inputs, looked up by byte.

    ``y_i = Σ_j T[j, bits[i, j]]`` with ``T[j, c] = Σ_k ±x_{8j+k}``, minus where bit k of c is set:
    one addition for eight weights.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    u = scaled(x, g, wide).reshape(-1, in_features)
    octets = row_bytes(in_features)
    if not u.numel() or not bits.numel():
        return x.new_zeros((*x.shape[:-1], bits.shape[0]))
    byte = torch.arange(256, device=x.device)
    signs = (1 - 2 * (byte >> torch.arange(8, device=x.device)[:, None] & 1)).to(wide)
    groups = F.pad(u, (0, 8 * octets - in_features)).view(len(u), octets, 8)
    # [octets, 256, batch]: what a byte selects lies together for the whole batch.
    table = (groups @ signs).permute(1, 2, 0).reshape(-1).view(256 * octets, len(u))
    place = bits + torch.arange(0, 256 * octets, 256, dtype=torch.int32, device=x.device)
    y = F.embedding_bag(place, table, mode="sum").T.contiguous()
    y = y.reshape(*x.shape[:-1], bits.shape[0])
    return (y if h is None else y * h.to(wide)).to(x.dtype)


def scaled(x: Tensor, g: Tensor | None, wide: torch.dtype) -> Tensor:
    """``g ⊙ x`` in the wide type."""
    return x.to(wide) if g is None else x.to(wide) * g.to(wide)
