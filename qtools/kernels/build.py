"""Compile ``_native.c`` beside its source: ``python -m qtools.kernels.build``.

``pip install`` does it by itself. This is for a checkout on the Python path, after a change of the
C code, or where a compiler came later.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

SOURCE = Path(__file__).parent / "_native.c"
FLAGS = ("-O3", "-std=gnu11", "-fno-math-errno", "-pthread", "-fPIC", "-shared")


def build(target: Path | None = None, flags: tuple[str, ...] = ()) -> Path:
    """Compile the library with the C compiler of ``CC``, by default ``cc``.

    Parameters
    ----------
    target : Path, optional
        By default the file that pip would make, which `info` finds.
    flags
        Further flags of the compiler.

    Returns
    -------
    Path
        target.

    Raises
    ------
    OSError
        If there is no such compiler.
    subprocess.CalledProcessError
        If it fails; it has said why.
    """
    target = target or SOURCE.with_name(f"_native{EXTENSION_SUFFIXES[0]}")
    compiler = shlex.split(os.environ.get("CC") or "cc")
    # To a file of its own first: another process may have the old one in use.
    fresh = target.with_name(f"{target.name}.{os.getpid()}")
    try:
        subprocess.run((*compiler, *FLAGS, *flags, str(SOURCE), "-o", str(fresh)), check=True)
        fresh.replace(target)
    finally:
        fresh.unlink(missing_ok=True)
    return target


if __name__ == "__main__":
    print(build())
    from qtools.kernels import info

    print(info())
