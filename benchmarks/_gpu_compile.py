"""Triton's programs, compiled for GPUs that are not there: registers, spills, instructions."""

from __future__ import annotations

import io
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from qtools.kernels import gpu
from qtools.kernels import gpu_kernels as programs

TARGETS = (75, 80, 90)
DTYPES = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}
Row = dict[str, Any]


class Case(NamedTuple):
    """A program as `qtools.kernels.gpu` starts it."""

    program: str
    dtype: str
    target: int
    constants: dict[str, int]
    warps: int = 4
    stages: int = 2


def cases() -> Iterator[Case]:
    """Every program, type, target and configuration that `qtools.kernels.gpu` may start."""
    for target in TARGETS:
        for dtype in DTYPES:
            if target < 80 and dtype == "bf16":
                continue
            for batch in (1, 2, 4):
                for config in programs.TABLES:
                    yield Case(
                        "table_product", dtype, target,
                        {"SCALED": 1, "BATCH": batch, **config.kwargs}, config.num_warps,
                    )  # fmt: skip
            if target < 80:
                continue
            parts = 3 if dtype == "fp32" else 1
            yield Case(
                "prepare", dtype, target, {"SCALED": 1, "PARTS": parts, "WORDS": gpu.TILE_WORDS}
            )
            for batch in (16, 32, 64):
                for config in programs.TILES:
                    constants = {
                        "SCALED": 1, "PARTS": parts, "BATCH": batch, "WORDS": gpu.TILE_WORDS,
                        "STEP": gpu.STEPS[parts], "INTERPRETED": 0, **config.kwargs,
                    }  # fmt: skip
                    yield Case(
                        "tile_product", dtype, target, constants,
                        config.num_warps, config.num_stages,
                    )  # fmt: skip


def compiled(case: Case) -> Row:
    """Compile, and return registers, spilled bytes, shared bytes and instructions of a weight."""
    program = getattr(programs, case.program)
    function = getattr(program, "fn", program)
    if not isinstance(function, triton.JITFunction):  # autotuned: the program is one deeper
        function = program
    names = function.arg_names
    part = "*fp16" if case.dtype == "fp16" else "*bf16"
    kinds = dict.fromkeys(("x_ptr", "g_ptr", "h_ptr", "out_ptr"), f"*{case.dtype}")
    kinds |= {"bits_ptr": "*i32", "parts_ptr": part} | dict.fromkeys(case.constants, "constexpr")
    signature = {name: kinds.get(name, "i32") for name in names}
    # Tensors begin at 16 bytes, padded sizes are multiples of 16, other sizes whatever they are.
    aligned: Any = [["tt.divisibility", 16]]
    attributes = {
        (i,): aligned
        for i, name in enumerate(names)
        if name.endswith("_ptr") or name.startswith("padded_")
    }
    source = ASTSource(function, signature, dict(case.constants), attributes)
    options = {"num_warps": case.warps, "num_stages": case.stages}
    start, log = time.perf_counter(), io.StringIO()
    with knobs.nvidia.scope(), knobs.compilation.scope(), redirect_stdout(log):
        knobs.nvidia.dump_ptxas_log = True
        knobs.compilation.always_compile = True
        target = GPUTarget("cuda", case.target, 32)
        kernel = triton.compile(source, target=target, options=options)
    used = _from_log(log.getvalue())
    return {
        "program": case.program, "dtype": DTYPES[case.dtype], "target": case.target,
        "constants": case.constants, "warps": case.warps, "stages": case.stages,
        **used, "shared_bytes": kernel.metadata.shared,
        "instructions_a_weight": _a_weight(case, kernel.asm["cubin"]),
        "seconds": round(time.perf_counter() - start, 2),
    }  # fmt: skip


def _from_log(log: str) -> dict[str, int]:
    """What the assembler says of registers, stack and spills."""
    found = re.search(
        r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", log
    )
    registers = re.search(r"Used (\d+) registers", log)
    if found is None or registers is None:
        raise RuntimeError(f"the assembler did not say what it used: {log!r}")
    stack, stores, loads = (int(value) for value in found.groups())
    return {"registers": int(registers[1]), "stack_bytes": stack, "spilled_bytes": stores + loads}


def _a_weight(case: Case, cubin: bytes) -> float | None:
    """Machine instructions for each weight: the longest loop, over the weights of one turn."""
    if case.program == "prepare":
        return None
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "program.cubin"
        file.write_bytes(cubin)
        command = [str(Path(knobs.nvidia.nvdisasm.path)), "-c", str(file)]
        listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    weights = case.constants["ROWS"] * case.constants["WORDS"] * case.constants.get("STEP", 32)
    return round(longest_loop(listing) * 32 * case.warps / weights, 2)


def longest_loop(listing: str) -> int:
    """Instructions of the longest loop that has no loop inside."""
    labels: dict[str, int] = {}
    loops: list[tuple[int, int]] = []
    count = 0
    for line in listing.splitlines():
        if label := re.match(r"\s*(\.L_\w+):", line):
            labels[label[1]] = count
        elif re.search(r"/\*[0-9a-f]{4,}\*/\s+\S", line):
            count += 1
            target = re.search(r"BRA.*`\((\.L_\w+)\)", line)
            if target and target[1] in labels:
                loops.append((labels[target[1]], count))
    inner = [a for a in loops if not any(a != b and a[0] <= b[0] and b[1] <= a[1] for b in loops)]
    return max((end - start for start, end in inner), default=0)
