"""Break `qtools.affine` on purpose and show that the tests notice.

    python -m tools.mutants

Each mutant is one edit, made in a copy of the package; the copy's tests must then fail. A test
suite that cannot see these mistakes would let a wrong quantizer into the book.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import pytest

from tools.forks import FORKS

ROOT = Path(__file__).resolve().parent.parent
TESTS = ("tests/test_affine_inputs.py", "tests/test_affine.py")  # the quick ones first


class Mutant(NamedTuple):
    """One deliberate mistake: in ``file``, every ``old`` becomes ``new``."""

    name: str
    file: str
    old: str
    new: str


UNCHANGED = Mutant("nothing changed", "qtools/affine.py", "", "")
MUTANTS = (
    Mutant(
        "zero not in the range",
        "qtools/affine.py",
        "low, high = low.clamp_max(0), high.clamp_min(0)",
        "pass",
    ),
    Mutant(
        "floor for round, in quantize",
        "qtools/affine.py",
        "torch.round(_wide(aligned, inverse) * inverse)",
        "torch.floor(_wide(aligned, inverse) * inverse)",
    ),
    Mutant("floor for round, in fake_quantize", "qtools/affine.py", ".round_()", ".floor_()"),
    Mutant(
        "wrong sign of z, making it",
        "qtools/affine.py",
        "(spec.qmin - torch.round(low / scale))",
        "(spec.qmin + torch.round(low / scale))",
    ),
    Mutant(
        "wrong sign of z, in dequantize",
        "qtools/affine.py",
        "aligned.to(torch.int32) - zero_point",
        "aligned.to(torch.int32) + zero_point",
    ),
    Mutant("/ s for * s, in dequantize", "qtools/affine.py", "(steps * scale)", "(steps / scale)"),
    Mutant(
        "/ s for * s, in fake_quantize",
        "qtools/affine.py",
        "torch.mul(clipped, s, out=x_hat[i])",
        "torch.div(clipped, s, out=x_hat[i])",
    ),
    Mutant(
        "swapped axis",
        "qtools/layout.py",
        "return spec.axis % x.ndim",
        "return (x.ndim - 1 - spec.axis) % x.ndim",
    ),
)


def caught(mutant: Mutant) -> bool:
    """Return whether the tests fail on a copy of the package that holds the mutant.

    Raises
    ------
    ValueError
        If the code to change is not there any more: the mutant must be brought up to date.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("qtools", "tests"):
            shutil.copytree(
                ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "weights")
            )
        shutil.copy(ROOT / "pyproject.toml", copy)
        source = copy / mutant.file
        text = source.read_text(encoding="utf-8")
        if mutant.old not in text:
            raise ValueError(f"mutant {mutant.name!r}: {mutant.old!r} is not in {mutant.file}")
        source.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
        process = FORKS.Process(target=_test, args=(copy,), daemon=True)
        process.start()
        process.join()
        if process.exitcode not in (0, 1):  # 1: tests ran and some failed
            said = (copy / "said").read_text(encoding="utf-8")
            raise RuntimeError(f"mutant {mutant.name!r}: pytest did not run\n{said}")
    return process.exitcode == 1


def _test(copy: Path) -> None:
    """Test a copy in this process, which has nothing of the package imported yet."""
    os.chdir(copy)
    sys.path.insert(0, str(copy))
    os.environ["HYPOTHESIS_PROFILE"] = "first failure"
    with open("said", "w", encoding="utf-8") as said, redirect_stdout(said), redirect_stderr(said):
        status = pytest.main(
            ["-x", "-q", "--disable-plugin-autoload", "-p", "no:cacheprovider", *TESTS]
        )
        tested = Path(sys.modules["qtools.affine"].__file__ or "")
        if tested != copy / "qtools/affine.py":
            print(f"{tested} was tested")
            status = 2
    sys.exit(int(status))


def main() -> int:
    """Print one line a mutant; return 1 if any survived."""
    if caught(UNCHANGED):
        print("the tests fail on an unchanged copy: nothing can be learned from mutants")
        return 1
    survivors = 0
    for mutant in MUTANTS:
        ok = caught(mutant)
        survivors += not ok
        print(f"{'caught  ' if ok else 'SURVIVED'}  {mutant.name}", flush=True)
    return int(survivors > 0)


if __name__ == "__main__":
    raise SystemExit(main())
