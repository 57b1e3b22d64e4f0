"""Proofs for vectors of your choice: no singular value is looked for, so nothing is left open.

As in `qtools.onebit.certificates`, numbers are fractions and "holds" means proved for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

from torch import Tensor

from qtools.onebit import exact
from qtools.onebit.certificates import Certified, leading_vector
from qtools.onebit.exact import Rational


def certify_eckart_young(weight: Tensor, a: Tensor, b: Tensor) -> Certified:
    """``‖W − a bᵀ‖_F² ≥ ‖W‖_F² − σ₁²`` for the given a and b.

    ``‖W b‖² / ‖b‖²`` is at most σ₁², so it is enough that ``‖W − a bᵀ‖_F² − ‖W‖_F² +
    ‖W b‖² / ‖b‖²`` is not negative. It is ``‖(‖b‖² a − W b)‖² / ‖b‖²``: the proof for rank 1.

    Returns
    -------
    Certified
        gap: that number.
    """
    w, (left,), (right,) = map(exact.rational, (weight, a, b))
    rest = [
        [x - p * q for q, x in zip(right, row, strict=True)] for p, row in zip(left, w, strict=True)
    ]
    gap = exact.squares(rest) - exact.squares(w)
    if any(right):
        gap += exact.squares(exact.times_transposed(w, [right])) / exact.squares([right])
    return Certified("holds" if gap >= 0 else "fails", gap)


def certify_elementwise(weight: Tensor, y: Tensor) -> Certified:
    """``‖|W| |y|‖² ≥ ‖W y‖²``, from ``|Σ_j w_ij y_j| ≤ Σ_j |w_ij| |y_j|`` in every row i.

    The step on which lemma 1 rests, for a y of your choice. With a non-negative W it is the one
    on which the sign of the leading vectors rests (Perron and Frobenius).

    Returns
    -------
    Certified
        gap: the smallest over rows of the right side less the left.
    """
    w, vector = exact.rational(weight), exact.rational(y)
    right = exact.times_transposed(exact.absolute(w), exact.absolute(vector))
    left = exact.absolute(exact.times_transposed(w, vector))
    gap = min(p[0] - q[0] for p, q in zip(right, left, strict=True))
    return Certified("holds" if gap >= 0 else "fails", gap)


def perron_bounds(weight: Tensor, v: Tensor) -> tuple[Fraction, Fraction]:
    """``‖M v‖² / ‖v‖² ≤ σ₁(M)² ≤ max_j (MᵀM v)_j / v_j``, M = |W|: both without rounding.

    The lower one is reached by a non-negative matrix of rank 1, ``(M v) vᵀ / ‖v‖²``: so the best
    error of NMF is above the best of the SVD by no more than the difference of the two.

    Parameters
    ----------
    v : Tensor
        [n], positive.

    Raises
    ------
    ValueError
        If an entry of v is not positive.
    """
    (w,), scale = exact.integers(exact.rational(weight))
    (vector,), _ = exact.integers(exact.rational(v))
    if min(vector[0]) <= 0:
        raise ValueError(f"v must be positive, got {v}")
    m = exact.magnitude(w)
    back = exact.image(list(zip(*m, strict=True)), exact.image(m, vector[0]))
    upper = max(Fraction(p, q) for p, q in zip(back, vector[0], strict=True))
    return exact.rayleigh(m, vector[0]) / scale**2, upper / scale**2


def onebit_product(x: Rational, sign: Rational, g: Sequence[Fraction],
                   h: Sequence[Fraction]) -> Rational:  # fmt: skip
    """``[(X ⊙ gᵀ) Sᵀ] ⊙ hᵀ`` in fractions: the OneBit layer before its LayerNorm."""
    scaled = [[p * q for p, q in zip(row, g, strict=True)] for row in x]
    return [[sum(p * s for p, s in zip(row, line, strict=True)) * k
             for line, k in zip(sign, h, strict=True)] for row in scaled]  # fmt: skip


def certify_proposition_1(
    x: Tensor,
    weight: Tensor,
    a: Tensor,
    b: Tensor,
    product: Callable[..., Rational] = onebit_product,
) -> Certified:
    """``‖X Wᵀ − [(X ⊙ bᵀ) W_signᵀ] ⊙ aᵀ‖_F ≤ ‖X‖₂ ‖E‖_F``, ``E = W − W_sign ⊙ (a bᵀ)``.

    Two things: that the product equals ``X (W − E)ᵀ`` entry by entry, for which no bound is
    needed (Xu et al. 2024, proposition 1); and ``‖X Eᵀ‖_F² ≤ r ‖E‖_F²`` with a Rayleigh quotient
    r, which is at most ``‖X‖₂²``.

    Parameters
    ----------
    x : Tensor
        [k, n].
    product : callable
        Of (X, S, g, h) in fractions: another one, to be put to the test.

    Returns
    -------
    Certified
        gap: of ``‖X‖₂² ‖E‖_F²`` less the squared left side. "fails" if the product is not
        ``X (W − E)ᵀ``; "not certified" if the quotient is not large enough.
    """
    inputs, w, (h,), (g,) = map(exact.rational, (x, weight, a, b))
    sign = [[Fraction(-1 if p < 0 else 1) for p in row] for row in w]
    near = [
        [s * p * q for s, q in zip(line, g, strict=True)] for line, p in zip(sign, h, strict=True)
    ]
    if product(inputs, sign, g, h) != exact.times_transposed(inputs, near):
        return Certified("fails", Fraction(0))
    e = [[p - q for p, q in zip(*rows, strict=True)] for rows in zip(w, near, strict=True)]
    (whole,), scale = exact.integers(inputs)
    if len(whole) < len(whole[0]):
        whole = [list(column) for column in zip(*whole, strict=True)]  # of one row it is exact
    quotient = exact.rayleigh(whole, leading_vector(whole)) / scale**2
    gap = quotient * exact.squares(e) - exact.squares(exact.times_transposed(inputs, e))
    return Certified("holds", gap) if gap >= 0 else Certified("not certified", Fraction(0))
