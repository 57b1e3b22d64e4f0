"""Power iteration: the largest singular value and its vectors, by products with W and Wᵀ alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from qtools.decomposition.rank import checked_matrix


class PowerIteration(NamedTuple):
    """``W v = σ u`` exactly, ``Wᵀ u ≈ σ v`` within the tolerance, after so many iterations."""

    sigma: Tensor
    u: Tensor
    v: Tensor
    iterations: int


class PowerStep(NamedTuple):
    """The estimates after some iterations: ``u = W v / σ`` and ``residual = ‖Wᵀu − σv‖``."""

    sigma: Tensor
    u: Tensor
    v: Tensor
    residual: Tensor


def power_iteration(
    weight: Tensor,
    max_iterations: int = 1000,
    tol: float = 1e-6,
    seed: int = 0,
    start: Tensor | None = None,
) -> PowerIteration:
    """``v ← WᵀW v / ‖WᵀW v‖``, then ``σ = ‖W v‖`` and ``u = W v / σ``.

    **Rate.** Let θ_t be the angle between v after t iterations and v₁. Unless v starts at a right
    angle to v₁::

        tan θ_t ≤ (σ₂/σ₁)^{2t} tan θ₀

    with equality for matrices of rank 2. The value is better than the vector:
    ``σ₁² cos²θ ≤ σ² ≤ σ₁²``, an error of order θ². So σ's error falls by (σ₂/σ₁)⁴ an iteration
    (Golub and Van Loan 2013, section 8.2.1, applied to WᵀW).

    **Stopping rule.** ``‖Wᵀu − σv‖ ≤ tol · σ``. Then some singular value σ_j satisfies
    ``|σ_j² − σ²| ≤ tol · σ²``, and if it is σ₁, ``sin θ ≤ tol · σ² / (σ² − σ₂²)`` as long as
    σ > σ₂. So a small gap leaves v less certain than σ. With σ₁ = σ₂ the iteration goes to that
    pair of vectors of the common space which the start is nearest to.

    Parameters
    ----------
    weight : Tensor
        Floating point [m, n]. float16 and bfloat16 are computed, and answered, in float32.
    max_iterations : int
        Products with WᵀW at most. If the rule is not met by then, the last estimate is returned,
        with ``iterations == max_iterations``.
    tol : float
        At least 0; with 0 all iterations are made. float32 does not reach much below 1e-6,
        float64 not below 1e-15.
    seed : int
        Of the standard normal start, from torch's CPU generator, so the same on every device.
    start : Tensor, optional
        Shape [n], instead. Where x ≥ 0 is known of v₁, as for a non-negative W, ones are good.

    Returns
    -------
    PowerIteration
        ``(sigma, u, v, iterations)``; u [m] and v [n] are unit vectors. The zero matrix gives
        σ = 0 with iterations = 0, the normalised start for v and the first unit vector for u.

    Raises
    ------
    TypeError, ValueError
        As `best_rank_k`; and if `start` is zero, not of shape [n], or in the null space of a W
        that is not zero; there is no way out of it.

    Examples
    --------
    >>> sigma, u, v, iterations = power_iteration(torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
    >>> round(sigma.item(), 4)
    3.0
    """
    if max_iterations < 0:
        raise ValueError(f"max_iterations must be at least 0, got {max_iterations}")
    if not (tol >= 0 and math.isfinite(tol)):
        raise ValueError(f"tol must be finite and at least 0, got {tol}")
    for iterations, step in enumerate(power_steps(weight, seed, start)):
        met = step.sigma == 0 or (tol > 0 and step.residual <= tol * step.sigma)
        if met or iterations == max_iterations:
            break
    return PowerIteration(step.sigma, step.u, step.v, iterations)


def power_steps(weight: Tensor, seed: int = 0, start: Tensor | None = None) -> Iterator[PowerStep]:
    """Estimates after 0, 1, 2, ... iterations of `power_iteration`, without end.

    Parameters are those of `power_iteration`. For its history: ``islice(power_steps(W), 20)``.
    """
    matrix = checked_matrix(weight, "weight")
    v = _start(matrix, seed, start)
    # A power of two brings entries near 1, so that squares neither overflow nor vanish.
    exponent = torch.frexp(matrix.abs().max()).exponent
    matrix = torch.ldexp(matrix, -exponent)
    zero = not matrix.any()
    while True:
        image = matrix @ v
        sigma = torch.linalg.vector_norm(image)
        if sigma == 0 and not zero:
            raise ValueError("start must not lie in the null space of weight")
        u = torch.eye(len(image), 1).to(image)[:, 0] if zero else image / sigma
        back = matrix.T @ u
        residual = torch.linalg.vector_norm(back - sigma * v)
        yield PowerStep(torch.ldexp(sigma, exponent), u, v, torch.ldexp(residual, exponent))
        if not zero:
            v = back / torch.linalg.vector_norm(back)


def _start(matrix: Tensor, seed: int, start: Tensor | None) -> Tensor:
    n = matrix.shape[1]
    if start is None:
        generator = torch.Generator().manual_seed(seed)
        start = torch.randn(n, generator=generator, dtype=torch.float64)
    if start.shape != (n,) or not start.isfinite().all() or not start.any():
        raise ValueError(
            f"start must be a finite vector of shape [{n}] other than zero, got {start}"
        )
    start = start.detach().double()
    start = start / start.abs().max()
    return (start / torch.linalg.vector_norm(start)).to(matrix)
