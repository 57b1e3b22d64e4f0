"""Tucker-2 and CP: a kernel as a tensor of four axes, fitted by TensorLy, made into layers."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from qtools.decomposition.convolution import part, ungrouped
from qtools.decomposition.rank import check_rank

#: Ridge of the CP fit, for a kernel of norm 1. It makes the normal equations solvable and keeps
#: terms from growing without bound against each other; 1e-9 does not show in the error.
_RIDGE = 1e-9


def tucker2(conv: nn.Conv2d, rank_in: int, rank_out: int) -> nn.Sequential:
    """``W[o,i,y,x] ≈ Σ_{p,q} O[o,p] C[p,q,y,x] I[i,q]``: 1×1 to rank_in, kh×kw, 1×1 from rank_out.

    Only the two axes of channels shrink; those of the kernel are short already (Kim et al. 2016,
    section 3.1). Parameters ``rank_in · in + rank_in · rank_out · kh·kw + rank_out · out``: see
    `tucker2_break_even`.

    The fit starts from the SVDs of the two unfoldings. With t_out² and t_in² the sums of the
    squared singular values that they leave out::

        max(t_out, t_in) ≤ least error ≤ error of the start ≤ sqrt(t_out² + t_in²)

    so the start is within √2 of the least (on the left Eckart–Young, on the right De Lathauwer et
    al. 2000a, property 10). Higher-order orthogonal iteration in float64 follows, of which no step
    makes it worse (De Lathauwer et al. 2000b, section 4; Kolda and Bader 2009, figure 4.4); its
    end need not be the global minimum. At full ranks it is exact.

    Parameters
    ----------
    conv : nn.Conv2d
        groups = 1; unchanged. Any stride, padding, padding mode, dilation and bias.
    rank_in, rank_out : int
        1 to the number of input, output channels.

    Returns
    -------
    nn.Sequential
        Three Conv2d. The middle one has the stride, padding and dilation, the last the bias.

    Raises
    ------
    ValueError
        If the convolution is grouped, or a rank out of range.
    """
    w = ungrouped(conv)
    check_rank(rank_in, w.shape[1], "rank_in")
    check_rank(rank_out, w.shape[0], "rank_out")
    with _tensorly():
        from tensorly.decomposition import partial_tucker

        (core, (outputs, inputs)), _ = partial_tucker(
            w.double(), rank=[rank_out, rank_in], modes=[0, 1], tol=1e-10, random_state=0
        )
    return nn.Sequential(
        part(conv, inputs.T[:, :, None, None]),
        part(conv, core, axes=(0, 1)),
        part(conv, outputs[:, :, None, None], bias=conv.bias),
    )


def cp(
    conv: nn.Conv2d, rank: int, starts: int = 2, max_iterations: int = 200, seed: int = 0
) -> nn.Sequential:
    """``W[o,i,y,x] ≈ Σ_r O[o,r] I[i,r] Y[y,r] X[x,r]``: 1×1, kh×1, 1×kw, 1×1.

    The two in the middle are depthwise, on `rank` channels (Lebedev et al. 2015, section 3).
    Parameters ``rank · (out + in + kh + kw)``: fewer than the kernel's up to
    ``break_even_rank(out, in, kh, kw)``.

    **What can go wrong.** Unlike a matrix, a tensor may have no best approximation of rank r: terms
    grow without bound and cancel (de Silva and Lim 2008). Where there is one, finding it is NP-hard
    (Hillar and Lim 2013). So the fit, alternating least squares in float64, is tried from several
    starts: the SVDs of the unfoldings first, random numbers then. The nearest result is kept, its
    terms spread evenly over the four factors. A ridge of 1e-9 (kernel of norm 1) holds the terms
    together. No result is promised to be the nearest there is, nor to have settled in
    `max_iterations`: measure it, ``(merged_kernel(chain) - conv.weight).norm()``.

    Parameters
    ----------
    conv : nn.Conv2d
        groups = 1; unchanged. Any stride, padding, padding mode, dilation and bias.
    rank : int
        1 to the product of the kernel's sizes but the largest; no tensor needs more.
    starts : int
        How many fits to choose from, at least 1.
    max_iterations : int
        Of each fit, at least 1; it stops before if the relative error changes by less than 1e-8.
    seed : int
        Of the random starts. No global generator is used.

    Returns
    -------
    nn.Sequential
        Four Conv2d. The second has the vertical stride, padding and dilation, the third the
        horizontal, the last the bias.

    Raises
    ------
    ValueError
        If the convolution is grouped, or an argument out of range.
    RuntimeError
        If every start ended in numbers that are not finite.
    """
    w = ungrouped(conv)
    check_rank(rank, w.numel() // max(w.shape))
    for name, value in (("starts", starts), ("max_iterations", max_iterations)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    outputs, inputs, vertical, horizontal = _fit_cp(w.double(), rank, starts, max_iterations, seed)
    return nn.Sequential(
        part(conv, inputs.T[:, :, None, None]),
        part(conv, vertical.T[:, None, :, None], axes=(0,), groups=rank),
        part(conv, horizontal.T[:, None, None, :], axes=(1,), groups=rank),
        part(conv, outputs[:, :, None, None], bias=conv.bias),
    )


def _fit_cp(w: Tensor, rank: int, starts: int, max_iterations: int, seed: int) -> list[Tensor]:
    """Factors [out, rank], [in, rank], [kh, rank], [kw, rank] of the nearest fit found."""
    norm = torch.linalg.vector_norm(w)
    if norm == 0:
        return [w.new_zeros(size, rank) for size in w.shape]
    unit, least, best = w / norm, float("inf"), None
    for start in range(starts):
        with _tensorly():
            from tensorly.decomposition import parafac

            try:
                scales, factors = parafac(
                    unit, rank, n_iter_max=max_iterations, init="random" if start else "svd",
                    random_state=seed + start, l2_reg=_RIDGE,
                )  # fmt: skip
            except torch.linalg.LinAlgError:
                continue
        factors[0] = factors[0] * scales
        error = float((unit - torch.einsum("or,ir,yr,xr->oiyx", *factors)).norm())
        if error < least:  # never so for NaN
            least, best = error, factors
    if best is None:
        raise RuntimeError(f"no start led to a finite CP decomposition of rank {rank}")
    norms = torch.stack([factor.norm(dim=0) for factor in best])
    even = (norm * norms.prod(0)) ** 0.25
    norms = torch.where(norms > 0, norms, 1)  # a term that is zero has no direction to scale
    return [factor * (even / n) for factor, n in zip(best, norms, strict=True)]


@contextmanager
def _tensorly() -> Iterator[None]:
    """TensorLy on torch, in this thread and for this block only; imported when first needed."""
    import tensorly

    with tensorly.backend_context("pytorch", local_threadsafe=True), warnings.catch_warnings():
        # It says so when a rank exceeds an axis; for a kernel of 3 rows that is always.
        warnings.filterwarnings("ignore", "Trying to compute SVD", UserWarning)
        yield
