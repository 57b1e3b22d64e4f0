"""The networks that every method in the book is tried on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Self

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qtools.files import sha256
from qtools.modes import evaluating

#: Trained weights (safetensors) and ``sha256.json``, their hashes by file name.
WEIGHTS = Path(__file__).parent / "weights"


class SmallCNN(nn.Module):
    """Three 3×3 convolutions with BatchNorm, then two linear layers: 98,554 parameters.

    Input float32 [n, 1, 28, 28] from `data.normalise`, output float32 [n, 10]: one logit a class.
    Three quarters of the parameters are ``fc1.weight`` [128, 576], the book's running matrix.

    Parameters
    ----------
    width
        Factor on every number of channels and hidden units, rounded. At 0.5 the network has
        25,090 parameters, at 0.25 it has 6,502.

    Raises
    ------
    ValueError
        If a layer would be left without channels.
    """

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        c1, c2, c3, hidden = (round(width * n) for n in (16, 32, 64, 128))
        if c1 < 1:
            raise ValueError(f"width must leave each layer a channel, got {width}: at least 1/16")
        self.pool = nn.MaxPool2d(2)
        self.conv1 = nn.Conv2d(1, c1, 3, padding=1, bias=False)  # BatchNorm adds the bias
        self.bn1 = nn.BatchNorm2d(c1)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(c1, c2, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(c2)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(c2, c3, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(c3)
        self.relu3 = nn.ReLU()
        self.fc1 = nn.Linear(9 * c3, hidden)  # c3 channels of 3 × 3 pixels
        self.relu4 = nn.ReLU()
        self.fc2 = nn.Linear(hidden, 10)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        x = self.pool(self.relu1(self.bn1(self.conv1(x))))  # [n, 16, 14, 14] at width 1
        x = self.pool(self.relu2(self.bn2(self.conv2(x))))  # [n, 32, 7, 7]
        x = self.pool(self.relu3(self.bn3(self.conv3(x))))  # [n, 64, 3, 3]
        x = self.relu4(self.fc1(x.flatten(1)))  # [n, 128]
        return self.fc2(x)

    @classmethod
    def pretrained(cls) -> Self:
        """The trained network that comes with the package, in eval mode.

        Raises
        ------
        RuntimeError
            If the file's SHA-256 is not the one recorded when it was trained.
        """
        model = cls()
        model.load_state_dict(safetensors.torch.load(_checked("smallcnn.safetensors")))
        return model.eval()


class CharGPTOutput(NamedTuple):
    """``logits`` [n, t, characters]; ``hidden_states``: the embedding and each block's output.

    Hidden states are [n, t, width], those that come out of the blocks before the last LayerNorm.
    """

    logits: Tensor
    hidden_states: tuple[Tensor, ...]


class Cache:
    """Keys and values of the tokens so far, for each block [n, heads, t, width / heads].

    Room for the whole context is taken with the first token: appending copies nothing that is
    there. So it is for generating, not for gradients.
    """

    def __init__(self, blocks: int, context: int) -> None:
        self.context = context
        self.room: list[Tensor | None] = [None] * blocks
        self.lengths = [0] * blocks

    @property
    def length(self) -> int:
        """Tokens in it."""
        return self.lengths[0]

    def extend(self, block: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Append to a block's; return all of it."""
        n, heads, t, size = key.shape
        if (room := self.room[block]) is None:
            room = self.room[block] = key.new_empty(2, n, heads, self.context, size)
        start, stop = self.lengths[block], self.lengths[block] + t
        self.lengths[block] = stop
        room[0, :, :, start:stop], room[1, :, :, start:stop] = key, value
        return room[0, :, :, :stop], room[1, :, :, :stop]


class Block(nn.Module):
    """``x ← x + out(attention(q, k, v))``, then ``x ← x + down(gelu(up(norm(x))))``."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (
            nn.Linear(width, width, bias=False) for _ in range(4)
        )
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor, turn: Tensor, cache: Cache | None, number: int) -> Tensor:  # noqa: D102
        n, t, width = x.shape
        h = self.norm1(x)
        q, k, v = (
            layer(h).view(n, t, self.heads, -1).transpose(1, 2)  # [n, heads, t, width / heads]
            for layer in (self.query, self.key, self.value)
        )
        q, k = rotate(q, turn), rotate(k, turn)
        if cache is not None:
            k, v = cache.extend(number, k, v)
        # A token sees itself and all before it, those in the cache included.
        sees = torch.ones(t, k.shape[2], dtype=torch.bool, device=x.device).tril(k.shape[2] - t)
        drop = self.dropout if self.training else 0.0
        # No dropout here: with it torch takes another path on the CPU, 1.6 times as slow.
        y = F.scaled_dot_product_attention(q, k, v, sees)
        x = x + F.dropout(self.out(y.transpose(1, 2).reshape(n, t, width)), drop)
        return x + F.dropout(self.down(F.gelu(self.up(self.norm2(x)))), drop)


class CharGPT(nn.Module):
    """A decoder that writes text character by character: the book's language model.

    Blocks of attention and MLP with LayerNorm before each, positions by rotation (Su et al. 2021).

    Parameters
    ----------
    characters
        What it can read and write, each once: character i is token i.
    width, layers, heads
        Width of the hidden states, a multiple of twice the heads.
    context
        Tokens that it looks back on, at most.
    dropout
        Share of activations dropped in training.

    Raises
    ------
    ValueError
        If a character stands twice, or twice the heads do not divide the width.
    """

    def __init__(
        self,
        characters: str,
        width: int = 192,
        layers: int = 5,
        heads: int = 6,
        context: int = 256,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if len(set(characters)) != len(characters):
            raise ValueError("characters must be different from each other")
        if width % (2 * heads):
            raise ValueError(f"width must be a multiple of {2 * heads} = 2 heads, got {width}")
        self.characters, self.context, self.dropout = characters, context, dropout
        #: What makes another model like this one.
        self.settings = {
            "characters": characters,
            "width": width,
            "layers": layers,
            "heads": heads,
            "context": context,
            "dropout": dropout,
        }
        self.embedding = nn.Embedding(len(characters), width)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, len(characters), bias=False)
        self.register_buffer("turn", rotations(context, width // heads), persistent=False)
        for name, p in self.named_parameters():
            if p.ndim == 2:  # what ends in the sum over blocks starts smaller, the deeper it is
                last = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(p, 0.0, 0.02 / ((2 * layers) ** 0.5 if last else 1))

    turn: Tensor

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """As of every module, but the angles are computed anew: float16 would keep few digits."""
        super()._apply(fn, recurse)
        self.turn = rotations(self.context, 2 * self.turn.shape[-1]).to(self.turn)
        return self

    def forward(
        self, input_ids: Tensor, output_hidden_states: bool = True, cache: Cache | None = None
    ) -> CharGPTOutput:
        """int64 [n, t] to logits of the next character at each place.

        With a cache the tokens follow those in it, and are added to it.

        Raises
        ------
        ValueError
            If there are more tokens, with those in the cache, than the context holds.
        """
        start = 0 if cache is None else cache.length
        stop = start + input_ids.shape[1]
        if stop > self.context:
            raise ValueError(f"input_ids must end within the context of {self.context}, at {stop}")
        x = F.dropout(self.embedding(input_ids), self.dropout, self.training)
        states = [x]
        for number, block in enumerate(self.blocks):
            x = block(x, self.turn[start:stop], cache, number)
            states.append(x)
        return CharGPTOutput(
            self.lm_head(self.norm(x)), tuple(states) if output_hidden_states else ()
        )

    def encode(self, text: str) -> Tensor:
        """Tokens of a text, int64 [t].

        Raises
        ------
        ValueError
            If it has a character that the model does not know.
        """
        place = {c: i for i, c in enumerate(self.characters)}
        if unknown := sorted(set(text) - place.keys()):
            raise ValueError(f"text must be of the model's characters, got {''.join(unknown)!r}")
        return torch.tensor([place[c] for c in text], dtype=torch.int64)

    def decode(self, tokens: Tensor) -> str:
        """Text of tokens [t]."""
        return "".join(self.characters[i] for i in tokens.tolist())

    def generate(
        self,
        tokens: Tensor,
        length: int,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Write on: tokens [n, t] with ``length`` more drawn at the temperature, 0 = the likeliest.

        Each token is computed once: keys and values are kept. When the context is full, the later
        half of it is read again and kept instead.

        Raises
        ------
        ValueError
            If there is no token to begin with, or temperature is negative.
        """
        check_beginning(tokens, temperature)
        cache, new = self._cache(), tokens[:, -self.context :]
        with evaluating(self):
            for _ in range(length):
                if cache.length + new.shape[1] > self.context:
                    cache, new = self._cache(), tokens[:, -(self.context // 2) :]
                logits = self(new, False, cache).logits[:, -1]
                if temperature == 0:
                    new = logits.argmax(1, keepdim=True)
                else:
                    new = (logits / temperature).softmax(1).multinomial(1, generator=generator)
                tokens = torch.cat([tokens, new], 1)
        return tokens

    def _cache(self) -> Cache:
        return Cache(len(self.blocks), self.context)

    def save(self) -> bytes:
        """The model as the bytes of a safetensors file, its settings in the header."""
        state = {name: t.contiguous() for name, t in self.state_dict().items()}
        return safetensors.torch.save(state, {"settings": json.dumps(self.settings)})

    @classmethod
    def load(cls, content: bytes) -> Self:
        """A model from what `save` wrote, float32, in eval mode."""
        header = int.from_bytes(content[:8], "little")
        settings = json.loads(json.loads(content[8 : 8 + header])["__metadata__"]["settings"])
        model = cls(**settings)
        model.load_state_dict(safetensors.torch.load(content))
        return model.eval()

    @classmethod
    def pretrained(cls) -> Self:
        """The trained model that comes with the package, in eval mode.

        Raises
        ------
        RuntimeError
            If the file's SHA-256 is not the one recorded when it was trained.
        """
        return cls.load(_checked("chargpt.safetensors"))


def check_beginning(tokens: Tensor, temperature: float) -> None:
    """Refuse to write on from nothing, or at a negative temperature."""
    if tokens.ndim != 2 or not tokens.shape[1]:
        raise ValueError(f"tokens must have the shape [n, t], t > 0, got {list(tokens.shape)}")
    if temperature < 0:
        raise ValueError(f"temperature must not be negative, got {temperature}")


def rotations(length: int, size: int) -> Tensor:
    """``cos(t ω_j), sin(t ω_j)``, ``ω_j = 10000^(-2j / size)``: float32 [length, 2, size / 2]."""
    speed = 10000.0 ** (-torch.arange(0, size, 2) / size)
    angle = torch.arange(length)[:, None] * speed
    return torch.stack([angle.cos(), angle.sin()], 1)


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    """Turn each pair (x_j, x_{j + size/2}) by its token's angle (Su et al. 2021, eq. 34).

    The product of two turned vectors depends on how far their tokens are apart, not on where.
    x [n, heads, t, size], turn [t, 2, size / 2].
    """
    cos, sin = turn[:, 0], turn[:, 1]
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


def _checked(name: str) -> bytes:
    """Content of a file of weights, if it is what was recorded."""
    content = (WEIGHTS / name).read_bytes()
    expected = json.loads((WEIGHTS / "sha256.json").read_text())[name]
    if (actual := sha256(content)) != expected:
        raise RuntimeError(
            f"{name} is damaged: SHA-256 {actual}, not {expected}; install the package again"
        )
    return content
