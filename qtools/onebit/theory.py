"""Every statement behind OneBit, one function each: in float64 with error bars, and proved.

In float64, for matrices of any size, a function returns `Check`: the gap that has to be zero or
not negative, how far rounding may have moved it, and so whether it can be what the statement says.
Gaps are relative to ‖W‖_F (or its square), so they have no unit, and no matrix is too large or
too small: it is divided by its norm first.

In fractions, for small matrices, the functions called ``certify_…`` return `Certified`, whose
"holds" is a proof.

| statement | float64 | proved |
|---|---|---|
| Eckart–Young, rank 1 | `eckart_young` | `certify_eckart_young` |
| Perron–Frobenius | `perron_frobenius` | `certify_elementwise`, `perron_bounds` |
| proposition 1 | `proposition_1` | `certify_proposition_1` |
| lemma 1 | `lemma_1` | `certify_lemma_1` (its step: `certify_elementwise`) |
| proposition 2 | `proposition_2`, `proposition_2_steps` | `certify_proposition_2`, `certify_svid` |
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from qtools.decomposition.rank import check_rank, checked_matrix
from qtools.onebit.certificates import (
    Between,
    Certified,
    Part,
    Signs,
    certify_lemma_1,
    certify_order,
    certify_proposition_2,
    certify_svid,
)
from qtools.onebit.inequalities import (
    certify_eckart_young,
    certify_elementwise,
    certify_proposition_1,
    perron_bounds,
)
from qtools.onebit.svid import signs

__all__ = [
    "Between",
    "Certified",
    "Check",
    "Part",
    "Signs",
    "certify_eckart_young",
    "certify_elementwise",
    "certify_lemma_1",
    "certify_order",
    "certify_proposition_1",
    "certify_proposition_2",
    "certify_svid",
    "eckart_young",
    "lemma_1",
    "perron_bounds",
    "perron_frobenius",
    "proposition_1",
    "proposition_2",
    "proposition_2_steps",
]

EPS = torch.finfo(torch.float64).eps


class Check(NamedTuple):
    """A gap in float64, and what rounding may have added to it.

    Attributes
    ----------
    gap : float
        What the statement says is zero, or not negative.
    error : float
        ``|gap − exact gap|`` is at most this. A bound that the tests hold, not a theorem; for
        that there are the certified checks.
    relation : {"= 0", ">= 0"}
    """

    gap: float
    error: float
    relation: Literal["= 0", ">= 0"]

    @property
    def consistent(self) -> bool:
        """Whether the exact gap can be as the statement says. False refutes it."""
        return self.gap >= -self.error and (self.relation == ">= 0" or self.gap <= self.error)

    @property
    def strict(self) -> bool:
        """Whether the gap is further above zero than rounding explains."""
        return self.gap > self.error


def eckart_young(weight: Tensor, a: Tensor, b: Tensor) -> Check:
    """``(‖W − a bᵀ‖_F² − Σ_{i≥2} σ_i²) / ‖W‖_F² ≥ 0`` for every a [m] and b [n].

    Zero where ``a bᵀ = σ₁ u₁ v₁ᵀ`` (Eckart and Young 1936; Blum, Hopcroft and Kannan 2020,
    section 3.5). The error bar grows with ``‖a‖ ‖b‖``.
    """
    w, left = _unit(weight, a=a)
    near = torch.outer(left, b.detach().double())
    gap = (w - near).square().sum() - _tail(w, 1)
    size = 1 + near.square().sum().item()
    return Check(gap.item(), 2 * _bar(w) * size, ">= 0")


def perron_frobenius(weight: Tensor) -> Check:
    """``(σ₁² − ‖M |v₁|‖²) / ‖M‖_F² = 0``, M = |W|: a non-negative vector is as good as v₁.

    Hence ``u₁ = M v₁ / σ₁`` and v₁ can be taken non-negative, ``σ₁ u₁ v₁ᵀ`` is a rank-1 NMF, and
    the best NMF of rank 1 has the error of the best matrix of rank 1.
    """
    m = _unit(weight)[0].abs()
    _, s, vh = torch.linalg.svd(m, full_matrices=False)
    gap = s[0].square() - (m @ vh[0].abs()).square().sum()
    return Check(gap.item(), 2 * _bar(m), "= 0")


def proposition_1(x: Tensor, weight: Tensor, a: Tensor, b: Tensor) -> Check:
    """``(‖X‖₂ ‖E‖_F − ‖X Wᵀ − [(X ⊙ bᵀ) W_signᵀ] ⊙ aᵀ‖_F) / (‖X‖_F ‖W‖_F) ≥ 0``.

    E is SVID's error ``W − W_sign ⊙ (a bᵀ)``; without one, the product is exact (Xu et al. 2024,
    proposition 1, and the bound that follows from ``‖X Eᵀ‖_F ≤ ‖X‖₂ ‖E‖_F``).

    Parameters
    ----------
    x : Tensor
        [k, n].
    weight : Tensor
        [m, n].
    a, b : Tensor
        [m] and [n]: `svid`'s, or any.
    """
    (x, _), (w, h) = _unit(x, "x"), _unit(weight, a=a)
    g = b.detach().double()
    sign = signs(w, torch.float64)
    near = sign * torch.outer(h, g)
    error = w - near
    off = x @ w.T - (x * g) @ sign.T * h
    gap = torch.linalg.matrix_norm(x, 2) * error.norm() - off.norm()
    size = 1 + near.norm().item()
    return Check(gap.item(), (_bar(w) + _bar(x)) * size, ">= 0")


def lemma_1(weight: Tensor) -> Check:
    """``(σ₁(|W|) − σ₁(W)) / ‖W‖_F ≥ 0`` (Xu et al. 2024, lemma 1)."""
    w, _ = _unit(weight)
    gap = torch.linalg.matrix_norm(w.abs(), 2) - torch.linalg.matrix_norm(w, 2)
    return Check(gap.item(), _bar(w), ">= 0")


def proposition_2(weight: Tensor, rank: int = 1) -> Check:
    """``(Σ_{i>k} σ_i(W)² − Σ_{i>k} σ_i(|W|)²) / ‖W‖_F² ≥ 0`` for rank k = 1.

    The errors of the best plain approximation of W, and of the best one of |W| with W's signs put
    back (Xu et al. 2024, proposition 2). For k ≥ 2 it is no theorem: ask, and see it fail.

    Examples
    --------
    >>> w = torch.tensor([[1.0, 1.0, 1.0], [0.0, 1.0, 2.0], [1.0, 0.0, -1.0]])
    >>> proposition_2(w).consistent, proposition_2(w, rank=2).consistent
    (True, False)
    """
    w, _ = _unit(weight)
    check_rank(rank, min(w.shape))
    return Check((_tail(w, rank) - _tail(w.abs(), rank)).item(), 2 * _bar(w), ">= 0")


def proposition_2_steps(weight: Tensor) -> dict[str, Check]:
    """The proof of proposition 2, line by line; all gaps relative to ‖W‖_F² (lemma 1: ‖W‖_F).

    Returns
    -------
    dict
        "signs": ``‖W − W_sign ⊙ (ã b̃ᵀ)‖² = ‖|W| − ã b̃ᵀ‖²``. "error": ``‖W − a bᵀ‖²`` is the sum
        of the other ``σ_i²``. "error of magnitudes": the same of |W|. "trace":
        ``Σ σ_i² = tr(W Wᵀ)``. "norms": ``‖W‖² = ‖|W|‖²``. "lemma 1". "proposition 2".
    """
    w, _ = _unit(weight)
    m = w.abs()
    plain, magnitudes = _rank_one(w), _rank_one(m)
    back = signs(w, torch.float64) * magnitudes
    total = w.square().sum()

    def zero(gap: Tensor) -> Check:
        return Check(gap.item(), 2 * _bar(w), "= 0")

    return {
        "signs": zero((w - back).square().sum() - (m - magnitudes).square().sum()),
        "error": zero((w - plain).square().sum() - _tail(w, 1)),
        "error of magnitudes": zero((m - magnitudes).square().sum() - _tail(m, 1)),
        "trace": zero(torch.linalg.svdvals(w).square().sum() - (w @ w.T).trace()),
        "norms": zero(total - m.square().sum()),
        "lemma 1": lemma_1(w),
        "proposition 2": proposition_2(w),
    }


def _unit(matrix: Tensor, name: str = "weight", a: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """``W / ‖W‖_F`` in float64, zero if it is zero, and ``a / ‖W‖_F``."""
    w = checked_matrix(matrix, name).double()
    other = (w.new_zeros(1) if a is None else a).detach().double()
    # Largest entry near 1 first, so that squares neither overflow nor vanish; in two factors,
    # since one can be out of range itself.
    exponent = int(torch.frexp(w.abs().max()).exponent)
    for part in (exponent // 2, exponent - exponent // 2):
        w, other = w * 2.0**-part, other * 2.0**-part
    norm = w.norm() if w.any() else w.new_ones(())
    return w / norm, other / norm


def _rank_one(w: Tensor) -> Tensor:
    u, s, vh = torch.linalg.svd(w, full_matrices=False)
    return s[0] * torch.outer(u[:, 0], vh[0])


def _tail(w: Tensor, k: int) -> Tensor:
    return torch.linalg.svdvals(w)[k:].square().sum()


def _bar(w: Tensor) -> float:
    """``8 (m + n) ε`` for a matrix of norm 1: as stated for `best_rank_k`."""
    return 8 * sum(w.shape) * EPS
