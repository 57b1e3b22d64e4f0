"""Low rank where it counts: the error on a layer's inputs instead of the error of its weight."""

from __future__ import annotations

import torch
from torch import Tensor

from qtools.decomposition.rank import LowRank, best_rank_k, check_rank, checked_matrix


def whitened_rank_k(weight: Tensor, k: int, gram: Tensor) -> LowRank:
    """``argmin ‖X (W − B)ᵀ‖_F`` over rank B ≤ k, where ``gram = XᵀX / n``: ``B = U_k U_kᵀ W``.

    With any S such that ``S Sᵀ = gram`` the error is ``√n ‖(W − B) S‖_F``, so Eckart–Young asks
    that B S be the best approximation of W S. If S has an inverse::

        B = best_rank_k(W S) S⁻¹ = U_k U_kᵀ (W S) S⁻¹ = U_k U_kᵀ W

    where U_k holds the first k left singular vectors of W S. The last form needs no inverse, and
    it is a minimiser for a singular S just as well, ``B S = U_k U_kᵀ W S``. There minimisers are
    many, since nothing is asked in directions that no input had; if σ_k > σ_{k+1} for W S, this
    one is the nearest to W. (B S fixes the column space of each of them as that of U_k, and
    ``‖W − U_k C‖_F`` is least for ``C = U_kᵀ W``.) So nothing needs damping. If W S has a rank
    r < k, the other k − r directions go to the best approximation of what is left of W. In other
    words: keep the k principal components of the layer's outputs X Wᵀ.

    Sources: reduced-rank regression (Izenman 1975); for networks Zhang et al. 2016, section 3.1;
    in the form with ``S⁻¹``, S from Cholesky, Wang et al. 2024 (SVD-LLM).

    Two things to know. The layer's error is the least, the network's need not be: what the next
    layers make of an error is not asked. And X is taken as it is: after a ReLU, much of X Wᵀ is
    one and the same vector, its mean, and the first direction goes there. A bias carries that for
    nothing. With μ the mean of the inputs, ``gram − μ μᵀ`` for `gram` and ``b + (W − B) μ`` for the
    bias b are the best pair of a B of rank k and a bias.

    Parameters
    ----------
    weight : Tensor
        Floating point [m, n].
    k : int
        1 to min(m, n).
    gram : Tensor
        [n, n], symmetric and positive semidefinite up to rounding: eigenvalues below
        ``-1e-6 · largest`` are refused, others below 0 are taken for 0. Its scale does not matter.

    Returns
    -------
    LowRank
        Computed in float64, answered in the dtype that `best_rank_k` would answer in.

    Raises
    ------
    TypeError, ValueError
        As `best_rank_k`; and if `gram` has another shape, is not symmetric, or is not positive
        semidefinite.
    """
    matrix = checked_matrix(weight, "weight")
    check_rank(k, min(matrix.shape), "k")
    # Within the column space of W, so that at full rank U is square and B = W whatever the inputs.
    basis, w = torch.linalg.qr(matrix.double())
    u, s, _ = torch.linalg.svd(w @ _root(gram, w), full_matrices=False)
    # Beyond the outputs that vary at all, W itself says which directions are worth keeping. The
    # energy s² of the others is below rounding, and their u would be noise.
    cut = s[0] * (max(w.shape) * torch.finfo(s.dtype).eps) ** 0.5
    known = min(k, int((s > cut).sum()))
    left = u[:, :known]
    right = left.T @ w
    norm = torch.linalg.vector_norm(right, dim=1).sqrt()
    left, right = left * norm, right / norm[:, None]
    if known < k:
        rest = best_rank_k(w - left @ right, k - known)
        left, right = torch.cat([left, rest.left], 1), torch.cat([right, rest.right])
    return LowRank((basis @ left).to(matrix), right.to(matrix))


def whitened_singular_values(weight: Tensor, gram: Tensor) -> Tensor:
    """``σ_i(W S)``, ``S Sᵀ = gram``: those of the outputs X Wᵀ, divided by √n.

    `rank_by_energy` of them keeps that share of the outputs.

    The error of `whitened_rank_k` is ``√n · sqrt(Σ_{i>k} σ_i²)``.

    Parameters
    ----------
    weight, gram : Tensor
        As of `whitened_rank_k`: [m, n] and [n, n].

    Returns
    -------
    Tensor
        float64 [min(m, n)], in descending order.
    """
    w = checked_matrix(weight, "weight").double()
    return torch.linalg.svdvals(w @ _root(gram, w))


def rank_k(weight: Tensor, k: int, gram: Tensor | None) -> LowRank:
    """`best_rank_k`, or `whitened_rank_k` if there is a Gram matrix."""
    return best_rank_k(weight, k) if gram is None else whitened_rank_k(weight, k, gram)


def _root(gram: Tensor, like: Tensor) -> Tensor:
    """``S = Q √Λ`` with ``S Sᵀ = Q Λ Qᵀ = gram``."""
    n = like.shape[1]
    if gram.shape != (n, n):
        raise ValueError(f"gram must have shape [{n}, {n}], got {list(gram.shape)}")
    gram = checked_matrix(gram, "gram").to(like)
    if (gram - gram.T).abs().max() > 1e-5 * gram.abs().max():
        raise ValueError("gram must be symmetric")
    values, vectors = torch.linalg.eigh((gram + gram.T) / 2)
    if values[0] < -1e-6 * values[-1].abs():
        raise ValueError(f"gram must be positive semidefinite, got eigenvalue {values[0]:.3g}")
    # What rounding leaves of an eigenvalue 0 would have a root far above rounding.
    values = torch.where(values > n * torch.finfo(values.dtype).eps * values[-1], values, 0)
    return vectors * values.sqrt()
