"""Records of long runs: one JSON file each in results/, written by the command that ran."""

import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from qtools.files import write_atomic

PACKAGE = Path(__file__).parent


def results_dir() -> Path:
    """``results/`` of the checkout; in an installed package the copy that travels with it."""
    checkout = PACKAGE.parent / "results"
    return checkout if (PACKAGE.parent / "pyproject.toml").exists() else PACKAGE / "records"


def read_record(name: str) -> dict[str, Any]:
    """Read the record ``results/<name>.json``.

    Raises
    ------
    ValueError
        If there is no such record; the message lists those there are.
    """
    path = results_dir() / f"{name}.json"
    if not path.exists():
        names = sorted(file.stem for file in results_dir().glob("*.json"))
        raise ValueError(f"name must be one of {names}, got {name!r}")
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record


def write_record(
    path: Path,
    *,
    value: float,
    unit: str,
    command: str,
    seconds: float,
    code: dict[str, Any] | None = None,
    **details: Any,
) -> None:
    """Write what a run found and all that is needed to judge or repeat it.

    Parameters
    ----------
    value, unit
        The run's main number.
    command
        What to type to run it again.
    seconds
        How long the run took.
    code
        `code_state` when the run began; without it, as it is now.
    details
        Whatever else belongs to it: seed, history, hashes, further numbers. JSON types only.
    """
    record = {
        "name": path.stem,
        "value": value,
        "unit": unit,
        "command": command,
        "seconds": seconds,
        **details,
        "code": code or code_state(),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "numpy", "safetensors")},
        },
        "machine": machine(),
    }
    write_atomic(path, (json.dumps(record, indent=2, allow_nan=False) + "\n").encode())


def code_state() -> dict[str, Any] | None:
    """Git commit of the package and those of its loaded files that differ from it, if known.

    To be asked when a run begins: the files may change while it lasts.
    """
    loaded = sorted(
        str(Path(file).relative_to(PACKAGE.parent))
        for name, module in sys.modules.items()
        if name.partition(".")[0] == PACKAGE.name and (file := getattr(module, "__file__", None))
    )
    try:
        head = _git("rev-parse", "HEAD").strip()
        changed = _git("status", "--porcelain", "--", *loaded).splitlines()
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": head, "changed_files": [line[3:] for line in changed]}


def machine() -> dict[str, Any]:
    """Processor, cores, instruction set that torch uses, threads, how busy it is, and system."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        name = next(
            (x.partition(":")[2].strip() for x in lines if x.startswith("model name")), name
        )
    return {
        "processor": name,
        "cores": os.cpu_count(),
        "torch_instruction_set": torch.backends.cpu.get_cpu_capability(),
        "torch_threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.machine()}",
    }


def _git(*arguments: str) -> str:
    return subprocess.run(
        ("git", *arguments), cwd=PACKAGE.parent, check=True, capture_output=True, text=True
    ).stdout
