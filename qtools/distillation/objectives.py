"""What a student is trained for: from models and a batch to sums over items."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from qtools.distillation.losses import (
    counted,
    hidden_state_loss,
    label_loss,
    soft_cross_entropy,
    soft_divergence,
)


class Summed(NamedTuple):
    """A loss over a part of a batch, as sums, so that parts can be added and divided once.

    Attributes
    ----------
    total : Tensor
        Sum of the loss over the items, with its graph.
    items : Tensor or int
        How many items that sum is over.
    parts : dict
        Further sums over the same items, for the record: no gradient is taken of them.
    """

    total: Tensor
    items: Tensor | int
    parts: dict[str, Tensor]


class Sums:
    """Losses of parts, added up without waiting for the device."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._sum: Tensor | None = None

    def add(self, loss: Summed) -> None:
        """Add a part's."""
        names = list(loss.parts)
        if self._sum is not None and names != self._names:
            raise ValueError(f"all parts of a step must have {self._names}, got {names}")
        total = loss.total.detach()
        items = torch.as_tensor(loss.items, device=total.device)
        wide = torch.float32 if total.device.type == "mps" else torch.float64
        values = [total, items, *(part.detach() for part in loss.parts.values())]
        vector = torch.stack([value.to(wide) for value in values])
        self._names, self._sum = names, vector if self._sum is None else self._sum + vector

    def mean(self, accelerator: Accelerator) -> dict[str, float]:
        """Add up over processes, divide by the number of items: loss, parts, ``items``."""
        assert self._sum is not None
        total, items, *further = accelerator.reduce(self._sum, "sum").tolist()
        values = zip(("loss", *self._names), (total, *further), strict=True)
        mean = {name: value / items if items else math.nan for name, value in values}
        return {**mean, "items": int(items)}


class Objective(Protocol):
    """A loss as `Distiller` calls it. Its repr stands in checkpoints: make it a dataclass."""

    def __call__(self, student: nn.Module, teacher: nn.Module | None, batch: Any) -> Summed:
        """Run the models on the batch; return the loss in sums."""
        ...


@dataclass(frozen=True)
class LabelsOnly:
    """Cross-entropy with the labels: the baseline that has no teacher, in the same loop.

    Batches are pairs (x, labels), or mappings with an entry ``labels`` of the logits' leading shape
    (nothing is shifted here). Label −100 means that the item does not count.
    """

    def __call__(self, student: nn.Module, teacher: nn.Module | None, batch: Any) -> Summed:  # noqa: D102
        labels = _labels(batch)
        total = label_loss(logits(call(student, batch)), labels, reduction="sum")
        return Summed(total, counted(labels).sum(), {})


@dataclass(frozen=True)
class Hinton:
    """``α T² KL(p_T ‖ q_T) + (1 − α) CE(labels)``: `losses.hinton_loss`, for pairs (x, labels).

    Parts: ``soft``, T² KL, and ``hard``, the loss on the labels. Batches as for `LabelsOnly`.
    """

    temperature: float = 4.0
    alpha: float = 0.9

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}")
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha must be between 0 and 1, got {self.alpha}")

    def __call__(self, student: nn.Module, teacher: nn.Module | None, batch: Any) -> Summed:  # noqa: D102
        labels = _labels(batch)
        keep = counted(labels)
        z, v = logits(call(student, batch)), logits(call(_needed(teacher, self), batch))
        hard = label_loss(z, labels, reduction="sum")
        soft = soft_divergence(z, v, self.temperature, keep, "sum")
        total = self.alpha * soft + (1 - self.alpha) * hard
        return Summed(total, keep.sum(), {"soft": soft, "hard": hard})


@dataclass(frozen=True)
class OneBit:
    """``L_CE + α L_MSE``, OneBit eq. 9: `losses.onebit_loss`, for language models.

    Batches are mappings as for `transformers`: ``input_ids`` int64 [n, tokens] and, if some of them
    are padding, ``attention_mask`` [n, tokens], 0 = padding, which does not count. Models are
    called with them and ``output_hidden_states=True`` and return an object with ``logits`` and
    ``hidden_states``: the embedding's output first, then each layer's. All layers count and the
    embedding does not. (The released code takes the embedding and leaves out the last layer.)

    Parts: ``logits``, eq. 7, and ``states``, eq. 8.
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < math.inf:
            raise ValueError(f"alpha must be finite and not negative, got {self.alpha}")

    def __call__(self, student: nn.Module, teacher: nn.Module | None, batch: Any) -> Summed:  # noqa: D102
        if not isinstance(batch, Mapping) or "input_ids" not in batch:
            raise TypeError("OneBit needs batches that are mappings with input_ids")
        s = call(student, batch, output_hidden_states=True)
        t = call(_needed(teacher, self), batch, output_hidden_states=True)
        mask = batch.get("attention_mask")
        keep = torch.ones_like(batch["input_ids"]) if mask is None else mask
        soft = soft_cross_entropy(s.logits, t.logits, mask=keep, reduction="sum")
        states = hidden_state_loss(s.hidden_states[1:], t.hidden_states[1:], keep, "sum")
        parts = {"logits": soft, "states": states}
        return Summed(soft + self.alpha * states, keep.bool().sum(), parts)


def call(model: nn.Module, batch: Any, **settings: Any) -> Any:
    """Run a model on the inputs of a batch: by name for a mapping, else on its first entry."""
    if isinstance(batch, Mapping):
        return model(**{name: t for name, t in batch.items() if name != "labels"}, **settings)
    return model(batch if isinstance(batch, Tensor) else batch[0], **settings)


def description(objective: Objective) -> str:
    """Return what stands for an objective in a checkpoint: its repr without a memory address."""
    text = repr(objective)
    if " at 0x" not in text:
        return text
    kind = type(objective)
    return str(getattr(objective, "__qualname__", f"{kind.__module__}.{kind.__qualname__}"))


def logits(output: Any) -> Tensor:
    """Return the output itself if it is a tensor, else its ``logits``."""
    found = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(found, Tensor):
        kind = type(output).__name__
        raise TypeError(f"a model must return logits or an object that has them, got {kind}")
    return found


def _labels(batch: Any) -> Tensor:
    if isinstance(batch, Mapping) and "labels" in batch:
        return batch["labels"]
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        return batch[1]
    raise TypeError("a batch must be a pair (x, labels) or a mapping with labels")


def _needed(teacher: nn.Module | None, objective: object) -> nn.Module:
    if teacher is None:
        raise ValueError(f"{type(objective).__name__} needs a teacher, got None")
    return teacher
