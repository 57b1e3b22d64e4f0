"""SparseGPT: the optimal brain surgeon at a cost that scales to large layers."""

from __future__ import annotations

import torch
from torch import Tensor

from qtools.pruning.compensation import checked_hessian
from qtools.pruning.masks import as_matrix, n_m_mask, unstructured_mask


def sparse_gpt(
    weight: Tensor,
    hessian: Tensor,
    sparsity: float | None = None,
    *,
    n_m: tuple[int, int] | None = None,
    block_size: int = 128,
    damping: float = 0.01,
) -> Tensor:
    """Drop weights column by column; the columns to the right make up for each (Frantar 2023).

    In the exact `obs_prune` every row needs an inverse of its own. If all rows drop in the order
    of the columns and only columns further right may answer, one factorisation serves them all:
    with ``H⁻¹ = Uᵀ U``, U upper triangular, dropping column j is

        ``W[:, j:] -= (w_j / U_jj) U[j, j:]``  at the cost  ``w_j² / U_jj²``.

    The mask is chosen for a block of columns when its turn comes, by that cost, with the weights
    as they are by then. Time of the order ``in³ + out * in²`` (Frantar and Alistarh 2023,
    algorithm 1).

    Parameters
    ----------
    weight : Tensor
        [out, ...], as a matrix [out, in].
    hessian : Tensor
        H, [in, in], positive semidefinite: `qtools.pruning.Gram.matrix`. A column whose input is
        always 0 is dropped at no cost.
    sparsity : float, optional
        Share of zeros in every block, from 0 to 1. Either this or n_m.
    n_m : tuple of int, optional
        (n, m): n kept of every m neighbours in a row.
    block_size : int
        Columns for which a mask is chosen at a time; a multiple of m.
    damping : float
        H gets this share of its mean diagonal added to its diagonal, above 0 where H is singular.

    Returns
    -------
    Tensor
        The new weight, in the shape and type of the old.

    Raises
    ------
    ValueError
        If not exactly one of sparsity and n_m is given, a shape does not fit, block_size is no
        multiple of m, or H with its damping is not positive definite.
    """
    w = as_matrix(weight.detach()).double().clone()
    if (sparsity is None) == (n_m is None):
        raise ValueError(f"give either sparsity or n_m, got {sparsity!r} and {n_m!r}")
    if block_size < 1 or (n_m is not None and block_size % n_m[1]):
        raise ValueError(f"block_size must be positive and a multiple of m, got {block_size}")
    u = inverse_factor(checked_hessian(weight, hessian), damping)
    w[:, hessian.diagonal() == 0] = 0
    for start in range(0, w.shape[1], block_size):
        block = slice(start, min(start + block_size, w.shape[1]))
        w[:, block.stop :] -= (
            _prune_block(w[:, block], u[block, block], sparsity, n_m) @ (u[block, block.stop :])
        )
    return w.to(weight.dtype).reshape(weight.shape)


def _prune_block(
    w: Tensor, u: Tensor, sparsity: float | None, n_m: tuple[int, int] | None
) -> Tensor:
    """Prune the columns of a block in place; return ``w_j / U_jj`` of what was dropped."""
    pivots = u.diagonal()
    dropped, width = torch.zeros_like(w), w.shape[1]
    if sparsity is not None:
        mask = unstructured_mask((w / pivots).square(), sparsity)
    for j in range(width):
        if n_m is not None and j % n_m[1] == 0:
            # Within the group the earlier columns' drops count already: choose when its turn comes.
            group = slice(j, j + n_m[1])
            chosen = n_m_mask((w[:, group] / pivots[group]).square(), *n_m)
        keep = chosen[:, j % n_m[1]] if n_m is not None else mask[:, j]
        dropped[:, j] = torch.where(keep, 0, w[:, j] / pivots[j])
        w[:, j:] -= dropped[:, j, None] * u[j, j:]
        w[:, j].masked_fill_(~keep, 0)
    return dropped


def inverse_factor(hessian: Tensor, damping: float) -> Tensor:
    """U with ``(H + d I)⁻¹ = Uᵀ U``, upper triangular, float64."""
    if damping < 0:
        raise ValueError(f"damping must not be negative, got {damping!r}")
    h = hessian.clone()
    diagonal = h.diagonal()
    diagonal += damping * diagonal.mean()
    diagonal[hessian.diagonal() == 0] = 1
    factor, info = torch.linalg.cholesky_ex(h)
    if info:
        raise ValueError("hessian must be positive definite once damped; give a larger damping")
    upper, info = torch.linalg.cholesky_ex(torch.cholesky_inverse(factor), upper=True)
    if info:
        raise ValueError("hessian is too close to singular; give a larger damping")
    return upper
