"""How far a quantized value is from the real one: exact bounds, expectations, the best clip.

The bounds hold for every element, not on average. The expectations are exact integrals over the
rounding cells, computed by quadrature, not the ``s²/12`` model that chapter 3 compares them with.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from qtools.layout import spread
from qtools.spec import QParams

Distribution = Literal["gaussian", "laplace", "student_t", "uniform"]


def representable_range(qp: QParams) -> tuple[Tensor, Tensor]:
    """``(s (qmin - z), s (qmax - z))``: the smallest and largest real number with a code.

    Returns
    -------
    tuple of Tensor
        float64, each in the shape of ``qp.scale``, in the unit of the data.
    """
    scale, zero_point = qp.scale.double(), qp.zero_point.double()
    return scale * (qp.spec.qmin - zero_point), scale * (qp.spec.qmax - zero_point)


def error_bound(x: Tensor, qp: QParams) -> Tensor:
    """``max(s/2, x_lo - x, x - x_hi)``, with ``[x_lo, x_hi]`` the representable range.

    This is the exact bound on ``|x - fake_quantize(x)|`` in real arithmetic (chapter 3,
    Proposition 3.1): half a step inside the range, the distance to the nearer edge outside.
    Floating point adds what its roundings can, and this function adds it too. Three roundings
    touch a result: ``1/s``, the product ``x (1/s)`` and the product ``s (q - z)``, each relative
    to at most u, the unit roundoff of the scale's type. They add up to ``3 u |x|``, plus
    ``u s/2``. A narrower output type adds its own ``v (|x| + s/2)``.

    Parameters
    ----------
    x : Tensor
        Finite, floating point, any shape that ``qp`` fits.
    qp : QParams

    Returns
    -------
    Tensor
        float64, in the shape of x and its unit.
    """
    low, high = (spread(edge, qp, x.shape) for edge in representable_range(qp))
    scale = spread(qp.scale.double(), qp, x.shape)
    exact = x.detach().double()
    ideal = torch.maximum(scale / 2, torch.maximum(low - exact, exact - high))
    inner, outer = torch.finfo(qp.scale.dtype), torch.finfo(x.dtype)
    u = inner.eps / 2
    # Above 2^126 the float32 number 1/s is subnormal and has lost digits.
    u_inverse = (scale * inner.smallest_normal * inner.eps / 2).clamp_min(u)
    u_last = u if outer.eps <= inner.eps else u + outer.eps / 2
    relative = (u_inverse + u + u_last) * (1 + 4 * u_last)
    underflow = outer.smallest_normal * outer.eps
    return ideal + relative * exact.abs() + u_last * scale / 2 + underflow


def sqnr(x: Tensor, x_hat: Tensor) -> float:
    """``10 log10( sum x² / sum (x - x_hat)² )``, in decibels.

    Parameters
    ----------
    x, x_hat : Tensor
        Real and quantized values of one shape; computed in float64.

    Returns
    -------
    float
        ``inf`` when the two are equal.

    Raises
    ------
    ValueError
        If the shapes differ or x is all zeros (there is no signal to compare with).
    """
    if x.shape != x_hat.shape:
        raise ValueError(
            f"x_hat must have the shape of x, {list(x.shape)}, got {list(x_hat.shape)}"
        )
    signal = x.detach().double().square().sum().item()
    noise = (x.detach().double() - x_hat.detach().double()).square().sum().item()
    if signal == 0:
        raise ValueError("x must not be all zeros: there is no signal to compare with")
    return math.inf if noise == 0 else 10 * math.log10(signal / noise)


def _student_t(x: np.ndarray) -> np.ndarray:
    # Three degrees of freedom have variance 3: y = sqrt(3) x scales it to 1.
    return 2 / (math.pi * (1 + x * x) ** 2)


# Densities of unit variance on x >= 0; all four are even.
_DENSITY: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "gaussian": lambda x: np.exp(-x * x / 2) / math.sqrt(2 * math.pi),
    "laplace": lambda x: np.exp(-math.sqrt(2) * x) / math.sqrt(2),
    "student_t": _student_t,
    "uniform": lambda x: np.full_like(x, 1 / (2 * math.sqrt(3))),
}
_CELL_NODES, _CELL_WEIGHTS = np.polynomial.legendre.leggauss(8)
_TAIL_NODES, _TAIL_WEIGHTS = np.polynomial.legendre.leggauss(64)


class ExpectedMSE(NamedTuple):
    """Mean squared error of a clipped uniform quantizer, in units of the data's variance."""

    rounding: float
    clipping: float

    @property
    def total(self) -> float:
        """``rounding + clipping``."""
        return self.rounding + self.clipping


def density(distribution: Distribution, x: np.ndarray) -> np.ndarray:
    """Return the probability density at x of a distribution of mean 0 and variance 1.

    Parameters
    ----------
    distribution : {"gaussian", "laplace", "student_t", "uniform"}
        ``student_t`` has three degrees of freedom, the heaviest whole number with a variance.
    x : ndarray
        Points, in standard deviations.
    """
    _check_distribution(distribution)
    inside = np.abs(x) <= _support(distribution)
    return np.where(inside, _DENSITY[distribution](np.abs(x)), 0.0)


def expected_mse(distribution: Distribution, clip: float, bits: int) -> ExpectedMSE:
    """``E (x - x_hat)²``, with levels ``s k``, ``|k| <= Q = 2^(bits-1) - 1``, ``s = clip / Q``.

    Rounding is the part of ``|x| <= clip``: eight-point Gauss-Legendre in each half cell, or in
    pieces of it no wider than half a standard deviation.
    Clipping is ``2 ∫ (x - clip)² f(x) dx`` from clip on: 64 points after ``x = clip + t/(1-t)``.

    Parameters
    ----------
    distribution : {"gaussian", "laplace", "student_t", "uniform"}
        Of unit variance.
    clip : float
        Largest representable value, in standard deviations; positive.
    bits : int
        2 to 16.

    Returns
    -------
    ExpectedMSE
        In units of the variance.

    Raises
    ------
    ValueError
        If an argument is not one of the above.
    """
    _check_distribution(distribution)
    if not (clip > 0 and math.isfinite(clip)):
        raise ValueError(f"clip must be positive and finite, got {clip}")
    if not 2 <= bits <= 16:
        raise ValueError(f"bits must be from 2 to 16, got {bits}")
    f, support = _DENSITY[distribution], _support(distribution)
    largest = 2 ** (bits - 1) - 1
    scale = clip / largest
    # By symmetry only x >= 0. Each half cell of width s/2 has its level at one of its two ends;
    # wide ones are cut into pieces of at most half a standard deviation, or nodes would miss f.
    cuts = math.ceil(scale)
    edges = np.minimum(np.arange(2 * largest * cuts + 1) * (scale / 2 / cuts), support)
    levels = scale * ((np.arange(2 * largest * cuts) // cuts + 1) // 2)
    half = np.diff(edges) / 2
    x = edges[:-1, None] + half[:, None] * (1 + _CELL_NODES)
    cells = half * ((x - levels[:, None]) ** 2 * f(x) @ _CELL_WEIGHTS)
    rounding = 2 * float(cells.sum())
    if support <= clip:
        return ExpectedMSE(rounding, 0.0)
    t = (1 + _TAIL_NODES) / 2
    if math.isfinite(support):
        past, stretch = t * (support - clip), np.full_like(t, support - clip)
    else:
        past, stretch = t / (1 - t), 1 / (1 - t) ** 2
    tail = past**2 * f(clip + past) * stretch @ _TAIL_WEIGHTS / 2
    return ExpectedMSE(rounding, 2 * float(tail))


def optimal_clip(distribution: Distribution, bits: int) -> float:
    """Return the clip, in standard deviations, that minimises `expected_mse`.

    A scan of 200 clips from 0.3 to 40, evenly spaced in the logarithm, brackets the minimum;
    golden-section search narrows it to 1e-7, below which rounding noise would decide. Above 8 bits
    the scan goes further, since heavy tails ask for more: the best clip of ``student_t`` grows
    like ``2^(2 bits / 3)``.

    Raises
    ------
    ValueError
        If an argument is not one that `expected_mse` takes.
    """
    grid = np.geomspace(0.3, 40.0 * 2 ** max(0, bits - 8), 200)
    errors = [expected_mse(distribution, float(c), bits).total for c in grid]
    best = int(np.argmin(errors))
    low, high = float(grid[max(best - 1, 0)]), float(grid[min(best + 1, len(grid) - 1)])
    golden = (math.sqrt(5) - 1) / 2
    while high - low > 1e-7:
        left, right = high - golden * (high - low), low + golden * (high - low)
        f_left = expected_mse(distribution, left, bits).total
        if f_left <= expected_mse(distribution, right, bits).total:
            high = right
        else:
            low = left
    return (low + high) / 2


def _support(distribution: Distribution) -> float:
    return math.sqrt(3) if distribution == "uniform" else math.inf


def _check_distribution(distribution: str) -> None:
    if distribution not in get_args(Distribution):
        raise ValueError(
            f"distribution must be one of {get_args(Distribution)}, got {distribution!r}"
        )
