"""SignFlip: one latent weight under four stand-ins for the derivative of sign."""

from __future__ import annotations

import math
from functools import cache

import torch
import traitlets
from torch import Tensor

from qtools.explore._base import Explorable, Finite, state_trait
from qtools.explore._hash import nearly_normal
from qtools.onebit.layer import GRADIENTS, sign

OPTIMIZERS = ("sgd", "adam")
STEPS = 2_000
BETAS, EPS = (0.9, 0.98), 1e-8  # of Adam: betas as in Xu et al. 2024, eps as in torch
GRAIN = 2.0**26


class SignFlip(Explorable):
    """``w ← w - η g d(w)``, ``g = sign(w) - t + σ z``, for the four d of `onebit.layer.GRADIENTS`.

    One weight, its scale set to 1, with the loss ``(sign(w) - t)²/2`` and the noise ``σ z`` that a
    mini-batch adds to the gradient. All four see the same z. Adam divides ``g d(w)`` by a running
    root mean square of itself.

    Parameters
    ----------
    optimizer : {"sgd", "adam"}
    start : float
        The latent weight before the first step, 0.001 to 8.
    target : float
        t, -3 to 1.
    rate : float
        η, 0.0001 to 0.25.
    noise : float
        σ, 0 to 8.
    step : int
        Where the figure looks, 0 to 2,000.
    """

    script, helpers = "sign_flip.js", ("_hash.js",)
    moves = (
        "Set where a latent weight starts and what pulls at it, and see under which of four"
        " stand-ins for the derivative its sign flips, when, and how often."
    )

    optimizer = state_trait(traitlets.Enum(OPTIMIZERS, "sgd"))
    start = state_trait(Finite(5.0, min=0.001, max=8.0))
    target = state_trait(Finite(-1.0, min=-3.0, max=1.0))
    rate = state_trait(Finite(0.25, min=0.0001, max=0.25))
    noise = state_trait(Finite(0.0, min=0.0, max=8.0))
    step = state_trait(traitlets.Int(100, min=0, max=STEPS))

    def paths(self) -> Tensor:
        """Return w before each step and after the last, float64 [2001, 4]."""
        settings = (self.start, self.target, self.rate, self.noise)
        columns = torch.tensor(settings, dtype=torch.float64).unsqueeze(1)
        return latent_paths(self.optimizer, *columns)[:, :, 0]

    def compute(self) -> dict[str, float]:
        """Return the numbers shown: `numbers` of the paths and the step."""
        return numbers(self.paths(), self.step)


def numbers(paths: Tensor, step: int) -> dict[str, float]:
    """Return what the figure shows of paths [2001, 4].

    Returns
    -------
    dict
        For each of ``tanh``, ``released``, ``clipped`` and ``identity``: ``_first``, after which
        step the sign first was another, infinite if it never was; ``_flips``, how often it changed
        in all 2,000; ``_w``, the latent weight after `step` steps, and ``_d``, d there.
    """
    signs = sign(paths)
    result: dict[str, float] = {}
    for i, (name, derivative) in enumerate(GRADIENTS.items()):
        flips = (signs[1:, i] != signs[:-1, i]).nonzero().flatten() + 1
        w = paths[step, i]
        result |= {
            f"{name}_first": float(flips[0]) if len(flips) else math.inf,
            f"{name}_flips": float(len(flips)),
            f"{name}_w": w.item(),
            f"{name}_d": derivative(w).item(),
        }
    return result


@torch.no_grad()
def latent_paths(
    optimizer: str, start: Tensor, target: Tensor, rate: Tensor, noise: Tensor
) -> Tensor:
    """Return the latent weight before each step and after the last, float64 [2001, 4, n].

    d is rounded to a multiple of 2⁻²⁶, or the last bit of a library's tanh would now and then
    decide on which side of 0 a weight lands.

    Parameters
    ----------
    optimizer : {"sgd", "adam"}
    start, target, rate, noise : Tensor
        Float64 [n]: n settings at once.
    """
    w = start.repeat(len(GRADIENTS), 1)
    paths = w.new_empty(STEPS + 1, *w.shape)
    paths[0] = w
    mean, square, left = torch.zeros_like(w), torch.zeros_like(w), [1.0, 1.0]
    for k, z in enumerate(draws()):
        d = torch.stack([f(row) for f, row in zip(GRADIENTS.values(), w, strict=True)])
        gradient = (sign(w) - target + noise * z) * ((d * GRAIN).round() / GRAIN)
        if optimizer == "adam":
            mean = BETAS[0] * mean + (1 - BETAS[0]) * gradient
            square = BETAS[1] * square + (1 - BETAS[1]) * gradient * gradient
            left = [beta * x for beta, x in zip(BETAS, left, strict=True)]
            gradient = mean / (1 - left[0]) / ((square / (1 - left[1])).sqrt() + EPS)
        w = w - rate * gradient
        paths[k + 1] = w
    return paths


@cache
def draws() -> list[float]:
    """Return z for each step, nearly normal with variance 1.

    Whole numbers, so that the browser has the same to the last bit.
    """
    return list(nearly_normal(0, STEPS).tolist())
