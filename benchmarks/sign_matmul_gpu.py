"""1-bit products on a GPU: right first, then how near to what its memory can deliver.

    python -m benchmarks.sign_matmul_gpu [--compile-only] [--write]

Needs an NVIDIA GPU, or nothing but Triton with ``--compile-only``: then every program is compiled
for GPUs that are not there, and its registers, spills and instructions are listed.

With a GPU all products are compared with float64. Then square matrices are multiplied by 1 to 64
rows of float16: by `qtools` the way it chooses and each way by itself, by cuBLAS in float16, and by
GemLite at 1 bit where it is installed. Each call takes the next matrix of a ring of twice the
second-level cache or more, so that no matrix is in it. A CUDA graph of one turn of the ring gives
the GPU's own time, calls from Python what a user sees who records no graph. The roof is what a
copy of 1 GiB reaches on the same GPU.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from qtools.kernels import gpu
from qtools.kernels.bits import pack_signs, unpack_signs
from qtools.results import write_record

RESULTS = Path(__file__).parent.parent / "results"
SPEED, COMPILED = RESULTS / "sign_matmul_gpu.json", RESULTS / "sign_matmul_gpu_compile.json"
COMMAND = "python -m benchmarks.sign_matmul_gpu"
SIZES = (1024, 2048, 4096, 8192, 16384)
BATCHES = (1, 2, 4, 8, 16, 32, 64)
ROUNDS = 20
Row = dict[str, Any]
Call = Callable[[Tensor], Tensor]


class Weights(NamedTuple):
    """One way to multiply: a function for every matrix of the ring, and bytes of one matrix."""

    name: str
    calls: list[Call]
    bytes: int


# ---- right


def check_values() -> int:
    """Compare every type, way and some sizes with float64; return how many products it were."""
    count = 0
    capable = torch.cuda.get_device_capability() >= (8, 0)
    for dtype in (torch.float16, torch.float32) + (torch.bfloat16,) * capable:
        for rows, columns in ((1, 1), (67, 70), (4096, 4096), (1000, 11008), (16384, 515)):
            for batch in (1, 2, 3, 4, 5, 16, 17, 64, 130):
                check(dtype, batch, rows, columns)
                count += 1
    return count


def check(dtype: torch.dtype, batch: int, rows: int, columns: int) -> None:
    """Raise if a fused product is further from float64 than its roundings allow."""
    torch.manual_seed(batch * rows + columns)
    x = torch.randn(batch, columns, device="cuda").to(dtype)
    g, h = torch.randn(columns, device="cuda"), torch.randn(rows, device="cuda")
    bits = pack_signs(torch.randn(rows, columns, device="cuda"))
    y = gpu.product(x, bits, columns, g, h).double()
    u = x.double() * g.double()
    exact = (u @ unpack_signs(bits, columns, torch.float64).T) * h.double()
    size = u.abs().sum(-1, keepdim=True) * h.double().abs()
    own, narrow = torch.finfo(dtype).eps / 2, dtype != torch.float32
    # Sums of float32, which tensor cores cut off; g x rounded for them; the result's rounding.
    sums = 2 * (columns + 3) * torch.finfo(torch.float32).eps / 2
    allowed = (sums + own * narrow) * size + own * exact.abs() + torch.finfo(dtype).tiny
    if not ((y - exact).abs() <= 1.01 * allowed).all():
        worst = ((y - exact).abs() / allowed).max().item()
        raise SystemExit(
            f"wrong product: {dtype}, batch {batch}, {rows} x {columns}, {worst:.3g} times allowed"
        )


# ---- fast


def ring(size: int, bytes_of_one: int) -> int:
    """Matrices that fill the second-level cache twice, at least two."""
    cache: int = torch.cuda.get_device_properties().L2_cache_size
    return max(2, -(-2 * cache // bytes_of_one))


def ways(size: int) -> list[Weights]:
    """Every way to multiply by signs of this size that is there."""
    one = size * size // 8
    matrices = [
        torch.randint(0, 256, (size, size // 8), dtype=torch.uint8, device="cuda")
        for _ in range(ring(size, one))
    ]

    def product(bits: Tensor, few: int | None) -> Call:
        def call(x: Tensor) -> Tensor:
            kept = gpu.FEW
            gpu.FEW = kept if few is None else few
            try:
                return gpu.product(x, bits, size, None, None)
            finally:
                gpu.FEW = kept

        return call

    found = [
        Weights(name, [product(bits, few) for bits in matrices], one)
        for name, few in (("qtools", None), ("table", 1 << 30), ("tiles", 0))
    ]
    halves = [unpack_signs(bits, size, torch.float16) for bits in matrices[: ring(size, 16 * one)]]
    found.append(Weights("cuBLAS float16", [half_product(w) for w in halves], 16 * one))
    found += gemlite(matrices, size)
    return found


def half_product(w: Tensor) -> Call:
    def call(x: Tensor) -> Tensor:
        return x @ w.T

    return call


def gemlite(matrices: list[Tensor], size: int) -> list[Weights]:
    """GemLite's 1-bit layers, if it is installed and right: groups of 128, a scale, a zero point.

    Its format has them, ours needs none: ``(q - 0.5) * -2`` is our sign.
    """
    try:
        core = importlib.import_module("gemlite.core")
    except ImportError:
        return []
    layers = []
    for bits in matrices:
        layer = core.GemLiteLinear(
            1, group_size=128, in_features=size, out_features=size,
            input_dtype=core.DType.FP16, output_dtype=core.DType.FP16,
        )  # fmt: skip
        ones = torch.ones(size, size // 128, dtype=torch.float16, device="cuda")
        layer.pack((unpack_signs(bits, size) < 0).to(torch.uint8), -2 * ones, 0.5 * ones, None)
        layers.append(layer)
    x = torch.randn(1, size, device="cuda").half()
    off = layers[0](x) - half_product(unpack_signs(matrices[0], size, torch.float16))(x)
    if not off.abs().max() <= 0.05 * size**0.5:
        print(f"GemLite's product is off by {off.abs().max():.3g} at size {size}: left out")
        return []
    return [Weights("GemLite 1 bit", layers, size * size // 8 + 4 * size * size // 128)]


def seconds(weights: Weights, x: Tensor) -> dict[str, float]:
    """Microseconds of a call: of the GPU in a graph (median, minimum), and from Python (median)."""

    def turn() -> None:
        for call in weights.calls:
            call(x)

    for _ in range(2):  # the first tunes and compiles
        turn()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        turn()
    recorded, called = (clock(run, len(weights.calls)) for run in (graph.replay, turn))
    return {
        "graph_us": round(statistics.median(recorded), 3),
        "graph_min_us": round(min(recorded), 3),
        "python_us": round(statistics.median(called), 3),
    }


def clock(run: Callable[[], Any], calls: int) -> list[float]:
    """Microseconds for each of the calls of a run, ROUNDS times."""
    run()
    times = []
    for _ in range(ROUNDS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(1000 * start.elapsed_time(end) / calls)
    return times


def copied_bytes_a_second() -> float:
    """What a copy of 1 GiB reads and writes in a second: the roof."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.nbytes / (1e-6 * min(clock(lambda: target.copy_(source), 1)))


def measure(roof: float) -> list[Row]:
    """A row for each size, batch and way."""
    rows: list[Row] = []
    for size in SIZES:
        for weights in ways(size):
            for batch in BATCHES:
                torch.manual_seed(batch)
                x = torch.randn(batch, size, device="cuda").half()
                moved = weights.bytes + 2 * 2 * batch * size
                row: Row = {"size": size, "batch": batch, "way": weights.name}
                row |= {"matrices": len(weights.calls), **seconds(weights, x)}
                row["gb_a_second"] = round(moved / row["graph_us"] / 1000, 1)
                row["percent_of_roof"] = round(100 * moved / (1e-6 * row["graph_us"]) / roof, 1)
                rows.append(row)
                print(row, flush=True)
        torch.cuda.empty_cache()
    return rows


# ---- compiled


def compile_all(write: bool) -> None:
    """Compile every program for GPUs that are not there, and print what it takes."""
    from benchmarks import _gpu_compile  # which needs Triton

    start, rows = time.perf_counter(), []
    for case in _gpu_compile.cases():
        row = _gpu_compile.compiled(case)
        rows.append(row)
        shown = ", ".join(f"{k} {row['constants'][k]}" for k in ("BATCH", "ROWS") if k in case[3])
        print(
            f"sm_{row['target']} {row['program']:13} {row['dtype']:8} {shown:20} "
            f"warps {row['warps']}: {row['registers']:3} registers, {row['spilled_bytes']} bytes "
            f"spilled, {row['shared_bytes'] / 1024:.0f} KiB shared, "
            f"{row['instructions_a_weight'] or '-'} instructions a weight",
            flush=True,
        )
    spilled = sum(row["spilled_bytes"] + row["stack_bytes"] for row in rows)
    most = max(row["registers"] for row in rows)
    print(f"{len(rows)} programs, {spilled} bytes spilled, at most {most} registers")
    if write:
        write_record(
            COMPILED,
            value=spilled,
            unit="bytes of stack and spills of all programs together",
            command=f"{COMMAND} --compile-only --write",
            seconds=round(time.perf_counter() - start, 1),
            triton=importlib.import_module("triton").__version__,
            rows=rows,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--compile-only", action="store_true", help="for GPUs that are not there")
    parser.add_argument("--write", action="store_true", help="write the record in results/")
    asked = parser.parse_args()
    if asked.compile_only:
        compile_all(asked.write)
        return
    if (why := gpu.why_not()) is not None or gpu.interpreted():
        print(f"not measured: {why or 'the interpreter has no clock'}. --compile-only needs no GPU")
        sys.exit(1 if asked.write else 0)
    start = time.perf_counter()
    checked = check_values()
    print(f"{checked} products agree with float64")
    roof = copied_bytes_a_second()
    rows = measure(roof)
    best = max(row["percent_of_roof"] for row in rows if row["way"] == "qtools")
    there = any(row["way"].startswith("GemLite") for row in rows)
    print(f"nearest to the roof of {roof / 1e9:.0f} GB/s: {best} %; GemLite there: {there}")
    if asked.write:
        write_record(
            SPEED,
            value=best,
            unit="percent of a copy's bytes a second, the best of qtools' rows",
            command=f"{COMMAND} --write",
            seconds=round(time.perf_counter() - start, 1),
            gpu=torch.cuda.get_device_name(),
            triton=importlib.import_module("triton").__version__,
            roof_bytes_a_second=roof,
            products_checked=checked,
            gemlite=there,
            rows=rows,
        )


if __name__ == "__main__":
    main()
