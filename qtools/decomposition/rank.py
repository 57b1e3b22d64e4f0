"""The nearest matrix of rank k, and how far away it is."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class LowRank(NamedTuple):
    """``left @ right``: a matrix [m, n] of rank at most k, kept as two factors.

    Column i of `left` and row i of `right` have the same Euclidean norm, so that neither factor
    has a range of numbers that the other lacks. Both are good to quantize and to train.

    Attributes
    ----------
    left : Tensor
        Shape [m, k].
    right : Tensor
        Shape [k, n].
    """

    left: Tensor
    right: Tensor

    @property
    def rank(self) -> int:
        """Number of columns of `left`: the rank of the product is at most this."""
        return self.left.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of the two factors, ``k (m + n)`` numbers."""
        return self.left.nbytes + self.right.nbytes

    def reconstruct(self) -> Tensor:
        """The product, shape [m, n]."""
        return self.left @ self.right


def best_rank_k(weight: Tensor, k: int) -> LowRank:
    """``W_k = Σ_{i≤k} σ_i u_i v_iᵀ``, split as ``left = U_k √Σ_k`` and ``right = √Σ_k V_kᵀ``.

    **Eckart–Young–Mirsky.** Let W have the singular values σ₁ ≥ σ₂ ≥ ... Then every matrix B of
    rank at most k satisfies::

        ‖W − B‖_F² ≥ Σ_{i>k} σ_i² = ‖W − W_k‖_F²      (Eckart and Young 1936)
        ‖W − B‖₂   ≥ σ_{k+1}      = ‖W − W_k‖₂        (Mirsky 1960, for all such norms)

    The minimiser in the Frobenius norm is unique if σ_k > σ_{k+1}; in the spectral norm it hardly
    ever is. Both statements with proofs: Blum, Hopcroft and Kannan 2020, section 3.5.

    In floating point ``‖W − left right‖_F`` differs from ``sqrt(Σ_{i>k} σ_i²)`` by at most
    ``8 (m + n) u ‖W‖_F``, u the spacing of numbers at 1 (a bound that the tests hold, not a
    theorem).

    Parameters
    ----------
    weight : Tensor
        Floating point [m, n]. float16 and bfloat16 are computed in float32.
    k : int
        1 to min(m, n).

    Returns
    -------
    LowRank
        In the dtype of the computation: that of `weight`, or float32 if it has 16 bits. (σ₁ of a
        float16 matrix need not be a float16 number.)

    Raises
    ------
    TypeError
        If `weight` is not floating point, or k no integer.
    ValueError
        If `weight` is not a matrix of finite numbers, or k is out of range.

    Examples
    --------
    >>> best_rank_k(torch.tensor([[4.0, 0.0], [0.0, 1.0]]), 1).reconstruct().abs()
    tensor([[4., 0.],
            [0., 0.]])
    """
    matrix = checked_matrix(weight, "weight")
    check_rank(k, min(matrix.shape), "k")
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    root = s[:k].sqrt()
    return LowRank(u[:, :k] * root, root[:, None] * vh[:k])


def truncation_error(singular_values: Tensor, k: int) -> float:
    """``sqrt(Σ_{i>k} σ_i²)``: the Frobenius distance to the nearest matrix of rank k.

    Summed in float64 from the smallest on.

    Parameters
    ----------
    singular_values : Tensor
        All of them, in descending order.
    k : int
        0 to their number; with 0 it is the norm of the matrix.
    """
    if not 0 <= k <= len(singular_values):
        raise ValueError(f"k must be from 0 to {len(singular_values)}, got {k}")
    return float(singular_values.detach()[k:].flip(0).double().square().sum().sqrt())


def checked_matrix(weight: Tensor, name: str) -> Tensor:
    """`weight` detached, in the dtype to compute with: at least float32.

    Raises
    ------
    TypeError, ValueError
        If it is not a non-empty matrix of finite real floating-point numbers.
    """
    if not weight.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {weight.dtype}")
    if weight.ndim != 2 or weight.numel() == 0:
        raise ValueError(f"{name} must be a non-empty matrix, got shape {list(weight.shape)}")
    weight = weight.detach()
    if weight.dtype in (torch.float16, torch.bfloat16):
        weight = weight.float()
    if not weight.isfinite().all():
        raise ValueError(f"{name} must be finite, got NaN or infinity")
    return weight


def check_rank(rank: int, largest: int, name: str = "rank") -> None:
    """Raise TypeError unless it is an integer, ValueError unless from 1 to `largest`."""
    if not isinstance(rank, int) or isinstance(rank, bool):
        raise TypeError(f"{name} must be an integer, got {rank!r}")
    if not 1 <= rank <= largest:
        raise ValueError(f"{name} must be from 1 to {largest}, got {rank}")
