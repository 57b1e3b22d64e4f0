"""The numbers that weights may become: a float16 scale and a zero point for a row of a group."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Self

import torch
from torch import Tensor

from qtools.affine import QParams, QuantSpec, choose_qparams, quantize
from qtools.weight_only.packing import check_bits

_LARGEST = torch.finfo(torch.float16).max


@dataclass(frozen=True)
class Grid:
    """Levels of the weights of one group of columns, those of each row its own.

    | bits | levels |
    |---|---|
    | 2 to 8 | ``s (q - z)``, ``q = 0 .. 2^bits - 1`` |
    | 1 | ``s (1 - 2q)``, ``q = 0, 1``: the sign, a set bit for minus as in `qtools.onebit` |

    Attributes
    ----------
    scale : Tensor
        s, float16 [out], not negative.
    zero_point : Tensor
        z, uint8 [out]: ``2^(bits-1)`` where symmetric; of no use with 1 bit.
    bits : int
    """

    scale: Tensor
    zero_point: Tensor
    bits: int

    @classmethod
    def fit(cls, weight: Tensor, bits: int, symmetric: bool = False) -> Self:
        """Each row's grid of ``[min w, max w]``, widened to hold 0; of ``mean|w|`` with 1 bit.

        ``s = (max - min) / (2^bits - 1)``, ``z = round(-min / s)``, or symmetric
        ``s = max|w| / (2^(bits-1) - 1)``. The scale is what float16 has next above, and z is that
        of the rounded scale: so no weight is further than s/2 from its level. With 1 bit
        ``s = mean|w|`` has the least squared error (Rastegari et al. 2016, eq. 6).

        Parameters
        ----------
        weight : Tensor
            [out, columns], floating point.
        bits : int
            1 to 8.
        symmetric : bool
            z in the middle; with 2 bits that leaves the levels -s, 0, s and -2s, which is unused.

        Raises
        ------
        ValueError
            If weight has values that are not finite, or so large that float16 holds no scale.
        """
        check_bits(bits)
        if not bool(weight.isfinite().all()):
            raise ValueError("weight must be finite")
        w = weight.detach().double()
        if bits == 1:
            scale = w.abs().mean(1)
            half = _nearest(_check_scale(scale))
            return cls(half, torch.zeros_like(half, dtype=torch.uint8), 1)
        low, high = torch.aminmax(w, dim=1)
        spec = _spec(bits, symmetric)
        found = choose_qparams(low, high, spec)
        half = _next_above(_check_scale(found.scale))
        zero_point = found.zero_point
        if not symmetric:
            zero_point = (-low.clamp_max(0) / half.double()).round().clamp(0, spec.qmax)
        return cls(half, zero_point.to(torch.uint8), bits)

    def round(self, weight: Tensor) -> Tensor:
        """Codes of the nearest levels: uint8 in the shape of weight [out, columns]."""
        if self.bits == 1:
            return (weight < 0).to(torch.uint8)
        return quantize(weight, self._qparams)

    @cached_property
    def _qparams(self) -> QParams:
        # The zero points are given: of the spec only the range of codes matters.
        spec = _spec(self.bits, symmetric=False)
        return QParams(self.scale.double(), self.zero_point.int(), spec)

    def values(self, codes: Tensor) -> Tensor:
        """Levels of codes [out, columns], float32: exact, as s has 11 bits and q - z nine."""
        return levels(codes, self.scale[:, None], self.zero_point[:, None], self.bits)


class Quantized(NamedTuple):
    """A weight as codes: ``Ŵ = s (q - z)``, times a number for each column where AWQ gave one.

    Attributes
    ----------
    codes : Tensor
        q, uint8 [out, in].
    scale : Tensor
        s, float16 [out, groups]; each group has in / groups columns.
    zero_point : Tensor or None
        z, uint8 [out, groups]; None where it is ``2^(bits-1)``, and with 1 bit.
    bits : int
    input_scale : Tensor or None
        t, float16 [in]: ``Ŵ_j`` is the level times ``t_j``, the same as an input ``t_j x_j``.
    """

    codes: Tensor
    scale: Tensor
    zero_point: Tensor | None
    bits: int
    input_scale: Tensor | None = None

    @property
    def group_size(self) -> int:
        """Columns that share a scale."""
        return self.codes.shape[1] // self.scale.shape[1]

    def levels(self) -> Tensor:
        """``s (q - z)`` float32 [out, in], without the input scale."""
        groups = self.codes.unflatten(1, (*self.scale.shape[1:], -1))
        z = None if self.zero_point is None else self.zero_point[:, :, None]
        return levels(groups, self.scale[:, :, None], z, self.bits).flatten(1)

    def dequantize(self) -> Tensor:
        """``Ŵ`` float32 [out, in]."""
        w = self.levels()
        return w if self.input_scale is None else w * self.input_scale.float()


def levels(codes: Tensor, scale: Tensor, zero_point: Tensor | None, bits: int) -> Tensor:
    """``s (q - z)``, or ``s (1 - 2q)`` with 1 bit, float32; shapes that broadcast."""
    if bits == 1:
        return scale.float() * (1 - 2 * codes.float())
    z = float(1 << (bits - 1)) if zero_point is None else zero_point.float()
    return scale.float() * (codes.float() - z)


def gather(grids: list[Grid], codes: list[Tensor], symmetric: bool) -> Quantized:
    """One weight of its groups, left to right."""
    bits = grids[0].bits
    zero_point = torch.stack([g.zero_point for g in grids], 1)
    return Quantized(
        torch.cat(codes, 1),
        torch.stack([g.scale for g in grids], 1),
        None if symmetric or bits == 1 else zero_point,
        bits,
    )


def check_weight(weight: Tensor, group_size: int | None) -> int:
    """Return the columns of a group, if there is a weight that has such groups.

    Raises
    ------
    ValueError
        If weight is no matrix with columns, or group_size does not divide them.
    """
    if weight.ndim != 2 or not weight.shape[1] or not weight.is_floating_point():
        raise ValueError(
            f"weight must be a floating-point matrix, got {weight.dtype} {list(weight.shape)}"
        )
    columns = weight.shape[1]
    if group_size is None:
        return columns
    if type(group_size) is not int or group_size < 1 or columns % group_size:
        raise ValueError(
            f"group_size must be an int that divides the {columns} columns, got {group_size!r}"
        )
    return group_size


def _spec(bits: int, symmetric: bool) -> QuantSpec:
    return QuantSpec(bits, signed=False, symmetric=symmetric, granularity="channel")


def _check_scale(scale: Tensor) -> Tensor:
    if scale.numel() and float(scale.max()) > _LARGEST:
        raise ValueError(
            f"weight must need scales of at most {_LARGEST:g}, as float16 has them, "
            f"got {float(scale.max()):.6g}"
        )
    return scale


def _nearest(scale: Tensor) -> Tensor:
    """The float16 nearest to a float64 of at least 0: ``half()`` rounds to float32 on its way."""
    above = _next_above(scale)
    bits = above.view(torch.int16)
    below = (bits - 1).view(torch.float16)
    up, down = above.double() - scale, scale - below.double()
    # An exact value is its own nearest, 0 too, which has nothing below.
    goes_up = (up == 0) | (up < down) | ((up == down) & (bits % 2 == 0))
    return torch.where(goes_up, above, below)


def _next_above(scale: Tensor) -> Tensor:
    """The smallest float16 that is not below a positive number."""
    half = scale.half()
    # The bits of positive floats are in the order of their values.
    above = (half.view(torch.int16) + 1).view(torch.float16)
    return torch.where(half.double() < scale, above, half)
