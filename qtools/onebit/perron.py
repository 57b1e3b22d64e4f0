"""The leading singular vectors of |W|: passes over W, power iteration, and Lanczos after it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

#: Numbers looked at together: a megabyte of float32, so that memory is read once a pass.
BLOCK = 2**18
#: Steps of power iteration before Lanczos takes over, and steps of that at most.
POWER_STEPS, LANCZOS_STEPS = 32, 300
#: Entries of v count as zero below this, the largest being 1: their products lose digits.
NEGLIGIBLE = 1e-30


class Magnitude:
    """``M = |W| / 2^exponent``, its largest entry in [1/4, 1), never stored as a whole.

    Parameters
    ----------
    weight : Tensor
        [m, n], floating point.
    dtype : torch.dtype
        To compute with, float32 or float64. Sums over the blocks are kept in float64.

    Raises
    ------
    ValueError
        If there is NaN or infinity in `weight`.
    """

    def __init__(self, weight: Tensor, dtype: torch.dtype) -> None:
        self.weight, self.dtype = weight, dtype
        low, high = torch.aminmax(weight)
        largest = torch.maximum(-low, high).to(dtype)
        if not largest.isfinite():
            raise ValueError("weight must be finite, got NaN or infinity")
        exponent = int(torch.frexp(largest).exponent)
        self.exponent = exponent + exponent % 2  # even: its square root is a power of two

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Rows of M, a block at a time, in a buffer that the next block overwrites."""
        m, n = self.weight.shape
        rows = min(m, max(1, BLOCK // n)) if self.weight.device.type == "cpu" else m
        buffer = self.weight.new_empty(rows, n, dtype=self.dtype)
        # 2^-exponent itself can be out of range, where the weights are subnormal.
        limit = 126 if self.dtype == torch.float32 else 1022
        first = max(-limit, min(limit, -self.exponent))
        for top in range(0, m, rows):
            here = slice(top, min(top + rows, m))
            block = buffer[: here.stop - top].copy_(self.weight[here]).abs_().mul_(2.0**first)
            if first != -self.exponent:
                block.mul_(2.0 ** (-self.exponent - first))
            yield here, block

    def start(self) -> tuple[Tensor, float]:
        """``Mᵀ1`` in float64, positive for every column that is not zero, and ``‖M‖_F²``."""
        sums = self.weight.new_zeros(self.weight.shape[1], dtype=torch.float64)
        total = 0.0
        for _, block in self.blocks():
            sums += block.sum(0)
            total += block.square_().sum().item()  # torch sums by halves: no digit is lost
        return sums, total

    def forth_and_back(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """``u = M v`` [m] and ``Mᵀu`` [n], both in float64."""
        v = v.to(self.dtype)
        u = self.weight.new_empty(len(self.weight), dtype=torch.float64)
        image = v.new_zeros(len(v), dtype=torch.float64)
        for here, block in self.blocks():
            part = block @ v
            u[here] = part
            image += block.T @ part
        return u, image

    def distance(self, a: Tensor, b: Tensor) -> float:
        """``‖M − a bᵀ‖_F²``."""
        return sum(
            block.addr_(a[here], b, alpha=-1).square_().sum().item()
            for here, block in self.blocks()
        )


class Leading(NamedTuple):
    """``u = M v`` and ``image = Mᵀu`` for a v ≥ 0 near v₁, after so many iterations."""

    u: Tensor
    image: Tensor
    iterations: int


def leading(magnitude: Magnitude, start: Tensor, slack: float) -> Leading:
    """Power iteration ``v ← MᵀM v`` until ``max_j (MᵀM v)_j / v_j − ‖M v‖² / ‖v‖² ≤ slack``.

    Both are bounds of σ₁², above and below (Collatz 1942; Wielandt 1950). Where they are not near
    enough after POWER_STEPS, `ritz_vector` goes on.

    Parameters
    ----------
    start : Tensor
        [n] in float64, v ≥ 0, positive where a column is not zero.
    slack : float
        In the unit of ``‖M‖_F²``.
    """
    v = start
    for iterations in range(1, POWER_STEPS + 1):
        v = v / v.max()
        v = torch.where(v < NEGLIGIBLE, 0.0, v).to(magnitude.dtype).double()
        u, image = magnitude.forth_and_back(v)
        lower = u.square().sum() / v.square().sum()
        upper = (image / v)[v > 0].max()
        if upper - lower <= slack:
            return Leading(u, image, iterations)
        v = image
    exact = Magnitude(magnitude.weight, torch.float64)
    v, more = ritz_vector(exact, v, slack / 1000)
    # No entry of M is negative, so M |v| is nowhere smaller than |M v|.
    return Leading(*exact.forth_and_back(v.abs()), iterations + more + 1)


def ritz_vector(magnitude: Magnitude, start: Tensor, tolerance: float) -> tuple[Tensor, int]:
    """The best v in ``span{v, Gv, G²v, ...}``, ``G = MᵀM``, by Lanczos' method.

    Each new vector is made orthogonal to all before it, twice: the plain three-term recurrence
    loses that where σ₁ is found first (Golub and Van Loan 2013, chapter 10).

    Parameters
    ----------
    tolerance : float
        For ``‖G v − θ v‖``, θ the Ritz value.

    Returns
    -------
    Tensor
        [n], float64, of norm 1.
    int
        Products with G.
    """
    steps = min(len(start), LANCZOS_STEPS)
    basis = start.new_empty(steps, len(start))
    basis[0] = start / start.norm()
    tridiagonal = start.new_zeros(steps + 1, steps + 1)
    for k in range(steps):
        rest = magnitude.forth_and_back(basis[k])[1]
        tridiagonal[k, k] = basis[k] @ rest
        for _ in range(2):
            rest = rest - basis[: k + 1].T @ (basis[: k + 1] @ rest)
        beta = rest.norm()
        last = k + 1 == steps or beta == 0
        if last or k % 8 == 7 or beta <= tolerance:
            ritz = torch.linalg.eigh(tridiagonal[: k + 1, : k + 1])[1][:, -1]
            if last or beta * ritz[-1].abs() <= tolerance:
                break
        tridiagonal[k, k + 1] = tridiagonal[k + 1, k] = beta
        basis[k + 1] = rest / beta
    return basis[: k + 1].T @ ritz, k + 1
