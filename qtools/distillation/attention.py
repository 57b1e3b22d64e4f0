"""Losses on where a network looks: attention maps of transformers and of convolutions.

They count in items as `qtools.distillation.losses` says.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qtools.distillation.losses import Reduction, hidden_state_loss, layers, reduced, wide


def attention_loss(
    student_maps: Sequence[Tensor],
    teacher_maps: Sequence[Tensor],
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """``(1/n) Σ_i Σ_j (1/h) Σ_a ‖ A^T_ija − A^S_ija ‖²``: squared distance of attention maps.

    i runs over the tokens as queries, j over layers, a over h heads; A_ija is the row of weights
    with which token i looks at the others. After TinyBERT (Jiao et al. 2020, eq. 7), which divides
    by the number of keys too and takes the scores before the softmax.

    Parameters
    ----------
    student_maps, teacher_maps : sequence of Tensor
        One [n, heads, queries, keys] a layer.
    mask : Tensor, optional
        [n, queries], True or not 0 = the query counts. Keys need none: their weight is 0.
    reduction : "mean" or "sum"
        Over the queries that count.

    Raises
    ------
    ValueError
        If there are no layers, not as many of both, or their shapes differ.
    """
    per_item = sum(
        (wide(s) - wide(t.detach())).square().sum(-1).mean(1)
        for s, t in layers(student_maps, teacher_maps)
    )
    assert isinstance(per_item, Tensor)
    return reduced(per_item, mask, reduction)


def attention_divergence(
    student_maps: Sequence[Tensor],
    teacher_maps: Sequence[Tensor],
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """``(1/n) Σ_i Σ_j (1/h) Σ_a KL(A^T_ija ‖ A^S_ija)``: rows of attention are distributions.

    After MiniLM (Wang et al. 2020, section 3.1), which takes the last layer only: pass one. A key
    that both maps rule out adds 0, and one that only the student rules out a large finite number
    with no gradient: its logarithm stops at that of the smallest normal number, where a plain
    ``p log(p/q)`` gives infinity and then NaN.

    Parameters and errors are those of `attention_loss`.
    """
    per_item = sum(
        _row_divergence(wide(s), wide(t.detach())).mean(1)
        for s, t in layers(student_maps, teacher_maps)
    )
    assert isinstance(per_item, Tensor)
    return reduced(per_item, mask, reduction)


def attention_transfer_loss(
    student_features: Sequence[Tensor],
    teacher_features: Sequence[Tensor],
    reduction: Reduction = "mean",
) -> Tensor:
    """``(1/n) Σ_i Σ_j ‖ Q^T_ij/‖Q^T_ij‖ − Q^S_ij/‖Q^S_ij‖ ‖²``, Q = Σ_channels feature²: where.

    Attention of a convolutional network (Zagoruyko and Komodakis 2017, section 3.1): the places of
    an image where its features are large. Channels are summed away, so student and teacher may have
    different numbers of them. (Their eq. 2 has the distance, not its square.)

    Parameters
    ----------
    student_features, teacher_features : sequence of Tensor
        One [n, channels, height, width] a layer.
    reduction : "mean" or "sum"
        Over the n images.
    """
    student, teacher = (
        [wide(f).square().sum(1).flatten(1) for f in features]
        for features in (student_features, teacher_features)
    )
    return hidden_state_loss(student, teacher, None, reduction)


def _row_divergence(q: Tensor, p: Tensor) -> Tensor:
    """KL(p ‖ q) over the last dimension, finite."""
    log_q = q.clamp_min(torch.finfo(q.dtype).tiny).log()
    return (torch.special.xlogy(p, p) - p * log_q).sum(-1)
