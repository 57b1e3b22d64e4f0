"""SVID against a full SVD in float64, and against the updates of NMF."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qtools.onebit import SVID, perron, svid

KINDS = (
    "normal", "scaled", "student", "lognormal", "positive", "signs", "sparse", "zero rows",
    "rank one", "tie", "near tie", "small block wins", "diagonal", "path", "constant", "one row",
    "one column",
)  # fmt: skip
EACH = 60  # 17 kinds: 1,020 matrices
seeds = st.integers(0, 2**32 - 1)


def matrix(kind: str, generator: torch.Generator) -> Tensor:
    """A float32 matrix of random shape."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    m, n = torch.randint(1, 60, (2,), generator=generator).tolist()
    w = normal(m, n)
    if kind == "scaled":
        w = w * torch.exp(2 * normal(m, 1)) * torch.exp(2 * normal(1, n))
    elif kind == "student":
        w = w / normal(m, n).abs().clamp_min(1e-6)
    elif kind == "lognormal":
        w = w.sign() * torch.exp(4 * normal(m, n))
    elif kind == "positive":
        w = w.abs()
    elif kind == "signs":
        w = torch.where(w < 0, -1.0, 1.0)
    elif kind == "sparse":
        w = w * (normal(m, n) > 1.3)
    elif kind == "zero rows":
        w = w * (normal(m, 1) > 0) * (normal(1, n) > 0)
    elif kind == "rank one":
        w = normal(m, 1) * normal(1, n)
    elif kind in ("tie", "near tie"):
        blocks = [normal(m, n), normal(n, m)]
        top = [torch.linalg.svdvals(b.abs())[0] for b in blocks]
        gap = 0.0 if kind == "tie" else gap_of(generator)
        w = torch.block_diag(blocks[0], blocks[1] * top[0] / top[1] * (1 + gap))
        w = w[torch.randperm(m + n, generator=generator)]
    elif kind == "small block wins":
        w = torch.block_diag(torch.ones(m, m), torch.tensor([[-m * (1 + gap_of(generator))]]))
    elif kind == "diagonal":
        w = torch.diag(1 - gap_of(generator) * torch.linspace(0, 1, n))
    elif kind == "path":
        w = torch.eye(n) + torch.ones(n, n).triu(1).tril(1)
    elif kind == "constant":
        w = torch.full((m, n), -0.3)
    elif kind == "one row":
        w = w[:1]
    elif kind == "one column":
        w = w[:, :1]
    return w


def gap_of(generator: torch.Generator) -> float:
    """0.1, 0.01, ... 1e-7: some above the tolerance, some below."""
    return 10.0 ** -float(torch.randint(1, 8, (), generator=generator))


def smallest_error(w: Tensor) -> float:
    """1 − σ₁² / ‖W‖² of |W| by SVD in float64; 0 for the zero matrix."""
    w = w.double().abs()
    if not w.any():
        return 0.0
    s = torch.linalg.svdvals(w / w.max())
    return (s[1:].square().sum() / s.square().sum()).item()


def error_of(w: Tensor, sv: SVID) -> float:
    """The squared relative error of the reconstruction, in float64 and unit scale."""
    w, largest = w.double(), w.double().abs().max()
    if largest == 0:
        return 0.0
    near = sv.sign.double() * torch.outer(sv.a.double() / largest, sv.b.double())
    return ((w / largest - near).square().sum() / (w / largest).square().sum()).item()


def nmf(m: Tensor, steps: int = 500) -> tuple[Tensor, Tensor]:
    """Rank 1 by the multiplicative updates of Lee and Seung (2001)."""
    a, b = m.new_ones(len(m)), m.new_ones(m.shape[1])
    tiny = torch.finfo(m.dtype).tiny
    for _ in range(steps):
        a = a * (m @ b) / (a * (b @ b) + tiny)
        b = b * (m.T @ a) / (b * (a @ a) + tiny)
    return a, b


@pytest.mark.parametrize("kind", KINDS)
def test_error_is_the_smallest_there_is(kind):
    generator = torch.Generator().manual_seed(KINDS.index(kind))
    for _ in range(EACH):
        w = matrix(kind, generator)
        sv = svid(w)
        error, best = error_of(w, sv), smallest_error(w)
        assert best - 1e-6 <= error <= best + 1e-5, (w.shape, error, best, sv.iterations)
        assert abs(sv.relative_error**2 - error) <= 1e-6
        check_form(w, sv)


def check_form(w: Tensor, sv: SVID) -> None:
    assert (sv.a.shape, sv.b.shape) == (w.shape[:1], w.shape[1:])
    assert (sv.a >= 0).all()
    assert (sv.b >= 0).all()
    assert torch.equal(sv.sign, torch.where(w < 0, -1.0, 1.0).to(sv.sign))
    assert not sv.a[~w.any(1)].any()
    assert not sv.b[~w.any(0)].any()
    assert abs(sv.a.norm() - sv.b.norm()) <= 1e-5 * sv.a.norm()


@given(seeds, st.sampled_from(KINDS), st.integers(-290, 290))
def test_scale_does_not_matter(seed, kind, power):
    w = matrix(kind, torch.Generator().manual_seed(seed)).double()
    found, scaled = svid(w), svid(w * 4.0**power)
    assert scaled.iterations == found.iterations
    assert scaled.relative_error == found.relative_error
    assert torch.equal(scaled.a, found.a * 2.0**power)


@pytest.mark.parametrize("largest", [1e-44, 1e-40, 1e-37, 1e-20, 1e20, 1e37])
def test_float32_near_the_ends_of_its_range(largest):
    torch.manual_seed(0)
    w = torch.randn(40, 30)
    w = w / w.abs().max() * largest
    assert error_of(w, svid(w)) <= smallest_error(w) + 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_of_the_computation(dtype):
    torch.manual_seed(0)
    w = (torch.randn(30, 20) * 60_000).clamp(-60_000, 60_000).to(dtype)
    sv = svid(w)
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    assert {sv.sign.dtype, sv.a.dtype, sv.b.dtype, sv.reconstruct().dtype} == {expected}
    assert error_of(w, sv) <= smallest_error(w) + 1e-6
    same = svid(w.to(expected))
    assert torch.equal(sv.a, same.a)
    assert sv.relative_error == same.relative_error


@settings(max_examples=30)  # 500 steps each
@given(seeds, st.integers(1, 20), st.integers(1, 20))
def test_nmf_of_rank_one_ends_at_the_same_error_with_another_split(seed, m, n):
    torch.manual_seed(seed)
    w = torch.randn(m, n, dtype=torch.float64)
    a, b = nmf(w.abs())
    sv = svid(w, tol=1e-12)
    ours = (w - sv.reconstruct()).square().sum() / w.square().sum()
    theirs = (w.abs() - torch.outer(a, b)).square().sum() / w.square().sum()
    assert abs(ours - theirs).item() <= 1e-9
    torch.testing.assert_close(torch.outer(a, b), torch.outer(sv.a, sv.b), rtol=1e-4, atol=1e-4)


def test_a_smaller_tolerance_gives_the_vectors_of_the_svd():
    torch.manual_seed(0)
    w = torch.randn(50, 40, dtype=torch.float64)
    u, s, vh = torch.linalg.svd(w.abs())
    sv = svid(w, tol=1e-13)
    torch.testing.assert_close(sv.a, s[0].sqrt() * u[:, 0].abs(), rtol=0, atol=1e-11)
    torch.testing.assert_close(sv.b, s[0].sqrt() * vh[0].abs(), rtol=0, atol=1e-11)


def test_by_hand():
    w = torch.tensor([[2.0, -4.0, 0.0], [-1.0, 2.0, -0.0], [0.0, 0.0, 0.0]])
    sv = svid(w)
    assert sv.sign.tolist() == [[1, -1, 1], [-1, 1, 1], [1, 1, 1]]
    torch.testing.assert_close(sv.reconstruct(), w)
    assert sv.relative_error <= 1e-6
    assert sv.iterations == 1


def test_a_gaussian_matrix_takes_three_products():
    w = torch.randn(300, 200, generator=torch.Generator().manual_seed(0))
    assert svid(w).iterations == 3


def test_zero_matrix():
    sv = svid(-torch.zeros(2, 3))
    assert torch.equal(sv.sign, torch.ones(2, 3))
    assert not sv.a.any()
    assert not sv.b.any()
    assert (sv.relative_error, sv.iterations) == (0.0, 0)


def test_weight_is_neither_changed_nor_asked_for_gradients():
    w = torch.randn(8, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    before = w.detach().clone()
    sv = svid(w.T)
    assert not sv.a.requires_grad
    assert torch.equal(w.detach(), before)
    torch.testing.assert_close(sv.a, svid(before).b)


def test_blocks_of_rows_are_put_together(monkeypatch):
    w = torch.randn(23, 7, generator=torch.Generator().manual_seed(0))
    whole = svid(w)
    for size in (1, 7, 35, 10**6):
        monkeypatch.setattr(perron, "BLOCK", size)
        sv = svid(w)
        torch.testing.assert_close(sv.a, whole.a)
        torch.testing.assert_close(sv.b, whole.b)
        assert abs(sv.relative_error - whole.relative_error) <= 1e-6


def test_without_the_fallback_a_stalled_iteration_is_wrong(monkeypatch):
    w = torch.block_diag(torch.ones(50, 50), torch.tensor([[50.1]]))
    assert error_of(w, svid(w)) <= smallest_error(w) + 1e-8
    monkeypatch.setattr(perron, "ritz_vector", lambda _, v, tolerance: (v, 0))
    assert error_of(w, svid(w)) > smallest_error(w) + 1e-4


def test_where_it_stalls_a_smaller_tolerance_takes_more_steps():
    # A path: σ is 1.9993, 1.9973, 1.9939, ...
    w = torch.eye(60, dtype=torch.float64) + torch.ones(60, 60).triu(1).tril(1)
    rough, fine = svid(w), svid(w, tol=1e-13)
    assert 32 < rough.iterations < fine.iterations
    assert error_of(w, rough) <= smallest_error(w) + 1e-6
    assert error_of(w, fine) <= smallest_error(w) + 1e-13


@pytest.mark.parametrize(
    ("weight", "error", "says"),
    [
        (torch.ones(2, 2, dtype=torch.int8), TypeError, "weight must be floating point"),
        (
            torch.ones(2, 2, dtype=torch.float8_e4m3fn),
            TypeError,
            "weight must be floating point of",
        ),
        (torch.ones(2, 2, device="meta"), ValueError, "weight must be dense with values"),
        (torch.ones(2, 2).to_sparse(), ValueError, "weight must be dense with values"),
        (torch.ones(3), ValueError, "weight must be a non-empty matrix"),
        (torch.ones(0, 3), ValueError, "weight must be a non-empty matrix"),
        (torch.tensor([[1.0, float("nan")]]), ValueError, "weight must be finite"),
        (torch.tensor([[1.0, float("-inf")]]), ValueError, "weight must be finite"),
    ],
    ids=["integers", "8 bits", "meta", "sparse", "vector", "empty", "NaN", "infinity"],
)
def test_what_is_refused(weight, error, says):
    with pytest.raises(error, match=says):
        svid(weight)


@pytest.mark.parametrize("tol", [0.0, -1.0, float("nan"), float("inf")])
def test_tolerance_must_be_positive(tol):
    with pytest.raises(ValueError, match="tol must be positive"):
        svid(torch.ones(2, 2), tol)
