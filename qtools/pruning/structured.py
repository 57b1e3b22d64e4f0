"""Structured pruning: channels taken out of a network, which is smaller and faster after it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from qtools.flops import macs
from qtools.pruning.channels import ChannelGroup, Channels, Example, Unsupported
from qtools.pruning.check import check_pruned
from qtools.pruning.flow import copied
from qtools.pruning.removal import without

#: How much a channel matters: a norm of its filters, the size of BatchNorm's γ, a function of a
#: weight, or scores by layer; from the last two, tensors [out] or of the shape of the weight.
Score = Literal["l1", "l2", "gamma"] | Callable[[Tensor], Tensor] | Mapping[str, Tensor]


def prune_channels(
    model: nn.Module,
    example_inputs: Example,
    ratio: float | None = None,
    *,
    keep: Mapping[str, int] | None = None,
    score: Score = "l1",
    round_to: int = 1,
    unsupported: Unsupported = "refuse",
) -> nn.Module:
    """Remove the channels with the lowest scores, and with them rows and columns of the weights.

    The result computes what the model computes with these channels set to zero wherever a layer
    reads them, behind their BatchNorm and activation (so also where an activation makes
    sigmoid(0) = 1/2 of a zero: the channel is gone, not merely its filter). If they were zero
    there before, the network's function does not change.

    Parameters
    ----------
    model : nn.Module
        Traceable by torch.fx. Unchanged.
    example_inputs : Tensor or tuple
        What the model is called with; several images are better than one.
    ratio : float
        Share of the channels of each group to remove, in [0, 1); rounded, at least one stays.
    keep : mapping
        Instead of ratio: how many channels to keep, by name of the group (`channel_groups`).
        Groups that are not named stay whole.
    score
        "l1" or "l2": the norm of a channel's filters, over all layers of its group; "gamma": the
        sum of ``|γ|`` of its BatchNorms; a function of a layer's weight [out, in, ...]; or a
        tensor for each layer of the groups to prune, of one score an output channel or a weight.
    round_to : int
        With a ratio: keep a multiple of so many channels, the nearest (a group of fewer stays
        whole). Processors compute 8 or 16 channels at a time, and 11 may cost them as much as 16.
    unsupported
        What to do with a group that meets an operation through which channels are not followed:
        "refuse" it, or "keep" its channels. `channel_groups` lists such groups with the node.

    Returns
    -------
    Module
        A copy of the model with its own forward code, smaller parameters, and the attributes of
        its layers (``out_channels``, ``groups``, ...) to match. It has been run on the example,
        and compared with the model at every node.

    Raises
    ------
    ValueError
        If a node cannot be followed (the message names it), or nothing can be removed, or an
        argument is out of range.

    References
    ----------
    Li et al. 2017, Pruning Filters for Efficient ConvNets (L1 norms of filters); Liu et al. 2017,
    Learning Efficient Convolutional Networks through Network Slimming (γ).

    Examples
    --------
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))
    >>> smaller = prune_channels(model, torch.randn(2, 3, 8, 8), 0.75)
    >>> smaller[0].out_channels, smaller[3].in_features  # 2 channels of 6 × 6 pixels
    (2, 72)
    """
    if (ratio is None) == (keep is None):
        raise ValueError(f"give either ratio or keep, got ratio={ratio} and keep={keep}")
    channels = Channels(model, example_inputs)
    counts = _counts(channels, ratio, round_to, unsupported) if keep is None else dict(keep)
    for name, count in counts.items():
        _check_count(channels, name, count, unsupported)
    units = _lowest(channels, counts, score)
    pruned = without(model, channels, units)
    check_pruned(channels, pruned, units)
    return pruned


def prune_to_macs(
    model: nn.Module,
    example_inputs: Example,
    share: float = 0.5,
    *,
    score: Score = "l1",
    round_to: int = 1,
    unsupported: Unsupported = "refuse",
) -> nn.Module:
    """Remove the smallest ratio of all groups' channels that leaves ``share`` of the MACs.

    Every group loses the same ratio, as in `prune_channels`; the ratio is found by bisection
    among all that differ in at least one channel.

    Parameters
    ----------
    model, example_inputs, score, round_to, unsupported
        As for `prune_channels`.
    share : float
        Of the model's multiplications (`qtools.flops.macs`), in (0, 1]: at most so many are left.

    Raises
    ------
    ValueError
        As `prune_channels`; and if not even the largest ratio leaves so few.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must be in (0, 1], got {share}")
    channels = Channels(model, example_inputs)
    budget = share * macs(model, *copied(channels.example))
    sizes = {g.channels for g in channels.groups}
    # round(ratio · n) goes up by one at (k - 1/2) / n; just above it, so that rounding is up.
    steps = sorted(
        {0.0} | {min((k - 0.5 + 1e-6) / n, 1 - 1e-9) for n in sizes for k in range(1, n)}
    )

    def at(ratio: float) -> tuple[nn.Module, set[int]]:
        units = _lowest(channels, _counts(channels, ratio, round_to, unsupported), score)
        return without(model, channels, units), units

    low, high = 0, len(steps) - 1
    least = macs(at(steps[high])[0], *copied(channels.example))
    if least > budget:
        raise ValueError(
            f"share must leave each group a channel: at least {least / (budget / share):.3f} of the"
            f" model's MACs, got {share}"
        )
    while low < high:
        middle = (low + high) // 2
        if macs(at(steps[middle])[0], *copied(channels.example)) <= budget:
            high = middle
        else:
            low = middle + 1
    pruned, units = at(steps[high])
    check_pruned(channels, pruned, units)
    return pruned


def _counts(
    channels: Channels, ratio: float | None, round_to: int, unsupported: Unsupported
) -> dict[str, int]:
    """Return how many channels each group keeps."""
    if round_to < 1:
        raise ValueError(f"round_to must be at least 1, got {round_to}")
    if unsupported not in ("refuse", "keep"):
        raise ValueError(f"unsupported must be 'refuse' or 'keep', got {unsupported!r}")
    if ratio is None or not 0 <= ratio < 1:
        raise ValueError(f"ratio must be in [0, 1), got {ratio}")
    for group in channels.groups:
        _check_followed(group, unsupported)
    free = [g for g in channels.groups if g.channels]
    if all(g.channels < 2 for g in free) and ratio > 0:
        why = "; ".join(f"{g.name}: {g.held or 'one channel'}" for g in channels.groups)
        raise ValueError(f"model has no channels that can be removed ({why or 'no layers'})")
    counts = {}
    for group in free:
        left = group.channels - round(ratio * group.channels)
        left = max(1, math.floor(left / round_to + 0.5)) * round_to
        counts[group.name] = min(left, group.channels)
    return counts


def _check_followed(group: ChannelGroup, unsupported: Unsupported) -> None:
    if group._holds and unsupported == "refuse":
        raise ValueError(
            f"model must be followed channel by channel: node {group._holds[0]}; it meets channels"
            f" of {group.name} (unsupported='keep' leaves such channels in place)"
        )


def _check_count(channels: Channels, name: str, count: int, unsupported: Unsupported) -> None:
    groups = {g.name: g for g in channels.groups}
    if name not in groups:
        raise ValueError(f"keep must name groups of the model ({', '.join(groups)}), got {name!r}")
    group = groups[name]
    _check_followed(group, unsupported)
    if group.held is not None:
        raise ValueError(f"keep must not name {name!r}, which keeps its channels: {group.held}")
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= group.channels:
        raise ValueError(f"keep must be from 1 to {group.channels} for {name!r}, got {count!r}")


def _lowest(channels: Channels, counts: Mapping[str, int], score: Score) -> set[int]:
    """Return the channels to remove; every parameter keeps the best of its own."""
    units: set[int] = set()
    for group in channels.groups:
        n = counts.get(group.name, group.channels)
        if n == group.channels:
            continue
        scores = _scores(channels, group, score)
        rank = {u: i for i, u in enumerate(sorted(group._units, key=lambda u: (-scores[u], u)))}
        needed = set()
        for own in channels.slots.values():
            if own <= rank.keys():
                needed.add(min(own, key=lambda u: rank[u]))
        stay = sorted(rank, key=lambda u: (u not in needed, rank[u]))[: max(n, len(needed))]
        units |= set(group._units) - set(stay)
    return units


def _scores(channels: Channels, group: ChannelGroup, score: Score) -> dict[int, float]:
    """Return one score for each channel that can be removed: the sum over the layers it is in."""
    total: dict[int, float] = dict.fromkeys(group._units, 0.0)
    norms = {n: (parameter, 0) for n, parameter in channels.flow.gammas.items()}
    layers = {n: channels.flow.filters[n] for n in group.outputs}
    found = 0
    for layer, slot in norms.items() if score == "gamma" else layers.items():
        roots = channels.roots[slot]
        if not total.keys() & channels.slots[slot]:
            continue
        found += 1
        values = _of_layer(layer, channels.flow.tensors[slot[0]].detach(), slot[1], score)
        for unit, value in zip(roots.tolist(), values, strict=True):
            if unit in total:
                total[unit] += value
    if not found:
        raise ValueError(f"score 'gamma' needs a BatchNorm in each group, {group.name} has none")
    return total


def _of_layer(layer: str, weight: Tensor, dim: int, score: Score) -> list[float]:
    """Return the scores of a layer's channels, which are along this dimension of its weight."""
    filters = weight.movedim(dim, 0)
    if score in ("l1", "gamma"):
        values = filters.abs()
    elif score == "l2":
        values = filters.square()
    elif callable(score):
        values = score(filters)
    elif isinstance(score, Mapping):
        if layer not in score:
            raise ValueError(f"score must have a tensor for each layer, {layer} is missing")
        values = score[layer]
        values = values.movedim(dim, 0) if values.shape == weight.shape else values
    else:
        raise ValueError(f"score must be 'l1', 'l2', 'gamma', a function or tensors, got {score!r}")
    if values.shape not in (filters.shape, filters.shape[:1]):
        raise ValueError(
            f"score must have shape {list(weight.shape)} or [{len(filters)}] for {layer},"
            f" got {list(values.shape)}"
        )
    sums = values.detach().reshape(len(filters), -1).sum(1, dtype=torch.float64)
    if sums.isnan().any():
        raise ValueError(f"score must not be NaN, it is for {layer}")
    return sums.tolist()
