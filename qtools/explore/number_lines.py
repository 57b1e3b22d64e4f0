"""NumberLines: real numbers above, integer codes below, and the way there and back."""

from __future__ import annotations

from typing import Any

import torch
import traitlets

from qtools.affine import QParams, QuantSpec, choose_qparams, dequantize, quantize
from qtools.error import representable_range
from qtools.explore._base import Explorable, Finite, state_trait

LIMIT = 4.0


class NumberLines(Explorable):
    """Drag the range ``[x_min, x_max]`` and ``x``; see s, z, the code of x and the way back.

    Parameters
    ----------
    x_min, x_max : float
        The real interval, -4 to 4, ``x_min <= x_max``.
    x : float
        The number that is quantized, -4 to 4.
    bits : int
        2 to 8.
    signed, symmetric, narrow_range : bool
        As in :class:`qtools.affine.QuantSpec`.
    """

    script = "number_lines.js"
    moves = (
        "Drag the ends of the range and the number x, choose the bits, and see the code of x, the"
        " number that comes back, and the error."
    )

    x_min = state_trait(Finite(-1.5, min=-LIMIT, max=LIMIT))
    x_max = state_trait(Finite(3.0, min=-LIMIT, max=LIMIT))
    x = state_trait(Finite(1.0, min=-LIMIT, max=LIMIT))
    bits = state_trait(traitlets.Int(4, min=2, max=8))
    signed = state_trait(traitlets.Bool(True))
    symmetric = state_trait(traitlets.Bool(False))
    narrow_range = state_trait(traitlets.Bool(False))

    @traitlets.validate("x_min", "x_max")
    def _ordered(self, proposal: Any) -> float:
        name, value = proposal["trait"].name, float(proposal["value"])
        low, high = (value, self.x_max) if name == "x_min" else (self.x_min, value)
        if low > high:
            raise traitlets.TraitError(
                f"x_min must not be above x_max, got x_min={low} and x_max={high}"
            )
        return value

    def qparams(self) -> QParams:
        """Return scale (float64, as the browser computes) and zero point of the range shown."""
        spec = QuantSpec(
            bits=self.bits,
            signed=self.signed,
            symmetric=self.symmetric,
            narrow_range=self.narrow_range,
        )
        low, high = (torch.tensor(v, dtype=torch.float64) for v in (self.x_min, self.x_max))
        return choose_qparams(low, high, spec)

    def compute(self) -> dict[str, float]:
        """Return the numbers shown.

        Returns
        -------
        dict
            ``scale``, ``zero_point``, ``qmin``, ``qmax``, ``code``, ``x_hat``, ``error``
            (``|x - x_hat|``), ``bound`` (``s/2`` between the smallest and the largest number that
            a code stands for, the distance to the nearer of them outside), ``clipped`` (0 or 1).
        """
        qp = self.qparams()
        spec, scale, zero_point = qp.spec, qp.scale.item(), int(qp.zero_point)
        x = torch.tensor(self.x, dtype=torch.float64)
        code = quantize(x, qp)
        x_hat = dequantize(code, qp).item()
        low, high = (edge.item() for edge in representable_range(qp))
        step = torch.round(x * (1 / qp.scale)).item() + zero_point
        return {
            "scale": scale,
            "zero_point": zero_point,
            "qmin": spec.qmin,
            "qmax": spec.qmax,
            "code": int(code),
            "x_hat": x_hat,
            "error": abs(self.x - x_hat),
            "bound": scale / 2 if low <= self.x <= high else max(low - self.x, self.x - high),
            "clipped": float(not spec.qmin <= step <= spec.qmax),
        }
