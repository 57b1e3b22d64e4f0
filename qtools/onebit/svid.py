"""Sign-value-independent decomposition: a matrix of signs times the best rank 1 of magnitudes."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from qtools.onebit.perron import Magnitude, leading

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


class SVID(NamedTuple):
    """``W ≈ sign ⊙ (a bᵀ)``, with a and b non-negative and of the same Euclidean norm.

    Attributes
    ----------
    sign : Tensor
        [m, n], +1 or −1; where W is 0 (or −0) it is +1.
    a : Tensor
        [m], for the rows: OneBit's h.
    b : Tensor
        [n], for the columns: OneBit's g.
    relative_error : float
        ``‖W − sign ⊙ (a bᵀ)‖_F / ‖W‖_F``, measured; 0 for the zero matrix.
    iterations : int
        Products with |W|ᵀ|W| that it took.
    """

    sign: Tensor
    a: Tensor
    b: Tensor
    relative_error: float
    iterations: int

    def reconstruct(self) -> Tensor:
        """``sign ⊙ (a bᵀ)``, shape [m, n]."""
        return self.sign * torch.outer(self.a, self.b)


@torch.no_grad()
def svid(weight: Tensor, tol: float = 1e-6) -> SVID:
    """``W ≈ W_sign ⊙ (a bᵀ)`` where ``a bᵀ = σ₁ u₁ v₁ᵀ`` is the best rank 1 of M = |W|.

    Signs are free: ``|W − W_sign ⊙ (a bᵀ)| = ||W| − a bᵀ|`` entry by entry, so the magnitudes
    are all that is approximated (Xu et al. 2024, equation 4). Nothing negative is
    in M, so u₁ and v₁ can be taken non-negative (Perron and Frobenius), and rank-1 NMF has the
    same optimum.

    **Iteration.** ``v ← MᵀM v``, from the column sums ``v = Mᵀ1``: positive for every column
    that is not zero, hence never at a right angle to v₁. At the end ``u = M v / ‖M v‖``,
    ``σ = ‖Mᵀu‖``, ``a = √σ u`` and ``b = Mᵀu / √σ``, for which the squared error is
    ``‖M‖_F² − σ²``. It reads W block by block and makes no copy of |W|.

    **Stopping rule.** For non-negative matrices σ₁² lies between two numbers that cost nothing::

        ‖M v‖² / ‖v‖²  ≤  σ₁²  ≤  max_j (MᵀM v)_j / v_j     (v > 0; Collatz, Wielandt)

    It stops when they differ by at most ``tol · ‖W‖_F²``: the squared error is then within that
    of the smallest possible. (Residuals, the usual rule, can be small at the wrong singular
    vector; this cannot, entries below 1e-30 of the largest aside, which are left out.)

    **Fallback.** After 32 steps, σ₂ is so near to σ₁ that the iteration stalls, or some columns
    hardly take part. Lanczos' method with full reorthogonalisation then goes on from v, in
    float64, until the residual is below ``tol · ‖W‖_F² / 1000``, or for 300 steps. Absolute
    values are taken of its vector: that can only make ``‖M v‖`` larger. With σ₁ = σ₂, as for
    blocks that tie, which vector of the common space comes out is left open; the error is not.

    **Split.** ``‖a‖ = ‖b‖ = √σ``. The paper takes the pair from an SVD or from NMF. Only the
    product is determined: ``c a`` and ``b / c`` serve as well, and NMF's updates end wherever
    their start led them.

    Parameters
    ----------
    weight : Tensor
        Floating point [m, n]. float16 and bfloat16 are computed, and answered, in float32.
    tol : float
        Positive. float32 does not reach much below 1e-6, float64 not below 1e-14.

    Returns
    -------
    SVID
        Scaled by powers of two on the way, so neither large nor small numbers are a problem, up
        to those whose *approximation* leaves the type's range: it can be up to
        ``(1 + √n) / 2`` times the largest weight. Rows and columns of zeros give zeros in a, b.

    Raises
    ------
    TypeError
        If `weight` is none of float16, bfloat16, float32 and float64.
    ValueError
        If `weight` is not a dense non-empty matrix of finite numbers, or `tol` not positive.

    Examples
    --------
    >>> sv = svid(torch.tensor([[2.0, -4.0], [-1.0, 2.0], [0.0, 0.0]]))
    >>> sv.reconstruct()
    tensor([[ 2., -4.],
            [-1.,  2.],
            [ 0.,  0.]])
    """
    if not (tol > 0 and math.isfinite(tol)):
        raise ValueError(f"tol must be positive and finite, got {tol}")
    if weight.dtype not in FLOATS:
        raise TypeError(f"weight must be floating point of 16 to 64 bits, got {weight.dtype}")
    if weight.is_meta or weight.layout != torch.strided:
        raise ValueError(
            f"weight must be dense with values, got {weight.layout} on {weight.device}"
        )
    if weight.ndim != 2 or weight.numel() == 0:
        raise ValueError(f"weight must be a non-empty matrix, got shape {list(weight.shape)}")
    dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
    magnitude = Magnitude(weight, dtype)
    sign = signs(weight, dtype)
    start, total = magnitude.start()
    if total == 0:
        return SVID(sign, sign.new_zeros(len(weight)), start.to(dtype), 0.0, 0)
    u, image, iterations = leading(magnitude, start, tol * total)
    length = u.norm()
    root = (image.norm() / length).sqrt()  # √σ
    a, b = (root * u / length).to(dtype), (image / (length * root)).to(dtype)
    error = math.sqrt(magnitude.distance(a, b) / total)
    half = magnitude.exponent // 2
    return SVID(sign, a * 2.0**half, b * 2.0**half, error, iterations)


def signs(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """−1 where `weight` is below 0, +1 elsewhere: zeros of either sign are positive here."""
    sign = weight.to(dtype, copy=True).add_(0.0)  # −0 + 0 = +0
    return torch.copysign(sign.new_ones(()), sign, out=sign)
