"""Language models as a distillation takes them: networks, text to learn from, and how well it went.

Every function can stand in a TOML file as ``make`` (see `qtools.distillation.recipe.Recipe`).
`name` is ``"chargpt"``, the book's own model on the book's text; a file of another CharGPT, as
`CharGPT.save` writes it; or the name or folder of a causal language model of `transformers`, which
then has to be installed. Files and folders are named from where the command runs.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from qtools import evaluation, text
from qtools.causal import transformers
from qtools.distillation.config import DistillConfig
from qtools.distillation.loop import Evaluation
from qtools.models import CharGPT
from qtools.onebit import OneBitLinear, convert_
from qtools.onebit.bitnet import BitNetLinear

CHARGPT = "chargpt"

INITS = ("svid", "copied", "random")


def model(name: str = CHARGPT) -> nn.Module:
    """Trained network `name`, float32, in eval mode.

    Raises
    ------
    ValueError
        If it is a file of something else, or transformers knows no causal language model of that
        name with weights in safetensors.
    """
    if (ours := _chargpt(name)) is not None:
        return ours
    found, report = _pretrained(
        "AutoModelForCausalLM", name,
        dtype=torch.float32, use_safetensors=True, output_loading_info=True,
    )  # fmt: skip
    # transformers draws what a file lacks by chance, and only warns.
    if missing := sorted(report["missing_keys"]):
        raise ValueError(f"the weights of {name} must be complete, {missing[0]} is not there")
    network: nn.Module = found
    return network.eval()


def onebit_student(
    name: str = CHARGPT,
    skip: Sequence[str] | None = None,
    start: str = "weights",
    gradient: str = "tanh",
    layer_norm: bool = True,
    init: str = "svid",
) -> nn.Module:
    """``convert_(model(name), ...)``, with dropout off: a student of one bit seldom overfits.

    `init` says what the layers start from; the first is the paper's, the others are what it
    compares with (Xu et al. 2024, section 4.4):

    | init | latent W | g, h |
    |---|---|---|
    | ``"svid"`` | the teacher's, see ``start`` | SVID's |
    | ``"copied"`` | the teacher's, see ``start`` | ``sqrt(mean|W|)``: one scale for the matrix |
    | ``"random"`` | drawn as ``nn.Linear`` does | the same, of what was drawn |

    Raises
    ------
    ValueError
        If init is none of these, or as `convert_` does.
    """
    if init not in INITS:
        raise ValueError(f"init must be one of {', '.join(INITS)}, got {init!r}")
    student = copy.deepcopy(model(name))
    copied = dict(student.named_parameters()) if init == "copied" else {}
    scales = {n: p.detach().abs().mean().sqrt() for n, p in copied.items()}
    convert_(student, skip, start, gradient, layer_norm)
    for n, layer in student.named_modules():
        if isinstance(layer, OneBitLinear) and init == "random":
            layer.reset_parameters()
        elif isinstance(layer, OneBitLinear) and init == "copied":
            layer.g.data.fill_(scales[f"{n}.weight"])
            layer.h.data.fill_(scales[f"{n}.weight"])
    without_dropout_(student)
    return student


def two_rates(
    student: nn.Module, config: DistillConfig, vectors: float = 0.002
) -> torch.optim.Optimizer:
    """AdamW with the rate ``config.lr`` for latent weights, ``vectors`` for everything else.

    A latent weight matters by its sign alone, or by the level it is next to: it has to travel
    before anything changes. g, h, norms and embedding change the output at every step.

    Raises
    ------
    ValueError
        If the student has no latent weights, or the rate is not positive.
    """
    latent = {id(p) for p in latent_weights(student)}
    if not latent:
        raise ValueError("student must have OneBit layers, got none; onebit_student makes one")
    if not 0 < vectors < math.inf:
        raise ValueError(f"vectors must be a positive learning rate, got {vectors}")
    every = [p for p in student.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in every if id(p) in latent], "weight_decay": config.weight_decay},
        {"params": [p for p in every if id(p) not in latent], "lr": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, config.lr, config.betas)


def latent_weights(student: nn.Module) -> list[Tensor]:
    """Weights that are quantized whenever they are used: of OneBit, BitNet, and parametrized."""
    found: list[Tensor] = []
    for layer in student.modules():
        if isinstance(layer, (OneBitLinear, BitNetLinear)):
            found.append(layer.weight)
        elif parametrize.is_parametrized(layer, "weight"):
            found.append(layer.get_parameter("parametrizations.weight.original"))
    return found


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


def held_out(
    name: str = CHARGPT, file: str | None = None, context: int = 256, batch: int = 32
) -> Evaluation:
    """Return a function from a network to nats a token on the last 10 % of the text.

    It reads so many windows at a time; a large vocabulary makes large logits.
    """
    tokens = encoded(name, text.split(_read(file))[1])
    if len(tokens) <= context:
        raise ValueError(f"the text must have more than {10 * context} tokens, it is too short")

    def evaluate(network: nn.Module) -> dict[str, float]:
        device = next(network.parameters()).device
        return {"nats": text.nats_per_character(network, tokens.to(device), context, batch)}

    return evaluate


def encoded(name: str, content: str) -> Tensor:
    """Tokens of a text, int64 [tokens], as the model `name` reads it."""
    if (ours := _chargpt(name)) is not None:
        return ours.encode(content)
    tokens = _pretrained("AutoTokenizer", name)(content)["input_ids"]
    return torch.tensor(tokens, dtype=torch.int64)


def _chargpt(name: str) -> CharGPT | None:
    """The book's model or one from a file; None for a name that is transformers' to know."""
    if name == CHARGPT:
        return CharGPT.pretrained()
    if not Path(name).is_file():
        return None
    found = evaluation.load(name)
    if not isinstance(found, CharGPT):
        raise ValueError(f"name must be a file of a CharGPT, got {name}")
    return found


def _pretrained(kind: str, name: str, **options: Any) -> Any:
    try:
        return getattr(transformers(), kind).from_pretrained(name, **options)
    except OSError as error:
        raise ValueError(f"name must be {CHARGPT!r} or a model of transformers: {error}") from error


def _read(file: str | None) -> str | None:
    if file is None:
        return None
    try:
        return Path(file).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} must be text in UTF-8: {error}") from error
