"""Language models as a distillation takes them: networks, text to learn from, and how well it went.

Every function can stand in a TOML file as ``make`` (see `qtools.distillation.recipe.Recipe`).
`name` is ``"chargpt"``, the book's own model on the book's text, or the name or folder of a causal
language model of `transformers`, which then has to be installed.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qtools import text
from qtools.distillation.loop import Evaluation
from qtools.models import CharGPT
from qtools.onebit import convert_, load_

CHARGPT = "chargpt"

#: CharGPTs that come with the package, by name: the float teacher.
NAMES = "chargpt-teacher"


def model(name: str = CHARGPT) -> nn.Module:
    """Trained network `name`, float32, in eval mode.

    Raises
    ------
    ValueError
        If transformers does not know it, or knows no causal language model of that name.
    """
    if name == CHARGPT:
        return CharGPT.pretrained()
    try:
        found: nn.Module = _transformers().AutoModelForCausalLM.from_pretrained(
            name, dtype=torch.float32, use_safetensors=True
        )
    except OSError as error:
        raise ValueError(f"name must be {CHARGPT!r} or a model of transformers: {error}") from error
    return found.eval()


def onebit_student(
    name: str = CHARGPT,
    skip: Sequence[str] | None = None,
    start: str = "weights",
    gradient: str = "tanh",
    layer_norm: bool = True,
) -> nn.Module:
    """``convert_(model(name), ...)``, with dropout off: a student of one bit seldom overfits."""
    student = copy.deepcopy(model(name))
    convert_(student, skip, start, gradient, layer_norm)
    without_dropout_(student)
    return student


def chargpt(name: str) -> CharGPT:
    """Return the CharGPT of a name in `NAMES`, or the one that is packed in a file.

    Raises
    ------
    ValueError
        If it is neither, or the file is not of a OneBit CharGPT of the book's shape.
    """
    network = CharGPT.pretrained()
    if name == "chargpt-teacher":
        return network
    if not Path(name).is_file():
        raise ValueError(f"model must be {NAMES} or a file, got {name!r}")
    load_(network, name)
    return network


def without_dropout_(network: nn.Module) -> None:
    """Set every rate of dropout to 0, in modules of torch and in attributes ``dropout``."""
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0  # type: ignore[assignment]


def windows(name: str = CHARGPT, file: str | None = None, context: int = 256) -> text.Windows:
    """Pieces of the first 90 % of a text, in the tokens of the model.

    Parameters
    ----------
    name : str
        Whose tokens.
    file : str, optional
        Text in UTF-8. Without it, Moby Dick.
    context : int
        Tokens of a piece.

    Raises
    ------
    ValueError
        If the file is not UTF-8, has characters that the model does not know, or is too short.
    """
    return text.Windows(encoded(name, text.split(_read(file))[0]), context)


def held_out(name: str = CHARGPT, file: str | None = None, context: int = 256) -> Evaluation:
    """Return a function from a network to nats a token on the last 10 % of the text."""
    tokens = encoded(name, text.split(_read(file))[1])
    if len(tokens) <= context:
        raise ValueError(f"the text must have more than {10 * context} tokens, it is too short")

    def evaluate(network: nn.Module) -> dict[str, float]:
        device = next(network.parameters()).device
        return {"nats": text.nats_per_character(network, tokens.to(device), context)}

    return evaluate


def encoded(name: str, content: str) -> Tensor:
    """Tokens of a text, int64 [tokens], as the model `name` reads it."""
    if name == CHARGPT:
        return CharGPT.pretrained().encode(content)
    tokenizer = _transformers().AutoTokenizer.from_pretrained(name)
    return torch.tensor(tokenizer(content)["input_ids"], dtype=torch.int64)


def _read(file: str | None) -> str | None:
    if file is None:
        return None
    try:
        return Path(file).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} must be text in UTF-8: {error}") from error


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ValueError("only chargpt goes without transformers: pip install transformers") from (
            error
        )
    return transformers
