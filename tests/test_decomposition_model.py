"""The low-rank layer, the choice of its rank, whole networks, what they cost before and after."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrize

from qtools.decomposition import (
    Cost,
    LowRankLinear,
    best_rank_k,
    break_even_rank,
    conv_svd,
    cost,
    cp,
    decompose,
    merged_kernel,
    rank_by_bytes,
    rank_by_energy,
    rank_by_validation,
    spatial_separable,
    tucker2,
    tucker2_break_even,
    whitened_rank_k,
)
from qtools.models import SmallCNN
from qtools.pruning import gram_matrices
from tests.ptq_networks import NETWORKS, ConvNeXt, DenseNet, images, trained_like

seeds = st.integers(0, 2**32 - 1)


# The layer


@given(seeds, st.integers(1, 9), st.integers(1, 9), st.booleans())
def test_a_layer_of_full_rank_computes_the_same(seed, n, m, bias):
    torch.manual_seed(seed)
    linear = nn.Linear(n, m, bias, dtype=torch.float64)
    x = torch.randn(2, 3, n, dtype=torch.float64)
    rows = torch.randn(20, n, dtype=torch.float64)
    for gram in (None, rows.T @ rows):
        low = LowRankLinear.from_linear(linear, min(m, n), gram)
        torch.testing.assert_close(low(x), linear(x), rtol=1e-10, atol=1e-10)


@given(seeds, st.integers(1, 9), st.integers(1, 9), st.data())
def test_a_layer_is_its_two_factors(seed, n, m, data):
    torch.manual_seed(seed)
    k = data.draw(st.integers(1, min(m, n)))
    linear, x = nn.Linear(n, m), torch.randn(5, n)
    root = torch.randn(n, n)
    gram = root @ root.T
    for given_gram, factors in ((None, best_rank_k(linear.weight, k)),
                                (gram, whitened_rank_k(linear.weight, k, gram))):  # fmt: skip
        low = LowRankLinear.from_linear(linear, k, given_gram)
        assert torch.equal(low.left.weight, factors.left)
        assert torch.equal(low.right.weight, factors.right)
        torch.testing.assert_close(low.reconstruct(), factors.reconstruct())
        torch.testing.assert_close(
            low(x), F.linear(x, factors.reconstruct(), linear.bias), rtol=1e-4, atol=1e-4
        )
        assert low(x[0]).shape == (m,)


def test_no_full_matrix_is_made():
    low = LowRankLinear(300, 200, 2)
    seen = []

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                seen.append(out.numel())
            return out

    with Watch():
        low(torch.randn(3, 300))
    assert max(seen) < 200 * 300
    assert sum(p.numel() for p in low.parameters()) == 2 * (300 + 200) + 200
    assert "in_features=300, out_features=200, rank=2, bias=True" in repr(low)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_what_a_layer_takes_over(dtype):
    linear = nn.Linear(6, 4).to(dtype).eval()
    linear.weight.requires_grad_(False)
    before, state = linear.weight.clone(), torch.get_rng_state()
    low = LowRankLinear.from_linear(linear, 2, torch.eye(6))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(linear.weight, before)
    assert {p.dtype for p in low.parameters()} == {dtype}
    assert not low.training
    assert not low.left.training
    assert not low.left.weight.requires_grad
    assert not low.right.weight.requires_grad
    assert low.bias is low.left.bias
    assert low.bias.requires_grad
    assert torch.equal(low.bias, linear.bias)
    assert low.bias is not linear.bias
    assert LowRankLinear.from_linear(nn.Linear(6, 4, bias=False), 2).bias is None


def test_a_new_layer_can_be_trained():
    torch.manual_seed(0)
    low = LowRankLinear(6, 5, 3, bias=False, dtype=torch.float64)
    x = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(low, (x,))
    low(x).square().sum().backward()
    assert low.left.weight.grad.shape == (5, 3)
    assert low.right.weight.grad.shape == (3, 6)
    for rank in (0, 6):
        with pytest.raises(ValueError, match=f"rank must be from 1 to 5, got {rank}"):
            LowRankLinear(6, 5, rank)


# The rank


@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=12), st.floats(0.001, 1))
def test_energy_is_reached_and_not_one_rank_sooner(values, energy):
    s = torch.tensor(sorted(values, reverse=True), dtype=torch.float64)
    k = rank_by_energy(s, energy)
    squares = [(v / max(values)) ** 2 if max(values) > 0 else 1.0 for v in s.tolist()]
    total = math.fsum(squares)
    assert 1 <= k <= len(s)
    assert math.fsum(squares[:k]) >= energy * total * (1 - 1e-12)
    assert k == 1 or math.fsum(squares[: k - 1]) < energy * total * (1 + 1e-12)


def test_energy_at_its_edges():
    s = torch.tensor([3.0, 1.0, 0.0])
    assert [rank_by_energy(s, e) for e in (0.5, 0.9, 0.9001, 1.0)] == [1, 1, 2, 2]
    assert rank_by_energy(torch.zeros(4), 1.0) == 1
    assert rank_by_energy(torch.ones(4), 1.0) == 4
    assert rank_by_energy(torch.tensor([3e30, 4e-30]), 1.0) == 1
    assert rank_by_energy(torch.full((4,), 1e-30), 0.75) == 3
    for bad in (torch.tensor([1.0, 2.0]), torch.tensor([1.0, -1.0])):
        with pytest.raises(ValueError, match="not be negative, and descend"):
            rank_by_energy(bad, 0.5)
    for bad in (torch.ones(2, 2), torch.ones(0), torch.tensor([torch.nan])):
        with pytest.raises(ValueError, match="non-empty vector of finite numbers"):
            rank_by_energy(bad, 0.5)
    for energy in (0.0, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"energy must be in \(0, 1\]"):
            rank_by_energy(s, energy)


@given(st.lists(st.integers(1, 40), min_size=2, max_size=4))
def test_break_even_is_exact(shape):
    k = break_even_rank(*shape)
    assert k * sum(shape) < math.prod(shape) <= (k + 1) * sum(shape)


def test_break_even_by_hand():
    assert break_even_rank(1, 10) == 0  # 1 · 11 numbers for 10
    assert break_even_rank(2, 2) == 0  # 1 · 4 numbers for 4: no fewer
    assert break_even_rank(4, 4) == 1  # 2 · 8 = 16
    assert break_even_rank(128, 576) == 104
    for bad in ((3,), (), (0, 3), (3, -1)):
        with pytest.raises(ValueError, match="shape must be at least two positive sizes"):
            break_even_rank(*bad)


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("shape", [(5, 8, 3, 3), (16, 3, 5, 1), (7, 9, 2, 4), (12, 12, 1, 1)])
def test_break_even_of_convolutions_at_the_edge(shape):
    """The parameters that the layers really have, at the last rank that pays and one above."""
    out, inside, kh, kw = shape
    conv = nn.Conv2d(inside, out, (kh, kw), bias=False)
    for make, sizes, largest in (
        (conv_svd, (out, inside * kh * kw), min(out, inside * kh * kw)),
        (spatial_separable, (inside * kh, out * kw), min(inside * kh, out * kw)),
        (lambda c, k: cp(c, k, 1, 2), shape, math.prod(shape) // max(shape)),
    ):
        k = break_even_rank(*sizes)
        if k:
            assert count(make(conv, k)) < count(conv)
        if k < largest:
            assert count(make(conv, k + 1)) >= count(conv)
    for rank_in in range(1, inside + 1):
        k = tucker2_break_even(shape, rank_in)
        if k:
            assert count(tucker2(conv, rank_in, k)) < count(conv)
        if k < out:
            assert count(tucker2(conv, rank_in, k + 1)) >= count(conv)


def test_multiplications_break_even_at_the_same_rank_at_stride_one():
    conv, x = nn.Conv2d(8, 6, 3, padding=1), torch.zeros(1, 8, 10, 7)
    for make, sizes in ((conv_svd, (6, 72)), (spatial_separable, (24, 18)), (cp, (6, 8, 3, 3))):
        k = break_even_rank(*sizes)
        dense, pays, more = (cost(m, x).macs for m in (conv, make(conv, k), make(conv, k + 1)))
        assert pays < dense <= more
    # With a stride the horizontal link has to be made for columns that the vertical one kept.
    strided, k = nn.Conv2d(8, 6, 3, stride=2, padding=1), break_even_rank(24, 18)
    assert cost(spatial_separable(strided, k), x).macs > cost(strided, x).macs
    linear, row = nn.Linear(9, 7), torch.zeros(1, 9)
    k = break_even_rank(7, 9)
    macs = [cost(LowRankLinear.from_linear(linear, r), row).macs for r in (k, k + 1)]
    assert macs[0] < cost(linear, row).macs <= macs[1]


def test_tucker2_break_even_refuses():
    assert tucker2_break_even((4, 4, 1, 1), 4) == 0
    assert tucker2_break_even((4, 400, 3, 3), 1) == 4
    with pytest.raises(ValueError, match="shape must be four positive sizes"):
        tucker2_break_even((4, 4), 1)
    with pytest.raises(ValueError, match="rank_in must be from 1 to 4, got 5"):
        tucker2_break_even((4, 4, 3, 3), 5)


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 5000),
       st.sampled_from([torch.float16, torch.float32, torch.float64]))  # fmt: skip
def test_bytes_are_those_of_the_factors(m, n, budget, dtype):
    each = (m + n) * dtype.itemsize
    if budget < each:
        with pytest.raises(ValueError, match=f"at least {each} for rank 1, got {budget}"):
            rank_by_bytes((m, n), budget, dtype)
        return
    k = rank_by_bytes((m, n), budget, dtype)
    layer = LowRankLinear(n, m, k, bias=False, dtype=dtype)
    assert sum(p.nbytes for p in layer.parameters()) <= budget
    assert k == min(m, n) or (k + 1) * each > budget


def test_bytes_at_their_edge():
    """A rank of a 4 × 3 matrix takes 7 numbers, 28 bytes in float32."""
    budgets = {28: 1, 55: 1, 56: 2, 84: 3, 999: 3}
    assert {b: rank_by_bytes((4, 3), b, torch.float32) for b in budgets} == budgets
    with pytest.raises(ValueError, match="at least 28 for rank 1, got 27"):
        rank_by_bytes((4, 3), 27, torch.float32)


def test_bytes_of_four_axes():
    kernel = nn.Conv2d(8, 6, 3, bias=False)
    k = rank_by_bytes(kernel.weight.shape, 500, torch.float32)
    assert count(cp(kernel, k)) * 4 <= 500 < count(cp(kernel, k + 1)) * 4
    assert rank_by_bytes((8, 6, 3, 3), 10**9, torch.float32) == 54
    with pytest.raises(ValueError, match="shape must be at least two positive sizes"):
        rank_by_bytes((3,), 100, torch.float32)


def test_validation_takes_the_smallest_that_is_good_enough():
    scores, tried = {1: 0.2, 2: 0.9, 4: 0.8, 8: 0.95}, []

    def score(rank):
        tried.append(rank)
        return scores[rank]

    assert rank_by_validation(score, [8, 2, 1, 4, 2], 0.9) == 2  # equal is enough
    assert tried == [1, 2]
    assert rank_by_validation(score, iter([8, 4, 2, 1]), 0.91) == 8
    with pytest.raises(ValueError, match=r"within reach, got 0\.96; the best is 0\.95 at rank 8"):
        rank_by_validation(score, scores, 0.96)
    with pytest.raises(ValueError, match="candidates must not be empty"):
        rank_by_validation(score, [], 0.5)


# Whole networks


def layers(model):
    """Every layer that `decompose` takes, with half its rank."""
    found = {}
    for name, module in model.named_modules():
        if type(module) is nn.Linear or (type(module) is nn.Conv2d and module.groups == 1):
            found[name] = max(1, min(module.weight.flatten(1).shape) // 2)
    return found


def tuckers(model):
    modules = dict(model.named_modules())
    return {
        name: (max(1, modules[name].in_channels // 2), max(1, modules[name].out_channels // 2))
        if isinstance(modules[name], nn.Conv2d) else rank
        for name, rank in layers(model).items()
    }  # fmt: skip


def functions(model):
    modules = dict(model.named_modules())
    makers = itertools.cycle(
        [lambda conv: spatial_separable(conv, 2), lambda conv: cp(conv, 3, 1, 9)]
    )
    return {name: next(makers) if isinstance(modules[name], nn.Conv2d) else rank
            for name, rank in layers(model).items()}  # fmt: skip


@pytest.mark.parametrize("choose", [layers, tuckers, functions])
@pytest.mark.parametrize("network", NETWORKS, ids=lambda n: n.__name__)
def test_networks_keep_their_shapes(network, choose):
    model = trained_like(network, 0)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    ranks = choose(model)
    new, x = decompose(model, ranks), images(2)
    expected, got = model(x), new(x)
    assert got.shape == expected.shape
    assert got.isfinite().all()
    assert not torch.equal(got, expected)
    now = dict(new.named_modules())
    assert all(type(now[name]) not in (nn.Linear, nn.Conv2d) for name in ranks)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    if network is ConvNeXt:  # it adds in place to what its own gradient needs
        return
    got.sum().backward()
    assert all(p.grad is not None for p in new.parameters())


@pytest.mark.parametrize("network", NETWORKS, ids=lambda n: n.__name__)
def test_networks_at_full_rank_compute_the_same(network):
    model = trained_like(network, 1).double()
    modules = dict(model.named_modules())
    ranks = {name: min(modules[name].weight.flatten(1).shape) for name in layers(model)}
    x = images(2).double()
    torch.testing.assert_close(decompose(model, ranks)(x), model(x), rtol=1e-8, atol=1e-8)


def test_a_gram_matrix_for_each_layer():
    """As a tensor, or as what has it in `.matrix`; Tucker's layers do without."""

    class Gram:
        matrix = torch.diag(torch.arange(1.0, 145.0))

    model = SmallCNN.pretrained()
    fc1 = torch.diag(torch.arange(576.0))
    gram = {"fc1": fc1, "conv2": Gram()}
    new = decompose(model, {"fc1": 20, "conv2": 8, "conv3": (4, 8)}, gram)
    expected = whitened_rank_k(model.fc1.weight, 20, fc1).reconstruct()
    torch.testing.assert_close(new.fc1.reconstruct(), expected)
    expected = whitened_rank_k(model.conv2.weight.flatten(1), 8, Gram.matrix).reconstruct()
    torch.testing.assert_close(merged_kernel(new.conv2).flatten(1), expected)
    with pytest.raises(ValueError, match=r"^fc2: gram must have a matrix for this layer"):
        decompose(model, {"fc2": 2}, gram)
    with pytest.raises(ValueError, match=r"^fc2: gram must have shape \[128, 128\]"):
        decompose(model, {"fc2": 2}, {"fc2": fc1})


def test_gram_matrices_of_the_package_fit():
    """Rows of a Linear, patches of a Conv2d: on the inputs behind them the optimum is reached."""
    model = SmallCNN.pretrained()
    torch.manual_seed(0)
    x = torch.randn(20, 1, 28, 28)
    gram = gram_matrices(model, [x[:5], x[5:]], ["fc1", "conv3"])
    aware, plain = (decompose(model, {"fc1": 8, "conv3": 8}, g) for g in (gram, None))
    for name in ("fc1", "conv3"):
        seen, layer = [], model.get_submodule(name)
        hook = layer.register_forward_hook(lambda m, args, out, s=seen: s.extend([*args, out]))
        model(x)
        hook.remove()
        inputs, outputs = (t.detach() for t in seen)
        rows = (outputs if layer.bias is None else outputs - layer.bias).double()
        rows = rows.movedim(1, -1).flatten(0, -2) if rows.ndim == 4 else rows
        least = torch.linalg.svdvals(rows)[8:].norm().item()
        errors = [(m.get_submodule(name)(inputs) - outputs).norm().item() for m in (aware, plain)]
        assert errors[0] == pytest.approx(least, rel=1e-3)
        assert errors[0] < 0.9 * errors[1]


def test_one_layer_under_two_names_stays_one():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(4, 4)
            self.then = nn.ModuleList([self.first, nn.Linear(4, 4)])

        def forward(self, x):
            return self.then[1](self.then[0](self.first(x)))

    new = decompose(Twice(), {"then.0": 2})
    assert isinstance(new.first, LowRankLinear)
    assert new.then[0] is new.first
    assert isinstance(new.then[1], nn.Linear)
    with pytest.raises(ValueError, match=r"^then\.0: ranks must name a layer once"):
        decompose(Twice(), {"first": 2, "then.0": 1})
    shared = decompose(trained_like(DenseNet, 0), {"shared": 4})
    assert shared(images(1)).shape == (1, 10)


def test_the_model_itself_may_be_the_layer():
    linear = nn.Linear(4, 3)
    new = decompose(linear, {"": 2})
    assert isinstance(new, LowRankLinear)
    assert isinstance(decompose(linear, {}), nn.Linear)
    assert decompose(linear, {}) is not linear


class Subclass(nn.Linear):
    def forward(self, x):
        return super().forward(x) + x.sum()


def parametrized():
    layer = nn.Linear(4, 4)
    parametrize.register_parametrization(layer, "weight", nn.Identity())
    return layer


def hooked():
    layer = nn.Linear(4, 4)
    layer.register_forward_hook(lambda *args: None)
    return layer


@pytest.mark.parametrize(
    ("module", "choice", "error", "message"),
    [
        (nn.Conv2d(4, 4, 3, groups=2), 2, ValueError, "conv must have groups=1, got groups=2"),
        (nn.Conv2d(4, 4, 3, groups=4), (2, 2), ValueError, "conv must have groups=1"),
        (nn.ConvTranspose2d(4, 4, 3), 2, TypeError, "got ConvTranspose2d"),
        (nn.Conv1d(4, 4, 3), 2, TypeError, "got Conv1d"),
        (nn.BatchNorm2d(4), 2, TypeError, "must be a Linear or a Conv2d, got BatchNorm2d"),
        (Subclass(4, 4), 2, TypeError, "got Subclass"),
        (parametrized(), 2, TypeError, "got ParametrizedLinear"),
        (hooked(), 2, ValueError, "layer must have no hooks"),
        (nn.Linear(4, 3), 4, ValueError, "rank must be from 1 to 3, got 4"),
        (nn.Linear(4, 3), 0, ValueError, "rank must be from 1 to 3, got 0"),
        (nn.Linear(4, 3), (2, 2), TypeError, "must be an integer"),
        (nn.Linear(4, 3), 1.5, TypeError, "must be an integer"),
        (nn.Conv2d(4, 5, 3), 6, ValueError, "rank must be from 1 to 5, got 6"),
        (nn.Conv2d(4, 5, 3), (5, 5), ValueError, "rank_in must be from 1 to 4, got 5"),
        (nn.Conv2d(4, 5, 3), (1, 2, 3), ValueError, r"one or \(rank_in, rank_out\)"),
        (nn.Conv2d(4, 5, 3), None, TypeError, "must be an integer"),
    ],
)  # fmt: skip
def test_refused_with_the_name_of_the_layer(module, choice, error, message):
    model = nn.Sequential(nn.Identity(), nn.ModuleDict({"odd": module}))
    with pytest.raises(error, match=rf"^1\.odd: .*{message}"):
        decompose(model, {"1.odd": choice})


def test_unknown_names_and_attention_are_refused():
    with pytest.raises(ValueError, match="ranks must name modules of the model, got 'fc9'"):
        decompose(SmallCNN(), {"fc9": 2})
    encoder = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True))
    message = r"^0\.linear1: TransformerEncoderLayer reads this layer's weight"
    with pytest.raises(TypeError, match=message):
        decompose(encoder, {"0.linear1": 2})
    with pytest.raises(TypeError, match=r"^0\.self_attn\.out_proj: "):
        decompose(encoder, {"0.self_attn.out_proj": 2})


def test_cost_before_and_after():
    model, x = SmallCNN.pretrained(), torch.zeros(1, 1, 28, 28)
    before = cost(model, x)
    assert before.parameters == 98_554
    convs = 784 * 16 * 9 + 196 * 32 * 16 * 9 + 49 * 64 * 32 * 9
    assert before.macs == convs + 576 * 128 + 1280
    assert before.nbytes == sum(t.nbytes for t in model.state_dict().values())
    after = cost(decompose(model, {"fc1": 16}), x)
    saved = 576 * 128 - 16 * (576 + 128)
    assert before.macs - after.macs == saved
    assert before.parameters - after.parameters == saved
    assert before.nbytes - after.nbytes == 4 * saved
    shared = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    shared[1].weight = shared[0].weight
    assert cost(shared, torch.zeros(1, 3)) == Cost(18, 15, 60)
    assert str(Cost(1234, 5, 60)) == "1,234 multiply-adds, 5 parameters, 60 bytes"
