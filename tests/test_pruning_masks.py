"""Masks: every pattern, exact counts, and that the lowest scores go."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from qtools.models import SmallCNN
from qtools.pruning import (
    apply_masks,
    bake_masks,
    block_mask,
    column_mask,
    cubic_sparsity,
    global_masks,
    magnitude,
    n_m_mask,
    row_mask,
    sparsity_of,
    taylor,
    unstructured_mask,
    wanda,
)

MASKS = {
    "unstructured": unstructured_mask,
    "row": row_mask,
    "column": column_mask,
    "block": lambda score, sparsity: block_mask(score, sparsity, (2, 3)),
}
#: Weights that one choice takes together, in a matrix [6, 12].
GROUP = {"unstructured": 1, "row": 12, "column": 6, "block": 6}


def scores(seed: int, shape: tuple[int, ...] = (6, 12)) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", MASKS)
@given(seed=st.integers(0, 2**31), sparsity=st.floats(0, 1), conv=st.booleans())
def test_exactly_the_share_that_was_asked_for_is_dropped(kind, seed, sparsity, conv):
    score = scores(seed)
    shaped = score.reshape(6, 3, 2, 2) if conv else score
    mask = MASKS[kind](shaped, sparsity)
    assert mask.shape == shaped.shape
    assert mask.dtype == torch.bool
    groups = 72 // GROUP[kind]
    assert int((~mask).sum()) == round(sparsity * groups) * GROUP[kind]


@pytest.mark.parametrize("kind", MASKS)
@given(seed=st.integers(0, 2**31), sparsity=st.floats(0, 1))
def test_no_dropped_group_has_a_higher_score_than_a_kept_one(kind, seed, sparsity):
    score = scores(seed)
    mask = MASKS[kind](score, sparsity)
    high, wide = {"unstructured": (1, 1), "row": (1, 12), "column": (6, 1), "block": (2, 3)}[kind]

    def groups(x: torch.Tensor) -> torch.Tensor:
        return x.reshape(6 // high, high, 12 // wide, wide).transpose(1, 2).flatten(2).flatten(0, 1)

    kept = groups(mask)
    assert torch.equal(kept.all(1), kept.any(1)), "a group is dropped whole or not at all"
    sums = groups(score.double()).sum(1)
    if 0 < int(kept.all(1).sum()) < len(kept):
        assert sums[~kept.all(1)].max() <= sums[kept.all(1)].min() + 1e-5


@given(
    seed=st.integers(0, 2**31),
    m=st.sampled_from([1, 2, 3, 4, 6, 12]),
    data=st.data(),
)
def test_n_m_keeps_the_n_largest_of_every_m_along_a_row(seed, m, data):
    n = data.draw(st.integers(1, m))
    score = scores(seed)
    mask = n_m_mask(score.reshape(6, 3, 2, 2), n, m).flatten(1)
    for row, kept in zip(score, mask, strict=True):
        for start in range(0, 12, m):
            group, k = row[start : start + m], kept[start : start + m]
            assert int(k.sum()) == n
            assert set(group[k].tolist()) == set(group.sort(descending=True).values[:n].tolist())


def test_equal_scores_drop_the_first():
    assert unstructured_mask(torch.ones(4), 0.5).tolist() == [False, False, True, True]
    assert n_m_mask(torch.ones(1, 4)).tolist() == [[False, False, True, True]]


@given(seed=st.integers(0, 2**31), sparsity=st.floats(0, 1))
def test_global_masks_have_one_threshold(seed, sparsity):
    layers = {"a": scores(seed), "b": 10 * scores(seed + 1, (4, 5, 2))}
    masks = global_masks(layers, sparsity)
    assert {name: m.shape for name, m in masks.items()} == {n: s.shape for n, s in layers.items()}
    assert sum(int((~m).sum()) for m in masks.values()) == round(sparsity * 112)
    dropped = [layers[n][~m] for n, m in masks.items()]
    kept = [layers[n][m] for n, m in masks.items()]
    if 0 < round(sparsity * 112) < 112:
        assert max(d.max() for d in dropped if len(d)) <= min(k.min() for k in kept if len(k))


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: unstructured_mask(torch.ones(3), 1.5), "sparsity must be from 0 to 1, got 1.5"),
        (lambda: unstructured_mask(torch.tensor([1.0, float("nan")]), 0.5), "score .* NaN"),
        (lambda: row_mask(torch.ones(3), 0.5), "two dimensions"),
        (lambda: block_mask(torch.ones(4, 6), 0.5), r"block must divide the matrix \[4, 6\]"),
        (lambda: n_m_mask(torch.ones(2, 6), 2, 4), "m must divide the 6 columns, got 4"),
        (lambda: n_m_mask(torch.ones(2, 4), 5, 4), "n must be from 1 to m = 4, got 5"),
        (lambda: taylor(torch.ones(2), torch.ones(3)), r"grad must .* \[2\], got \[3\]"),
        (lambda: wanda(torch.ones(2, 3), torch.ones(2)), r"input_norm must .* \[3\], got \[2\]"),
    ],
)
def test_what_is_refused(call, named):
    with pytest.raises(ValueError, match=named):
        call()


def test_scores_by_their_formulas():
    w, g = torch.tensor([[1.0, -2.0], [3.0, 0.0]]), torch.tensor([[-1.0, 0.5], [2.0, 9.0]])
    assert magnitude(w).tolist() == [[1, 2], [3, 0]]
    assert taylor(w, g).tolist() == [[1, 1], [6, 0]]
    assert wanda(w, torch.tensor([10.0, 1.0])).tolist() == [[10, 2], [30, 0]]
    conv = torch.arange(8.0).reshape(2, 1, 2, 2)
    assert wanda(conv, torch.tensor([1.0, 2, 3, 4])).flatten(1).tolist() == [
        [0, 2, 6, 12],
        [4, 10, 18, 28],
    ]


def test_taylor_is_the_first_order_change_of_the_loss():
    w = torch.randn(5, dtype=torch.float64, requires_grad=True)
    x = torch.randn(5, dtype=torch.float64)

    def loss(w: torch.Tensor) -> torch.Tensor:
        return (w @ x).exp()

    (grad,) = torch.autograd.grad(loss(w), w)
    for i, score in enumerate(taylor(w, grad).tolist()):
        step = torch.zeros_like(w)
        step[i] = 1e-6 * w[i].detach()
        change = (loss(w) - loss(w - step)).item() / 1e-6
        assert abs(change) == pytest.approx(score, rel=1e-4)


def test_a_mask_holds_while_an_optimiser_moves_everything():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    start = model[0].weight.detach().clone()
    mask = unstructured_mask(magnitude(model[0].weight), 0.5)
    apply_masks(model, {"0": mask})
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(5):
        optimiser.zero_grad()
        model(torch.randn(8, 6)).square().sum().backward()
        optimiser.step()
    assert bool((model[0].weight[~mask] == 0).all())
    assert bool((model[0].weight[mask] != start[mask]).all())
    x = torch.randn(3, 6)
    expected = model(x)
    bake_masks(model)
    assert type(model[0]) is nn.Linear
    assert set(model.state_dict()) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert torch.equal(model(x), expected)
    assert sparsity_of(model) == 15 / 40


def test_masks_are_replaced_not_stacked_and_wrong_ones_change_nothing():
    model = nn.Sequential(nn.Linear(4, 4))
    first, second = torch.rand(4, 4) < 0.5, torch.rand(4, 4) < 0.5
    apply_masks(model, {"0": first})
    apply_masks(model, {"0": second})
    assert torch.equal(model[0].weight != 0, second)
    with pytest.raises(ValueError, match=r"shape \[4, 4\], got \[2, 2\]"):
        apply_masks(model, {"0": first, "0 ": first, **{"0": torch.ones(2, 2, dtype=torch.bool)}})
    with pytest.raises(ValueError, match="modules with a weight, got 'nope'"):
        apply_masks(model, {"0": first, "nope": first})
    with pytest.raises(TypeError, match="must be bool"):
        apply_masks(model, {"0": torch.ones(4, 4)})
    assert torch.equal(model[0].weight != 0, second)


def test_masks_of_all_layers_of_a_network():
    model = SmallCNN.pretrained()
    names = ("conv1", "conv2", "conv3", "fc1", "fc2")
    scored = {name: magnitude(model.get_submodule(name).weight) for name in names}
    apply_masks(model, global_masks(scored, 0.7))
    total = sum(s.numel() for s in scored.values())
    assert sparsity_of(model) == round(0.7 * total) / total


@given(t0=st.integers(0, 50), length=st.integers(0, 50), final=st.floats(0, 1))
def test_the_cubic_schedule_rises_from_start_to_end(t0, length, final):
    values = [cubic_sparsity(t, t0, t0 + length, final) for t in range(120)]
    assert all(0 <= a <= b <= final for a, b in pairwise(values))
    assert values[t0 + length :] == [final] * (120 - t0 - length)
    if length:
        assert values[: t0 + 1] == [0.0] * (t0 + 1)


def test_half_way_the_cubic_schedule_has_seven_eighths():
    assert cubic_sparsity(10, 0, 20, 0.8) == pytest.approx(0.7)
    assert cubic_sparsity(10, 0, 20, 0.8, initial=0.4) == pytest.approx(0.75)
    with pytest.raises(ValueError, match="end must not be before start = 5, got 4"):
        cubic_sparsity(0, 5, 4, 0.5)
