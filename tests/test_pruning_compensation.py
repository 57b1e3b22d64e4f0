"""The optimal brain surgeon against constrained least squares, by an independent solver."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from qtools.data import normalise
from qtools.models import SmallCNN
from qtools.pruning import (
    compensate,
    gram_matrices,
    magnitude,
    n_m_mask,
    obs_prune,
    obs_update,
    output_error,
    sparse_gpt,
    unstructured_mask,
)

seeds = st.integers(0, 2**31)


def problem(seed: int, columns: int = 8, rows: int = 3, condition: float = 1e6):
    """A weight, and H with the given condition number and random eigenvectors, float64."""
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    basis = torch.linalg.qr(
        torch.randn(columns, columns, generator=generator, dtype=torch.float64)
    ).Q
    spectrum = torch.logspace(0, -torch.tensor(condition).log10().item(), columns).double()
    h = (basis * spectrum) @ basis.T
    return w, (h + h.T) / 2, generator


def least_squares(row: Tensor, keep: Tensor, h: Tensor) -> Tensor:
    """The same minimum from the normal problem's square root, by QR: no H_KK, no inverse."""
    values, vectors = torch.linalg.eigh(h)
    root = (vectors * values.clamp_min(0).sqrt()).T  # rootᵀ root = H
    new = torch.zeros_like(row)
    new[keep] = torch.linalg.lstsq(root[:, keep], root @ row).solution
    return new


@given(seed=seeds, condition=st.sampled_from([1.0, 1e3, 1e6]), index=st.integers(0, 7))
def test_obs_update_is_the_constrained_least_squares_solution(seed, condition, index):
    w, h, _ = problem(seed, condition=condition)
    new, cost = obs_update(w[0], h, index)
    keep = torch.arange(8) != index
    expected = least_squares(w[0], keep, h)
    # The solution itself is determined to (condition) * (unit roundoff) ~ 1e-10.
    assert torch.linalg.norm(new - expected) <= 1e-8 * torch.linalg.norm(w[0])
    assert new[index] == 0
    error = output_error(w[:1], new[None], h)
    assert cost == pytest.approx(error, rel=1e-8, abs=1e-16)
    assert cost <= float(w[0, index].square() * h[index, index]) * (1 + 1e-8)


@given(seed=seeds, condition=st.sampled_from([1.0, 1e3, 1e6]), sparsity=st.floats(0.1, 0.9))
def test_compensate_is_least_squares_under_any_mask(seed, condition, sparsity):
    w, h, generator = problem(seed, condition=condition)
    mask = unstructured_mask(torch.rand(w.shape, generator=generator), sparsity)
    new = compensate(w, mask, h)
    assert bool((new[~mask] == 0).all())
    for row, keep, got in zip(w, mask, new, strict=True):
        expected = least_squares(row, keep, h)
        assert torch.linalg.norm(got - expected) <= 1e-8 * torch.linalg.norm(row)
        # The condition that decides: the error's gradient is 0 at every kept weight.
        assert float((h @ (got - row))[keep].abs().sum()) <= 1e-12 * float(row.norm()) * 8


@given(seed=seeds, rank=st.integers(1, 8), sparsity=st.floats(0, 1))
def test_compensation_is_never_above_none(seed, rank, sparsity):
    """The theorem, also where H is singular."""
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(4, 8, generator=generator, dtype=torch.float64)
    x = torch.randn(rank, 8, generator=generator, dtype=torch.float64)
    h = x.T @ x / rank
    mask = unstructured_mask(torch.rand(w.shape, generator=generator), sparsity)
    without = output_error(w, w * mask, h)
    scale = output_error(w, torch.zeros_like(w), h)
    assert output_error(w, compensate(w, mask, h), h) <= without + 1e-12 * scale


def test_with_inputs_that_are_not_correlated_nothing_moves():
    w, _, generator = problem(3)
    h = torch.diag(torch.rand(8, generator=generator, dtype=torch.float64) + 0.1)
    mask = unstructured_mask(magnitude(w), 0.5)
    torch.testing.assert_close(compensate(w, mask, h), w * mask, rtol=0, atol=0)


def test_a_copy_of_an_input_takes_over_entirely():
    w = torch.tensor([[2.0, 3.0, 1.0]])
    x = torch.randn(50, 3, dtype=torch.float64)
    x[:, 1] = x[:, 0]
    h = x.T @ x / 50
    new = compensate(w, torch.tensor([[False, True, True]]), h)
    torch.testing.assert_close(new, torch.tensor([[0.0, 5.0, 1.0]]))


@settings(max_examples=25)
@given(seed=seeds, drops=st.integers(1, 6))
def test_obs_prune_is_greedy_and_exact(seed, drops):
    """Each row by the definition: drop the cheapest weight, least squares on what is left."""
    w, h, _ = problem(seed, columns=7, condition=1e3)
    new = obs_prune(w, h, drops / 7)
    for row, got in zip(w, new, strict=True):
        keep = torch.ones(7, dtype=torch.bool)
        for _ in range(drops):
            costs = {}
            for q in keep.nonzero()[:, 0].tolist():
                trial = keep.clone()
                trial[q] = False
                costs[q] = output_error(row[None], least_squares(row, trial, h)[None], h)
            keep[min(costs, key=costs.__getitem__)] = False
        assert torch.equal(got != 0, keep)
        expected = least_squares(row, keep, h)
        assert torch.linalg.norm(got - expected) <= 1e-8 * torch.linalg.norm(row)


def test_greedy_is_not_always_the_best_mask():
    """What greedy misses: the best of all masks of two weights, found by trying them all."""
    gaps = []
    for seed in range(30):
        w, h, _ = problem(seed, columns=6, rows=1, condition=1e3)
        greedy = output_error(w, obs_prune(w, h, 0.5), h)
        best = min(
            output_error(
                w, compensate(w, torch.isin(torch.arange(6), torch.tensor(keep))[None], h), h
            )
            for keep in itertools.combinations(range(6), 3)
        )
        assert best <= greedy * (1 + 1e-9)
        gaps.append(greedy / best)
    assert max(gaps) > 1.01
    assert sorted(gaps)[len(gaps) // 2] < 2


def column_by_column(w: Tensor, h: Tensor, mask: Tensor) -> Tensor:
    """Exact brain surgeon in the order of the columns; only columns further right may answer."""
    w = w.clone()
    for j in range(w.shape[1]):
        inverse = torch.linalg.inv(h[j:, j:])
        step = torch.where(mask[:, j], 0, w[:, j] / inverse[0, 0])
        w[:, j:] -= step[:, None] * inverse[0]
        w[~mask[:, j], j] = 0
    return w


@settings(max_examples=30)
@given(seed=seeds, block=st.sampled_from([2, 4, 6, 12, 128]))
def test_sparse_gpt_equals_the_update_it_factorises(seed, block):
    w, h, _ = problem(seed, columns=12, condition=1e3)
    new = sparse_gpt(w, h, n_m=(1, 2), block_size=block, damping=0.0)
    expected = column_by_column(w, h, new != 0)
    assert torch.linalg.norm(new - expected) <= 1e-9 * torch.linalg.norm(w)
    assert bool(((new != 0).reshape(-1, 2).sum(1) == 1).all())


@pytest.mark.parametrize("n_m", [(1, 4), (2, 4), (3, 4), (1, 2), (4, 8)])
def test_sparse_gpt_n_m_is_valid_in_every_group_and_blocks_change_nothing(n_m):
    w, h, _ = problem(5, columns=48, rows=20, condition=1e3)
    results = [sparse_gpt(w, h, n_m=n_m, block_size=b) for b in (8, 16, 48, 128)]
    for new in results:
        assert bool(((new != 0).reshape(-1, n_m[1]).sum(1) == n_m[0]).all())
        torch.testing.assert_close(new, results[0], rtol=0, atol=1e-10)


@given(seed=seeds, sparsity=st.floats(0, 1), block=st.sampled_from([3, 8, 128]))
def test_sparse_gpt_drops_the_share_of_every_block(seed, sparsity, block):
    w, h, _ = problem(seed, columns=16, rows=5)
    new = sparse_gpt(w, h, sparsity, block_size=block)
    for part in new.split(block, dim=1):
        assert int((part == 0).sum()) == round(sparsity * part.numel())


def test_sparse_gpt_without_sparsity_changes_nothing_and_dead_inputs_go_first():
    w, h, _ = problem(1)
    torch.testing.assert_close(sparse_gpt(w, h, 0.0), w, rtol=0, atol=0)
    h[2], h[:, 2] = 0, 0
    new = sparse_gpt(w, h, 1 / 8)
    assert bool((new[:, 2] == 0).all())
    live = torch.arange(8) != 2
    torch.testing.assert_close(new[:, live], w[:, live], rtol=0, atol=0)


def test_sparse_gpt_can_be_worse_than_magnitude():
    """With H = I nothing can be made up for, and a share for every block is a worse choice."""
    torch.manual_seed(0)
    w = torch.randn(4, 8, dtype=torch.float64) * torch.tensor([10.0] * 4 + [1.0] * 4)
    h = torch.eye(8, dtype=torch.float64)
    blocked = output_error(w, sparse_gpt(w, h, 0.5, block_size=4, damping=0), h)
    assert blocked > 2 * output_error(w, w * unstructured_mask(magnitude(w), 0.5), h)


def test_on_the_layers_of_our_network_sparse_gpt_is_below_magnitude(images):
    model = SmallCNN.pretrained()
    grams = gram_matrices(model, images.split(64))
    assert list(grams) == ["conv1", "conv2", "conv3", "fc1", "fc2"]
    for name, gram in grams.items():
        w, h = model.get_submodule(name).weight, gram.matrix
        magnitudes = w * unstructured_mask(magnitude(w), 0.6)
        assert output_error(w, sparse_gpt(w, h, 0.6), h) < 0.8 * output_error(w, magnitudes, h)
        if w[0].numel() % 4 == 0:
            two_four = w * n_m_mask(magnitude(w))
            surgeon = sparse_gpt(w, h, n_m=(2, 4))
            assert output_error(w, surgeon, h) < output_error(w, two_four, h)


@pytest.fixture(scope="module")
def images() -> Tensor:
    from qtools.data import fashion_mnist

    return normalise(fashion_mnist().train_images[:256])


CONVS = [
    nn.Conv2d(3, 4, 3, padding=1),
    nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(0, 1), dilation=(1, 2)),
    nn.Conv2d(3, 4, 3, padding="same", dilation=2),
    nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"),
    nn.Linear(8, 4),
]


@pytest.mark.parametrize("layer", CONVS, ids=str)
def test_output_error_is_the_mean_squared_change_of_the_output(layer):
    torch.manual_seed(0)
    layer = layer.double()
    batches = [torch.randn(n, 3, 8, 8, dtype=torch.float64) for n in (5, 2)]
    gram = gram_matrices(nn.Sequential(layer), batches)["0"]
    old = layer.weight.detach().clone()
    new = old * unstructured_mask(magnitude(old), 0.5)
    before = [layer(x) for x in batches]
    layer.weight.data = new
    change = [(layer(x) - y).square().sum() for x, y in zip(batches, before, strict=True)]
    outputs = sum(y.numel() for y in before) // 4
    assert gram.rows == outputs
    assert output_error(old, new, gram.matrix) == pytest.approx(
        sum(c.item() for c in change) / outputs, rel=1e-12
    )
    rows = torch.cat([b.reshape(-1, 8) for b in batches]) if isinstance(layer, nn.Linear) else None
    if rows is not None:
        torch.testing.assert_close(gram.input_norm, rows.norm(dim=0))


def test_gram_matrices_leave_the_model_as_it_was():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2))
    model.train()
    model[2].eval()
    state = {name: t.clone() for name, t in model.state_dict().items()}
    gram_matrices(model, [torch.randn(4, 1, 4, 4)])
    assert [m.training for m in model] == [True, True, False, True]
    assert all(torch.equal(t, state[name]) for name, t in model.state_dict().items())
    assert not any(m._forward_pre_hooks for m in model.modules())


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)
        self.c = nn.Conv2d(2, 2, 1, groups=2)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.a(x))


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda w, h: obs_update(w[0], h, 8), "index must be from -8 to 7, got 8"),
        (lambda w, h: obs_update(w[0], -h, 0), "hessian must be positive definite"),
        (lambda w, h: obs_prune(w, h[:3, :3], 0.5), r"hessian must have the shape \[8, 8\]"),
        (lambda w, h: obs_prune(w, h, -0.1), "sparsity must be from 0 to 1"),
        (lambda w, h: compensate(w, torch.ones(2, 2) > 0, h), "mask must have the weight's shape"),
        (lambda w, h: output_error(w, w[:1], h), "new_weight must have the shape"),
        (lambda w, h: sparse_gpt(w, h), "either sparsity or n_m, got None and None"),
        (lambda w, h: sparse_gpt(w, h, 0.5, n_m=(2, 4)), "either sparsity or n_m"),
        (lambda w, h: sparse_gpt(w, h, n_m=(2, 4), block_size=6), "a multiple of m, got 6"),
        (lambda w, h: sparse_gpt(w, h, 0.5, damping=-1.0), "damping must not be negative"),
        (lambda w, h: sparse_gpt(w, -h, 0.5), "hessian must be positive definite once damped"),
        (lambda w, h: sparse_gpt(w, h[:2, :2], 0.5), r"hessian must have the shape \[8, 8\]"),
        (lambda w, h: gram_matrices(Unused(), [w[:, :2].float()], ["c"]), "got 'c'"),
        (lambda w, h: gram_matrices(Unused(), [w[:, :2].float()]), r"\['b'\] never ran"),
    ],
)
def test_what_is_refused(call, named):
    w, h, _ = problem(0)
    with pytest.raises(ValueError, match=named):
        call(w, h)


def test_a_mask_must_be_bool():
    w, h, _ = problem(0)
    with pytest.raises(TypeError, match=r"mask must be bool, got torch\.float64"):
        compensate(w, w, h)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_types_and_shapes_come_back(dtype):
    w, h, _ = problem(0, columns=8)
    conv = w.reshape(3, 2, 2, 2).to(dtype)
    mask = unstructured_mask(magnitude(conv), 0.5)
    for new in (compensate(conv, mask, h), obs_prune(conv, h, 0.5), sparse_gpt(conv, h, 0.5)):
        assert new.dtype == dtype
        assert new.shape == conv.shape
        assert int((new == 0).sum()) == 12
