"""Which elements share a scale: between a tensor's shape and that of its scale."""

from __future__ import annotations

import torch
from torch import Tensor

from qtools.spec import QParams, QuantSpec


def align(x: Tensor, qp: QParams, *params: Tensor) -> list[Tensor]:
    """Return x laid out for ``qp``, and parameters in shapes that broadcast against it."""
    spec, shape = qp.spec, x.shape
    if spec.granularity == "tensor":
        return [x, *params]
    axis = channel_axis(x, spec)
    if spec.granularity == "channel":
        if qp.scale.shape[0] != shape[axis]:
            raise ValueError(
                f"x must have {qp.scale.shape[0]} channels along axis {spec.axis} to fit the"
                f" scale, got shape {list(shape)}"
            )
        view = [1] * x.ndim
        view[axis] = -1
        return [x, *(p.view(view) for p in params)]
    groups = to_groups(x, spec)
    if groups.shape[:2] != qp.scale.shape:
        raise ValueError(
            f"x must have {list(qp.scale.shape)} [channels, groups] to fit the scale, got"
            f" {list(groups.shape[:2])} from shape {list(shape)}"
        )
    return [groups, *(p.unsqueeze(-1) for p in params)]


def restore(y: Tensor, shape: torch.Size, spec: QuantSpec) -> Tensor:
    """Undo the layout change of `align`."""
    if spec.granularity != "group":
        return y
    axis = spec.axis % len(shape)
    moved = [shape[axis], *shape[:axis], *shape[axis + 1 :]]
    return y.reshape(moved).movedim(0, axis)


def to_groups(x: Tensor, spec: QuantSpec) -> Tensor:
    """``[channels, groups, group_size]``: each channel flattened and cut into runs."""
    channels = x.movedim(channel_axis(x, spec), 0)
    size, group_size = channels[0].numel() if len(channels) else 0, spec.group_size or 1
    if size % group_size:
        raise ValueError(
            f"group_size must divide the {size} elements of a channel, got {group_size}"
            f" for shape {list(x.shape)} and axis {spec.axis}"
        )
    return channels.reshape(x.shape[spec.axis], size // group_size, group_size)


def channel_axis(x: Tensor, spec: QuantSpec) -> int:
    """Return ``spec.axis`` counted from the front, or raise if x does not have it."""
    if not -x.ndim <= spec.axis < x.ndim:
        raise ValueError(
            f"axis must be from {-x.ndim} to {x.ndim - 1} for shape {list(x.shape)},"
            f" got {spec.axis}"
        )
    return spec.axis % x.ndim


def spread(param: Tensor, qp: QParams, shape: torch.Size) -> Tensor:
    """Return a parameter shaped like ``qp.scale`` with one value for each element of ``shape``."""
    like = torch.empty(shape, dtype=param.dtype, device="meta")
    aligned, viewed = align(like, qp, param)
    return restore(viewed.expand(aligned.shape), shape, qp.spec)
