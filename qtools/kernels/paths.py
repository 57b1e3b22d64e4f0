"""Which way a product with signs takes on this machine, why, and how to force another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor

from qtools.kernels import gpu, native, reference

#: ``run(x, bits, in_features, g, h)``: ``h ⊙ (S (g ⊙ x))``, see `reference.unpacked`.
Run = Callable[[Tensor, Tensor, int, Tensor | None, Tensor | None], Tensor]

#: Names of all paths, those of plain torch first.
PATHS = ("reference", "table", "portable", "avx2", "avx512", "neon", "triton")

#: In plain torch, the table is faster up to as many rows of x.
FEW_ROWS = 8

_forced: ContextVar[str | None] = ContextVar("qtools_kernel_path", default=None)


@dataclass(frozen=True)
class Info:
    """Which path products with signs take here, and why not another.

    Attributes
    ----------
    path : str
        The path in use for float32, float16 and bfloat16 on a CPU.
    reason : str
        Why this one.
    available : tuple of str
        Paths that `use` can force here.
    unavailable : dict
        Reason by path.
    """

    path: str
    reason: str
    available: tuple[str, ...]
    unavailable: dict[str, str]

    def __str__(self) -> str:
        lines = [f"path {self.path}: {self.reason}", f"available: {', '.join(self.available)}"]
        return "\n".join(lines + [f"not {name}: {why}" for name, why in self.unavailable.items()])


def why_not(path: str) -> str | None:
    """Return the reason why a path cannot run here, None if it can."""
    if path in ("reference", "table"):
        return None
    return native.why_not(path) if path in native.NUMBERS else gpu.why_not()


def forced() -> str | None:
    """Return the path that `use` forces, if any."""
    return _forced.get()


def info() -> Info:
    """Say which path is in use and why.

    Examples
    --------
    >>> with use("table"):
    ...     print(info().path)
    table
    """
    reasons = {path: why_not(path) for path in PATHS}
    available = tuple(path for path, why in reasons.items() if why is None)
    unavailable = {path: why for path, why in reasons.items() if why is not None}
    if (path := forced()) is not None:
        return Info(path, "forced by use", available, unavailable)
    path, reason = _default()
    return Info(path, reason, available, unavailable)


@contextmanager
def use(path: str) -> Iterator[None]:
    """Force a path for all products with signs inside the ``with`` block.

    Parameters
    ----------
    path : str
        ``"reference"``, ``"table"``, ``"portable"``, ``"avx2"``, ``"avx512"``, ``"neon"`` or
        ``"triton"``.

    Raises
    ------
    ValueError
        If there is no such path.
    RuntimeError
        If it cannot run here, with the reason.
    """
    if path not in PATHS:
        raise ValueError(f"path must be one of {', '.join(PATHS)}, got {path!r}")
    if (why := why_not(path)) is not None:
        raise RuntimeError(f"path {path} cannot run here: {why}")
    token = _forced.set(path)
    try:
        yield
    finally:
        _forced.reset(token)


@cache
def _default() -> tuple[str, str]:
    """Return the path where none is forced, and why."""
    for path in ("avx512", "avx2", "neon", "portable"):
        if native.why_not(path) is None:
            return path, "the fastest that this processor runs, compiled from _native.c"
    return "table", f"plain torch, for few rows of x, else reference: {native.library()}"


def choose(x: Tensor) -> Run:
    """Return the path for an input: the forced one, or the fastest."""
    path = forced()
    if path is None and x.is_cuda and gpu.why_not_for(x) is None:
        path = "triton"
    if path is None:
        if x.is_cpu and x.dtype != torch.float64:
            path = _default()[0]
        if path in (None, "table"):
            path = "table" if x.numel() <= FEW_ROWS * x.shape[-1] else "reference"
    if path in native.NUMBERS:
        return _native[path]
    if path == "triton":
        return gpu.product
    return reference.by_table if path == "table" else reference.unpacked


_native: dict[str, Run] = {
    path: partial(native.product, number) for path, number in native.NUMBERS.items()
}
