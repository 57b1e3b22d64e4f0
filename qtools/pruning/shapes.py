"""How channels move where a tensor is seen under another shape, cut or joined."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from qtools.pruning.flow import Flow, Rule, Unfollowed
from qtools.pruning.ties import Hold, Layout


def reshaped(flow: Flow, node: fx.Node, open_dims: set[int] | None = None) -> Layout:
    """Follow a view: runs of dimensions that hold the same elements are taken one by one.

    ``open_dims`` are the dimensions of the result that may change their size (all, unless given).
    Where channels flatten with pixels, each spans as many features. Where a dimension of channels
    is split in two, one of them can shrink: channels that share its index are tied.
    """
    x = flow.x(node)
    layout, before, after = flow.layout(x), flow.shape(x), flow.shape(node)
    found: Layout = {}
    for source, target in _runs(before, after):
        with_channels = [d for d in source if d in layout]
        if not with_channels:
            continue
        if len(with_channels) > 1:
            raise Unfollowed("joins two dimensions of channels")
        candidates = [d for d in target if open_dims is None or d in open_dims]
        if not candidates:
            sizes = " x ".join(str(after[d]) for d in target)
            raise Unfollowed(f"has a size that does not shrink with the channels: {sizes}")
        d = with_channels[0]
        channels = layout[d].view([-1 if s == d else 1 for s in source])
        channels = channels.expand([before[s] for s in source]).reshape([after[t] for t in target])
        best, dim = _rows(flow, channels, [target.index(c) for c in candidates])
        flow.ties.tie(best[:, :1], best)
        found[target[dim]] = best[:, 0]
    return found


def _rows(flow: Flow, channels: Tensor, candidates: Sequence[int]) -> tuple[Tensor, int]:
    """Return [size of a dimension, rest] for the dimension that leaves most channels free."""
    ranked = []
    for dim in candidates:
        rows = channels.movedim(dim, 0).reshape(channels.shape[dim], -1)
        roots = flow.ties.roots(rows)
        is_free = bool((roots == roots[:, :1]).all())
        ranked.append(((is_free, len(rows)), rows, dim))
    _, rows, dim = max(ranked, key=lambda r: r[0])
    return rows, dim


def _runs(before: Sequence[int], after: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """Yield runs of dimensions, of more than one index, that hold the same elements."""
    if math.prod(before) != math.prod(after) or math.prod(before) == 0:
        raise Unfollowed("changes the number of elements")
    a = [d for d, size in enumerate(before) if size != 1]
    b = [d for d, size in enumerate(after) if size != 1]
    while a:
        source, target = [a.pop(0)], [b.pop(0)]
        while (p := math.prod(before[d] for d in source)) != (
            q := math.prod(after[d] for d in target)
        ):
            if p < q:
                source.append(a.pop(0))
            else:
                target.append(b.pop(0))
        yield source, target


def _view(flow: Flow, node: fx.Node) -> Layout:
    sizes: Any = node.args[1:] or node.kwargs.get("shape", node.kwargs.get("size"))
    if isinstance(sizes, tuple) and len(sizes) == 1 and not isinstance(sizes[0], int):
        sizes = sizes[0]
    if isinstance(sizes, fx.Node):  # the whole shape
        return reshaped(flow, node, None if flow.can_shrink(sizes) else set())
    if not isinstance(sizes, (tuple, list)):
        raise Unfollowed("looks at its memory as another type")
    return reshaped(flow, node, {d for d, s in enumerate(sizes) if flow.can_shrink(s)})


def _view_as(flow: Flow, node: fx.Node) -> Layout:
    other = flow.layout(flow.argument(node, "other", 1))
    return reshaped(flow, node, set(other))


def _unflatten(flow: Flow, node: fx.Node) -> Layout:
    dim = flow.number(node, "dim", 1) % len(flow.shape(flow.x(node)))
    name = "unflattened_size" if node.op == "call_module" else "sizes"
    sizes = flow.argument(node, name, 2)
    if isinstance(sizes, fx.Node):
        raise Unfollowed("takes its size from one value")
    written = {dim + i for i, s in enumerate(sizes) if not flow.can_shrink(s)}
    return reshaped(flow, node, set(range(len(flow.shape(node)))) - written)


def _permuted(flow: Flow, node: fx.Node) -> Layout:
    x = flow.x(node)
    layout, n = flow.layout(x), len(flow.shape(x))
    order = list(range(n))
    kind = flow.kind(node)
    if kind == "permute":
        dims: Any = flow.number(node, "dims", 1)
        dims = node.args[1:] if isinstance(dims, int) else dims
        order = [d % n for d in dims]
    elif kind in ("transpose", "swapaxes", "swapdims"):
        a, b = flow.number(node, "dim0", 1) % n, flow.number(node, "dim1", 2) % n
        order[a], order[b] = b, a
    elif kind == "t":
        order.reverse()
    else:
        raise Unfollowed("moves dimensions in a way that is not followed")
    return {new: layout[old] for new, old in enumerate(order) if old in layout}


def _cat(flow: Flow, node: fx.Node) -> Layout:
    tensors: Any = flow.argument(node, "tensors", 0)
    if not isinstance(tensors, (tuple, list)):
        raise Unfollowed("joins tensors that are not listed one by one")
    after = flow.shape(node)
    dim = flow.number(node, "dim", 1, flow.argument(node, "axis", 1, 0)) % len(after)
    if all(dim not in flow.layout(t) for t in tensors):
        return _same(flow, node, tensors)
    parts = []
    for t in tensors:
        part = flow.layout(t).get(dim)
        if part is None:
            part = flow.ties.new(flow.shape(t)[dim])
            flow.ties.hold(part, Hold(node.name, "joins what keeps its channels", "fixed"))
        parts.append(part)
    return {**_same(flow, node, tensors, but=dim), dim: torch.cat(parts)}


def _same(flow: Flow, node: fx.Node, tensors: Sequence[Any], but: int = -1) -> Layout:
    """Tie the channels of tensors of one shape, dimension by dimension."""
    found: Layout = {}
    for d in range(len(flow.shape(node))):
        parts = [flow.layout(t).get(d) for t in tensors]
        if d == but or all(part is None for part in parts):
            continue
        first = parts[0]
        for part in parts[1:]:
            first = flow.match(node, first, part)
        if first is not None:
            found[d] = first
    return found


def _stack(flow: Flow, node: fx.Node) -> Layout:
    tensors: Any = flow.argument(node, "tensors", 0)
    new = flow.number(node, "dim", 1, 0) % len(flow.shape(node))
    parts = [flow.layout(t) for t in tensors]
    found: Layout = {}
    for d in sorted(set().union(*parts)):
        first = parts[0].get(d)
        for part in parts[1:]:
            first = flow.match(node, first, part.get(d))
        if first is not None:
            found[d + (d >= new)] = first
    return found


def _chunk(flow: Flow, node: fx.Node) -> Any:
    """Cut a tensor in equal parts: channels at the same place of each part are tied."""
    x = flow.x(node)
    layout, before = flow.layout(x), flow.shape(x)
    dim = flow.number(node, "dim", 2, 0) % len(before)
    parts = flow.values[node]
    if dim not in layout:
        return tuple(layout for _ in parts)
    written = flow.argument(node, "split_size_or_sections", 1, node.kwargs.get("split_size"))
    if flow.kind(node) == "split" and not flow.can_shrink(written):
        raise Unfollowed(f"has the size of its parts written in the code: {written}")
    if len({p.shape[dim] for p in parts}) > 1:
        raise Unfollowed("cuts channels into unequal parts")
    blocks = layout[dim].view(len(parts), -1)
    flow.ties.tie(blocks[:1], blocks)
    return tuple({**layout, dim: block} for block in blocks)


def _item(flow: Flow, node: fx.Node) -> Any:
    source, index = node.args
    assert isinstance(source, fx.Node)
    found = flow.layouts[source]
    if isinstance(found, tuple):
        if not isinstance(index, int):
            raise Unfollowed("takes parts that are not counted one by one")
        return found[index]
    shape = flow.shape(source)
    entries = list(index) if isinstance(index, (tuple, list)) else [index]
    if any(e is Ellipsis for e in entries):
        at = entries.index(Ellipsis)
        rest = len(shape) - sum(e is not None and e is not Ellipsis for e in entries)
        entries[at : at + 1] = [slice(None)] * rest
    result: Layout = {}
    d = out = 0
    for entry in entries:
        if entry is None:
            out += 1
            continue
        if d in found and not _is_whole(entry, shape[d]):
            raise Unfollowed(f"takes some of the channels: {entry}")
        if isinstance(entry, slice):
            if d in found:
                result[out] = found[d]
            out += 1
        elif not isinstance(entry, int) and found:
            raise Unfollowed("is indexed by what is not a slice or a written number")
        d += 1
    for rest in range(d, len(shape)):
        if rest in found:
            result[out + rest - d] = found[rest]
    return result


def _is_whole(entry: Any, size: int) -> bool:
    if not isinstance(entry, slice) or entry.start not in (None, 0) or entry.step not in (None, 1):
        return False
    return entry.stop is None or (isinstance(entry.stop, int) and entry.stop >= size)


def _expand(flow: Flow, node: fx.Node) -> Layout:
    x = flow.x(node)
    shift = len(flow.shape(node)) - len(flow.shape(x))
    sizes: Any = node.args[1:]
    sizes = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else sizes
    found = {d + shift: c for d, c in flow.layout(x).items() if len(c) > 1}
    for d in found:
        if d < len(sizes) and not flow.can_shrink(sizes[d]):
            raise Unfollowed(f"has a size that does not shrink with the channels: {sizes[d]}")
    return found


def _channel_shuffle(flow: Flow, node: fx.Node) -> Layout:
    layout = dict(flow.layout(flow.x(node)))
    if 1 in layout:
        blocks = layout[1].view(flow.number(node, "groups", 1), -1)
        flow.ties.tie(blocks[:1], blocks)
        layout[1] = blocks.T.reshape(-1)
    return layout


def _pixel_shuffle(flow: Flow, node: fx.Node) -> Layout:
    """Make pixels of r² channels; backwards, channels of r² pixels."""
    x = flow.x(node)
    layout, c = dict(flow.layout(x)), len(flow.shape(x)) - 3
    if any(d > c for d in layout):
        raise Unfollowed("moves channels among pixels")
    if c in layout:
        before, after = flow.shape(x)[c], flow.shape(node)[c]
        if after < before:
            blocks = layout[c].view(after, -1)
            flow.ties.tie(blocks[:, :1], blocks)
            layout[c] = blocks[:, 0]
        else:
            layout[c] = layout[c].repeat_interleave(after // before)
    return layout


SHAPES: dict[str, Rule] = {
    **dict.fromkeys(("flatten", "Flatten", "squeeze", "unsqueeze"), reshaped),
    **dict.fromkeys(("view_as", "reshape_as"), _view_as),
    **dict.fromkeys(("view", "reshape"), _view),
    **dict.fromkeys(("unflatten", "Unflatten"), _unflatten),
    **dict.fromkeys(("permute", "transpose", "swapaxes", "swapdims", "t"), _permuted),
    **dict.fromkeys(("cat", "concat", "concatenate"), _cat),
    **dict.fromkeys(("chunk", "split"), _chunk),
    **dict.fromkeys(("channel_shuffle", "ChannelShuffle"), _channel_shuffle),
    **dict.fromkeys(("pixel_shuffle", "PixelShuffle", "pixel_unshuffle", "PixelUnshuffle"),
                    _pixel_shuffle),
    "stack": _stack, "getitem": _item, "expand": _expand,
}  # fmt: skip
