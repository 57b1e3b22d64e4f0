"""From accumulators back to codes: one multiplication, one rounding, one clamp."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from qtools.fixed_point import FixedPointMultiplier, multiply
from qtools.spec import QParams

# Elements requantized at a time: in float64 they and their results stay in a 1 MB L2 cache.
_PIECE = 1 << 15


class Clamp(NamedTuple):
    """An activation that is a clamp of real numbers: ReLU is (0, inf), ReLU6 is (0, 6)."""

    low: float = -float("inf")
    high: float = float("inf")

    def codes(self, out: QParams) -> tuple[int, int]:
        """Lowest and highest code it lets through: ``z + round(end / s)`` inside qmin..qmax."""
        spec, z, s = out.spec, int(out.zero_point), float(out.scale)
        low, high = spec.qmin, spec.qmax
        # Far ends need no rounding, and infinite ones allow none.
        if self.low > s * (low - z):
            low = min(high, z + round(self.low / s))
        if self.high < s * (high - z):
            high = max(low, z + round(self.high / s))
        return low, high


class Requantizer:
    """``q = clip(round(M acc) + z, low, high)`` with float64 instructions, where that is exact.

    Equal to rounding `qtools.fixed_point.multiply` in every element. There the product of a 32-bit
    accumulator and a 31-bit mantissa m is taken in int64, which processors do slowly. Here M acc
    is one float64 multiplication, rounded to p̃. Let p = m acc / 2^shift be the true product. The
    two agree if, for each channel with ``|acc| <= A``,

    1. no p is halfway between two integers. That needs ``acc = odd · 2^(shift-1-v)``, where 2^v
       is the largest power of two that divides m: impossible for ``A < 2^(shift-1-v)``. Then p is
       at least 2^-shift away from any half;
    2. p̃ is on the same side of each half as p: either ``A < 2^22``, where p̃ = p since 22 + 31
       bits fit into a float64; or ``shift <= 45``, where for ``|p| <= 2^8`` the rounding moves p
       by at most 2^-46; and where p is larger so is p̃, past the 2^8 codes.

    Channels with M = 0 need neither. If any channel fails, the int64 product is taken.

    Parameters
    ----------
    multiplier : FixedPointMultiplier
        M, broadcasting against the accumulators: ``[]`` or [channels] (their last axis) is fast.
    bound : Tensor
        A, of the same shape or ``[]``.
    out : QParams
        Per tensor, at most 8 bits.
    clamp : Clamp
        A fused activation.
    """

    def __init__(
        self, multiplier: FixedPointMultiplier, bound: Tensor, out: QParams, clamp: Clamp
    ) -> None:
        self.multiplier = multiplier
        self.z, self.dtype = int(out.zero_point), out.spec.dtype
        self.low, self.high = clamp.codes(out)
        self.factor = self.multiplier.to_real()
        m, shift = self.multiplier.mantissa, self.multiplier.shift
        lowest_bit = (m & -m).double()
        no_half = bound.double() * lowest_bit < torch.ldexp(torch.ones_like(lowest_bit), shift - 1)
        same_side = (bound < 2**22) | (shift <= 45)
        self.fast = bool(((no_half & same_side) | (m == 0)).all())

    def __call__(self, acc: Tensor) -> Tensor:
        """Return codes for accumulators [..., channels], integers in int32 or float32."""
        if acc.numel() <= _PIECE or self.factor.ndim > 1:
            return self._piece(acc)
        rows = acc.reshape(-1, acc.shape[-1])
        codes = torch.empty(rows.shape, dtype=self.dtype)
        step = max(1, _PIECE // acc.shape[-1])
        for source, target in zip(rows.split(step), codes.split(step), strict=True):
            target.copy_(self._piece(source))
        return codes.view(acc.shape)

    def _piece(self, acc: Tensor) -> Tensor:
        low, high = self.low - self.z, self.high - self.z
        if not self.fast:
            steps = multiply(acc, self.multiplier).clamp_(low, high)
        else:
            steps = acc.double().mul_(self.factor).clamp_(low, high).round_().to(torch.int32)
        return (steps.add_(self.z) if self.z else steps).to(self.dtype)
