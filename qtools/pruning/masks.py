"""Masks: which weights stay, for every pattern of zeros.

A mask is a bool tensor in the shape of the weight, True where the weight is kept. A convolution's
weight [out, in, kh, kw] counts as the matrix [out, in kh kw] that multiplies its patches, so that
"row" always means all that makes one output, and "column" one number that comes in.

All functions take a score (`qtools.pruning.scores`): the higher, the more the weight matters. They
drop exactly as many as they are asked to, those of lowest score; among equal scores the first.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def unstructured_mask(score: Tensor, sparsity: float) -> Tensor:
    """Drop the ``round(sparsity * numel)`` weights of lowest score, wherever they are.

    Parameters
    ----------
    score : Tensor
        Any real type and shape; bool mask of the same shape comes back.
    sparsity : float
        Share of zeros, from 0 to 1.

    Raises
    ------
    ValueError
        If sparsity is not from 0 to 1, or a score is NaN.

    Examples
    --------
    >>> unstructured_mask(torch.tensor([[3.0, 1.0], [0.5, 2.0]]), 0.5)
    tensor([[ True, False],
            [False,  True]])
    """
    return _without_lowest(check_score(score), sparsity)


def row_mask(score: Tensor, sparsity: float) -> Tensor:
    """Drop the ``round(sparsity * rows)`` rows whose scores sum to least: whole outputs.

    Raises
    ------
    ValueError
        As `unstructured_mask`, and if score has fewer than two dimensions.
    """
    matrix = as_matrix(check_score(score))
    kept = _without_lowest(matrix.sum(1), sparsity)
    return kept[:, None].expand_as(matrix).reshape(score.shape).clone()


def column_mask(score: Tensor, sparsity: float) -> Tensor:
    """Drop the ``round(sparsity * columns)`` columns whose scores sum to least: whole inputs.

    Raises
    ------
    ValueError
        As `row_mask`.
    """
    matrix = as_matrix(check_score(score))
    kept = _without_lowest(matrix.sum(0), sparsity)
    return kept.expand_as(matrix).reshape(score.shape).clone()


def block_mask(score: Tensor, sparsity: float, block: tuple[int, int] = (4, 4)) -> Tensor:
    """Drop the ``round(sparsity * blocks)`` blocks whose scores sum to least.

    Parameters
    ----------
    score : Tensor
        Two dimensions or more; as a matrix [rows, columns] it is cut into blocks.
    sparsity : float
        Share of zeros, from 0 to 1.
    block : tuple of int
        Rows and columns of a block.

    Raises
    ------
    ValueError
        As `row_mask`, and if the block does not divide the matrix.
    """
    matrix = as_matrix(check_score(score))
    (rows, columns), (high, wide) = matrix.shape, block
    if high < 1 or wide < 1 or rows % high or columns % wide:
        raise ValueError(f"block must divide the matrix [{rows}, {columns}], got {block}")
    sums = matrix.reshape(rows // high, high, columns // wide, wide).sum((1, 3))
    kept = _without_lowest(sums, sparsity)
    return kept.repeat_interleave(high, 0).repeat_interleave(wide, 1).reshape(score.shape)


def n_m_mask(score: Tensor, n: int = 2, m: int = 4) -> Tensor:
    """Keep the n of highest score in every m neighbours along a row (n:m sparsity).

    2:4 is the pattern that GPUs since 2020 multiply at twice the rate (Mishra et al. 2021). The
    neighbours are along the sum of a product: they belong to one output.

    Raises
    ------
    ValueError
        If not ``0 < n <= m``, m does not divide the columns, or as `row_mask`.

    Examples
    --------
    >>> n_m_mask(torch.tensor([[4.0, 3.0, 2.0, 1.0]]))
    tensor([[ True,  True, False, False]])
    """
    matrix = as_matrix(check_score(score))
    if not 0 < n <= m:
        raise ValueError(f"n must be from 1 to m = {m}, got {n}")
    if matrix.shape[1] % m:
        raise ValueError(f"m must divide the {matrix.shape[1]} columns, got {m}")
    groups = matrix.reshape(-1, m)
    dropped = groups.argsort(dim=1, stable=True)[:, : m - n]
    kept = torch.ones_like(groups, dtype=torch.bool).scatter_(1, dropped, False)
    return kept.reshape(score.shape)


def global_masks(scores: Mapping[str, Tensor], sparsity: float) -> dict[str, Tensor]:
    """Drop the weights of lowest score in all layers together: one threshold for the network.

    Layers of many small scores lose more than others; `unstructured_mask` for each layer takes
    the same share of all.

    Parameters
    ----------
    scores : mapping from name to Tensor
        As comparable as the scores are: magnitudes only where layers have like scales.
    sparsity : float
        Share of zeros among all weights, from 0 to 1.

    Raises
    ------
    ValueError
        As `unstructured_mask`.
    """
    together = torch.cat([check_score(s).flatten() for s in scores.values()])
    parts = _without_lowest(together, sparsity).split([s.numel() for s in scores.values()])
    return {
        name: part.reshape(score.shape)
        for (name, score), part in zip(scores.items(), parts, strict=True)
    }


def as_matrix(weight: Tensor) -> Tensor:
    """[out, ...] as [out, the product of the rest]."""
    if weight.ndim < 2:
        raise ValueError(f"a weight must have two dimensions or more, got {list(weight.shape)}")
    return weight.flatten(1)


def check_score(score: Tensor) -> Tensor:
    """Return the score if it is one."""
    if bool(score.isnan().any()):
        raise ValueError("score must not contain NaN: it has no order")
    return score


def check_sparsity(sparsity: float) -> float:
    """Return the sparsity if it is one."""
    if not 0 <= sparsity <= 1:
        raise ValueError(f"sparsity must be from 0 to 1, got {sparsity!r}")
    return sparsity


def _without_lowest(score: Tensor, sparsity: float) -> Tensor:
    """``round(sparsity * numel)`` of lowest score are False."""
    flat = score.flatten()
    dropped = flat.argsort(stable=True)[: round(check_sparsity(sparsity) * flat.numel())]
    kept = torch.ones_like(flat, dtype=torch.bool)
    kept[dropped] = False
    return kept.reshape(score.shape)
