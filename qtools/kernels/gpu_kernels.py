"""Triton programs of the 1-bit products. Imported only where Triton is: see `qtools.kernels.gpu`.

Signs come as `qtools.onebit.packing.pack_signs` stores them, read as 32-bit words: column ``j`` of
a row is bit ``j % 32`` of its word ``j // 32``, and 1 means -1. Sums are float32.
"""

from typing import Any

import triton
import triton.language as tl

from qtools.kernels.gpu import interpreted


def _best(configs: list[triton.Config], key: list[str]) -> Any:
    """Try the configurations once for each key; the interpreter, which has no clock, takes one."""
    return triton.autotune(configs[:1] if interpreted() else configs, key)


TABLES = [
    triton.Config({"ROWS": 64, "WORDS": 16}, num_warps=4),
    triton.Config({"ROWS": 128, "WORDS": 16}, num_warps=4),
    triton.Config({"ROWS": 32, "WORDS": 32}, num_warps=4),
]
TILES = [
    triton.Config({"ROWS": 64}, num_warps=4, num_stages=2),
    triton.Config({"ROWS": 128}, num_warps=4, num_stages=2),
    triton.Config({"ROWS": 128}, num_warps=8, num_stages=2),
]


@triton.jit
def _scaled(x_ptr, g_ptr, row, columns, mask, SCALED: tl.constexpr):
    """``x`` or ``g x`` in float32, 0 outside the mask."""
    x = tl.load(x_ptr + row + columns, mask=mask, other=0.0).to(tl.float32)
    if SCALED:
        x *= tl.load(g_ptr + columns, mask=mask, other=0.0).to(tl.float32)
    return x


@triton.jit
def _sixteen_sums(x_ptr, g_ptr, row, first, in_features, SCALED: tl.constexpr):
    """[groups, 16]: entry ``e`` is ``± x0 ± x1 ± x2 ± x3``, minus at the set bits of ``e``."""
    entry = tl.arange(0, 16)[None, :]
    first = first[:, None]
    x0 = _scaled(x_ptr, g_ptr, row, first, first < in_features, SCALED)
    x1 = _scaled(x_ptr, g_ptr, row, first + 1, first + 1 < in_features, SCALED)
    x2 = _scaled(x_ptr, g_ptr, row, first + 2, first + 2 < in_features, SCALED)
    x3 = _scaled(x_ptr, g_ptr, row, first + 3, first + 3 < in_features, SCALED)
    s0 = (1 - 2 * (entry & 1)).to(tl.float32)
    s1 = (1 - (entry & 2)).to(tl.float32)
    s2 = (1 - ((entry & 4) >> 1)).to(tl.float32)
    s3 = (1 - ((entry & 8) >> 2)).to(tl.float32)
    return (x0 * s0 + x1 * s1) + (x2 * s2 + x3 * s3)


@_best(TABLES, ["out_features", "row_words", "BATCH"])
@triton.jit
def table_product(
    x_ptr,
    bits_ptr,
    g_ptr,
    h_ptr,
    out_ptr,
    batch,
    out_features,
    in_features,
    row_words,
    SCALED: tl.constexpr,
    BATCH: tl.constexpr,
    ROWS: tl.constexpr,
    WORDS: tl.constexpr,
):
    """``h (S (g x))`` for a few rows of x: one look-up for four weights.

    A program has ROWS rows of S and BATCH rows of x. For each group of four columns it makes a
    table of the sixteen signed sums; the four bits of a row are the number of its entry. The table
    lies in the registers of sixteen lanes, and a look-up is one warp shuffle.
    """
    blocks = tl.cdiv(out_features, ROWS)
    rows = (tl.program_id(0) % blocks) * ROWS + tl.arange(0, ROWS)
    first_of_batch = (tl.program_id(0) // blocks) * BATCH
    start = rows.to(tl.int64) * row_words
    # Groups in the order [nibble of the word, word], so that a thread has all nibbles of its words.
    group = tl.arange(0, 8 * WORDS)
    column = (group % WORDS) * 32 + (group // WORDS) * 4
    shift = tl.arange(0, 8)[:, None, None] * 4
    sums = ()
    for _ in tl.static_range(BATCH):
        sums = sums + (tl.zeros([WORDS, ROWS], tl.float32),)
    for word in range(0, row_words, WORDS):
        words = word + tl.arange(0, WORDS)
        inside = (rows[None, :] < out_features) & (words[:, None] < row_words)
        signs = tl.load(bits_ptr + start[None, :] + words[:, None], mask=inside, other=0)
        number = tl.reshape((signs[None, :, :] >> shift) & 15, [8 * WORDS, ROWS])
        more = ()
        for b in tl.static_range(BATCH):
            # A row past the last repeats the last; its result is not stored.
            row = tl.minimum(first_of_batch + b, batch - 1).to(tl.int64) * in_features
            table = _sixteen_sums(x_ptr, g_ptr, row, word * 32 + column, in_features, SCALED)
            found = tl.reshape(tl.gather(table, number, 1), [8, WORDS, ROWS])
            more = more + (sums[b] + tl.sum(found, 0),)
        sums = more
    for b in tl.static_range(BATCH):
        y = tl.sum(sums[b], 0)
        if SCALED:
            y *= tl.load(h_ptr + rows, mask=rows < out_features, other=0.0).to(tl.float32)
        place = out_ptr + (first_of_batch + b).to(tl.int64) * out_features + rows
        inside = (rows < out_features) & (first_of_batch + b < batch)
        tl.store(place, y.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def prepare(
    x_ptr,
    g_ptr,
    parts_ptr,
    batch,
    in_features,
    padded_batch,
    padded_words,
    SCALED: tl.constexpr,
    PARTS: tl.constexpr,
    WORDS: tl.constexpr,
):
    """Write ``x`` or ``g x`` in the order in which `tile_product` meets it, zeros around it.

    Column ``32 w + b`` goes to [b, row, w]. With PARTS = 3 a float32 is cut into three bfloat16
    that sum to it exactly: eight bits of the mantissa each, cut off, not rounded.
    """
    blocks = padded_words // WORDS
    row = tl.program_id(0) // blocks
    words = (tl.program_id(0) % blocks) * WORDS + tl.arange(0, WORDS)
    bit = tl.arange(0, 32)
    columns = words[:, None] * 32 + bit[None, :]
    mask = (columns < in_features) & (row < batch)
    x = _scaled(x_ptr, g_ptr, row.to(tl.int64) * in_features, columns, mask, SCALED)
    plane = padded_batch.to(tl.int64) * padded_words
    place = parts_ptr + bit[None, :] * plane + row.to(tl.int64) * padded_words + words[:, None]
    for part in tl.static_range(PARTS):
        if PARTS == 1:
            tl.store(place, x.to(parts_ptr.dtype.element_ty))
        else:
            # The upper half of a float32 is a bfloat16. The rest is exact; infinity has none.
            top = (x.to(tl.int32, bitcast=True) & -65536).to(tl.float32, bitcast=True)
            tl.store(place + part * 32 * plane, top.to(tl.bfloat16))
            x = tl.where(x == top, 0.0, x - top)


@_best(TILES, ["out_features", "row_words", "padded_batch"])
@triton.jit
def tile_product(
    parts_ptr,
    bits_ptr,
    h_ptr,
    out_ptr,
    batch,
    out_features,
    row_words,
    padded_batch,
    padded_words,
    one,
    SCALED: tl.constexpr,
    PARTS: tl.constexpr,
    ROWS: tl.constexpr,
    BATCH: tl.constexpr,
    WORDS: tl.constexpr,
    STEP: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """``h (S x)`` for many rows of x, which `prepare` has laid out: tensor cores on tiles of signs.

    A program has ROWS rows of S and BATCH rows of x. It loads WORDS words of each row once; bit b
    of all of them is a tile of S, made into ±1 in registers, and meets the columns b, 32 + b, ...
    """
    blocks = tl.cdiv(out_features, ROWS)
    rows = (tl.program_id(0) % blocks) * ROWS + tl.arange(0, ROWS)
    items = (tl.program_id(0) // blocks) * BATCH + tl.arange(0, BATCH)
    start = rows.to(tl.int64)[:, None] * row_words
    plane = padded_batch.to(tl.int64) * padded_words
    kind: tl.constexpr = parts_ptr.dtype.element_ty
    total = tl.zeros([ROWS, BATCH], tl.float32)
    for word in range(0, padded_words, WORDS):
        words = word + tl.arange(0, WORDS)
        inside = (rows[:, None] < out_features) & (words[None, :] < row_words)
        signs = tl.load(bits_ptr + start + words[None, :], mask=inside, other=0)
        place = parts_ptr + items.to(tl.int64)[None, :] * padded_words + words[:, None]
        for first in range(0, 32, STEP):
            some = signs >> first
            for b in tl.static_range(STEP):
                # The bit becomes the sign of a 1.0, whose other bits are an argument: with two
                # constants the assembler takes an instruction more.
                s = ((((some >> b) & 1) << 15) | one).to(tl.int16).to(kind, bitcast=True)
                for part in tl.static_range(PARTS):
                    x = tl.load(place + (part * 32 + first + b) * plane)
                    if INTERPRETED:  # its dot takes bfloat16 for integers
                        s, x = s.to(tl.float32), x.to(tl.float32)
                    total = tl.dot(s, x, total)
    if SCALED:
        h = tl.load(h_ptr + rows, mask=rows < out_features, other=0.0).to(tl.float32)
        total *= h[:, None]
    place = out_ptr + items.to(tl.int64)[None, :] * out_features + rows[:, None]
    inside = (rows[:, None] < out_features) & (items[None, :] < batch)
    tl.store(place, total.to(out_ptr.dtype.element_ty), mask=inside)
