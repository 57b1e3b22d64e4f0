"""StraightThrough: a latent weight on a staircase, pushed by a gradient that is not there."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import torch
import traitlets

from qtools.affine import choose_qparams, fake_quantize
from qtools.explore._base import Explorable, Finite, state_trait
from qtools.qat.estimators import fake_quantize_unmasked
from qtools.spec import QuantSpec

GRADIENTS = ("true", "unmasked", "masked")
STEPS, LATELY = 120, 40


class StraightThrough(Explorable):
    """``w ← w - η (ŵ - t) d``, with ``ŵ = clip(round(w), qmin, qmax)``, step by step.

    One weight, the loss ``(ŵ - t)²/2``, plain gradient descent. The scale is 1: everything is in
    steps. d stands in for ``dŵ/dw``: 0, as it is ("true"), 1 ("unmasked"), or 1 inside the range
    and 0 outside ("masked").

    Parameters
    ----------
    gradient : {"true", "unmasked", "masked"}
    bits : int
        2 to 5, signed: -2 .. 1 to -16 .. 15.
    target : float
        t, -8 to 8.
    rate : float
        η, 0.01 to 1.
    start : float
        The latent weight before the first step, -10 to 10.
    steps : int
        How many have been taken, 0 to 120.
    """

    script = "straight_through.js"
    moves = (
        "Step a latent weight along the staircase of its rounded value, with the true gradient"
        " or a straight-through one, and see where it settles."
    )

    gradient = state_trait(traitlets.Enum(GRADIENTS, "masked"))
    bits = state_trait(traitlets.Int(2, min=2, max=5))
    target = state_trait(Finite(0.3, min=-8.0, max=8.0))
    rate = state_trait(Finite(0.1, min=0.01, max=1.0))
    start = state_trait(Finite(-1.7, min=-10.0, max=10.0))
    steps = state_trait(traitlets.Int(0, min=0, max=STEPS))

    def trajectory(self) -> list[tuple[float, float, float]]:
        """Return ``(w, ŵ, gradient)`` before each step and after the last, gradients by autograd.

        The true derivative is that of ``clip(round(w))`` as torch differentiates it.
        """
        state = (self.gradient, self.bits, self.target, self.rate, self.start, self.steps)
        return list(_trajectory(*state))

    def compute(self) -> dict[str, float]:
        """Return the numbers shown.

        Returns
        -------
        dict
            ``latent`` w and ``value`` ŵ after the steps; ``loss`` and the ``slope``, the gradient
            that the next step would follow; ``flips``, how often ŵ changed on the way; ``mean``
            of ŵ over the last 40 steps, or over all if there are fewer (this one not counted).
        """
        rows = self.trajectory()
        latent, value, slope = rows[-1]
        values = [v for _, v, _ in rows]
        lately = values[:-1][-LATELY:] or values
        return {
            "latent": latent,
            "value": value,
            "loss": (value - self.target) * (value - self.target) / 2,
            "slope": slope,
            "flips": float(sum(a != b for a, b in pairwise(values))),
            "mean": sum(lately) / len(lately),
        }


@lru_cache(maxsize=1)
def _trajectory(
    gradient: str, bits: int, target: float, rate: float, start: float, steps: int
) -> list[tuple[float, float, float]]:
    spec = QuantSpec(bits, symmetric=True)
    qp = choose_qparams(
        torch.tensor(float(-spec.qmax), dtype=torch.float64),
        torch.tensor(float(spec.qmax), dtype=torch.float64),
        spec,
    )
    rounded = {
        "true": lambda w: w.round().clamp(spec.qmin, spec.qmax),
        "unmasked": lambda w: fake_quantize_unmasked(w, qp),
        "masked": lambda w: fake_quantize(w, qp),
    }[gradient]
    w, rows = torch.tensor(start, dtype=torch.float64), []
    for _ in range(steps + 1):
        latent = w.clone().requires_grad_()
        value = rounded(latent)
        loss = (value - target).square() / 2
        (slope,) = torch.autograd.grad(loss, latent)
        rows.append((latent.item(), value.item(), slope.item()))
        w = w - rate * slope
    return rows
