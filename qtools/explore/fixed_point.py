"""FixedPoint: a real factor in two integers, and when its rounding shows in a code."""

from __future__ import annotations

import math
from fractions import Fraction

import torch
import traitlets

from qtools.explore._base import Explorable, Finite, state_trait
from qtools.fixed_point import FixedPointMultiplier, multiply, shift_right


class FixedPoint(Explorable):
    """``M = mantissa / 2^shift``; the accumulator times the mantissa, shifted, is the code.

    The mantissa has as many bits as you like, 31 being what `qtools` and Jacob et al. 2018 use.

    Parameters
    ----------
    factor : float
        ``M = s_x s_w / s_out``, 2^-16 to 1.
    bits : int
        Bits of the mantissa, 4 to 31.
    acc : int
        The accumulator, any int32.
    """

    script = "fixed_point.js"
    moves = (
        "Choose a factor, the bits of its mantissa and an accumulator, and see product, shift and"
        " result, and whether exact rounding would give another code."
    )

    factor = state_trait(Finite(0.00123, min=2.0**-16, max=1.0))
    bits = state_trait(traitlets.Int(8, min=4, max=31))
    acc = state_trait(traitlets.Int(12345, min=-(2**31), max=2**31 - 1))

    def multiplier(self) -> FixedPointMultiplier:
        """Return the fixed-point number of ``bits`` bits nearest to the factor, halves to even."""
        fraction, exponent = math.frexp(self.factor)
        mantissa = round(fraction * 2**self.bits)
        if mantissa == 2**self.bits:  # a fraction just below 1 rounded up to 1
            mantissa, exponent = mantissa // 2, exponent + 1
        return FixedPointMultiplier(torch.tensor(mantissa), torch.tensor(self.bits - exponent))

    def compute(self) -> dict[str, float]:
        """Return the numbers shown.

        Returns
        -------
        dict
            ``mantissa``, ``shift``, ``stored`` (the factor they stand for) and its
            ``relative_error``; ``product`` (accumulator times mantissa); ``result``, the product
            rounded by the shift; ``value``, factor times accumulator; ``exact``, the same rounded
            with no error before; ``differs`` (0 or 1); ``floor``, a bare shift; ``twice``, rounded
            after the multiplication (halves up) and after the shift (away from zero), as gemmlowp.
        """
        m, acc = self.multiplier(), torch.tensor(self.acc)
        mantissa, shift = int(m.mantissa), int(m.shift)
        product = self.acc * mantissa
        rest = shift - self.bits
        once = int(multiply(acc, m))
        high = (product + 2 ** (self.bits - 1)) >> self.bits
        value = self.acc * Fraction(self.factor)
        exact = math.floor(abs(value) + Fraction(1, 2)) * (1 if value >= 0 else -1)
        stored = float(m.to_real())
        return {
            "mantissa": mantissa,
            "shift": shift,
            "stored": stored,
            "relative_error": (stored - self.factor) / self.factor,
            "product": float(product),
            "result": once,
            "value": self.acc * self.factor,
            "exact": exact,
            "differs": float(once != exact),
            "floor": product >> shift,
            "twice": int(shift_right(torch.tensor(high), rest)) if rest > 0 else once,
        }
