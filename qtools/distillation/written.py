"""Text that the teacher wrote itself, to learn from: the paper's training data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from qtools.causal import continued
from qtools.distillation.checkpoint import fingerprint
from qtools.distillation.language import CHARGPT, model
from qtools.files import write_atomic
from qtools.models import CharGPT
from qtools.modes import evaluating

#: First tokens that are the likeliest instead of drawn: a number between these, both included.
GREEDY = (3, 5)


class Sequences:
    """Whole sequences, int64 [n, t], as `Distiller` takes data: ``input_ids``, nothing else."""

    def __init__(self, tokens: Tensor) -> None:
        self.tokens = tokens

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: Tensor) -> dict[str, Tensor]:
        return {"input_ids": self.tokens[index].long()}


def write(
    teacher: nn.Module,
    sequences: int,
    length: int,
    seed: int = 0,
    batch: int = 128,
    progress: bool = True,
) -> Tensor:
    """Sequences by the teacher: a random token, the likeliest 3 to 5 after it, the rest drawn.

    The recipe of Xu et al. 2024 (section 4.1), after LLM-QAT (Liu et al. 2023): where the first
    tokens are drawn, they lead into text that the teacher itself would hardly write.

    Parameters
    ----------
    teacher : nn.Module
        CharGPT, or a causal language model of transformers, whose token for the end of a text is
        never written. In eval mode for it.
    sequences, length : int
        How many, and tokens of each.
    seed : int
    batch : int
        Sequences at a time: it changes what is drawn.
    progress : bool
        Show a bar.

    Returns
    -------
    Tensor
        int64 [sequences, length].

    Raises
    ------
    ValueError
        If there are no sequences, or they are not longer than what is not drawn.
    """
    if sequences < 1 or batch < 1:
        raise ValueError(f"sequences and batch must be at least 1, got {sequences} and {batch}")
    if length <= GREEDY[1] + 1:
        raise ValueError(f"length must be more than {GREEDY[1] + 1}, got {length}")
    device = next(teacher.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    parts: list[Tensor] = []
    with (
        evaluating(teacher),
        torch.random.fork_rng(),
        tqdm(total=sequences, unit="sequence", disable=not progress) as bar,
    ):
        torch.manual_seed(seed)
        while (left := sequences - sum(len(part) for part in parts)) > 0:
            size = min(batch, left)
            first = torch.randint(_vocabulary(teacher), (size, 1), generator=generator)
            # One number for all of a batch: they are written together.
            greedy = int(torch.randint(GREEDY[0], GREEDY[1] + 1, (), generator=generator))
            tokens = _continued(teacher, first.to(device), greedy, 0.0)
            parts.append(_continued(teacher, tokens, length - 1 - greedy, 1.0).cpu())
            bar.update(size)
    return torch.cat(parts)


def written(
    file: str, teacher: Any = None, sequences: int = 4096, length: int = 256, seed: int = 0
) -> Sequences:
    """`write`'s sequences, kept in a safetensors file: written once, then read.

    Raises
    ------
    ValueError
        If the file is of another teacher or other settings.
    """
    network = teacher if isinstance(teacher, nn.Module) else model(teacher or CHARGPT)
    made = {
        "teacher": fingerprint(network),
        "sequences": sequences,
        "length": length,
        "seed": seed,
    }
    path = Path(file)
    if not path.exists():
        tokens = write(network, sequences, length, seed).to(torch.int32)
        write_atomic(path, safetensors.torch.save({"tokens": tokens}, {"made": json.dumps(made)}))
    with safetensors.safe_open(path, "pt") as content:
        if json.loads((content.metadata() or {}).get("made", "null")) != made:
            raise ValueError(f"{path} holds other sequences: delete it, or name another file")
        return Sequences(content.get_tensor("tokens"))


def _vocabulary(model: nn.Module) -> int:
    if isinstance(model, CharGPT):
        return len(model.characters)
    return int(model.get_input_embeddings().num_embeddings)  # type: ignore[operator]


def _continued(model: nn.Module, tokens: Tensor, length: int, temperature: float) -> Tensor:
    if isinstance(model, CharGPT):
        return model.generate(tokens, length, temperature)
    return continued(model, tokens, temperature, min_new_tokens=length, max_new_tokens=length)
