"""Best rank k, power iteration and whitening against torch.linalg.svd in float64."""

from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qtools.decomposition import (
    best_rank_k,
    power_iteration,
    power_steps,
    truncation_error,
    whitened_rank_k,
    whitened_singular_values,
)

EPS = torch.finfo(torch.float64).eps
seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(1, 12)


@st.composite
def matrices(draw: st.DrawFn, smallest: int = 1) -> Tensor:
    """float64 with a spectrum that decays, ties, ends early, or is that of noise; any scale."""
    m, n = draw(st.integers(smallest, 12)), draw(st.integers(smallest, 12))
    torch.manual_seed(draw(seeds))
    w = torch.randn(m, n, dtype=torch.float64)
    u, s, vh = torch.linalg.svd(w, full_matrices=False)
    kind = draw(st.sampled_from(["noise", "decay", "tie", "deficient", "one entry"]))
    if kind == "decay":
        w = u @ torch.diag(draw(st.floats(0.1, 0.9)) ** torch.arange(len(s))).double() @ vh
    elif kind == "tie":
        w = u @ vh
    elif kind == "deficient":
        w = w[:, :1] @ w[:1]
    elif kind == "one entry":
        w = torch.zeros_like(w)
        w[-1, -1] = -1.0
    return w * 10.0 ** draw(st.integers(-20, 20))


@st.composite
def with_rank(draw: st.DrawFn) -> tuple[Tensor, int]:
    w = draw(matrices())
    return w, draw(st.integers(1, min(w.shape)))


def norms(a: Tensor, k: int) -> dict[str, float]:
    """Unitarily invariant ones: Frobenius, spectral, nuclear, and the sum of the first k."""
    s = torch.linalg.svdvals(a)
    return {"F": s.norm().item(), "2": s[0].item(), "*": s.sum().item(), "k": s[:k].sum().item()}


def rounding(w: Tensor) -> float:
    """What `best_rank_k` states: ‖computed − exact‖_F ≤ 8 (m + n) u ‖W‖_F."""
    return 8 * sum(w.shape) * EPS * w.norm().item()


@given(with_rank())
def test_the_error_is_the_norm_of_the_other_singular_values(case):
    w, k = case
    found = best_rank_k(w, k)
    s = torch.linalg.svdvals(w)
    slack = rounding(w)
    error = w - found.reconstruct()
    assert found.left.shape == (w.shape[0], k)
    assert found.right.shape == (k, w.shape[1])
    assert abs(error.norm().item() - s[k:].norm().item()) <= slack
    assert abs(truncation_error(s, k) - s[k:].norm().item()) <= slack
    second = s[k].item() if k < len(s) else 0.0
    assert abs(torch.linalg.matrix_norm(error, 2).item() - second) <= slack
    # The square: d(x²) = (x + y) d(x), and neither is above the norm of W.
    squares = abs(error.square().sum() - s[k:].square().sum()).item()
    assert squares <= 2 * slack * w.norm().item()


@given(with_rank())
def test_the_factors_share_the_singular_values_evenly(case):
    w, k = case
    left, right = best_rank_k(w, k)
    s = torch.linalg.svdvals(w)[:k]
    slack = rounding(w)
    for gram in (left.T @ left, right @ right.T):
        assert (gram - torch.diag(s)).abs().max().item() <= slack


@given(with_rank(), seeds, st.floats(-8, 1))
def test_no_other_matrix_of_rank_k_is_nearer(case, seed, size):
    w, k = case
    found = best_rank_k(w, k)
    torch.manual_seed(seed)
    scale = 10**size * found.left.abs().max()
    other = (found.left + scale * torch.randn_like(found.left)) @ (
        found.right + scale * torch.randn_like(found.right)
    )
    ours, theirs = norms(w - found.reconstruct(), k), norms(w - other, k)
    for name, value in ours.items():
        assert value <= theirs[name] + 4 * sum(w.shape) ** 2 * EPS * w.norm().item(), name


@given(seeds, st.integers(2, 9), st.integers(2, 9))
def test_alternating_least_squares_arrives_at_the_same_error(seed, m, n):
    torch.manual_seed(seed)
    u, _ = torch.linalg.qr(torch.randn(m, m, dtype=torch.float64))
    v, _ = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64))
    p, k = min(m, n), max(1, min(m, n) // 2)
    w = u[:, :p] @ torch.diag(0.5 ** torch.arange(p)).double() @ v[:, :p].T
    right = torch.randn(k, n, dtype=torch.float64)
    for _ in range(60):
        left = w @ torch.linalg.pinv(right)
        right = torch.linalg.pinv(left) @ w
    ours = (w - best_rank_k(w, k).reconstruct()).norm()
    assert abs((w - left @ right).norm() - ours) <= 1e-9


@given(with_rank(), seeds)
def test_inequalities_of_weyl_and_mirsky(case, seed):
    """The two that the theorem rests on; for B of rank k they are the theorem."""
    w, k = case
    torch.manual_seed(seed)
    b = best_rank_k(w, k).reconstruct() + w.norm() * best_rank_k(torch.randn_like(w), k)[0] @ (
        torch.randn(k, w.shape[1], dtype=torch.float64)
    )
    slack = sum(w.shape) ** 2 * EPS * (w.norm() + b.norm())
    sw, sb, se = (torch.linalg.svdvals(x) for x in (w, b, w - b))
    for i in range(len(sw)):
        for j in range(len(sw) - i):
            assert sw[i + j] <= sb[i] + se[j] + slack
    assert (sw - sb).norm() <= (w - b).norm() + slack


def test_a_case_by_hand():
    w = torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.0, -2.0]], dtype=torch.float64)
    found = best_rank_k(w, 1).reconstruct()
    expected = torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(found, expected)
    assert best_rank_k(w, 2).nbytes == 2 * (2 + 3) * 8
    assert best_rank_k(w, 2).rank == 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_short_floats_are_computed_in_float32(dtype):
    w = torch.full((300, 300), 300.0).to(dtype)  # σ₁ = 90 000 is no float16 number
    found = best_rank_k(w, 1)
    assert found.left.dtype == torch.float32
    torch.testing.assert_close(found.reconstruct(), w.float(), rtol=2e-4, atol=0)
    sigma, u, v, _ = power_iteration(w)
    assert {sigma.dtype, u.dtype, v.dtype} == {torch.float32}
    torch.testing.assert_close(sigma, w.float()[0, 0] * 300, rtol=1e-5, atol=0)


def test_parameters_give_factors_without_a_graph():
    w = torch.nn.Parameter(torch.randn(4, 5))
    assert not best_rank_k(w, 2).left.requires_grad
    assert not power_iteration(w).sigma.requires_grad
    assert not whitened_rank_k(w, 2, torch.eye(5)).right.requires_grad


@pytest.mark.parametrize("rank", [lambda w, k: best_rank_k(w, k),
                                  lambda w, k: whitened_rank_k(w, k, torch.eye(3))])  # fmt: skip
def test_what_is_refused(rank):
    w = torch.randn(4, 3)
    for k in (0, -1, 4):
        with pytest.raises(ValueError, match=f"k must be from 1 to 3, got {k}"):
            rank(w, k)
    for k in (1.0, True, None):
        with pytest.raises(TypeError, match="k must be an integer"):
            rank(w, k)
    with pytest.raises(TypeError, match=r"floating point, got torch\.int64"):
        rank(torch.ones(4, 3, dtype=torch.int64), 1)
    for bad in (torch.zeros(3), torch.zeros(2, 2, 2), torch.zeros(0, 3)):
        with pytest.raises(ValueError, match="weight must be a non-empty matrix"):
            rank(bad, 1)
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="weight must be finite"):
            rank(torch.full((4, 3), bad), 1)
    with pytest.raises(ValueError, match="k must be from 0 to 3, got 4"):
        truncation_error(torch.ones(3), 4)


# Power iteration


@given(matrices(), seeds)
def test_power_iteration_finds_a_singular_triplet(w, seed):
    tol = 1e-10
    sigma, u, v, iterations = power_iteration(w, 10_000, tol, seed)
    s = torch.linalg.svdvals(w)
    assert abs(u.norm() - 1) <= 4 * EPS
    assert abs(v.norm() - 1) <= 4 * EPS
    assert (w @ v - sigma * u).norm() <= sum(w.shape) * EPS * s[0]
    if iterations < 10_000:
        assert (w.T @ u - sigma * v).norm() <= tol * sigma * (1 + 1e-5)
        assert ((s / sigma) ** 2 - 1).abs().min() <= tol * (1 + 1e-5)
    gap = 1.0 if len(s) == 1 else 1 - (s[1] / s[0]).item() ** 2
    if gap > 1e-2:
        assert iterations < 10_000
        torch.testing.assert_close(sigma, s[0], rtol=1e-12, atol=0)
        v1 = torch.linalg.svd(w).Vh[0]
        assert (v - (v @ v1) * v1).norm() <= 1.01 * tol / gap + sum(w.shape) * EPS / gap


@given(matrices(smallest=2), seeds)
@settings(max_examples=60)
def test_the_angle_falls_at_the_stated_rate(w, seed):
    """tan θ_t ≤ (σ₂/σ₁)^{2t} tan θ₀, and with two singular values the two are equal."""
    _, s, vh = torch.linalg.svd(w, full_matrices=False)
    rate = (s[1] / s[0]).item() ** 2
    tangents = []
    for step in islice(power_steps(w, seed), 12):
        along = (step.v @ vh[0]).abs()
        tangents.append(((step.v - (step.v @ vh[0]) * vh[0]).norm() / along).item())
        assert s[0] * along - rounding(w) <= step.sigma <= s[0] + rounding(w)
    for t, tangent in enumerate(tangents):
        assert tangent <= rate**t * tangents[0] * (1 + 1e-6) + 1e-12 * max(1, tangents[0])


@pytest.mark.parametrize("ratio", [0.3, 0.9])
def test_the_rate_is_exact_for_rank_two(ratio):
    w = torch.diag(torch.tensor([2.0, 2.0 * ratio], dtype=torch.float64))
    start = torch.tensor([1.0, 1.0])
    for t, step in enumerate(islice(power_steps(w, start=start), 10)):
        tangent = (step.v[1] / step.v[0]).item()
        assert tangent == pytest.approx(ratio ** (2 * t), rel=1e-12)
        cosine = 1 / (1 + tangent**2) ** 0.5
        expected = 2 * cosine * (1 + (ratio * tangent) ** 2) ** 0.5
        assert step.sigma.item() == pytest.approx(expected, rel=1e-12)
    assert power_iteration(w, 7, 0.0, start=start).iterations == 7
    few, many = (power_iteration(w, tol=tol, start=start).iterations for tol in (1e-3, 1e-6))
    assert few < many < 200


@pytest.mark.parametrize("value", [1e-42, 1e-30, 1.0, 1e30, 3e38])
def test_squares_neither_overflow_nor_vanish(value):
    w = torch.diag(torch.tensor([1.0, 0.5, 0.1])) * value
    sigma = power_iteration(w).sigma
    torch.testing.assert_close(sigma, w[0, 0], rtol=1e-5, atol=1e-45)


def test_ends_of_power_iteration():
    sigma, u, v, iterations = power_iteration(torch.zeros(3, 2))
    assert (sigma.item(), iterations) == (0.0, 0)
    assert u.tolist() == [1.0, 0.0, 0.0]
    assert v.norm().item() == pytest.approx(1.0)
    row = power_iteration(torch.tensor([[3.0, 4.0]]), tol=1e-5)
    assert row.iterations == 1  # the first product with Wᵀ is the answer
    torch.testing.assert_close(row.v.abs(), torch.tensor([0.6, 0.8]))
    column = power_iteration(torch.tensor([[3.0], [4.0]]))
    assert (column.iterations, column.sigma.item()) == (0, 5.0)
    tie = power_iteration(2 * torch.eye(3), start=torch.tensor([0.0, 3.0, 4.0]))
    assert tie.iterations == 0
    torch.testing.assert_close(tie.v, torch.tensor([0.0, 0.6, 0.8]))
    stays = power_iteration(torch.diag(torch.tensor([2.0, 1.0])), start=torch.tensor([0.0, 1.0]))
    assert stays.sigma.item() == 1.0  # at a right angle to v₁ there is no way to it


def test_the_seed_decides():
    w = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    state = torch.get_rng_state()
    first, again, other = (next(power_steps(w, seed)).v for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_what_power_iteration_refuses():
    w = torch.diag(torch.tensor([2.0, 0.0]))
    with pytest.raises(ValueError, match="start must not lie in the null space"):
        power_iteration(w, start=torch.tensor([0.0, 1.0]))
    for start in (torch.zeros(2), torch.ones(3), torch.tensor([1.0, torch.nan])):
        with pytest.raises(ValueError, match=r"finite vector of shape \[2\] other than zero"):
            power_iteration(w, start=start)
    with pytest.raises(ValueError, match="max_iterations must be at least 0, got -1"):
        power_iteration(w, -1)
    for tol in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="tol must be finite and at least 0"):
            power_iteration(w, tol=tol)
    with pytest.raises(ValueError, match="weight must be finite"):
        power_iteration(w * torch.nan)


# Whitening


@st.composite
def with_gram(draw: st.DrawFn) -> tuple[Tensor, int, Tensor]:
    """A weight, a rank, and inputs [rows, n]: as few as one, or with very unequal columns."""
    w, k = draw(with_rank())
    torch.manual_seed(draw(seeds))
    x = torch.randn(draw(st.integers(1, 30)), w.shape[1], dtype=torch.float64)
    spread = draw(st.floats(0, 3))
    return w, k, x * 10 ** (-spread * torch.rand(w.shape[1], dtype=torch.float64))


@given(with_gram())
def test_whitening_is_the_optimum_on_the_inputs(case):
    w, k, x = case
    found = whitened_rank_k(w, k, x.T @ x / len(x)).reconstruct()
    outputs = x @ w.T
    error = (x @ (w - found).T).norm().item()
    # No matrix of rank k has outputs nearer than the best approximation of the outputs.
    least = torch.linalg.svdvals(outputs)[k:].norm().item()
    slack = 1e-7 * x.norm().item() * w.norm().item()
    assert abs(error - least) <= slack
    values = whitened_singular_values(w, x.T @ x / len(x))
    assert abs(len(x) ** 0.5 * truncation_error(values, k) - least) <= slack
    plain = best_rank_k(w, k).reconstruct()
    assert error <= (x @ (w - plain).T).norm().item() + slack
    assert torch.linalg.matrix_rank(found, rtol=1e-10) <= k


@given(with_gram())
def test_with_a_positive_definite_gram_it_is_the_textbook_formula(case):
    w, k, x = case
    gram = x.T @ x / len(x) + 0.1 * torch.eye(w.shape[1], dtype=torch.float64)
    s = torch.linalg.svdvals(w @ torch.linalg.cholesky(gram))
    if k < len(s) and s[k] > 0.9 * s[k - 1]:
        return  # near a tie the minimiser is not one matrix
    found = whitened_rank_k(w, k, gram).reconstruct()
    for root in (torch.linalg.cholesky(gram), _sqrt(gram)):
        textbook = best_rank_k(w @ root, k).reconstruct() @ torch.linalg.inv(root)
        # Outputs of less than 1e-7 of the largest are left to W.
        assert (found - textbook).norm() <= 1e-6 * w.norm()


@given(with_gram())
def test_a_singular_gram_costs_nothing_where_no_input_was(case):
    """Of all minimisers it is the nearest to W, and at full rank W itself."""
    w, k, x = case
    x[:, 0] = 0.0
    gram = x.T @ x / len(x)
    full = whitened_rank_k(w, min(w.shape), gram).reconstruct()
    assert (full - w).norm() <= 1e-12 * w.norm()
    root = _sqrt(gram)
    s = torch.linalg.svdvals(w @ root)
    tied = k < len(s) and s[k] > 0.9 * s[k - 1]
    if tied or s[k - 1] <= 1e-6 * s[0] or s[0] == 0:
        return
    ours = whitened_rank_k(w, k, gram).reconstruct()
    forgets = best_rank_k(w @ root, k).reconstruct() @ torch.linalg.pinv(root, rtol=1e-9)
    assert (w - ours).norm() <= (w - forgets).norm() + 1e-7 * w.norm()


@given(with_gram())
def test_a_bias_carries_the_mean_for_nothing(case):
    """Centred inputs and b + (W − B) μ: never above any other B and bias of this rank."""
    w, k, x = case
    x = x + x.norm(dim=1).mean()  # far from zero, as after a ReLU
    mean = x.mean(0)
    outputs = x @ w.T
    found = whitened_rank_k(w, k, x.T @ x / len(x) - torch.outer(mean, mean)).reconstruct()
    error = (outputs - x @ found.T - (w - found) @ mean).norm().item()
    least = torch.linalg.svdvals(outputs - outputs.mean(0))[k:].norm().item()
    slack = 1e-6 * x.norm().item() * w.norm().item()
    assert abs(error - least) <= slack
    without = whitened_rank_k(w, k, x.T @ x / len(x)).reconstruct()
    assert error <= (outputs - x @ without.T).norm().item() + slack


def _sqrt(gram: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(gram)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T


def test_whitening_by_hand():
    """One input is ten times as loud: it is kept, although its weight is the smaller one."""
    w = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    gram = torch.diag(torch.tensor([1.0, 100.0]))
    found = whitened_rank_k(w, 1, gram)
    torch.testing.assert_close(found.reconstruct(), torch.tensor([[0.0, 0.0], [0.0, 1.0]]))
    torch.testing.assert_close(found.left.norm(), found.right.norm())
    torch.testing.assert_close(best_rank_k(w, 1).reconstruct()[0], w[0])
    # Without any inputs all is left to the weight.
    nothing = whitened_rank_k(w, 1, torch.zeros(2, 2)).reconstruct()
    torch.testing.assert_close(nothing, best_rank_k(w, 1).reconstruct())
    zero = whitened_rank_k(torch.zeros(2, 2), 1, gram).reconstruct()
    assert not zero.any()


def test_which_gram_is_refused():
    w = torch.randn(4, 3)
    with pytest.raises(ValueError, match=r"gram must have shape \[3, 3\], got \[4, 4\]"):
        whitened_rank_k(w, 1, torch.eye(4))
    with pytest.raises(ValueError, match="gram must be symmetric"):
        whitened_rank_k(w, 1, torch.eye(3) + torch.ones(3, 3).triu(1))
    with pytest.raises(ValueError, match="positive semidefinite, got eigenvalue -1"):
        whitened_rank_k(w, 1, torch.diag(torch.tensor([1.0, 1.0, -1.0])))
    with pytest.raises(ValueError, match="gram must be finite"):
        whitened_rank_k(w, 1, torch.full((3, 3), torch.nan))
