"""GPTQ: round the columns one by one; those still to come make up for each."""

from __future__ import annotations

import torch
from torch import Tensor

from qtools.pruning.compensation import checked_hessian
from qtools.pruning.sparsegpt import inverse_factor
from qtools.weight_only.grid import Grid, Quantized, check_weight, gather


def gptq(
    weight: Tensor,
    hessian: Tensor,
    bits: int,
    group_size: int | None = None,
    symmetric: bool = False,
    *,
    act_order: bool = True,
    block_size: int = 128,
    damping: float = 0.01,
) -> Quantized:
    """Round column j, then ``W[:, j:] -= ((w_j - ŵ_j) / U_jj) U[j, j:]`` with ``H⁻¹ = Uᵀ U``.

    That is the update of the optimal brain surgeon when a weight becomes ŵ_j instead of 0
    (Frantar et al. 2023, eq. 2), for all rows in the same order, so that one factorisation serves
    them all (their algorithm 1): of all changes to the columns that are still to come, the one of
    least output error. Column j costs ``(w_j - ŵ_j)² / U_jj²``. It is no theorem that the sum of
    these is below the error of `rtn`, which is another choice of levels: where weights are at
    the end of the grid, or with one bit, it can be above.

    Scale and zero point of a group are those of its weights when its first column's turn comes,
    with all that they have made up for until then. Updates wait until their column's turn, or for
    the end of a block of columns: the same numbers, less memory traffic. A column whose input is
    always 0 (a dead column) is rounded to nearest and moves nothing. (The released code sets it
    to 0 instead: one bit has no 0, and an input that is 0 in the calibration data need not be so
    always.) Everything is computed in float64.

    Parameters
    ----------
    weight : Tensor
        [out, in], floating point.
    hessian : Tensor
        H = XᵀX / n, [in, in], positive semidefinite: `qtools.pruning.Gram.matrix`.
    bits, group_size, symmetric
        As in `rtn`. Groups are of neighbouring columns, whatever the order.
    act_order : bool
        The columns with the largest inputs first, while there are many to make up for them; this
        came with the released code, after the paper. Otherwise from left to right.
    block_size : int
        Columns that send their updates on together.
    damping : float
        H gets this share of its mean diagonal added to its diagonal, above 0 where H is singular.

    Raises
    ------
    ValueError
        As in `rtn`; if H does not fit, is not finite, or is not positive definite with its
        damping; if block_size is below 1 or damping is negative.
    """
    size = check_weight(weight, group_size)
    if block_size < 1:
        raise ValueError(f"block_size must be at least 1, got {block_size!r}")
    if not bool(hessian.isfinite().all()):
        raise ValueError("hessian must be finite; does the calibration data give finite inputs?")
    h = checked_hessian(weight, hessian)
    columns = len(h)
    order = torch.arange(columns, device=h.device)
    if act_order:
        order = h.diagonal().argsort(descending=True, stable=True)
    u = inverse_factor(h[order][:, order], damping)
    w = weight.detach().double().T[order]  # [in, out]: a column of W lies in one piece
    group = order // size  # of each column, in the order of their turns
    errors, codes = torch.empty_like(w), torch.empty(w.shape, dtype=torch.uint8, device=w.device)
    grids: dict[int, Grid] = {}
    for start in range(0, columns, block_size):
        stop = min(start + block_size, columns)
        for j, g in enumerate(group[start:stop].tolist(), start):
            sent = slice(start, j)  # by columns of this block, and waiting
            if g not in grids:
                members = (group == g).nonzero()[:, 0]
                now = w[members] - u[sent, members].T @ errors[sent]
                grids[g] = Grid.fit(now.T, bits, symmetric)
            column = (w[j] - u[sent, j] @ errors[sent])[:, None]
            q = grids[g].round(column)
            codes[j] = q[:, 0]
            errors[j] = (column - grids[g].values(q))[:, 0] / u[j, j]
        w[stop:] -= u[start:stop, stop:].T @ errors[start:stop]
    back = order.argsort()
    return gather([grids[g] for g in range(len(grids))], [codes[back].T.contiguous()], symmetric)
