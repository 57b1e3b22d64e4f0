"""Losses between a student and its teacher: soft targets, labels, hidden states.

All of them count in *items*: an example of a classifier, a token of a language model. A loss is
computed for each item, items that a mask leaves out count for nothing, and ``reduction`` says what
happens to the rest: ``"mean"`` divides their sum by their number, ``"sum"`` does not. A mean over
parts of different size is not the mean over the whole; so whoever splits a batch, over time or over
processes, takes sums and divides once (`qtools.distillation.Distiller` does).

The teacher is a constant: no gradient flows into its side. float16 and bfloat16 are computed in
float32. The mean over no item is NaN, as everywhere in torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Reduction = Literal["mean", "sum"]

#: Labels of this value are left out, as in `torch.nn.functional.cross_entropy`.
IGNORED = -100


def soft_cross_entropy(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """``−(1/n) Σ_i Σ_c p_c(o_i) log q_c(o_i)``, OneBit eq. 7: the teacher's distribution as target.

    p and q are the softmax of the teacher's and the student's logits over the temperature (the
    paper has none: 1). It is the divergence KL(p ‖ q) plus the entropy of p, which no student can
    remove: the gradient is the same, ``(q − p) / (n T)`` in the logits, and the smallest value is
    the entropy, not 0.

    The code that came with the paper takes ``kl_div(reduction="batchmean")`` on logits [sequences,
    tokens, classes]. "batchmean" divides by the length of the *first* dimension, so that loss grows
    with the length of the sequences. Here n counts tokens.

    Parameters
    ----------
    student_logits, teacher_logits : Tensor
        [..., classes], the same shape; all leading dimensions count items.
    temperature : float
        T > 0.
    mask : Tensor, optional
        Shape of the leading dimensions, True or not 0 = the item counts.
    reduction : "mean" or "sum"
        Over the items that count.

    Raises
    ------
    ValueError
        If shapes do not fit or the temperature is not positive.
    """
    log_q, p = _distributions(student_logits, teacher_logits, temperature)
    return reduced(-(p * log_q).sum(-1), mask, reduction)


def soft_divergence(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """``(T²/n) Σ_i KL(p(o_i) ‖ q(o_i))``, p and q the softmax of logits over T: 0 for equal logits.

    Why T² (Hinton, Vinyals and Dean 2015, section 2). In one student logit z_c the gradient of the
    divergence is ``(q_c − p_c) / T``. As T grows, the exponentials become linear: for logits with
    mean zero over N classes, ``q_c − p_c → (z_c − v_c) / (N T)``, v the teacher's logits. So the
    gradient falls as 1/T², and T² keeps its size: whatever the temperature, the loss weighs the
    same beside the loss on labels. In the limit it is ``(z − v) / N``, the gradient of half the
    mean squared difference of the (centred) logits: matching logits is the special case T → ∞.

    The value is a difference of nearly equal numbers times T²: in float32 it is off by some 1e-5 at
    T = 100 and by several percent at T = 10,000, the gradient by 3e-6 and 3e-4.

    Parameters and errors are those of `soft_cross_entropy`.
    """
    log_q, p = _distributions(student_logits, teacher_logits, temperature)
    per_item = F.kl_div(log_q, p, reduction="none").sum(-1)
    return reduced(temperature**2 * per_item, mask, reduction)


def hinton_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 4.0,
    labels: Tensor | None = None,
    alpha: float = 0.9,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """``α T² KL(p_T ‖ q_T) + (1 − α) CE(labels, q_1)``: soft targets and labels together.

    p_T and q_T are the teacher's and the student's distributions at temperature T; the loss on
    labels is at temperature 1. Without labels it is ``T² KL`` alone. See `soft_divergence` for the
    factor T². Hinton et al. 2015, section 2, who found a small weight on the labels best.

    Parameters
    ----------
    student_logits, teacher_logits : Tensor
        [..., classes], the same shape.
    temperature : float
        T > 0. Larger shows more of how the teacher ranks the wrong classes.
    labels : Tensor, optional
        int64, shape of the leading dimensions. An item with label −100 counts for nothing.
    alpha : float
        Between 0 (labels only) and 1 (teacher only).
    mask : Tensor, optional
        Shape of the leading dimensions, True or not 0 = the item counts.
    reduction : "mean" or "sum"
        Over the items that count.

    Raises
    ------
    ValueError
        If shapes do not fit, the temperature is not positive or alpha is not between 0 and 1.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be between 0 and 1, got {alpha}")
    if labels is None:
        return soft_divergence(student_logits, teacher_logits, temperature, mask, reduction)
    hard = label_loss(student_logits, labels, mask, reduction)
    mask = counted(labels, mask)
    soft = soft_divergence(student_logits, teacher_logits, temperature, mask, reduction)
    return alpha * soft + (1 - alpha) * hard


def label_loss(
    student_logits: Tensor,
    labels: Tensor,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """``−(1/n) Σ_i log q_{y_i}(o_i)``: cross-entropy with labels.

    Logits [..., classes], labels int64 [...]. Items with label −100 count for nothing.
    """
    if labels.shape != student_logits.shape[:-1]:
        raise ValueError(
            f"labels must have shape {list(student_logits.shape[:-1])}, got {list(labels.shape)}"
        )
    classes = student_logits.shape[-1]
    per_item = F.cross_entropy(
        wide(student_logits).reshape(-1, classes),
        labels.reshape(-1),
        reduction="none",
        ignore_index=IGNORED,
    ).view(labels.shape)
    return reduced(per_item, counted(labels, mask), reduction)


def hidden_state_loss(
    student_states: Sequence[Tensor],
    teacher_states: Sequence[Tensor],
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """``(1/n) Σ_i Σ_j ‖ t_ij/‖t_ij‖ − s_ij/‖s_ij‖ ‖²``, OneBit eq. 8: directions, layer by layer.

    i runs over the tokens, j over the layers; s and t are the hidden states. Of unit vectors the
    squared distance is ``2 − 2 cos``, between 0 and 4 a layer, so the length of a state does not
    matter. The sum over layers is the paper's; the mean over tokens makes it comparable with eq. 7,
    which is a mean.

    Parameters
    ----------
    student_states, teacher_states : sequence of Tensor
        One [..., width] a layer, in the same order. A zero vector stays zero.
    mask : Tensor, optional
        Shape of the leading dimensions, True or not 0 = the token counts.
    reduction : "mean" or "sum"
        Over the tokens that count; over layers it is always the sum.

    Raises
    ------
    ValueError
        If there are no layers, not as many of both, or their shapes differ. (A student of another
        width needs a linear map first, trained with it.)
    """
    total: Tensor | None = None
    for s, t in layers(student_states, teacher_states):
        t = F.normalize(wide(t.detach()), dim=-1)
        per_item = (F.normalize(wide(s), dim=-1) - t).square().sum(-1)
        total = per_item if total is None else total + per_item
    assert total is not None
    return reduced(total, mask, reduction)


def onebit_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    student_states: Sequence[Tensor],
    teacher_states: Sequence[Tensor],
    alpha: float = 1.0,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """``L = L_CE + α L_MSE``, OneBit eq. 9: `soft_cross_entropy` and `hidden_state_loss`.

    Both are means over the same tokens (or both sums), so α is what it says; the paper takes 1. In
    the code released with it the first term, times 0.01, is divided by the number of sequences, not
    of tokens: for 2048 tokens it weighs 20.48 times as much, and α = 1 there acts like 0.049 here.
    """
    soft = soft_cross_entropy(student_logits, teacher_logits, 1.0, mask, reduction)
    return soft + alpha * hidden_state_loss(student_states, teacher_states, mask, reduction)


def counted(labels: Tensor, mask: Tensor | None = None) -> Tensor:
    """Which items count, bool: those of the mask whose label is not −100."""
    keep = labels != IGNORED
    if mask is None:
        return keep
    if mask.shape != labels.shape:
        raise ValueError(f"mask must have shape {list(labels.shape)}, got {list(mask.shape)}")
    return keep & mask.bool()


def reduced(per_item: Tensor, mask: Tensor | None, reduction: Reduction) -> Tensor:
    """Sum or mean of a loss over the items that count."""
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction must be 'mean' or 'sum', got {reduction!r}")
    if mask is None:
        return per_item.mean() if reduction == "mean" else per_item.sum()
    if mask.shape != per_item.shape:
        raise ValueError(f"mask must have shape {list(per_item.shape)}, got {list(mask.shape)}")
    keep = mask.bool()
    total = per_item.masked_fill(~keep, 0).sum()
    return total / keep.sum() if reduction == "mean" else total


def _distributions(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the student's log-probabilities and the teacher's probabilities at a temperature."""
    if student.shape != teacher.shape or student.ndim == 0:
        raise ValueError(
            f"teacher_logits must have the shape of student_logits, {list(student.shape)}, and at "
            f"least one dimension, got {list(teacher.shape)}"
        )
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    log_q = F.log_softmax(wide(student) / temperature, dim=-1)
    return log_q, F.softmax(wide(teacher.detach()) / temperature, dim=-1)


def layers(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Sequence[tuple[Tensor, Tensor]]:
    """Pairs of layers, after a look at their number and shapes."""
    if len(student) != len(teacher) or not student:
        raise ValueError(
            "student and teacher must have the same number of layers, at least one, "
            f"got {len(student)} and {len(teacher)}"
        )
    pairs = list(zip(student, teacher, strict=True))
    for j, (s, t) in enumerate(pairs):
        if s.shape != t.shape:
            raise ValueError(
                f"layer {j} must have one shape in student and teacher, "
                f"got {list(s.shape)} and {list(t.shape)}"
            )
    return pairs


def wide(t: Tensor) -> Tensor:
    """Half precision as float32, anything else as it is."""
    return t.float() if t.dtype in (torch.float16, torch.bfloat16) else t
