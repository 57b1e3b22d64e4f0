"""Moby Dick as language models take it: characters to train on, and how well they are foretold."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qtools.data import moby_dick
from qtools.modes import evaluating

#: The first 90 % of the text are trained on; the rest is held out.
TRAINED_SHARE = 0.9


def split(text: str | None = None) -> tuple[str, str]:
    """The text that models train on and the text that is held out: the first 90 % and the rest."""
    text = moby_dick() if text is None else text
    cut = int(TRAINED_SHARE * len(text))
    return text[:cut], text[cut:]


class Windows:
    """Pieces of a text and the character that follows each place, as `Distiller` takes data.

    Window i begins somewhere in ``[i context, (i + 1) context)``, drawn each time anew.

    Parameters
    ----------
    tokens : Tensor
        int64 [characters].
    context : int
        Characters of a window.

    Raises
    ------
    ValueError
        If the text is shorter than two windows, or a window than a character.
    TypeError
        If context is no integer.
    """

    def __init__(self, tokens: Tensor, context: int) -> None:
        if type(context) is not int:
            raise TypeError(f"context must be an integer, got {context!r}")
        if context < 1:
            raise ValueError(f"context must be at least 1, got {context}")
        if len(tokens) <= 2 * context:
            raise ValueError(f"tokens must be more than {2 * context}, got {len(tokens)}")
        self.tokens, self.context = tokens, context

    def __len__(self) -> int:
        return (len(self.tokens) - 1) // self.context - 1

    def __getitem__(self, index: Tensor) -> dict[str, Tensor]:
        return self.at(self.draw(index))

    def draw(self, index: Tensor) -> Tensor:
        """Where windows begin, int64 [n]: by chance, see `qtools.distillation.data.Drawing`."""
        return index * self.context + torch.randint(self.context, index.shape)

    def at(self, start: Tensor) -> dict[str, Tensor]:
        """Windows that begin there."""
        places = start[:, None] + torch.arange(self.context)
        return {"input_ids": self.tokens[places], "labels": self.tokens[places + 1]}


class Foretold(NamedTuple):
    """How well a text is foretold.

    Attributes
    ----------
    nats : float
        ``-(1/n) Σ_i log p(x_i | at least context/2 characters before it)``.
    top1 : float
        Share of characters that had the largest p.
    """

    nats: float
    top1: float


def foretell(model: nn.Module, tokens: Tensor, context: int, batch: int = 32) -> Foretold:
    """Foretell every character of a text but the first, from those before it.

    Windows overlap by half, and only the later half of each counts (of the first window all), so
    that every character is foretold once, with enough to go by.

    Parameters
    ----------
    model : nn.Module
        From int64 [n, t] to an object with ``logits`` [n, t, characters]. Put in eval mode for it.
    tokens : Tensor
        int64 [characters], more than the context.
    context : int
        Characters of a window; even.
    batch : int
        Windows at a time.

    Raises
    ------
    ValueError
        If context is odd, or there are not more tokens than that.
    """
    if context % 2 or len(tokens) <= context:
        raise ValueError(f"context must be even and below {len(tokens)}, got {context}")
    half, n = context // 2, len(tokens) - 1
    # The last window ends with the text: it counts what the one before has not.
    starts = torch.tensor(sorted({*range(0, n - context, half), n - context}))
    total, right, done = 0.0, 0, 0
    with evaluating(model):
        for part in starts.split(batch):
            x = tokens[part[:, None] + torch.arange(context)]
            y = tokens[part[:, None] + torch.arange(1, context + 1)]
            logits = model(x).logits
            loss = F.cross_entropy(logits.transpose(1, 2), y, reduction="none").double()
            hit = logits.argmax(-1) == y
            for begin, row, hits in zip(part.tolist(), loss, hit, strict=True):
                total += row[done - begin :].sum().item()
                right += int(hits[done - begin :].sum())
                done = begin + context
    return Foretold(total / n, right / n)


def nats_per_character(model: nn.Module, tokens: Tensor, context: int, batch: int = 32) -> float:
    """Nats of `foretell`; e to the power of them is the perplexity."""
    return foretell(model, tokens, context, batch).nats


def perplexity(nats: float) -> float:
    """``e^nats``: among how many equally likely characters the model would be as unsure."""
    return math.exp(nats)
