"""A language model on the held-out text: how well it foretells, and how many bytes that takes."""

from __future__ import annotations

import copy
import json
import tempfile
from pathlib import Path
from typing import NamedTuple

import safetensors
import torch
from torch import Tensor

from qtools import causal, onebit, text, weight_only
from qtools.causal import Causal
from qtools.models import WEIGHTS, CharGPT
from qtools.onebit import PackedOneBitLinear, container
from qtools.weight_only import WeightOnlyLinear

#: Models by name, beside files: the teacher, and what was distilled of it (chapter 14).
NAMES = {
    "chargpt-teacher": CharGPT.pretrained,
    "chargpt-onebit": lambda: one_bit(WEIGHTS / "chargpt_onebit.safetensors"),
}

#: Windows of the training text that GPTQ and AWQ look at.
CALIBRATION = 64


class Evaluation(NamedTuple):
    """What `qtools evaluate` prints.

    Attributes
    ----------
    nats_per_char, perplexity, top1 : float
        Of the held-out text, see `qtools.text.foretell`. Perplexity is a character's, also of a
        model that reads tokens; top1 is the share of its tokens.
    bytes : int
        Of the model's file, with all that was not quantized as float16.
    bits_per_weight : float
        Of the quantized matrices, with their scales, zero points and padding; 16 without any.
    """

    nats_per_char: float
    perplexity: float
    top1: float
    bytes: int
    bits_per_weight: float


def load(model: str) -> CharGPT | Causal:
    """A model by its name, or from a file of `CharGPT.save`, `weight_only.save`, `onebit.save`.

    A file of `onebit.save` has to be of a network of the teacher's shape, or of transformers with
    its configuration and tokenizer beside it, as `qtools pack` writes them.

    Raises
    ------
    ValueError
        If it is neither a name nor a file, or the file is of something else or damaged.
    """
    if model in NAMES:
        return NAMES[model]()
    path = Path(model)
    if not path.is_file():
        raise ValueError(f"model must be {' or '.join(NAMES)} or a file, got {model!r}")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        if weight_only.KIND in metadata:
            settings = json.loads(metadata[weight_only.KIND])["settings"]
            # The file holds float16; what it computes in is float32.
            network = CharGPT(**settings).half()
            weight_only.load_(network, path)
            return network.float().eval()
        if container.KIND in metadata:
            return causal.read(path) if causal.is_beside(path) else one_bit(path)
        return CharGPT.load(path.read_bytes())
    except (KeyError, TypeError, RuntimeError, ValueError, safetensors.SafetensorError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{model} is no file of a language model: {reason}") from error


def one_bit(path: Path) -> CharGPT:
    """A packed CharGPT of the teacher's shape, in float32 whatever the type of its other tensors.

    Raises
    ------
    ValueError, TypeError
        As `qtools.onebit.load_`.
    """
    network = CharGPT.pretrained()  # for its shape: the file has a value for every number
    if kept := container.read_header(path).entries.get("embedding.weight"):
        network.to(kept.dtype)
    onebit.load_(network, path)
    return network.float().eval()


def calibration(model: CharGPT | Causal, seed: int = 0, windows: int = CALIBRATION) -> list[Tensor]:
    """Windows of the training text, drawn without replacement, 16 to a batch."""
    pieces = text.Windows(model.encode(text.split()[0]), model.context)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        drawn = pieces[torch.randperm(len(pieces))[:windows]]["input_ids"]
    return list(drawn.split(16))


def evaluate(model: CharGPT | Causal) -> Evaluation:
    """Foretell the held-out text.

    Raises
    ------
    ValueError
        If the text has characters that the model does not know.
    """
    content, batch = text.split()[1], 1 if isinstance(model, Causal) else 32
    tokens = model.encode(content)
    found = text.foretell(model, tokens, model.context, batch)
    layers = [m for m in model.modules() if isinstance(m, (WeightOnlyLinear, PackedOneBitLinear))]
    weights = sum(m.in_features * m.out_features for m in layers)
    bits = 8 * sum(m.weight_bytes for m in layers) / weights if layers else 16.0
    nats, top1 = found.nats * ((len(tokens) - 1) / (len(content) - 1)), found.top1
    return Evaluation(nats, text.perplexity(nats), top1, file_bytes(model), bits)


def file_bytes(model: CharGPT | Causal) -> int:
    """Bytes of the model's file, written and counted; what was not quantized as float16."""
    network = model.network if isinstance(model, Causal) else model
    half, kinds = copy.deepcopy(network).half(), {type(m) for m in model.modules()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        if PackedOneBitLinear in kinds:
            return onebit.save(half, path).file_bytes
        if WeightOnlyLinear in kinds:
            return weight_only.save(half, path)
    return len(half.save())  # type: ignore[operator]
