"""A real factor in two integers, and the one rounding that applying it takes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class FixedPointMultiplier:
    """``M = mantissa * 2^-shift``, ``2^30 <= mantissa < 2^31``: a real factor in two integers.

    The mantissa is ``M_0`` of Jacob et al. 2018, eq. 6, as an int32 with 31 bits after the point;
    the shift is their ``n`` plus 31. It keeps at least 30 significant bits of M.

    Parameters
    ----------
    mantissa, shift : Tensor
        int64, of one shape: ``[]``, or ``[channels]`` for one factor a channel.
    """

    mantissa: Tensor
    shift: Tensor

    @classmethod
    def from_real(cls, factor: Tensor) -> FixedPointMultiplier:
        """Return the nearest fixed-point number to each factor.

        A factor below ``2^-32`` takes every int32 to 0, and becomes 0.

        Parameters
        ----------
        factor : Tensor
            Positive, below ``2^29``; float64 is best, any floating type will do.

        Raises
        ------
        ValueError
            If a factor is not positive and below 2^29.
        """
        factor = factor.double()
        if not bool(((factor > 0) & (factor < 2**29)).all()):
            raise ValueError(f"factor must be positive and below 2^29, got {factor.tolist()}")
        fraction, exponent = torch.frexp(factor)
        mantissa = torch.round(fraction * 2**31).long()
        # A fraction just below 1 may round up to 1.
        carried = mantissa == 2**31
        mantissa = torch.where(carried, 2**30, mantissa)
        shift = 31 - (exponent.long() + carried)
        dead = shift > 62
        return cls(torch.where(dead, 0, mantissa), torch.where(dead, 31, shift))

    def to_real(self) -> Tensor:
        """Return ``mantissa * 2^-shift`` in float64, exactly."""
        return torch.ldexp(self.mantissa.double(), -self.shift)


def multiply(acc: Tensor, multiplier: FixedPointMultiplier) -> Tensor:
    """``round(acc * mantissa / 2^shift)``, halves away from zero, in int64.

    One rounding. Jacob et al. 2018 round twice, after the multiplication and after the shift
    (appendix B); their results can differ from these by one.

    Parameters
    ----------
    acc : Tensor
        Integers below 2^31 in magnitude; the multiplier broadcasts against them.
    """
    return shift_right(acc.long() * multiplier.mantissa, multiplier.shift)


def shift_right(product: Tensor, shift: Tensor | int) -> Tensor:
    """``round(product / 2^shift)``, halves away from zero; shift at least 1."""
    # An arithmetic shift rounds down. Adding a half first rounds halves up; for negative products
    # one less is added, so that their halves go down.
    half = torch.bitwise_left_shift(torch.ones_like(product), shift - 1)
    return torch.bitwise_right_shift(product + half - (product < 0).long(), shift)
