"""A packed language model of transformers: read from its folder, it does what a CharGPT does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qtools import onebit
from qtools.models import check_beginning
from qtools.modes import evaluating

#: Tokens that it looks back on, at most, when it foretells a text.
CONTEXT = 512


def transformers() -> Any:
    """The library, which is imported only where it is needed.

    Raises
    ------
    ValueError
        If it is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise ValueError("only chargpt goes without transformers: pip install transformers") from (
            error
        )
    return transformers


class Causal(nn.Module):
    """A causal language model of transformers and its tokenizer, with the methods of a CharGPT.

    Its tokens are its tokenizer's, pieces of several characters.
    """

    def __init__(self, network: nn.Module, tokenizer: Any) -> None:
        super().__init__()
        self.network, self.tokenizer = network, tokenizer
        places = getattr(network.config, "max_position_embeddings", CONTEXT)
        self.context = min(CONTEXT, places // 2 * 2)

    def forward(self, input_ids: Tensor) -> Any:
        """int64 [n, t] to an object with ``logits`` [n, t, tokens]."""
        return self.network(input_ids)

    def encode(self, text: str) -> Tensor:
        """Tokens of a text, int64 [t]."""
        return torch.tensor(self.tokenizer(text)["input_ids"], dtype=torch.int64)

    def decode(self, tokens: Tensor) -> str:
        """Text of tokens [t]."""
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True))

    def generate(
        self,
        tokens: Tensor,
        length: int,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Write on: tokens [n, t] with ``length`` more, as `CharGPT.generate`; it may end earlier.

        Raises
        ------
        ValueError
            If there is no token to begin with, or temperature is negative.
        """
        check_beginning(tokens, temperature)
        with torch.random.fork_rng(), evaluating(self):
            if generator is not None:  # transformers draws from the global one
                torch.manual_seed(generator.initial_seed())
            return continued(self.network, tokens, temperature, max_new_tokens=length)


def continued(network: nn.Module, tokens: Tensor, temperature: float, **lengths: int) -> Tensor:
    """Tokens [n, t] and what a model of transformers draws after them; the likeliest at 0."""
    drawn = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    found: Tensor = network.generate(  # type: ignore[operator]
        tokens,
        attention_mask=torch.ones_like(tokens),
        **lengths,
        **(drawn if temperature else {"do_sample": False}),
    )
    return found


def keep_beside(student: nn.Module, folder: Path) -> bool:
    """Write what `read` needs beside a packed file of transformers' model; else return False."""
    config: Any = getattr(student, "config", None)
    if not hasattr(config, "save_pretrained"):
        return False
    config.save_pretrained(folder)
    tokenizer = transformers().AutoTokenizer.from_pretrained(student.name_or_path)
    tokenizer.save_pretrained(folder)
    return True


def is_beside(path: Path) -> bool:
    """Whether a file has a configuration of transformers beside it."""
    return (path.parent / "config.json").is_file()


def read(path: Path) -> Causal:
    """A packed model, float32 around its bits, in eval mode.

    Raises
    ------
    ValueError
        If the file or what stands beside it is of another model, or transformers is missing.
    """
    auto = transformers()
    try:
        config = auto.AutoConfig.from_pretrained(path.parent)
        tokenizer = auto.AutoTokenizer.from_pretrained(path.parent)
    except OSError as error:
        raise ValueError(f"{path.parent} must hold a model's configuration: {error}") from error
    with torch.random.fork_rng():
        network = auto.AutoModelForCausalLM.from_config(config, dtype=torch.float16)
    onebit.load_(network, path)
    return Causal(network.float().eval(), tokenizer)
