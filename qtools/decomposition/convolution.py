"""Convolutions as chains of smaller ones: by columns and rows, by channels, as one matrix."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qtools.decomposition.rank import best_rank_k, check_rank
from qtools.decomposition.whitening import rank_k


def spatial_separable(conv: nn.Conv2d, rank: int) -> nn.Sequential:
    """``W[o,i,y,x] ≈ Σ_r H[o,r,x] V[r,i,y]``: a kh×1 convolution, then a 1×kw one.

    With rows (i, y) and columns (o, x) the kernel is a matrix [in·kh, out·kw], so `best_rank_k`
    gives the best V and H there are (Jaderberg et al. 2014, scheme 2, the form; Tai et al. 2016,
    theorem 1, the solution). Parameters ``rank · (in·kh + out·kw)``: fewer than the kernel's up
    to ``break_even_rank(in·kh, out·kw)``.

    A grouped convolution is split group by group, each with this rank; so a depthwise one becomes
    kh×1 depthwise with `rank` channels for each of its own, then 1×kw.

    Parameters
    ----------
    conv : nn.Conv2d
        Unchanged. Any stride, padding (also "same"), padding mode, dilation, bias and groups.
    rank : int
        1 to min(in·kh, out·kw), in and out counted in one group.

    Returns
    -------
    nn.Sequential
        Two Conv2d. The first has the vertical stride, padding and dilation, the second the
        horizontal and the bias.
    """
    w, groups = conv.weight.detach(), conv.groups
    out, inside, kh, kw = w.shape
    out //= groups
    check_rank(rank, min(inside * kh, out * kw))
    blocks = w.view(groups, out, inside, kh, kw).permute(0, 2, 3, 1, 4)  # [groups, i, y, o, x]
    found = [best_rank_k(b, rank) for b in blocks.reshape(groups, inside * kh, out * kw)]
    vertical = torch.stack([f.left.T for f in found]).view(groups * rank, inside, kh, 1)
    rows = torch.stack([f.right for f in found]).view(groups, rank, out, kw)
    horizontal = rows.transpose(1, 2).reshape(groups * out, rank, 1, kw)
    return nn.Sequential(
        part(conv, vertical, axes=(0,), groups=groups),
        part(conv, horizontal, axes=(1,), groups=groups, bias=conv.bias),
    )


def conv_svd(conv: nn.Conv2d, rank: int, gram: Tensor | None = None) -> nn.Sequential:
    """``W[o,(i,y,x)] ≈ Σ_r L[o,r] R[r,(i,y,x)]``: a kh×kw convolution to `rank` channels, then 1×1.

    A convolution is a linear layer on its patches, so everything about matrices holds, and with
    the Gram matrix of the patches the approximation is the best on the data (Zhang et al. 2016,
    section 3.1). Parameters ``rank · (in·kh·kw + out)``: fewer than the
    kernel's up to ``break_even_rank(out, in·kh·kw)``.

    Parameters
    ----------
    conv : nn.Conv2d
        groups = 1; unchanged.
    rank : int
        1 to min(out, in·kh·kw).
    gram : Tensor, optional
        [in·kh·kw, in·kh·kw] of the patches, in the order of ``F.unfold``.

    Raises
    ------
    ValueError
        If the convolution is grouped, or the rank out of range.
    """
    w = ungrouped(conv)
    check_rank(rank, min(len(w), w[0].numel()))
    factors = rank_k(w.flatten(1), rank, gram)
    return nn.Sequential(
        part(conv, factors.right.view(rank, *w.shape[1:]), axes=(0, 1)),
        part(conv, factors.left[:, :, None, None], bias=conv.bias),
    )


def part(
    conv: nn.Conv2d,
    weight: Tensor,
    axes: Sequence[int] = (),
    groups: int = 1,
    bias: Tensor | None = None,
) -> nn.Conv2d:
    """A link of the chain: stride, padding and dilation of `conv` on `axes`, none on others.

    Parameters
    ----------
    weight : Tensor
        [out, in / groups, kh, kw], cast to the dtype of ``conv.weight``.
    axes : sequence of {0, 1}
        0 is vertical.
    """

    def on_axes(values: tuple[int, ...], elsewhere: int) -> tuple[int, ...]:
        return tuple(v if axis in axes else elsewhere for axis, v in enumerate(values))

    padding = conv.padding if isinstance(conv.padding, str) else on_axes(conv.padding, 0)
    new = nn.utils.skip_init(
        nn.Conv2d, weight.shape[1] * groups, len(weight), tuple(weight.shape[2:]),
        stride=on_axes(conv.stride, 1), padding=padding, dilation=on_axes(conv.dilation, 1),
        groups=groups, bias=bias is not None, padding_mode=conv.padding_mode if axes else "zeros",
        device=conv.weight.device, dtype=conv.weight.dtype,
    )  # fmt: skip
    with torch.no_grad():
        new.weight.copy_(weight)
        if bias is not None:
            new.bias.copy_(bias)
            new.bias.requires_grad_(bias.requires_grad)
    new.weight.requires_grad_(conv.weight.requires_grad)
    return new.train(conv.training)


def ungrouped(conv: nn.Conv2d) -> Tensor:
    """The kernel [out, in, kh, kw], detached; ValueError if the convolution is grouped."""
    if conv.groups != 1:
        raise ValueError(f"conv must have groups=1, got groups={conv.groups}")
    return conv.weight.detach()


def merged_kernel(chain: nn.Sequential) -> Tensor:
    """The kernel [out, in / groups, kh, kw] of the one convolution that a chain stands for.

    For the chains made here (the links differ in which axes they extend over): put an impulse
    into each input channel, read the kernel off backwards. The error of a decomposition is
    ``(merged_kernel(chain) - conv.weight).norm()``.

    Parameters
    ----------
    chain : nn.Sequential
        Conv2d only, of the same groups or, as in CP, depthwise in the middle.
    """
    links = [link for link in chain if isinstance(link, nn.Conv2d)]
    if not links or len(links) != len(chain):
        raise TypeError("chain must hold Conv2d and nothing else")
    kh, kw = (1 + sum(link.kernel_size[axis] - 1 for link in links) for axis in (0, 1))
    channels, groups = links[0].in_channels, links[0].groups
    first = links[0].weight.detach()
    x = first.new_zeros(channels // groups, groups, channels // groups, 2 * kh - 1, 2 * kw - 1)
    # One impulse a group at once: groups do not see each other.
    x[:, :, :, kh - 1, kw - 1] = torch.eye(channels // groups).to(first)[:, None, :]
    x = x.flatten(1, 2)
    for link in links:
        x = F.conv2d(x, link.weight.detach(), groups=link.groups)
    return x.flip(2, 3).transpose(0, 1)
