"""Proofs for one matrix at a time: "holds" means shown with no rounding, for these very numbers.

Every function gives `Certified`. Its verdict is "holds", "fails" where the opposite is shown, or
"not certified"; never more than the certificate bears out, and the certificate can be checked
again with the functions of `qtools.onebit.exact`. Meant for up to 12 rows or columns, whichever
are fewer: the integers grow with each step of an elimination.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import isqrt
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from qtools.onebit import exact
from qtools.onebit.exact import Matrix

Verdict = Literal["holds", "fails", "not certified"]
ORDERS: tuple[tuple[Verdict, int, int], ...] = (("holds", 0, 1), ("fails", 1, 0))
#: Times that a y is made better, each with so many steps of power iteration, to so many bits.
ROUNDS, STEPS, BITS = 8, 8, 1024


class Between(NamedTuple):
    """``σ₁(A) ≤ t ≤ σ₁(B)``: ``t² I − AᵀA`` is positive semidefinite and ``‖B y‖² ≥ t² ‖y‖²``."""

    t: Fraction
    y: tuple[int, ...]


class Signs(NamedTuple):
    """``W = D₁ |W| D₂`` with these diagonals, orthogonal matrices: the singular values agree."""

    d: tuple[int, ...]
    e: tuple[int, ...]


class Part(NamedTuple):
    """A block of a matrix that is block-diagonal up to a permutation, and the proof for it."""

    rows: tuple[int, ...]
    columns: tuple[int, ...]
    proof: Between | Signs | None


class Certified(NamedTuple):
    """What was shown.

    Attributes
    ----------
    verdict : {"holds", "fails", "not certified"}
    gap : Fraction
        Proved lower bound of what the statement says is not negative, in the unit that the
        function states; 0 if it is not certified. Where the statement is an equality: the gap.
    parts : tuple of Part
        The certificate, block by block; empty where the gap itself is the proof.
    """

    verdict: Verdict
    gap: Fraction
    parts: tuple[Part, ...] = ()


def certify_order(small: Tensor, large: Tensor) -> Certified:
    """``σ₁(A) ≤ σ₁(B)``, for any two matrices with floating-point entries.

    t is taken halfway between the values that float64 finds, y is float64's singular vector, and
    both are then rational numbers like any others. Where the gap is too small for that, power
    iteration in whole numbers makes y better, to 1024 bits, and t is the quotient's root rounded
    down. If they do not do either, because the norms are equal or nearer still, it is not
    certified. "fails" means that ``σ₁(B) < σ₁(A)`` is shown.

    Returns
    -------
    Certified
        gap: of ``σ₁(B)² − σ₁(A)²``, or of the opposite where it fails.
    """
    (a, b), scale = exact.integers(exact.rational(small), exact.rational(large))
    everything = tuple(range(len(a))), tuple(range(len(a[0])))
    for rounds in (0, ROUNDS):
        for verdict, below, above in ORDERS:
            proof, gap = _between((a, b)[below], (a, b)[above], rounds)
            if proof is not None and (gap > 0 or verdict == "holds"):
                shown = Between(proof.t / scale, proof.y)
                return Certified(verdict, gap / scale**2, (Part(*everything, shown),))
    return Certified("not certified", Fraction(0))


def certify_lemma_1(weight: Tensor) -> Certified:
    """``σ₁(W) ≤ σ₁(|W|)`` (Xu et al. 2024, lemma 1).

    Blocks of W that share no row or column are taken one by one: if it holds for each, it holds
    for the largest. A block has signs with ``W = D₁ |W| D₂``, and then the two are equal, or it is
    `Between`. There is no third case: for a block that hangs together, equality needs such
    signs (Wielandt 1950). So all that is left open is a gap too small for 1024 bits to find a t in.

    Returns
    -------
    Certified
        gap: of ``σ₁(|W|)² − σ₁(W)²``; never "fails". The zero matrix has no parts, and holds.
    """
    (matrix,), scale = exact.integers(exact.rational(weight))
    parts, bounds = [], []
    for rows, columns in exact.components(matrix):
        block = [[matrix[i][j] for j in columns] for i in rows]
        proof, gap = _lemma_1(block)
        if isinstance(proof, Between):
            proof = Between(proof.t / scale, proof.y)
            bounds.append((proof.t**2, proof.t**2 + gap / scale**2))
        parts.append(Part(tuple(rows), tuple(columns), proof))
    if any(part.proof is None for part in parts):
        return Certified("not certified", Fraction(0), tuple(parts))
    if len(bounds) < len(parts) or not parts:
        return Certified("holds", Fraction(0), tuple(parts))
    above, below = (max(values) for values in zip(*bounds, strict=True))
    return Certified("holds", below - above, tuple(parts))


def certify_proposition_2(weight: Tensor) -> Certified:
    """``‖W − W_sign ⊙ (ã b̃ᵀ)‖_F² ≤ ‖W − a bᵀ‖_F²``, both the best there are.

    The left side is ``‖|W|‖_F² − σ₁(|W|)²``, the right ``‖W‖_F² − σ₁(W)²`` (Eckart–Young). The
    norms are compared in whole numbers; the rest is `certify_lemma_1`, whose certificate and gap
    these are (Xu et al. 2024, proposition 2).

    Returns
    -------
    Certified
        gap: of the right side less the left.
    """
    (matrix,), _ = exact.integers(exact.rational(weight))
    ours, theirs = (sum(map(exact.square, m)) for m in (exact.magnitude(matrix), matrix))
    trace = sum(row[i] for i, row in enumerate(exact.gram(matrix)))
    if not ours == theirs == trace:
        return Certified("fails", Fraction(0))
    return certify_lemma_1(weight)


def certify_svid(weight: Tensor, a: Tensor, b: Tensor) -> Certified:
    """``‖W − W_sign ⊙ (a bᵀ)‖_F² ≤ ‖W − B‖_F²`` for *these* a, b and every B of rank 1.

    With E the left side, computed exactly, it says ``σ₁(W)² ≤ ‖W‖_F² − E``, which elimination
    decides. In the cases of equality a rounded SVID misses it by a rounding, and it "fails".

    Returns
    -------
    Certified
        gap: 0, no bound is asked for.
    """
    w, (left,), (right,) = map(exact.rational, (weight, a, b))
    error = exact.squares(
        [
            [abs(x) - p * q for q, x in zip(right, row, strict=True)]
            for p, row in zip(left, w, strict=True)
        ]
    )
    (whole,), scale = exact.integers(w)
    room = (exact.squares(w) - error) * scale**2
    return Certified("holds" if exact.norm_at_most(whole, room) else "fails", Fraction(0))


def _lemma_1(block: Matrix) -> tuple[Between | Signs | None, Fraction]:
    signs = exact.diagonal_signs(block)
    if signs is not None:
        return Signs(*map(tuple, signs)), Fraction(0)
    return _between(block, exact.magnitude(block))


def _between(below: Matrix, above: Matrix, rounds: int = ROUNDS) -> tuple[Between | None, Fraction]:
    """A proof of ``σ₁(below) ≤ σ₁(above)`` and its gap; None if none is found."""
    largest = max(abs(x) for m in (below, above) for row in m for x in row)
    if largest == 0:
        return None, Fraction(0)
    low, high = (torch.linalg.svdvals(_floats(m, largest))[0].item() for m in (below, above))
    t, y = Fraction((low + high) / 2) * largest, leading_vector(above)
    for k in range(rounds + 1):
        quotient = exact.rayleigh(above, y)
        t = _root(quotient) if k else t
        if quotient >= t**2 and exact.norm_at_most(below, t**2):
            return Between(t, y), quotient - t**2
        y = _iterated(above, y)
    return None, Fraction(0)


def _root(x: Fraction) -> Fraction:
    """√x from below, to about BITS bits."""
    shift = max(0, BITS - (x.numerator.bit_length() - x.denominator.bit_length()) // 2)
    return Fraction(isqrt((x.numerator << 2 * shift) // x.denominator), 2**shift)


def _iterated(matrix: Matrix, y: Sequence[int]) -> tuple[int, ...]:
    """``(AᵀA)^STEPS y``, its largest entry with BITS bits."""
    columns = list(zip(*matrix, strict=True))
    for _ in range(STEPS):
        y = exact.image(columns, exact.image(matrix, y))
        extra = max(abs(x) for x in y).bit_length() - BITS
        y = [x >> extra if extra > 0 else x << -extra for x in y]
    return tuple(y)


def leading_vector(matrix: Matrix) -> tuple[int, ...]:
    """About 2⁵² v₁, in whole numbers."""
    largest = max(abs(x) for row in matrix for x in row) or 1
    v = torch.linalg.svd(_floats(matrix, largest))[2][0]
    return tuple(round(x * 2.0**52) for x in (v / v.abs().max()).tolist())


def _floats(matrix: Matrix, largest: int) -> Tensor:
    return torch.tensor([[x / largest for x in row] for row in matrix], dtype=torch.float64)
