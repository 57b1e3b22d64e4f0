"""Lemma 1 and propositions 1 and 2: proved for given matrices, and refuted where they are bent."""

from collections import Counter
from fractions import Fraction
from itertools import combinations, product

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qtools.onebit import exact, svid, theory

KINDS = (
    "normal", "signs", "deficient", "zeros", "one row", "one column", "non-negative",
    "rank one in signs", "flipped", "blocks", "integers", "diagonal", "huge", "tiny", "mixed",
    "zero matrix", "nearly equal",
)  # fmt: skip
EACH = 64  # 17 kinds: 1,088 matrices
#: Equality holds for all of these, by construction.
EQUAL = ("one row", "one column", "non-negative", "rank one in signs", "flipped", "diagonal")
seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(1, 12)


def matrix(kind: str, generator: torch.Generator) -> Tensor:
    """float64, up to 12×12."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    m, n = torch.randint(1, 13, (2,), generator=generator).tolist()
    w = normal(m, n)
    if kind == "signs":
        w = torch.where(w < 0, -1.0, 1.0).double()
    elif kind == "deficient":
        k = 1 + min(m, n) // 3
        w = torch.round(4 * normal(m, k)) @ torch.round(4 * normal(k, n))
    elif kind == "zeros":
        w = w * (normal(m, n) > 0.4)
    elif kind == "one row":
        w = w[:1]
    elif kind == "one column":
        w = w[:, :1]
    elif kind == "non-negative":
        w = w.abs()
    elif kind == "rank one in signs":
        w = torch.round(8 * normal(m, 1)) * torch.round(8 * normal(1, n))
    elif kind == "flipped":
        w = normal(m, 1).sign() * (w.abs() * (normal(m, n) > 0)) * normal(1, n).sign()
    elif kind == "blocks":
        w = torch.block_diag(normal(m, n)[:6, :6].abs(), normal(n, m)[:6, :6])
        w = w[torch.randperm(len(w), generator=generator)]
    elif kind == "integers":
        w = torch.round(2 * w)
    elif kind == "diagonal":
        w = torch.diag(normal(n))
    elif kind == "huge":
        w = w * 1e150
    elif kind == "tiny":
        w = w * 1e-150
    elif kind == "mixed":
        w = w * 10.0 ** torch.round(40 * normal(m, n)).clamp(-300, 300)
    elif kind == "zero matrix":
        w = torch.zeros(m, n, dtype=torch.float64)
    elif kind == "nearly equal":  # a tie but for one faint entry: no float64 fits in between
        w = w.abs() + 1
        w[0, 0] = -1e-30
    return w


def sigma(w: Tensor, digits: int = 60) -> mpmath.mpf:
    """The largest singular value, to so many digits."""
    with mpmath.workdps(digits):
        return max(mpmath.svd_r(mpmath.matrix(w.tolist()), compute_uv=False))


def psd_by_fractions(a: list[list[Fraction]]) -> bool:
    """Plain elimination, L D Lᵀ."""
    a = [list(row) for row in a]
    for k, row in enumerate(a):
        if row[k] < 0 or (row[k] == 0 and any(row[k + 1 :])):
            return False
        for i in range(k + 1, len(a)) if row[k] else ():
            factor = a[i][k] / row[k]
            for j in range(k, len(a)):
                a[i][j] -= factor * row[j]
    return True


def recheck(w: Tensor, found: theory.Certified) -> None:
    """Certificates once more, by other code: every entry in one block, every block proved."""
    entries = exact.rational(w)
    seen = Counter()
    for part in found.parts:
        block = [[entries[i][j] for j in part.columns] for i in part.rows]
        seen.update((i, j) for i, j in product(part.rows, part.columns) if entries[i][j])
        if isinstance(part.proof, theory.Signs):
            for row, d in zip(block, part.proof.d, strict=True):
                for x, e in zip(row, part.proof.e, strict=True):
                    assert abs(d) == abs(e) == 1
                    assert x == d * abs(x) * e
            continue
        t, y = part.proof
        columns = list(zip(*block, strict=True))
        shifted = [
            [(t * t if i == j else 0) - sum(p * q for p, q in zip(r, s, strict=True))
             for j, s in enumerate(columns)] for i, r in enumerate(columns)
        ]  # fmt: skip
        assert psd_by_fractions(shifted)
        high = [sum(abs(x) * v for x, v in zip(row, y, strict=True)) for row in block]
        assert sum(x * x for x in high) >= t * t * sum(v * v for v in y)
    assert seen == Counter((i, j) for i, row in enumerate(entries) for j, x in enumerate(row) if x)


def test_lemma_1_and_proposition_2_are_proved(record_property):
    verdicts = Counter()
    for kind in KINDS:
        generator = torch.Generator().manual_seed(KINDS.index(kind))
        for k in range(EACH):
            w = matrix(kind, generator)
            found = theory.certify_proposition_2(w)
            verdicts[kind, found.verdict] += 1
            assert found.gap >= 0
            if found.verdict == "holds" and k % 4 == 0:
                recheck(w, found)
            if kind in EQUAL:
                assert found.verdict == "holds"
                assert all(isinstance(part.proof, theory.Signs) for part in found.parts)
    holds = sum(count for (_, verdict), count in verdicts.items() if verdict == "holds")
    share = f"{holds} of {verdicts.total()} matrices ({holds / verdicts.total():.2%})"
    record_property("lemma 1 and proposition 2 certified", share)  # conftest.py prints it
    assert not [kind for kind, verdict in verdicts if verdict == "fails"]
    assert {kind for kind, verdict in verdicts if verdict == "not certified"} <= {"mixed"}, verdicts
    assert holds >= 0.99 * verdicts.total()


@pytest.mark.parametrize("kind", KINDS)
def test_the_proved_gap_is_below_the_gap_to_60_digits(kind):
    generator = torch.Generator().manual_seed(1000 + KINDS.index(kind))
    for _ in range(4):
        w = matrix(kind, generator)
        found = theory.certify_lemma_1(w)
        low, high = sigma(w), sigma(w.abs())
        with mpmath.workdps(60):
            gap = mpmath.mpf(found.gap.numerator) / found.gap.denominator
            assert gap <= high**2 - low**2 + mpmath.mpf(10) ** -50 * high**2
            if found.parts and all(isinstance(p.proof, theory.Signs) for p in found.parts):
                assert abs(high - low) <= mpmath.mpf(10) ** -50 * high
            elif len(found.parts) == 1 and kind not in ("mixed", "nearly equal"):
                assert gap >= 0.4 * (high**2 - low**2)


def test_equality_broken_by_a_faint_entry_is_not_called_true():
    w = torch.tensor([[1.0, 1.0], [1.0, -1e-30]], dtype=torch.float64)
    assert theory.certify_lemma_1(w).verdict == "holds"  # that one float64 cannot see, 1024 bits do
    w[1, 1] = -5e-324
    assert theory.certify_lemma_1(w).verdict == "not certified"
    assert theory.certify_proposition_2(w).verdict == "not certified"
    more = torch.block_diag(w, torch.tensor([[5.0]], dtype=torch.float64))
    assert theory.certify_lemma_1(more).verdict == "not certified"  # not though the rest is proved
    w[1, 1] = 5e-324
    assert theory.certify_lemma_1(w).verdict == "holds"


def test_blocks_are_proved_one_by_one():
    w = torch.block_diag(torch.tensor([[2.0]]), torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
    found = theory.certify_lemma_1(w)
    assert found.verdict == "holds"
    assert [type(part.proof) for part in found.parts] == [theory.Signs, theory.Between]
    assert found.gap == 0


def test_two_blocks_with_a_gap_give_a_gap():
    w = torch.tensor([[1.0, 1.0], [1.0, -1.0]])  # σ₁² is 2, and 4 for |W|
    for blocks in ((w, 10 * w), (10 * w, w)):
        assert 80 < theory.certify_lemma_1(torch.block_diag(*blocks)).gap <= 200


def test_equal_norms_are_never_called_the_opposite():
    # σ₁ = 5 k for both; one has a singular vector that floats hold exactly, the other not.
    a, b = torch.tensor([[3.0, 4.0]]), torch.tensor([[0.5, 1.5], [1.5, 4.5]])
    for k in (1.0, 2.0, 3.0, 7.0):
        for pair in ((a, b), (b, a), (a, a), (b, b)):
            assert theory.certify_order(*(k * w for w in pair)).verdict != "fails"


def test_proposition_1_is_an_equality_for_the_identity():
    # Its spectral norm is 1, so ‖X Eᵀ‖ = ‖X‖₂ ‖E‖; its Frobenius norm would leave a gap.
    torch.manual_seed(0)
    w = torch.randn(6, 9, dtype=torch.float64)
    sv = svid(w)
    check = theory.proposition_1(torch.eye(9, dtype=torch.float64), w, sv.a, sv.b)
    assert abs(check.gap) <= check.error


# ---- false variants


@given(seeds, sizes, sizes)
def test_swapping_w_and_its_magnitudes_is_refuted(seed, m, n):
    torch.manual_seed(seed)
    w = torch.randn(m, n, dtype=torch.float64)
    strict = theory.certify_order(w, w.abs())
    swapped = theory.certify_order(w.abs(), w)
    if min(m, n) > 1:
        assert (strict.verdict, swapped.verdict) in {("holds", "fails"), ("not certified",) * 2}
    if theory.lemma_1(w).gap > 1e-9:
        assert strict.verdict == "holds"
        assert strict.gap == swapped.gap > 0
        low, high = (torch.linalg.matrix_norm(x, 2).item() for x in (w, w.abs()))
        assert float(strict.gap) == pytest.approx((high**2 - low**2) / 2, rel=0.2)


def test_proposition_2_is_false_for_rank_2():
    w = torch.tensor([[1.0, 1.0, 1.0], [0.0, 1.0, 2.0], [1.0, 0.0, -1.0]])
    # Rank 2, in whole numbers: the third row is the first less the second. |W| has rank 3.
    rows = exact.rational(w)
    assert [p - q for p, q in zip(rows[0], rows[1], strict=True)] == rows[2]
    a, b, c = exact.absolute(rows)
    determinant = sum(
        a[i] * (b[(i + 1) % 3] * c[(i + 2) % 3] - b[(i + 2) % 3] * c[(i + 1) % 3]) for i in range(3)
    )
    assert determinant == 2
    assert theory.proposition_2(w, rank=1).strict
    assert not theory.proposition_2(w, rank=2).consistent


def swapped_vectors(x, sign, g, h):
    return layer(x, sign, h, g)


def g_on_rows_of_x(x, sign, g, h):
    return layer([[p * k for p in row] for row, k in zip(x, g, strict=True)], sign, [1] * len(g), h)


def without_h(x, sign, g, h):
    return layer(x, sign, g, [1] * len(h))


def layer(x, sign, g, h):
    """Equation 3 before the LayerNorm, term by term."""
    return [
        [
            sum((p * k * s for p, k, s in zip(row, g, line, strict=True)), Fraction(0)) * scale
            for line, scale in zip(sign, h, strict=True)
        ]
        for row in x
    ]


@given(seeds, st.integers(1, 6), sizes, sizes)
def test_proposition_1_holds_exactly(seed, k, m, n):
    torch.manual_seed(seed)
    x, w = torch.randn(k, n), torch.randn(m, n)
    sv = svid(w)
    found = theory.certify_proposition_1(x, w, sv.a, sv.b)
    assert found.verdict == "holds"
    assert theory.certify_proposition_1(x, w, sv.a, sv.b, layer) == found
    exact_case = torch.outer(torch.arange(m) + 1.0, torch.arange(n) - 2.0)
    whole = theory.certify_proposition_1(
        x, exact_case, torch.arange(m) + 1.0, (torch.arange(n) - 2.0).abs()
    )
    assert (whole.verdict, whole.gap) == ("holds", 0)


def test_proposition_1_is_proved_where_its_bound_is_met():
    # One row of input, and E = W with every row along it: ‖X Eᵀ‖ = ‖X‖₂ ‖E‖, no digit to spare.
    x = torch.tensor([[3.0, -1.0, 0.0, 7.0, 0.5]])
    w = torch.outer(torch.tensor([1.0, -2.0, 0.25]), x[0])
    found = theory.certify_proposition_1(x, w, torch.zeros(3), torch.ones(5))
    assert (found.verdict, found.gap) == ("holds", 0)


def test_proposition_1_has_the_signs_of_svid():
    seen = []

    def spy(x, sign, g, h):
        seen.extend(sign)
        return layer(x, sign, g, h)

    w = torch.tensor([[0.0, -1.0, -0.0], [2.0, 0.0, -3.0]])
    sv = svid(w)
    theory.certify_proposition_1(torch.randn(2, 3), w, sv.a, sv.b, spy)
    assert seen == sv.sign.tolist()


@pytest.mark.parametrize("wrong", [swapped_vectors, g_on_rows_of_x, without_h])
def test_proposition_1_with_a_wrong_broadcast_is_refuted(wrong):
    torch.manual_seed(0)
    x, w = torch.randn(5, 5), torch.randn(5, 5)
    sv = svid(w)
    assert theory.certify_proposition_1(x, w, sv.a, sv.b, wrong).verdict == "fails"


# ---- the other statements


@given(seeds, sizes, sizes, st.booleans())
def test_eckart_young_is_a_square(seed, m, n, zero):
    torch.manual_seed(seed)
    w, a, b = torch.randn(m, n), torch.randn(m), torch.randn(n)
    b = b * 0 if zero else b
    found = theory.certify_eckart_young(w, a, b)
    assert found.verdict == "holds"
    (left,), (right,), rows = exact.rational(a), exact.rational(b), exact.rational(w)
    if not zero:
        length = sum(q * q for q in right)
        rest = [length * p - sum(x * q for x, q in zip(row, right, strict=True))
                for p, row in zip(left, rows, strict=True)]  # fmt: skip
        assert found.gap == sum(r * r for r in rest) / length
    assert theory.eckart_young(w, a, b).consistent
    assert theory.eckart_young(w, a, b).gap >= float(found.gap) / w.norm().item() ** 2 - 1e-5


@given(seeds, sizes, sizes)
def test_the_best_rank_1_leaves_no_gap(seed, m, n):
    torch.manual_seed(seed)
    w = torch.randn(m, n, dtype=torch.float64)
    u, s, vh = torch.linalg.svd(w)
    best = theory.eckart_young(w, s[0] * u[:, 0], vh[0])
    assert abs(best.gap) <= best.error
    assert theory.eckart_young(w, 1.01 * s[0] * u[:, 0], vh[0]).strict


@given(seeds, sizes, sizes)
def test_absolute_values_can_only_add(seed, m, n):
    torch.manual_seed(seed)
    w, y = torch.randn(m, n), torch.randn(n)
    found = theory.certify_elementwise(w, y)
    assert found.verdict == "holds"
    expected = (w.double().abs() @ y.double().abs() - (w.double() @ y.double()).abs()).min()
    assert float(found.gap) == pytest.approx(expected.item(), abs=1e-12)
    assert theory.certify_elementwise(w.abs(), y.abs()).gap == 0


@settings(max_examples=25)  # singular values to 60 digits are slow
@given(seeds, sizes, sizes, st.integers(-150, 150))
def test_bounds_of_perron_enclose_sigma(seed, m, n, power):
    torch.manual_seed(seed)
    w = torch.randn(m, n, dtype=torch.float64) * 10.0**power
    v = svid(w, tol=1e-13).b
    lower, upper = theory.perron_bounds(w, v)
    assert 0 < lower <= upper <= lower * (1 + Fraction(1, 10**9))
    top = sigma(w.abs())
    with mpmath.workdps(60):
        square = top**2
        assert mpmath.mpf(lower.numerator) / lower.denominator <= square * (
            1 + mpmath.mpf(10) ** -50
        )
        assert mpmath.mpf(upper.numerator) / upper.denominator >= square * (
            1 - mpmath.mpf(10) ** -50
        )


def test_bounds_of_perron_need_positive_numbers():
    with pytest.raises(ValueError, match="v must be positive"):
        theory.perron_bounds(torch.ones(2, 2), torch.tensor([1.0, 0.0]))


@given(seeds, st.integers(2, 12), st.integers(2, 12))
def test_this_very_svid_beats_every_plain_rank_1(seed, m, n):
    torch.manual_seed(seed)
    w = torch.randn(m, n)
    sv = svid(w)
    if theory.proposition_2(w).gap > 1e-4:
        assert theory.certify_svid(w, sv.a, sv.b).verdict == "holds"
    assert theory.certify_svid(w, 0 * sv.a, sv.b).verdict == "fails"


# ---- float64, any size and scale


@pytest.mark.parametrize("scale", [1.0, 1e150, 1e-150, 1e300, 1e-310])
@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (30, 40), (200, 100)], ids=str)
def test_all_statements_in_float64(shape, scale):
    torch.manual_seed(0)
    w = torch.randn(shape, dtype=torch.float64) * scale
    sv = svid(w)
    checks = theory.proposition_2_steps(w)
    checks["Perron–Frobenius"] = theory.perron_frobenius(w)
    checks["Eckart–Young"] = theory.eckart_young(w, sv.a, sv.b)
    checks["proposition 1"] = theory.proposition_1(torch.randn(7, shape[1]), w, sv.a, sv.b)
    assert {name: c for name, c in checks.items() if not c.consistent} == {}
    if min(shape) > 1:
        assert theory.lemma_1(w).strict
        assert theory.proposition_2(w).strict
    assert all(c.error < 1e-9 for c in checks.values())


@pytest.mark.parametrize("kind", KINDS)
def test_error_bars_hold(kind):
    generator = torch.Generator().manual_seed(2000 + KINDS.index(kind))
    for _ in range(3):
        w = matrix(kind, generator)
        check = theory.lemma_1(w)
        assert all(c.consistent for c in theory.proposition_2_steps(w).values())
        with mpmath.workdps(60):
            norm = mpmath.sqrt(sum(mpmath.mpf(x) ** 2 for x in w.flatten().tolist())) or 1
            true = (sigma(w.abs()) - sigma(w)) / norm
            assert abs(true - check.gap) <= check.error


def test_a_check_can_refute():
    assert theory.Check(-1e-3, 1e-9, ">= 0").consistent is False
    assert theory.Check(1e-3, 1e-9, "= 0").consistent is False
    assert theory.Check(-1e-10, 1e-9, "= 0").consistent
    assert theory.Check(-1e-10, 1e-9, ">= 0").consistent
    assert not theory.Check(1e-10, 1e-9, ">= 0").strict


# ---- exact arithmetic


@given(st.data(), st.integers(1, 4))
def test_positive_semidefinite_is_all_principal_minors_not_negative(data, n):
    entries = st.integers(-3, 3)
    a = [[0] * n for _ in range(n)]
    for i in range(n):
        for j in range(i + 1):
            a[i][j] = a[j][i] = data.draw(entries) + (2 if i == j else 0)

    def determinant(rows: tuple[int, ...]) -> int:
        if not rows:
            return 1
        first, *rest = rows
        return _laplace([[a[i][j] for j in rows] for i in rows]) if rest else a[first][first]

    minors = [determinant(rows) for k in range(1, n + 1) for rows in combinations(range(n), k)]
    assert exact.is_positive_semidefinite(a) == all(x >= 0 for x in minors)
    assert exact.is_positive_semidefinite(a) == psd_by_fractions(
        [[Fraction(x) for x in row] for row in a]
    )


def _laplace(a: list[list[int]]) -> int:
    if len(a) == 1:
        return a[0][0]
    return sum(
        (-1) ** j * x * _laplace([row[:j] + row[j + 1 :] for row in a[1:]])
        for j, x in enumerate(a[0])
    )


def test_a_bound_of_the_norm_is_decided_to_the_last_digit():
    w = [[1, 1], [1, -1]]  # σ₁² = 2
    assert exact.norm_at_most(w, Fraction(2))
    assert exact.norm_at_most(w, Fraction(201, 100))
    assert not exact.norm_at_most(w, Fraction(199, 100))
    assert not exact.norm_at_most(w, 2 - Fraction(1, 10**50))


@given(seeds, sizes, sizes)
def test_gram_matrices_are_positive_semidefinite_until_a_little_is_taken_away(seed, m, n):
    torch.manual_seed(seed)
    (a,), _ = exact.integers(exact.rational(torch.randn(m, n)))
    g = exact.gram(a)
    assert exact.is_positive_semidefinite(g)
    g[-1][-1] -= 1 + g[-1][-1]
    assert not exact.is_positive_semidefinite(g)


@given(seeds, sizes, sizes)
def test_signs_are_found_if_and_only_if_there_are_any(seed, m, n):
    torch.manual_seed(seed)
    mask = torch.rand(m, n) > 0.5
    w = torch.randn(m, 1).sign() * torch.rand(m, n) * mask * torch.randn(1, n).sign()
    (a,), _ = exact.integers(exact.rational(w))
    assert exact.diagonal_signs(a) is not None
    squares = product(combinations(range(m), 2), combinations(range(n), 2))
    cycles = [(rows[0], columns[0]) for rows, columns in squares
              if all(mask[i, j] for i, j in product(rows, columns))]  # fmt: skip
    if cycles:
        i, j = cycles[0]
        a[i][j] = -a[i][j]
        assert exact.diagonal_signs(a) is None


@pytest.mark.parametrize(
    ("tensor", "error"),
    [
        (torch.ones(2, 2, dtype=torch.int64), TypeError),
        (torch.ones(2, 2, 2), ValueError),
        (torch.ones(0, 2), ValueError),
        (torch.tensor([[float("nan")]]), ValueError),
    ],
    ids=["integers", "three axes", "empty", "NaN"],
)
def test_what_is_no_rational_matrix_is_refused(tensor, error):
    with pytest.raises(error, match="tensor must be"):
        theory.certify_lemma_1(tensor)
