"""Which rank: by what it keeps, by what it costs, by what the network still knows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from qtools.decomposition.rank import check_rank


def rank_by_energy(singular_values: Tensor, energy: float) -> int:
    """``min {k ≥ 1 : Σ_{i≤k} σ_i² ≥ energy · Σ_i σ_i²}``.

    By Eckart–Young, the relative error of the best approximation of this rank is at most
    ``sqrt(1 − energy)`` in the Frobenius norm. Sums are taken in float64.

    Parameters
    ----------
    singular_values : Tensor
        Those of the weight, or `whitened_singular_values`: then it is the energy of the outputs.
        Not negative, in descending order.
    energy : float
        In (0, 1]. With 1, what is smaller than rounding is left out.

    Raises
    ------
    ValueError
        If an argument is not as said.

    Examples
    --------
    >>> rank_by_energy(torch.tensor([3.0, 1.0, 0.0]), 0.9)
    1
    """
    s = singular_values.detach().double()
    if s.ndim != 1 or len(s) == 0 or not s.isfinite().all():
        raise ValueError("singular_values must be a non-empty vector of finite numbers")
    if (s < 0).any() or (s[1:] > s[:-1]).any():
        raise ValueError("singular_values must not be negative, and descend")
    if not 0 < energy <= 1:
        raise ValueError(f"energy must be in (0, 1], got {energy}")
    # The largest is brought to 1, so that squares neither overflow nor vanish.
    kept = (s / s[0]).square().cumsum(0) if s[0] > 0 else torch.ones_like(s)
    return int((kept < energy * kept[-1]).sum()) + 1


def break_even_rank(*shape: int) -> int:
    """``⌈Π d_i / Σ d_i⌉ − 1``: the largest rank at which the factors have fewer numbers.

    For a matrix, ``k (m + n) < m n``; in general one factor ``[d_i, k]`` for each axis, together
    ``k · Σ d_i < Π d_i``. 0 means that no rank pays.

    Parameters
    ----------
    *shape : int
        At least two sizes. ``(out, in)`` for `LowRankLinear`, ``(out, in·kh·kw)`` for `conv_svd`,
        ``(in·kh, out·kw)`` for `spatial_separable`, ``(out, in, kh, kw)`` for `cp`.

    Notes
    -----
    Multiplications of a linear layer, and of a convolution with stride 1 that keeps the size of the
    image, break even at the same rank. With a stride, chains that shrink the image in the last link
    or in two steps compute more in the first: measure with `cost`.

    Examples
    --------
    >>> break_even_rank(128, 576)
    104
    """
    if len(shape) < 2 or min(shape) < 1:
        raise ValueError(f"shape must be at least two positive sizes, got {shape}")
    return (math.prod(shape) - 1) // sum(shape)


def tucker2_break_even(shape: Sequence[int], rank_in: int) -> int:
    """Largest rank_out with ``rank_in·in + rank_in·rank_out·kh·kw + rank_out·out < out·in·kh·kw``.

    Parameters
    ----------
    shape : sequence of four int
        ``conv.weight.shape``: out, in, kh, kw.
    rank_in : int
        1 to in.

    Returns
    -------
    int
        0 to out; 0 means that none pays.

    Examples
    --------
    >>> tucker2_break_even((64, 32, 3, 3), 32)
    49
    """
    if len(shape) != 4 or min(shape) < 1:
        raise ValueError(f"shape must be four positive sizes, got {tuple(shape)}")
    out, inside, kh, kw = shape
    check_rank(rank_in, inside, "rank_in")
    left = math.prod(shape) - rank_in * inside
    return min(out, max(0, (left - 1) // (rank_in * kh * kw + out)))


def rank_by_bytes(shape: Sequence[int], budget_bytes: int, dtype: torch.dtype) -> int:
    """``⌊budget / (Σ d_i · bytes of a number)⌋``: the largest rank whose factors fit.

    Parameters
    ----------
    shape : sequence of int
        As for `break_even_rank`: ``(out, in)`` for a linear layer.
    budget_bytes : int
        For the factors; a bias comes on top.
    dtype : torch.dtype
        What they are stored in.

    Returns
    -------
    int
        At most what is useful, ``Π d_i / max d_i``: min(m, n) for a matrix. Above
        `break_even_rank` the dense layer would fit as well.

    Raises
    ------
    ValueError
        If not even rank 1 fits.

    Examples
    --------
    >>> rank_by_bytes((128, 576), 100_000, torch.float32)
    35
    """
    if len(shape) < 2 or min(shape) < 1:
        raise ValueError(f"shape must be at least two positive sizes, got {tuple(shape)}")
    each = sum(shape) * dtype.itemsize
    if budget_bytes < each:
        raise ValueError(f"budget_bytes must be at least {each} for rank 1, got {budget_bytes}")
    return min(int(budget_bytes // each), math.prod(shape) // max(shape))


def rank_by_validation(
    score: Callable[[int], float], candidates: Iterable[int], at_least: float
) -> int:
    """``min {k in candidates : score(k) ≥ at_least}``.

    Candidates are tried from the smallest on, up to the first that is good enough: a score need not
    grow with the rank, so a bisection could miss it. Use data that were kept from training, and
    report the result on others: the chosen rank has seen these.

    Parameters
    ----------
    score : callable
        Rank to score, higher is better: say, the accuracy of the decomposed network.
    candidates : iterable of int
        In any order.
    at_least : float
        For instance the dense network's accuracy less one point.

    Raises
    ------
    ValueError
        If there are no candidates or none is good enough; the message has the best.

    Examples
    --------
    >>> rank_by_validation({2: 0.71, 4: 0.88, 8: 0.90}.get, [2, 4, 8], at_least=0.85)
    4
    """
    found: dict[int, float] = {}
    for rank in sorted(set(candidates)):
        found[rank] = score(rank)
        if found[rank] >= at_least:
            return rank
    if not found:
        raise ValueError("candidates must not be empty")
    best = max(found, key=lambda rank: found[rank])
    raise ValueError(
        f"at_least must be within reach, got {at_least}; the best is {found[best]} at rank {best}"
    )
