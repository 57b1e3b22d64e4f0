"""Channels taken out: the smaller network computes what the whole one does with them at zero."""

from __future__ import annotations

import copy
import pickle
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from qtools.flops import macs
from qtools.models import SmallCNN
from qtools.pruning import removal
from qtools.pruning.apply import apply_masks, bake_masks
from qtools.pruning.channels import channel_groups
from qtools.pruning.scores import magnitude
from qtools.pruning.structured import Score, prune_channels, prune_to_macs
from qtools.ptq import fold_batch_norm
from tests.pruning_networks import FOLLOWED, REFUSED, Attention, Joined, Shared, example, make
from tests.ptq_networks import ConvNeXt, DenseNet, EfficientNet, MobileNetV2, ResNet, ShuffleNet

Weighted = (nn.Linear, nn.modules.conv._ConvNd)


#: The networks of the quantization tests, which take larger images.
DEPLOYED = (ResNet, MobileNetV2, EfficientNet, DenseNet, ShuffleNet)


def image(network: type[nn.Module], n: int = 2) -> Tensor:
    if network is SmallCNN:
        return torch.randn(n, 1, 28, 28, dtype=torch.float64)
    is_large = network in (*DEPLOYED, ConvNeXt)
    return torch.randn(n, 3, 32, 32, dtype=torch.float64) if is_large else example(n)


def at_random(seed: int) -> Score:
    """Scores that do not look at the weights."""
    return lambda w: torch.rand(len(w), generator=torch.Generator().manual_seed(seed))


def survivors(m: nn.Module, x: Tensor, ratio: float, score: Score) -> dict[str, list[list[int]]]:
    """Which indices of each parameter stay, by dimension: read off numbered weights."""
    numbered = copy.deepcopy(m)
    shapes = {name: p.shape for name, p in m.named_parameters()}
    with torch.no_grad():
        for p in numbered.parameters():
            p.copy_(torch.arange(p.numel()).view(p.shape) / p.numel())
    pruned = prune_channels(numbered, x, ratio, score=score)
    left = {}
    for name, p in pruned.named_parameters():
        flat = (p.detach() * shapes[name].numel()).round().long()
        left[name] = [i.unique().tolist() for i in torch.unravel_index(flat, shapes[name])]
    return left


def unread(m: nn.Module, left: dict[str, list[list[int]]]) -> nn.Module:
    """The whole network, whose layers read zeros where channels are gone: columns at zero."""
    m = copy.deepcopy(m)
    with torch.no_grad():
        for name, layer in m.named_modules():
            if isinstance(layer, Weighted) and getattr(layer, "groups", 1) == 1:
                dim = 0 if getattr(layer, "transposed", False) else 1
                stays = left[f"{name}.weight"][dim] if f"{name}.weight" in left else range(0)
                gone = [c for c in range(layer.weight.shape[dim]) if c not in stays]
                if stays:
                    layer.weight.index_fill_(dim, torch.tensor(gone, dtype=torch.int64), 0.0)
    return m


def gap(a: object, b: object) -> float:
    """The largest difference of two results, relative to the larger."""
    pairs = list(zip(tree_leaves(a), tree_leaves(b), strict=True))
    assert all(p.shape == q.shape for p, q in pairs)
    return max(float((p - q).detach().abs().max() / (1 + q.detach().abs().max())) for p, q in pairs)


@pytest.mark.parametrize("network", [SmallCNN, *DEPLOYED, *FOLLOWED])
@settings(max_examples=3)
@given(seed=st.integers(0, 2**31), ratio=st.floats(0.1, 0.9))
def test_the_pruned_network_is_the_whole_one_whose_layers_read_zeros(network, seed, ratio):
    """An oracle of its own: indices read off numbered weights, columns of readers at zero."""
    m, x = make(network, seed % 1000), image(network)
    score = at_random(seed)
    pruned = prune_channels(m, x, ratio, score=score)
    with torch.no_grad():
        if network is not Attention:  # its keys are read by no layer
            assert gap(pruned(x), unread(m, survivors(m, x, ratio, score))(x)) <= 1e-12
        assert all(p.isfinite().all() for p in tree_leaves(pruned(image(network, 3))))
    for name, layer in pruned.named_modules():
        before = m.get_submodule(name)
        if isinstance(layer, nn.modules.conv._ConvNd):
            ends = layer.out_channels, layer.in_channels
            out, into = ends[::-1] if layer.transposed else ends
            assert layer.weight.shape[:2] == (out, into // layer.groups), name
            assert layer.in_channels <= before.in_channels
        elif isinstance(layer, nn.Linear):
            assert layer.weight.shape == (layer.out_features, layer.in_features), name
        elif isinstance(layer, nn.modules.batchnorm._BatchNorm):
            assert len(layer.running_mean) == len(layer.weight) == layer.num_features, name


@pytest.mark.parametrize("network", [SmallCNN, *DEPLOYED, *FOLLOWED])
def test_it_is_smaller_trains_and_leaves_the_original_alone(network):
    m, x = make(network, 1).train(), image(network, 4)
    next(m.parameters()).requires_grad_(False)
    before = copy.deepcopy(m.state_dict())
    pruned = prune_channels(m, x, 0.5)
    assert type(pruned) is network
    assert pruned.training
    assert macs(pruned, x) < 0.75 * macs(m, x)
    assert sum(p.numel() for p in pruned.parameters()) < sum(p.numel() for p in m.parameters())
    assert all(torch.equal(t, before[name]) for name, t in m.state_dict().items())
    assert pruned.state_dict().keys() == before.keys()
    own = {t.data_ptr() for t in m.state_dict().values()}
    assert not own & {t.data_ptr() for t in pruned.state_dict().values()}
    assert [p.requires_grad for p in pruned.parameters()] == [
        p.requires_grad for p in m.parameters()
    ]
    if network.__qualname__ == network.__name__:
        again = pickle.loads(pickle.dumps(pruned)).eval()
        assert gap(again(x), copy.deepcopy(pruned).eval()(x)) == 0
    sgd = torch.optim.SGD(pruned.parameters(), lr=1e-3)
    sum(t.square().mean() for t in tree_leaves(pruned(x)) if t.is_floating_point()).backward()
    sgd.step()
    assert all(t.isfinite().all() for t in tree_leaves(pruned(x)))


def silence(m: nn.Module, layer: str, norm: str | None, gone: list[int]) -> None:
    """Make these output channels of a layer zero for every input."""
    with torch.no_grad():
        for name in (layer, norm):
            if name is not None:
                module = m.get_submodule(name)
                module.weight[gone] = 0
                if module.bias is not None:
                    module.bias[gone] = 0


#: The layers of each group to silence, with the BatchNorm behind each.
SILENT = {
    SmallCNN: [("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"), ("fc1", None)],
    ResNet: [("conv", "bn"), ("blocks.0.conv2", "blocks.0.bn2"), ("blocks.1.conv1", "blocks.1.bn1"),
             ("blocks.1.conv2", "blocks.1.bn2"), ("blocks.1.down.0", "blocks.1.down.1")],
    MobileNetV2: [("blocks.1.layers.0", "blocks.1.layers.1"),
                  ("blocks.1.layers.3", "blocks.1.layers.4")],
    Shared: [("a.0", "a.1"), ("c", "n1"), ("c", "n2")],
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("network", SILENT)
def test_channels_that_are_zero_go_and_nothing_changes(network, dtype):
    m, x = make(network, 2).to(dtype), image(network).to(dtype)
    gone = [0, 3, 4, 7]
    for layer, norm in SILENT[network]:
        silence(m, layer, norm, gone)
    layers = {layer for layer, _ in SILENT[network]}
    keep = {g.name: g.channels - 4 for g in channel_groups(m, x) if layers & {*g.outputs}}
    pruned = prune_channels(m, x, keep=keep)
    assert gap(pruned(x), m(x)) <= (1e-12 if dtype == torch.float64 else 1e-6)
    for layer, _ in SILENT[network]:
        whole, part = m.get_submodule(layer), pruned.get_submodule(layer)
        assert len(part.weight) == len(whole.weight) - 4, layer


def test_behind_an_activation_that_makes_something_of_zero_the_channel_is_gone_all_the_same():
    """sigmoid(0) = 1/2: a silent filter was heard, so the function changes, as if masked."""
    torch.manual_seed(0)
    m = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sigmoid(), nn.Conv2d(8, 2, 3)).double()
    silence(m, "0", None, [5])
    x = example()
    pruned = prune_channels(m, x, keep={"0": 7})
    assert gap(pruned(x), m(x)) > 1e-3
    with torch.no_grad():
        m[2].weight[:, 5] = 0
    assert gap(pruned(x), m(x)) <= 1e-12


def test_groups_of_the_small_network_and_of_a_residual_one():
    groups = channel_groups(SmallCNN(), torch.zeros(1, 1, 28, 28))
    assert [(g.name, g.channels, g.outputs, g.inputs, g.held) for g in groups] == [
        ("conv1", 16, ("conv1",), ("conv2",), None),
        ("conv2", 32, ("conv2",), ("conv3",), None),
        ("conv3", 64, ("conv3",), ("fc1",), None),
        ("fc1", 128, ("fc1",), ("fc2",), None),
        ("fc2", 0, ("fc2",), (), "fc2 is the network's output"),
    ]
    first, *_, last = channel_groups(ResNet(), torch.zeros(1, 3, 32, 32))
    assert first.outputs == ("conv", "blocks.0.conv2")
    assert first.inputs == ("blocks.0.conv1", "blocks.1.conv1", "blocks.1.down.0")
    assert last.name == "fc"


def test_a_flattening_and_a_concatenation_move_channels_where_they_belong():
    m, x = make(SmallCNN, 3), image(SmallCNN)
    kept = sorted(m.conv3.weight.abs().sum((1, 2, 3)).argsort()[-20:].tolist())
    pruned = prune_channels(m, x, keep={"conv3": 20})
    assert torch.equal(pruned.conv3.weight, m.conv3.weight[kept])
    assert torch.equal(pruned.bn3.running_var, m.bn3.running_var[kept])
    spans = [9 * c + pixel for c in kept for pixel in range(9)]
    assert torch.equal(pruned.fc1.weight, m.fc1.weight[:, spans])
    m, x = make(DenseNet, 3), image(DenseNet)
    kept = sorted(m.grow.weight.abs().sum((1, 2, 3)).argsort()[-5:].tolist())
    pruned = prune_channels(m, x, keep={"grow": 5})
    columns = [*range(8), *(8 + c for c in kept)]
    assert torch.equal(pruned.mix.weight, m.mix.weight[:, columns])


def test_multiplications_of_the_small_network_by_hand():
    x = torch.zeros(1, 1, 28, 28)
    pruned = prune_channels(SmallCNN(), x, keep={"conv1": 8, "conv2": 20, "conv3": 48, "fc1": 96})
    by_hand = 784 * 8 * 9 + 196 * 20 * 8 * 9 + 49 * 48 * 20 * 9 + 48 * 9 * 96 + 96 * 10
    assert macs(pruned, x) == by_hand
    assert sum(p.numel() for p in prune_channels(SmallCNN(), x, 0.5).parameters()) == 25_090


@pytest.mark.parametrize("network", REFUSED)
def test_what_cannot_be_followed_is_refused_by_the_name_of_its_node(network):
    m, x = make(network, 0), example()
    with pytest.raises(ValueError, match=rf"node {REFUSED[network]}\b"):
        prune_channels(m, x, 0.5)


def test_what_cannot_be_followed_may_keep_its_channels():
    m, x = make(ConvNeXt, 0), image(ConvNeXt)
    with pytest.raises(ValueError, match="node blocks_0_norm normalises over all channels"):
        prune_channels(m, x, 0.5)
    with pytest.raises(ValueError, match="keep must not name 'stem'"):
        prune_channels(m, x, keep={"stem": 8}, unsupported="keep")
    pruned = prune_channels(m, x, 0.5, unsupported="keep")
    alone = prune_channels(m, x, keep={"blocks.0.up": 32, "blocks.1.up": 32})
    assert gap(pruned(x), alone(x)) == 0
    assert pruned.stem.out_channels == 16
    assert pruned.blocks[0].up.out_features == pruned.blocks[0].down.in_features == 32
    held = {g.name: g.held for g in channel_groups(m, x)}
    assert held["stem"] == "blocks_0_norm normalises over all channels"


def test_a_channel_in_the_wrong_place_would_be_noticed(monkeypatch):
    right = removal._left

    def wrong(channels, gone):
        left = right(channels, gone)
        left["bn2.bias"][0] = left["bn2.bias"][0].roll(1)
        return left

    monkeypatch.setattr(removal, "_left", wrong)
    with pytest.raises(ValueError, match="node bn2 computes another value"):
        prune_channels(make(SmallCNN, 0), image(SmallCNN), 0.5)


@cache
def sizes_by_ratio(round_to: int) -> list[int]:
    m, x = make(Joined, 0), example()
    ratios = [i / 20 for i in range(20)]
    return [macs(prune_channels(m, x, r, round_to=round_to), x) for r in ratios]


@settings(max_examples=4)
@given(share=st.floats(0.1, 1.0), round_to=st.sampled_from([1, 4]))
def test_a_share_of_the_multiplications_is_met_by_the_smallest_ratio(share, round_to):
    m, x = make(Joined, 0), example()
    sizes = sizes_by_ratio(round_to)
    budget = share * sizes[0]
    assume(min(sizes) <= budget)
    left = macs(prune_to_macs(m, x, share, round_to=round_to), x)
    assert max(s for s in sizes if s <= budget) <= left <= budget


def test_a_share_that_is_too_small_is_refused():
    with pytest.raises(ValueError, match=r"share must leave each group a channel: at least 0\.\d"):
        prune_to_macs(SmallCNN(), torch.zeros(1, 1, 28, 28), 0.001)
    with pytest.raises(ValueError, match="share must be in"):
        prune_to_macs(SmallCNN(), torch.zeros(1, 1, 28, 28), 0)


def test_scores_choose_the_channels():
    m, x = make(SmallCNN, 5), image(SmallCNN)
    only = {"conv1": 7}
    l1 = prune_channels(m, x, keep=only)
    assert torch.equal(
        l1.conv1.weight, prune_channels(m, x, keep=only, score=magnitude).conv1.weight
    )
    weights = {"conv1": m.conv1.weight.detach().abs()}
    assert torch.equal(l1.conv1.weight, prune_channels(m, x, keep=only, score=weights).conv1.weight)
    norms = m.conv1.weight.detach().square().sum((1, 2, 3))
    l2 = prune_channels(m, x, keep=only, score="l2").conv1.weight
    assert torch.equal(l2, m.conv1.weight[norms.argsort()[-7:].sort().values])
    gamma = prune_channels(m, x, keep=only, score="gamma").bn1.weight
    assert torch.equal(gamma, m.bn1.weight[m.bn1.weight.abs().argsort()[-7:].sort().values])
    first = prune_channels(m, x, keep=only, score=lambda w: torch.zeros(len(w))).conv1.weight
    assert torch.equal(first, m.conv1.weight[:7])  # equal scores: the first stay


def test_the_score_of_a_group_is_the_sum_over_its_layers():
    m, x = make(ResNet, 0), image(ResNet)
    a, b = torch.rand(16), torch.rand(16)
    pruned = prune_channels(m, x, keep={"conv": 5}, score={"conv": a, "blocks.0.conv2": b})
    kept = (a + b).argsort()[-5:].sort().values
    assert torch.equal(pruned.blocks[0].bn2.bias, m.blocks[0].bn2.bias[kept])


def test_every_layer_keeps_a_channel():
    """Also one all of whose channels score lowest in a group of several layers."""
    m, x = make(Joined, 0), example()
    scores = {"branches.0.0": torch.zeros(4), "branches.1.0": torch.ones(6),
              "branches.2.0": torch.full((5,), 2.0), "c": torch.zeros(18)}  # fmt: skip
    pruned = prune_channels(m, x, keep={"branches.0.0": 1}, score=scores)
    assert [b[0].out_channels for b in pruned.branches] == [1, 1, 1]
    assert pruned.c.out_channels == pruned.out.in_features == 3 + 3  # and the image's three


def test_counts_are_rounded():
    x = torch.zeros(1, 1, 28, 28)

    def sizes(ratio: float, round_to: int) -> list[int]:
        m = prune_channels(SmallCNN(), x, ratio, round_to=round_to)
        return [m.conv1.out_channels, m.conv2.out_channels, m.conv3.out_channels,
                m.fc1.out_features]  # fmt: skip

    assert sizes(0.3, 1) == [11, 22, 45, 90]
    assert sizes(0.3, 8) == [8, 24, 48, 88]
    assert sizes(0.99, 1) == [1, 1, 1, 1]
    assert sizes(0.99, 8) == [8, 8, 8, 8]
    assert sizes(0.5, 32) == [16, 32, 32, 64]
    assert sizes(0.0, 1) == [16, 32, 64, 128]


def test_what_is_pruned_can_be_pruned_traced_and_stored_again():
    m = make(SmallCNN, 0)
    x = image(SmallCNN)
    once = prune_channels(m.to(memory_format=torch.channels_last), x, 0.5)
    assert once.conv2.weight.is_contiguous(memory_format=torch.channels_last)
    folded = fold_batch_norm(once)
    twice = prune_channels(folded, x, 0.5)
    assert twice.conv3.out_channels == 16
    other = prune_channels(SmallCNN().double(), x, 0.5).eval()
    other.load_state_dict(once.state_dict())
    assert gap(other(x), once(x)) <= 1e-12


def test_dropout_that_never_stops_is_no_difference():
    class Noisy(SmallCNN):
        def forward(self, x):
            return super().forward(F.dropout(x, 0.5))

    pruned = prune_channels(Noisy(), torch.randn(2, 1, 28, 28), 0.5)
    assert pruned.conv3.out_channels == 32


def test_masks_are_made_permanent_first():
    m, x = SmallCNN(), torch.randn(2, 1, 28, 28)
    apply_masks(m, {"conv2": torch.ones(32, 16, 3, 3, dtype=torch.bool)})
    with pytest.raises(ValueError, match=r"plain weights, conv2 computes its own.*bake_masks"):
        prune_channels(m, x, 0.5)
    bake_masks(m)
    assert prune_channels(m, x, 0.5).conv2.out_channels == 16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either ratio or keep"),
        ({"ratio": 0.5, "keep": {"conv1": 3}}, "either ratio or keep"),
        ({"ratio": 1.0}, r"ratio must be in \[0, 1\)"),
        ({"ratio": float("nan")}, "ratio must be in"),
        ({"ratio": 0.5, "round_to": 0}, "round_to must be at least 1"),
        ({"ratio": 0.5, "unsupported": "drop"}, "unsupported must be 'refuse' or 'keep'"),
        ({"ratio": 0.5, "score": "l3"}, "score must be 'l1', 'l2', 'gamma'"),
        ({"ratio": 0.5, "score": "gamma"}, "needs a BatchNorm in each group, fc1 has none"),
        ({"keep": {"bn1": 3}}, r"keep must name groups of the model \(conv1, conv2.*got 'bn1'"),
        ({"keep": {"fc2": 3}}, "keep must not name 'fc2', .* fc2 is the network's output"),
        ({"keep": {"conv1": 0}}, "keep must be from 1 to 16 for 'conv1', got 0"),
        ({"keep": {"conv1": 17}}, "keep must be from 1 to 16"),
        ({"keep": {"conv1": 3}, "score": {}}, "score must have a tensor .* conv1 is missing"),
        ({"keep": {"conv1": 3}, "score": {"conv1": torch.ones(3)}}, r"shape .* or \[16\]"),
        ({"keep": {"conv1": 3}, "score": lambda w: w * torch.nan}, "must not be NaN"),
    ],
)
def test_arguments_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        prune_channels(SmallCNN(), torch.zeros(1, 1, 28, 28), **options)


def test_models_with_nothing_to_remove():
    with pytest.raises(ValueError, match=r"no channels that can be removed.*network's output"):
        prune_channels(nn.Linear(3, 4), torch.zeros(1, 3), 0.5)
    with pytest.raises(ValueError, match="no layers"):
        prune_channels(nn.ReLU(), torch.zeros(1, 3), 0.5)
    with pytest.raises(TypeError, match=r"model must be an nn\.Module, got int"):
        prune_channels(3, torch.zeros(1, 3), 0.5)  # type: ignore[arg-type]
