"""Whether student, teacher and data belong together: asked before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from qtools.distillation.data import Examples, generators_kept
from qtools.distillation.objectives import call, logits
from qtools.modes import evaluating

#: Tokens of the example that both models are shown.
SHOWN = 8


def check_fit(student: nn.Module, teacher: nn.Module | None, data: Examples) -> None:
    """Show both language models the start of one example; compare what comes out.

    Data of another kind than tokens are left to the loss, which compares shapes at the first step.

    Raises
    ------
    ValueError
        If the data have tokens that a model does not know, or student and teacher do not foretell
        the same number of tokens.
    """
    with generators_kept(torch.device("cpu")):
        batch = data[torch.tensor([0])]
    if not isinstance(batch, Mapping) or "input_ids" not in batch:
        return
    models = {"student": student, **({} if teacher is None else {"teacher": teacher})}
    largest = int(_all_tokens(data, batch).max())
    widths = {}
    for name, model in models.items():
        known = _embedded(model)
        if known is not None and largest >= known:
            raise ValueError(
                f"data and {name} must have one vocabulary: the {name} knows {known} tokens, "
                f"and the data have token {largest}"
            )
        with evaluating(model):
            widths[name] = logits(call(model, _start(batch))).shape[-1]
    if len(set(widths.values())) > 1:
        raise ValueError(
            f"student and teacher must have one vocabulary: {widths['student']} and "
            f"{widths['teacher']} tokens"
        )


def _all_tokens(data: Examples, batch: Mapping[str, Any]) -> Tensor:
    tokens = getattr(data, "tokens", None)
    return tokens if isinstance(tokens, Tensor) and tokens.numel() else batch["input_ids"]


def _embedded(model: nn.Module) -> int | None:
    """Tokens that a model can read, if that can be told: rows of its input's embedding."""
    get = getattr(model, "get_input_embeddings", None)
    embedding = get() if callable(get) else getattr(model, "embedding", None)
    return embedding.num_embeddings if isinstance(embedding, nn.Embedding) else None


def _start(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The first tokens of a batch, and what else it says of them."""
    shape = batch["input_ids"].shape
    return {
        name: t[:, :SHOWN] if isinstance(t, Tensor) and t.shape == shape else t
        for name, t in batch.items()
    }
