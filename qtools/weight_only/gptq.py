"""GPTQ: round the columns one by one; those still to come make up for each."""

from __future__ import annotations

from collections.abc import Iterator

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
    block_size: int = 128,
    damping: float = 0.01,
) -> Quantized:
    """Round column j, then ``W[:, j:] -= ((w_j - ŵ_j) / U_jj) U[j, j:]`` with ``H⁻¹ = Uᵀ U``.

    That is the update of the optimal brain surgeon when a weight becomes ŵ_j instead of 0
    (Frantar and Alistarh 2022, eq. 7), for all rows in the same order, so that one factorisation
    serves them all (Frantar et al. 2023, section 3.3): of all changes to the columns that are
    still to come, the one of least output error. It costs ``(w_j - ŵ_j)² / U_jj²``.

    Scale and zero point of a group are those of its weights when its first column's turn comes,
    with all that they have made up for until then. Columns behind a block get its updates in one
    product: the same numbers, less memory traffic. A column whose input is always 0 (a dead
    column) is rounded to nearest and moves nothing. (The released code sets it to 0 instead: one
    bit has no 0, and an input that is 0 in the calibration data need not be so always.)

    The columns are taken as they come. Everything is computed in float64.

    Parameters
    ----------
    weight : Tensor
        [out, in], floating point.
    hessian : Tensor
        H = XᵀX / n, [in, in], positive semidefinite: `qtools.pruning.Gram.matrix`.
    bits, group_size, symmetric
        As in `rtn`.
    block_size : int
        Columns that are updated at once; cut where a group starts.
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
    u = inverse_factor(checked_hessian(weight, hessian), damping)
    w = weight.detach().double().T.contiguous()  # [in, out]: a column of W lies in one piece
    grids: list[Grid] = []
    codes = torch.empty(w.shape, dtype=torch.uint8, device=w.device)
    for block in _blocks(len(w), size, block_size):
        errors = torch.empty_like(w[block])
        for j in range(block.start, block.stop):
            if j % size == 0:
                grids.append(Grid.fit(w[j : j + size].T, bits, symmetric))
            q = grids[-1].round(w[j, :, None])
            codes[j] = q[:, 0]
            errors[j - block.start] = error = (w[j] - grids[-1].values(q)[:, 0]) / u[j, j]
            w[j : block.stop] -= u[j, j : block.stop, None] * error
        w[block.stop :] -= u[block, block.stop :].T @ errors
    return gather(grids, [codes.T.contiguous()], symmetric)


def _blocks(columns: int, group: int, block: int) -> Iterator[slice]:
    """Blocks that hold whole groups or lie in one: a group must start with all that came before."""
    span = max(block // group, 1) * group
    for outer in range(0, columns, span):
        stop = min(outer + span, columns)
        for start in range(outer, stop, block):
            yield slice(start, min(start + block, stop))
