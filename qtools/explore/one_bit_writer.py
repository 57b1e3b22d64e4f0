"""OneBitWriter: the packed 1-bit CharGPT, alive in the page on its own bits."""

from __future__ import annotations

import base64
import copy
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import traitlets
from torch import Tensor

from qtools.evaluation import one_bit
from qtools.explore._base import Explorable, Finite, module_text, script_text, state_trait
from qtools.models import WEIGHTS, CharGPT
from qtools.onebit import PackedOneBitLinear

#: The distilled model that comes with the package.
DEFAULT = WEIGHTS / "chargpt_onebit.safetensors"

#: The last sentence before the epilogue: held out from every training.
SENTENCE = (
    "Now small fowls flew screaming over the yet yawning gulf; a sullen white surf beat against "
    "its steep sides; then all collapsed, and the great shroud of the sea rolled on as it rolled "
    "five thousand years ago."
)

#: Characters that one press of the button writes.
LENGTH = 300
#: Rows and columns of bits that the hand flips at once.
CELL = 8

_MATRICES = ("query", "key", "value", "out", "up", "down")


class OneBitWriter(Explorable):
    """``Z = LayerNorm([(x ⊙ g) W±1ᵀ] ⊙ h)`` in every matrix, ``W±1 x = Σx − 2 Σ_{bit = 1} x``.

    The page carries the signs as bits, g and h in float16, and norms, embedding and head in
    float16 where that loses nothing, else in float32. It computes in float64, and once with a
    float32 ±1 for each sign, to show the speed of both.

    Parameters
    ----------
    model : CharGPT, Path or str, optional
        A CharGPT with all its blocks' matrices packed (`qtools.onebit.pack_`), or a file from
        `qtools.onebit.save` of one with the pretrained teacher's settings. By default the
        distilled model that comes with the package.
    prompt : str
        What the text begins with. Straight quotes become printed ones; characters that the model
        does not know are left out.
    temperature : float
        0 to 2; 0 takes the likeliest character.
    seed : int
        Of the drawing.
    where : str
        Which bits `share` is of: ``""`` for all, ``"blocks.0"``, or ``"blocks.0.query"``.
    share : float
        Percent of these bits that are flipped, chosen by a hash: more flips keep the earlier ones.
    hand : list of int
        Cells of 8 × 8 bits that are flipped as well, counted through all matrices, row by row.

    Raises
    ------
    FileNotFoundError
        If the file is not there.
    ValueError
        If a matrix is not packed, or its sides or the width are no multiples of 8.
    """

    script = "one_bit_writer.js"
    moves = (
        "Type a beginning and let the 1-bit model write on; flip some of its bits and see the text"
        " fall apart."
    )

    prompt = state_trait(traitlets.Unicode("The white whale "))
    temperature = state_trait(Finite(0.7, min=0.0, max=2.0))
    seed = state_trait(traitlets.Int(1, min=1, max=2**31 - 1))
    where = state_trait(traitlets.Unicode(""))
    share = state_trait(Finite(0.0, min=0.0, max=100.0))
    hand = state_trait(traitlets.List(traitlets.Int(min=0)))

    def __init__(self, model: CharGPT | Path | str | None = None, **state: Any) -> None:
        if not isinstance(model, CharGPT):
            model = read(Path(DEFAULT if model is None else model))
        self._model = model
        self._layers = packed_layers(model)
        self._data = data(model)
        # Of the instance: each model is another page. AnyWidget makes it the trait that is sent.
        parts = [f"const DATA = {json.dumps(self._data)};\n", script_text("one_bit_model.js")]
        self._esm = "".join([*parts, module_text(self.script)])
        super().__init__(**state)

    @traitlets.validate("where")
    def _known_place(self, proposal: Any) -> str:
        where: str = proposal["value"]
        if not any(inside(name, where) for name in self._layers):
            raise traitlets.TraitError(f"where must name a block or a matrix, got {where!r}")
        return where

    @traitlets.validate("hand")
    def _known_cells(self, proposal: Any) -> list[int]:
        cells: list[int] = proposal["value"]
        most = sum(m.in_features * m.out_features for m in self._layers.values()) // CELL**2
        if len(set(cells)) != len(cells) or any(cell >= most for cell in cells):
            raise traitlets.TraitError(f"hand must have different cells below {most}, got {cells}")
        return cells

    def flipped(self) -> CharGPT:
        """Return a copy of the model with the bits flipped that the state says."""
        model = copy.deepcopy(self._model)
        first = 0
        for name, layer in packed_layers(model).items():
            rows, columns = layer.out_features, layer.in_features
            mask = np.zeros((rows, columns), dtype=bool)
            if inside(name, self.where):
                index = np.arange(first, first + mask.size, dtype=np.uint32)
                mask |= (mixed(index) < self.share / 100 * 2.0**32).reshape(mask.shape)
            cells = mask.reshape(rows // CELL, CELL, columns // CELL, CELL)
            for cell in self.hand:
                i, j = divmod(cell - first // CELL**2, columns // CELL)
                if 0 <= i < rows // CELL:
                    cells[i, :, j] ^= True
            bits = torch.from_numpy(np.packbits(mask, axis=1, bitorder="little"))
            layer.bits[:, : bits.shape[1]] ^= bits
            first += mask.size
        return model

    def write(self, length: int = LENGTH) -> str:
        """Return what the page writes after the prompt in this state.

        As `CharGPT.generate`, with random numbers that JavaScript can draw too.
        """
        model = self.flipped()
        tokens = model.encode(known(model, self.prompt) or "\n").tolist()
        start = len(tokens)
        session, new = model._cache(), tokens[-model.context :]
        with torch.no_grad():
            for i in range(length):
                if session.length + len(new) > model.context:
                    session, new = model._cache(), tokens[-(model.context // 2) :]
                logits = model(torch.tensor([new]), False, session).logits[0, -1].double()
                new = [choose(logits, self.temperature, uniform(self.seed, i))]
                tokens += new
        return model.decode(torch.tensor(tokens[start:]))

    def compute(self) -> dict[str, float]:
        """Return the numbers shown.

        Returns
        -------
        dict
            Bytes of the page's model: ``signs``, ``vectors`` (g and h), ``norms``, ``tables``
            (embedding and head), and their sum ``bytes``; ``teacher``, bytes of the same network
            in float16, and ``ratio`` of the two. ``flipped`` bits of ``bits``; ``surprise``, nats
            a character of `SENTENCE` under them, and ``intact``, under no flips.
        """
        d = self._data
        weights = sum(m.in_features * m.out_features for m in self._layers.values())
        numbers = {name: d[name] for name in ("signs", "vectors", "norms", "tables", "teacher")}
        total = sum(numbers.values()) - d["teacher"]
        model = self.flipped()
        pairs = zip(packed_layers(model).values(), self._layers.values(), strict=True)
        changed = (np.unpackbits((a.bits ^ b.bits).numpy()).sum() for a, b in pairs)
        return {
            **numbers,
            "bytes": total,
            "ratio": d["teacher"] / total,
            "bits": weights,
            "flipped": int(sum(changed)),
            "surprise": float(surprises(model).mean()),
            "intact": d["intact"],
        }


def read(path: Path) -> CharGPT:
    """Return the packed model of a file, read once while the file stays as it is."""
    if not path.is_file():
        raise FileNotFoundError(f"model must be a CharGPT or a file, there is no {path}")
    return _read(path, path.stat().st_mtime_ns)


@cache
def _read(path: Path, _changed: int) -> CharGPT:
    return one_bit(path)


def packed_layers(model: CharGPT) -> dict[str, PackedOneBitLinear]:
    """Packed matrices by name, in the page's order."""
    layers = {}
    for i, block in enumerate(model.blocks):
        for kind in _MATRICES:
            name, layer = f"blocks.{i}.{kind}", getattr(block, kind)
            if not isinstance(layer, PackedOneBitLinear) or layer.bias is not None:
                raise ValueError(f"model must have {name} packed and without bias; see pack_")
            if layer.in_features % CELL or layer.out_features % CELL:
                raise ValueError(f"{name} must have sides that are multiples of {CELL}")
            layers[name] = layer
    return layers


def inside(name: str, where: str) -> bool:
    """Whether a matrix is in a part of the model."""
    return not where or f"{name}.".startswith(f"{where}.")


def known(model: CharGPT, text: str) -> str:
    """Return the text as the model can read it: printed quotes, no characters unknown to it."""
    opened = re.sub(r'(^|[\s(—])"', r"\1“", text.replace("'", "’"))
    return "".join(c for c in opened.replace('"', "”") if c in model.characters)


def mixed(index: np.ndarray) -> np.ndarray:
    """Mix 32 bits (lowbias32 of Wellons' hash prospector): uint32 to uint32."""
    x = index.astype(np.uint32)
    for shift, factor in ((16, 0x21F0AAAD), (15, 0xD35A2D97)):
        x = (x ^ (x >> np.uint32(shift))) * np.uint32(factor)
    return x ^ (x >> np.uint32(15))


def uniform(seed: int, i: int) -> float:
    """The i-th number of a seed, in [0, 1)."""
    return int(mixed(np.array([(seed * 0x9E3779B9 + i) % 2**32]))[0]) / 2**32


def choose(logits: Tensor, temperature: float, u: float) -> int:
    """Return the likeliest token, or the first whose cumulated softmax is above u."""
    if temperature == 0:
        return int(logits.argmax())
    weights = ((logits - logits.max()) / temperature).exp()
    above = weights.cumsum(0) > u * weights.sum()
    return int(above.byte().argmax()) if above.any() else len(logits) - 1


@torch.no_grad()
def surprises(model: CharGPT) -> Tensor:
    """``−ln p`` of each character of `SENTENCE` after its first, float64."""
    tokens = model.encode(known(model, SENTENCE))[: model.context]
    logits = copy.deepcopy(model).double()(tokens[None], False).logits[0]
    return -logits.log_softmax(-1)[:-1].gather(1, tokens[1:, None])[:, 0]


def data(model: CharGPT) -> dict[str, Any]:
    """Everything the page knows of the model: sizes, tensors in base64, what it shows at first."""
    layers = packed_layers(model)
    tables = [model.embedding.weight, model.lm_head.weight]
    norms = [t for n in _norms(model) for t in (n.weight, n.bias)]
    lossless = all(torch.equal(t.half().float(), t.float()) for t in (*tables, *norms))
    kind = "<f2" if lossless else "<f4"
    vectors = [t for m in layers.values() for t in (m.g, m.h)]
    parts = {
        "signs": b"".join(m.bits.numpy().tobytes() for m in layers.values()),
        "vectors": b"".join(t.numpy().astype("<f2").tobytes() for t in vectors),
        "norms": b"".join(t.detach().numpy().astype(kind).tobytes() for t in norms),
        "tables": b"".join(t.detach().numpy().astype(kind).tobytes() for t in tables),
    }
    weights = sum(m.in_features * m.out_features for m in layers.values())
    heat = surprises(model)
    return {
        "characters": model.characters,
        **{name: model.settings[name] for name in ("width", "heads", "context")},
        "layers": [
            [n, m.out_features, m.in_features, m.bits.shape[1], m.eps if m.layer_norm else 0]
            for n, m in layers.items()
        ],
        "eps": model.norm.eps,
        "size": int(kind[-1]),
        **{name: len(part) for name, part in parts.items()},
        "teacher": 2 * (weights + sum(t.numel() for t in (*tables, *norms))),
        "sentence": known(model, SENTENCE)[: model.context],
        "intact": float(f"{heat.mean():.9g}"),  # the same on every processor
        "heat": [round(v, 2) for v in heat.tolist()],
        "length": LENGTH,
        "blob": base64.b64encode(b"".join(parts.values())).decode(),
    }


def _norms(model: CharGPT) -> Iterator[Any]:
    for block in model.blocks:
        yield from (block.norm1, block.norm2)
    yield model.norm
