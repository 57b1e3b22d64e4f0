"""Which way a product with signs takes on this machine, why, and how to force another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from torch import Tensor

from qtools.kernels import reference

#: ``run(x, bits, in_features, g, h)``: ``h ⊙ (S (g ⊙ x))``, see `reference.unpacked`.
Run = Callable[[Tensor, Tensor, int, Tensor | None, Tensor | None], Tensor]

#: Names of all paths, those of plain torch first.
PATHS = ("reference", "table", "portable", "avx2", "avx512", "neon", "triton")

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
    return "not there yet"


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
    return Info("table", "the fastest in plain torch for few rows", available, unavailable)


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


def choose(x: Tensor, rows: int) -> Run:
    """Return the path for an input: the forced one, or the fastest."""
    path = forced()
    if path == "reference":
        return reference.unpacked
    if path == "table" or x[..., 0].numel() <= 16:
        return reference.by_table
    return reference.unpacked
