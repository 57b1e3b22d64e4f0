"""The optimal brain surgeon: drop weights, and let the others make up for them.

The error is that of a layer's output, ``E(δ) = δ H δᵀ`` for a change δ of one row of its weight,
with ``H = XᵀX / n`` from `qtools.pruning.gram`. Rows do not meet in it: each is a problem of its
own with the same H. Everything is computed in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qtools.pruning.masks import as_matrix, check_sparsity

#: Rows for which `obs_prune` keeps an inverse each: four of [576, 576] float64 are 11 MB.
_ROWS = 4


def obs_update(row: Tensor, hessian: Tensor, index: int) -> tuple[Tensor, float]:
    """``δ = -(w_q / [H⁻¹]_qq) H⁻¹ e_q``, which costs ``w_q² / [H⁻¹]_qq``.

    Of all changes δ with ``δ_q = -w_q`` the one of least ``δ H δᵀ`` (Hassibi and Stork 1993,
    eq. 5; they write ½ before the error). Without it the cost would be ``w_q² H_qq``, which is
    never less.

    Parameters
    ----------
    row : Tensor
        One row of a weight, [in].
    hessian : Tensor
        H, [in, in], positive definite.
    index : int
        q, the weight to drop.

    Returns
    -------
    tuple of Tensor and float
        The new row in the type of the old one, its q-th weight 0 exactly, and the cost.

    Raises
    ------
    ValueError
        If the shapes do not fit, or H is not positive definite.
    """
    h = checked_hessian(row[None], hessian)
    column = torch.cholesky_solve(_unit(h, index), _cholesky(h))[:, 0]
    w = row.detach().double()
    step = w[index] / column[index]
    new = w - step * column
    new[index] = 0
    return new.to(row.dtype), float(w[index] * step)


def obs_prune(weight: Tensor, hessian: Tensor, sparsity: float) -> Tensor:
    """Drop weights one by one, each time the cheapest of its row, with `obs_update` after each.

    Exact and greedy (Frantar and Alistarh 2022, algorithm 1): the inverse of H without the
    dropped column is ``H⁻¹ - H⁻¹ e_q e_qᵀ H⁻¹ / [H⁻¹]_qq``, one step of Gauss. Every row loses
    ``round(sparsity * in)`` weights. The time is of the order ``out * in³``.

    Parameters
    ----------
    weight : Tensor
        [out, ...], as a matrix [out, in].
    hessian : Tensor
        H, [in, in], positive definite.
    sparsity : float
        From 0 to 1.

    Returns
    -------
    Tensor
        The new weight, in the shape and type of the old.

    Raises
    ------
    ValueError
        If the shapes do not fit, H is not positive definite, or sparsity is not from 0 to 1.
    """
    h = checked_hessian(weight, hessian)
    inverse = torch.cholesky_inverse(_cholesky(h))
    drops = round(check_sparsity(sparsity) * len(h))
    rows = as_matrix(weight.detach()).double().split(_ROWS)
    done = torch.cat([_greedy(w.clone(), inverse, drops) for w in rows])
    return done.to(weight.dtype).reshape(weight.shape)


def _greedy(w: Tensor, inverse: Tensor, drops: int) -> Tensor:
    """`obs_prune` of a few rows, in place."""
    inverses = inverse.repeat(len(w), 1, 1)
    kept = torch.ones_like(w, dtype=torch.bool)
    each = torch.arange(len(w))
    for _ in range(drops):
        diagonal = inverses.diagonal(dim1=1, dim2=2)
        q = torch.where(kept, w.square() / diagonal, torch.inf).argmin(1)
        column = inverses[each, :, q]  # [rows, in]
        pivot = column[each, q]
        w -= (w[each, q] / pivot)[:, None] * column
        inverses.baddbmm_(column[:, :, None], (column / pivot[:, None])[:, None, :], alpha=-1)
        kept[each, q] = False
        # What is dropped has left the problem: exact zeros instead of the rounding of zeros.
        w[each, q], inverses[each, q], inverses[each, :, q] = 0, 0, 0
        diagonal[each, q] = 1
    return w.masked_fill_(~kept, 0)


def compensate(weight: Tensor, mask: Tensor, hessian: Tensor) -> Tensor:
    """``ŵ_K = w_K + H_KK⁻¹ H_KP w_P``, ``ŵ_P = 0``: the best weights under a given mask.

    K are the kept columns of a row, P the pruned. It is the least-squares solution: of all rows
    with zeros at P, none has a lower output error. In particular, none lower than w under its mask.

    Where H_KK is singular (an input that is always 0, or copies another) there are several;
    the change of least norm is taken.

    Parameters
    ----------
    weight : Tensor
        [out, ...], as a matrix [out, in].
    mask : Tensor
        bool in the shape of weight, True where kept.
    hessian : Tensor
        H, [in, in], positive semidefinite.

    Returns
    -------
    Tensor
        The new weight, in the shape and type of the old.

    Raises
    ------
    TypeError
        If mask is not bool.
    ValueError
        If the shapes do not fit.
    """
    h = checked_hessian(weight, hessian)
    if mask.dtype != torch.bool:
        raise TypeError(f"mask must be bool, got {mask.dtype}")
    if mask.shape != weight.shape:
        raise ValueError(
            f"mask must have the weight's shape {list(weight.shape)}, got {list(mask.shape)}"
        )
    old, kept = as_matrix(weight.detach()).double(), as_matrix(mask)
    new = old * kept
    for row, keep in zip(range(len(old)), kept, strict=True):
        pull = h[keep][:, ~keep] @ old[row, ~keep]
        new[row, keep] += _solve(h[keep][:, keep], pull)
    return new.to(weight.dtype).reshape(weight.shape)


def output_error(weight: Tensor, new_weight: Tensor, hessian: Tensor) -> float:
    """``tr((W - Ŵ) H (W - Ŵ)ᵀ)``: mean squared change of the layer's output, over its inputs.

    Parameters
    ----------
    weight, new_weight : Tensor
        [out, ...], as matrices [out, in].
    hessian : Tensor
        H, [in, in].

    Raises
    ------
    ValueError
        If the shapes do not fit.
    """
    h = checked_hessian(weight, hessian)
    if new_weight.shape != weight.shape:
        raise ValueError(
            f"new_weight must have the shape {list(weight.shape)}, got {list(new_weight.shape)}"
        )
    change = as_matrix(weight.detach()).double() - as_matrix(new_weight.detach()).double()
    return float(((change @ h) * change).sum())


def checked_hessian(weight: Tensor, hessian: Tensor) -> Tensor:
    """Return H in float64 if it fits the weight."""
    columns = as_matrix(weight).shape[1]
    if hessian.shape != (columns, columns):
        raise ValueError(
            f"hessian must have the shape [{columns}, {columns}], got {list(hessian.shape)}"
        )
    return hessian.double()


def _cholesky(h: Tensor) -> Tensor:
    factor, info = torch.linalg.cholesky_ex(h)
    if info:
        raise ValueError(
            "hessian must be positive definite; add a small multiple of the identity to it"
        )
    return factor


def _solve(h: Tensor, b: Tensor) -> Tensor:
    """``h x = b`` for a positive semidefinite h and b in its range; the x of least norm."""
    factor, info = torch.linalg.cholesky_ex(h)
    diagonal = factor.diagonal()
    # A pivot at the level of its rounding is a zero: dividing by it would give noise.
    if info or (len(h) and float((diagonal / h.diagonal().sqrt()).min()) < 1e-7):
        return torch.linalg.pinv(h, hermitian=True) @ b
    return torch.cholesky_solve(b[:, None], factor)[:, 0]


def _unit(h: Tensor, index: int) -> Tensor:
    if not -len(h) <= index < len(h):
        raise ValueError(f"index must be from {-len(h)} to {len(h) - 1}, got {index}")
    e = h.new_zeros(len(h), 1)
    e[index] = 1
    return e
