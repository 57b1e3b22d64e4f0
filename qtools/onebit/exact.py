"""Exact arithmetic on small matrices: floating-point numbers are rational, so are their sums."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import lcm

import torch
from torch import Tensor

Matrix = list[list[int]]
Rational = list[list[Fraction]]


def rational(tensor: Tensor) -> Rational:
    """Every entry as the fraction that it is; a vector becomes a matrix of one row.

    Raises
    ------
    TypeError, ValueError
        If the tensor is not floating point, has no entries or more than two axes, or holds NaN
        or infinity.
    """
    if not tensor.is_floating_point():
        raise TypeError(f"tensor must be floating point, got {tensor.dtype}")
    if tensor.ndim not in (1, 2) or tensor.numel() == 0 or not tensor.isfinite().all():
        raise ValueError(
            f"tensor must be a non-empty vector or matrix of finite numbers, got {tensor}"
        )
    return [[Fraction(x) for x in row] for row in torch.atleast_2d(tensor.detach()).tolist()]


def integers(*matrices: Rational) -> tuple[list[Matrix], int]:
    """All of them times one common denominator, and that denominator."""
    scale = lcm(*(x.denominator for matrix in matrices for row in matrix for x in row))
    return [[[int(x * scale) for x in row] for row in matrix] for matrix in matrices], scale


def magnitude(matrix: Matrix) -> Matrix:
    """``|A|``, entry by entry."""
    return [[abs(x) for x in row] for row in matrix]


def gram(matrix: Matrix) -> Matrix:
    """``A Aᵀ`` or ``Aᵀ A``, the smaller: both have the same eigenvalues, zeros aside."""
    rows = matrix if len(matrix) <= len(matrix[0]) else list(zip(*matrix, strict=True))
    return [[sum(x * y for x, y in zip(p, q, strict=True)) for q in rows] for p in rows]


def absolute(matrix: Rational) -> Rational:
    """``|A|``, entry by entry."""
    return [[abs(x) for x in row] for row in matrix]


def squares(matrix: Rational) -> Fraction:
    """``‖A‖_F²``."""
    return sum((x * x for row in matrix for x in row), Fraction(0))


def times_transposed(x: Rational, w: Rational) -> Rational:
    """``X Wᵀ``."""
    return [[sum((p * q for p, q in zip(r, s, strict=True)), Fraction(0)) for s in w] for r in x]


def image(matrix: Sequence[Sequence[int]], vector: Sequence[int]) -> list[int]:
    """``A y``."""
    return [sum(w * y for w, y in zip(row, vector, strict=True)) for row in matrix]


def square(vector: Sequence[int]) -> int:
    """``‖y‖²``."""
    return sum(y * y for y in vector)


def is_positive_semidefinite(matrix: Matrix) -> bool:
    """Whether the symmetric matrix A has no negative eigenvalue: by ``A = L D Lᵀ``, D ≥ 0.

    Elimination without fractions (Bareiss 1968): each pivot is that of ``L D Lᵀ`` times the
    product of those before it. So A is positive semidefinite if and only if no pivot is negative
    and, where one is zero, so is the rest of its row. Such a row is left out and changes nothing.
    """
    a, previous = [list(row) for row in matrix], 1
    while a:
        pivot, *rest = a[0]
        if pivot < 0 or (pivot == 0 and any(rest)):
            return False
        below = a[1:]
        if pivot == 0:
            a = [row[1:] for row in below]
            continue
        a = [
            [(pivot * x - row[0] * y) // previous for x, y in zip(row[1:], rest, strict=True)]
            for row in below
        ]
        previous = pivot
    return True


def norm_at_most(matrix: Matrix, s: Fraction) -> bool:
    """Whether ``σ₁(A)² ≤ s``: exactly if ``s I − Aᵀ A`` is positive semidefinite."""
    shifted = [[-s.denominator * x for x in row] for row in gram(matrix)]
    for i in range(len(shifted)):
        shifted[i][i] += s.numerator
    return is_positive_semidefinite(shifted)


def rayleigh(matrix: Matrix, vector: Sequence[int]) -> Fraction:
    """``‖A y‖² / ‖y‖² ≤ σ₁(A)²``; y must not be zero."""
    return Fraction(square(image(matrix, vector)), square(vector))


def components(matrix: Matrix) -> list[tuple[list[int], list[int]]]:
    """Rows and columns that hang together through entries other than zero.

    A permutation of rows and columns makes A block-diagonal with these blocks, so σ₁(A) is the
    largest of theirs. Rows and columns of zeros are in none.
    """
    of_row = [[j for j, x in enumerate(row) if x] for row in matrix]
    of_column = [[i for i, x in enumerate(column) if x] for column in zip(*matrix, strict=True)]
    left = {i for i, columns in enumerate(of_row) if columns}
    found = []
    while left:
        rows: set[int] = set()
        columns: set[int] = set()
        wave = {min(left)}
        while wave:
            rows |= wave
            columns.update(*(of_row[i] for i in wave))
            wave = {i for j in columns for i in of_column[j]} - rows
        left -= rows
        found.append((sorted(rows), sorted(columns)))
    return found


def diagonal_signs(matrix: Matrix) -> tuple[list[int], list[int]] | None:
    """Signs d, e with ``A_ij = d_i |A_ij| e_j`` for all i, j; None if there are none.

    The sign of a row fixes those of the columns that it meets, they fix those of their rows, and
    so on. What is then found is compared with every entry of A.
    """
    d, e = [0] * len(matrix), [0] * len(matrix[0])
    for rows, _ in components(matrix):
        d[rows[0]], queue = 1, [rows[0]]
        while queue:
            i = queue.pop()
            for j, x in enumerate(matrix[i]):
                if x and not e[j]:
                    e[j] = d[i] if x > 0 else -d[i]
                    for k, row in enumerate(matrix):
                        if row[j] and not d[k]:
                            d[k] = e[j] if row[j] > 0 else -e[j]
                            queue.append(k)
    d, e = [x or 1 for x in d], [x or 1 for x in e]
    agree = all(
        x == p * abs(x) * q
        for p, row in zip(d, matrix, strict=True)
        for q, x in zip(e, row, strict=True)
    )
    return (d, e) if agree else None
