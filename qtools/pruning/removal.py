"""Take channels out of a copy of a network: fewer rows and columns, and sizes to match."""

from __future__ import annotations

import copy
from collections import defaultdict

import torch
from torch import Tensor, nn

from qtools.pruning.channels import Channels


def _left(channels: Channels, gone: Tensor) -> dict[str, dict[int, Tensor]]:
    """Return the indices left of each parameter that loses some, by name and dimension."""
    left: dict[str, dict[int, Tensor]] = defaultdict(dict)
    for (name, dim), roots in channels.roots.items():
        stays = ~torch.isin(roots, gone)
        if not stays.all():
            left[name][dim] = stays.nonzero().flatten()
    return left


def without(model: nn.Module, channels: Channels, units: set[int]) -> nn.Module:
    """Return a copy of the model without these channels."""
    gone = torch.tensor(sorted(units), dtype=torch.int64)
    pruned = copy.deepcopy(model)
    tensors = dict([*pruned.named_parameters(), *pruned.named_buffers()])
    smaller: dict[int, Tensor] = {}
    for name, dims in _left(channels, gone).items():
        old = tensors[name]
        tensor = old.detach()
        for dim, index in dims.items():
            tensor = tensor.index_select(dim, index.to(tensor.device))
        if old.is_contiguous(memory_format=torch.channels_last) and not old.is_contiguous():
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        is_parameter = isinstance(old, nn.Parameter)
        smaller[id(old)] = nn.Parameter(tensor, old.requires_grad) if is_parameter else tensor
    normalised = {
        name: int((~torch.isin(channels.flow.ties.roots(of), gone)).sum())
        for name, of in channels.flow.normalised.items()
    }
    for name, module in pruned.named_modules():
        before = module._parameters.get("weight")
        for own in (module._parameters, module._buffers):
            for key, value in own.items():
                if value is not None and id(value) in smaller:
                    own[key] = smaller[id(value)]
        _set_sizes(module, before, normalised.get(name))
    return pruned


def _set_sizes(module: nn.Module, before: Tensor | None, normalised: int | None) -> None:
    """Let the attributes of a layer say what its tensors have become."""
    weight = module._parameters.get("weight")
    if isinstance(module, nn.GroupNorm) and normalised is not None:
        module.num_groups = module.num_groups * normalised // module.num_channels
        module.num_channels = normalised
    elif isinstance(module, nn.modules.batchnorm._NormBase) and normalised is not None:
        module.num_features = normalised
    elif before is None or weight is None:
        return
    elif isinstance(module, nn.modules.conv._ConvNd):
        if module.groups > 1:  # whole groups have gone; dimension 0 counts them in either kind
            module.groups = module.groups * len(weight) // len(before)
        sizes = (weight.shape[1] * module.groups, len(weight))
        module.in_channels, module.out_channels = sizes[::-1] if module.transposed else sizes
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = weight.shape
    elif isinstance(module, nn.PReLU):
        module.num_parameters = len(weight)
    elif isinstance(module, nn.Embedding):
        module.num_embeddings, module.embedding_dim = weight.shape
