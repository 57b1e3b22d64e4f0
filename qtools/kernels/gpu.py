"""1-bit products on a GPU: what Triton's programs in `gpu_kernels` need to know before they start.

Two ways, by the rows of x. Up to `FEW` rows a table of signed sums is looked up, see
`gpu_kernels.table_product`; beyond, tiles of signs are made in registers for the tensor cores, see
`gpu_kernels.tile_product`.
"""

from __future__ import annotations

import os
from functools import cache
from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor

#: Rows of x up to which the table is used: with more, a tile takes fewer instructions for a weight
#: (``results/sign_matmul_gpu_compile.json``).
FEW = 4
FLOATS = (torch.float16, torch.bfloat16, torch.float32)
NEEDS = (3, 4)
TILE_WORDS = 16  # words of a row that a tile takes at once: one step of the tensor cores
#: Bits of a word that a tile unpacks at once, by the parts that an input is cut into.
STEPS = {1: 8, 3: 4}


def interpreted() -> bool:
    """Whether Triton's interpreter stands in for a GPU: ``TRITON_INTERPRET=1``."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "on", "true", "yes", "y")


def why_not() -> str | None:
    """Return the reason why Triton cannot multiply here, None if it can."""
    if (why := _why_no_triton()) is not None:
        return why
    if interpreted():
        return None
    if not torch.cuda.is_available() or torch.version.hip:
        return "there is no NVIDIA GPU"
    return None


@cache
def _why_no_triton() -> str | None:
    try:
        version: str = import_module("triton").__version__
    except ImportError:
        return "Triton is not installed (PyTorch for CUDA brings it); GPUs get plain torch"
    if tuple(int(part) for part in version.split(".")[:2]) < NEEDS:
        needed = ".".join(map(str, NEEDS))
        return f"Triton {version} is older than {needed}; GPUs get plain torch"
    return None


def why_not_for(x: Tensor) -> str | None:
    """Return the reason why Triton cannot multiply this input, None if it can."""
    if (why := why_not()) is not None:
        return why
    if x.dtype not in FLOATS:
        return f"x must be float16, bfloat16 or float32, got {x.dtype}"
    if interpreted():
        return None
    if x.device.type != "cuda":
        return f"x must be on a GPU, got {x.device}; TRITON_INTERPRET=1 interprets on a CPU"
    if _capability(x) < (7, 5):
        return f"the GPU must have compute capability 7.5 or more, got {_capability(x)}"
    if x.dtype == torch.bfloat16 and _capability(x) < (8, 0):
        return "a GPU of compute capability 7.5 has no bfloat16; use float16"
    return None


def product(
    x: Tensor, bits: Tensor, in_features: int, g: Tensor | None, h: Tensor | None
) -> Tensor:
    """``h ⊙ (S (g ⊙ x))`` on a GPU, summed in float32.

    Parameters
    ----------
    x : Tensor
        [..., in_features] float16, float32, or, from compute capability 8.0 on, bfloat16.
    bits : Tensor
        uint8 [out, row_bytes(in_features)], see `qtools.kernels.bits.pack_signs`.
    in_features : int
    g, h : Tensor or None
        [in_features] and [out], both or none. With float16 and bfloat16 and more than `FEW` rows
        ``g ⊙ x`` is rounded to the type of x, which is what tensor cores multiply.

    Returns
    -------
    Tensor
        [..., out] in the type of x.

    Raises
    ------
    ValueError
        If Triton, the GPU or the type of x does not allow it: the message says which.
    """
    if (why := why_not_for(x)) is not None:
        raise ValueError(why)
    rows, words = bits.shape[0], bits.shape[1] // 4
    flat = x.reshape(-1, in_features).contiguous()
    out = x.new_empty((len(flat), rows))
    if out.numel():
        signs = _words(bits)
        g, h = _vector(g), _vector(h)
        with torch.cuda.device_of(flat):
            if few(flat):
                _by_table(flat, signs, g, h, out, words)
            else:
                _by_tiles(flat, signs, g, h, out, words)
    return out.view(*x.shape[:-1], rows)


def few(x: Tensor) -> bool:
    """Whether the table is the better way for [batch, in]."""
    if not interpreted() and _capability(x) < (8, 0):
        return True  # Triton has no tensor cores there, and a table saves multiplications
    return len(x) <= FEW


def _by_table(
    x: Tensor, signs: Tensor, g: Tensor | None, h: Tensor | None, out: Tensor, words: int
) -> None:
    batch, in_features = x.shape
    at_once = 1 if batch == 1 else 2 if batch == 2 else 4

    def grid(meta: dict[str, int]) -> tuple[int]:
        return (_blocks(out.shape[1], meta["ROWS"]) * _blocks(batch, at_once),)

    _programs().table_product[grid](
        x, signs, g, h, out, batch, out.shape[1], in_features, words,
        SCALED=g is not None, BATCH=at_once,
    )  # fmt: skip


def _by_tiles(
    x: Tensor, signs: Tensor, g: Tensor | None, h: Tensor | None, out: Tensor, words: int
) -> None:
    batch, in_features = x.shape
    parts = 3 if x.dtype == torch.float32 else 1
    tile = next((size for size in (16, 32) if batch <= size), 64)
    padded, padded_words = _up(batch, tile), _up(words, TILE_WORDS)
    kind = torch.bfloat16 if parts == 3 else x.dtype
    prepared = torch.empty((parts, 32, padded, padded_words), dtype=kind, device=x.device)
    _programs().prepare[(padded * (padded_words // TILE_WORDS),)](
        x, g, prepared, batch, in_features, padded, padded_words,
        SCALED=g is not None, PARTS=parts, WORDS=TILE_WORDS,
    )  # fmt: skip

    def grid(meta: dict[str, int]) -> tuple[int]:
        return (_blocks(out.shape[1], meta["ROWS"]) * (padded // tile),)

    _programs().tile_product[grid](
        prepared, signs, h, out, batch, out.shape[1], words, padded, padded_words,
        0x3C00 if kind == torch.float16 else 0x3F80,  # 1.0
        SCALED=h is not None, PARTS=parts, BATCH=tile, WORDS=TILE_WORDS,
        STEP=STEPS[parts], INTERPRETED=interpreted(),
    )  # fmt: skip


def _programs() -> ModuleType:
    return import_module("qtools.kernels.gpu_kernels")  # which needs Triton


def _words(bits: Tensor) -> Tensor:
    """The bytes as 32-bit words, copied only where they do not begin at one of 16 bytes."""
    bits = bits.contiguous()
    return (bits.clone() if bits.data_ptr() % 16 else bits).view(torch.int32)


def _vector(vector: Tensor | None) -> Tensor | None:
    if vector is None:
        return None
    return (vector.float() if vector.dtype == torch.float64 else vector).contiguous()


def _capability(x: Tensor) -> tuple[int, int]:
    return torch.cuda.get_device_capability(x.device)


def _blocks(size: int, block: int) -> int:
    return -(-size // block)


def _up(size: int, block: int) -> int:
    return _blocks(size, block) * block
