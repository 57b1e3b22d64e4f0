"""The C library of `_native.c`: where it is, what this processor can run of it, and its codes."""

from __future__ import annotations

import ctypes
import weakref
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from qtools.kernels import reference

#: Paths of the library by their number in C.
NUMBERS = {"portable": 0, "avx2": 1, "avx512": 2, "neon": 3}
#: What their processors call them.
_NAMES = {"avx2": "AVX2 with F16C", "avx512": "AVX-512F", "neon": "NEON"}

_ABI = 1
_FOLDER = Path(__file__).parent
_TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
_NONE = 3
#: A product of fewer signs is done before a second thread has woken.
_FEW = 1 << 22


class _Codes(NamedTuple):
    """Codes made from a tensor of bits, and what it was then."""

    bits: weakref.ref[Tensor]
    number: int
    version: int
    pointer: int
    codes: Tensor


_codes: dict[int, _Codes] = {}


@cache
def library() -> ctypes.CDLL | str:
    """Return the library, or the reason why there is none."""
    names = [f"_native{suffix}" for suffix in (*EXTENSION_SUFFIXES, ".so")]
    path = next((p for name in names if (p := _FOLDER / name).exists()), None)
    how = "python -m qtools.kernels.build makes it where there is a C compiler"
    if path is None:
        return f"no library beside {_FOLDER / '_native.c'}; {how}"
    try:
        found = ctypes.CDLL(str(path))
        if found.qtools_abi() != _ABI:
            return f"{path} was built from another version; {how}"
    except (OSError, AttributeError) as error:
        return f"{path} cannot be loaded: {error}; {how}"
    number, place = ctypes.c_int64, ctypes.c_void_p
    found.qtools_words.argtypes = (ctypes.c_int, number, number)
    found.qtools_words.restype = number
    found.qtools_repack.argtypes = (ctypes.c_int, place, number, number, number, place)
    found.qtools_repack.restype = None
    found.qtools_run.argtypes = (
        ctypes.c_int, place, number, number, place, number, number,
        place, ctypes.c_int, place, ctypes.c_int, place, ctypes.c_int,
    )  # fmt: skip
    return found


def why_not(path: str) -> str | None:
    """Return the reason why a path of the library cannot run here, None if it can."""
    found = library()
    if isinstance(found, str):
        return found
    if not found.qtools_supports(NUMBERS[path]):
        return f"this processor has no {_NAMES[path]}"
    return None


def codes_of(number: int, bits: Tensor) -> Tensor:
    """Bits in the order in which the library's path of a number reads them, see ``_native.c``.

    Made once for a tensor of bits and kept as long as it lives; made again when it was changed in
    place through torch, and at every call for a tensor made in inference mode, which counts no
    changes. So a matrix in use takes its bits twice: two bits a weight. A change through NumPy or
    a pointer is not seen.
    """
    counted = not bits.is_inference()
    if counted:
        entry = _codes.get(id(bits))
        if (
            entry is not None
            and entry.bits() is bits
            and entry.number == number
            and entry.version == bits._version
            and entry.pointer == bits.data_ptr()
        ):
            return entry.codes
    found = library()
    assert not isinstance(found, str), found
    rows, octets = bits.shape
    lines = bits if bits.stride(-1) == 1 else bits.contiguous()
    codes = torch.empty(found.qtools_words(number, rows, 8 * octets), dtype=torch.int32)
    found.qtools_repack(
        number, lines.data_ptr(), lines.stride(0), rows, 8 * octets, codes.data_ptr()
    )
    if counted:
        key = id(bits)
        ref = weakref.ref(bits, lambda _: _codes.pop(key, None))
        _codes[key] = _Codes(ref, number, bits._version, bits.data_ptr(), codes)
    return codes


def product(
    number: int, x: Tensor, bits: Tensor, in_features: int, g: Tensor | None, h: Tensor | None
) -> Tensor:
    """`reference.unpacked` by a path of the library; float64 and other devices by itself."""
    kind = x.dtype
    if kind is torch.float64 or not x.is_cpu:
        return reference.unpacked(x, bits, in_features, g, h)
    rows, shape = bits.shape[0], x.shape
    wide = x if kind is torch.float32 else x.float()
    if wide.is_contiguous():
        batch, step = wide.numel() // in_features, in_features
    else:
        if wide.dim() != 2 or wide.stride(1) != 1:
            wide = wide.reshape(-1, in_features).contiguous()
        batch, step = wide.shape[0], wide.stride(0)
    y = wide.new_empty((*shape[:-1], rows))
    threads = 1 if batch * in_features * rows < _FEW else torch.get_num_threads()
    codes = codes_of(number, bits)
    g, g_place, g_type = _vector(g)
    h, h_place, h_type = _vector(h)
    failed = library().qtools_run(  # type: ignore[union-attr]
        number, codes.data_ptr(), rows, in_features, wide.data_ptr(), batch, step,
        g_place, g_type, h_place, h_type, y.data_ptr(), threads,
    )  # fmt: skip
    if failed:
        raise MemoryError(f"no memory for the tables of {in_features} columns")
    return y if kind is torch.float32 else y.to(kind)


def _vector(vector: Tensor | None) -> tuple[Tensor | None, int | None, int]:
    """Return the vector as the library reads it, to be kept alive, its address and type."""
    if vector is None:
        return None, None, _NONE
    kind = _TYPES.get(vector.dtype)
    if kind is None or vector.stride(0) != 1:
        vector = (vector if kind is not None else vector.float()).contiguous()
        kind = _TYPES[vector.dtype]
    return vector, vector.data_ptr(), kind
