"""Products with a matrix of signs on this processor: our paths beside what else there is.

    python -m benchmarks.sign_matmul [--write]

Every product reads another matrix of a ring that is larger than the last cache, so that weights
come from memory as they do when a large model writes text. Methods take turns within a setting.
One that needs more than a quarter of a second is left out at larger batches. Beside the products:
how fast CharGPT writes, and a model of the same kind with random signs that has more than 100
million of them, each beside its twin in float32.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks._runs import wants_to_write
from benchmarks._sign_matmul import LAST_CACHE, METHODS, Product, generation
from qtools import kernels
from qtools.results import code_state, write_record

RESULT = Path(__file__).parent.parent / "results" / "sign_matmul.json"

#: rows (outputs) and columns (inputs); the last two are LLaMA-7B's
SHAPES = ((1024, 1024), (2048, 2048), (4096, 4096), (8192, 8192), (11008, 4096), (4096, 11008))
BATCHES = (1, 4, 16, 64, 256)
#: seconds a method may take in a setting, and calls it is measured for at least and at most
SECONDS, CALLS = 0.2, (3, 400)
#: no further calls after one so slow, and no larger batches, where they would be slower still
SLOW = 0.25


def measure(product: Product, x: torch.Tensor) -> list[float]:
    """Seconds of calls, each with the next matrix of the ring."""
    begin = time.perf_counter()
    product(0, x)
    if (first := time.perf_counter() - begin) > SLOW:
        return [first]
    taken: list[float] = []
    while len(taken) < CALLS[0] or (sum(taken) < SECONDS and len(taken) < CALLS[1]):
        start = time.perf_counter()
        product((len(taken) + 1) % product.matrices, x)
        taken.append(time.perf_counter() - start)
    return taken


def of_shape(shape: tuple[int, int], threads: tuple[int, ...]) -> list[dict[str, Any]]:
    """Rows of the table for one shape."""
    rows, columns = shape
    found = []
    for number in threads:
        torch.set_num_threads(number)
        products = [made for method in METHODS if (made := method(rows, columns, number))]
        for product in products:  # codes are made, memory is touched
            for i in range(product.matrices):
                product(i, torch.randn(1, columns))
        slow: set[str] = set()
        for batch in BATCHES:
            x, float_median = torch.randn(batch, columns), 0.0
            for product in products:
                if product.name in slow:
                    continue
                taken = measure(product, x)
                median = statistics.median(taken)
                if median > SLOW and product.name != "float32":
                    slow.add(product.name)
                float_median = float_median or median  # float32 is the first
                found.append(
                    {
                        "path": product.name,
                        "bits": product.bits,
                        "rows": rows,
                        "columns": columns,
                        "batch": batch,
                        "threads": number,
                        "median_ms": round(1e3 * median, 5),
                        "minimum_ms": round(1e3 * min(taken), 5),
                        "calls": len(taken),
                        "gb_per_s": round(rows * columns * product.bits / 8e9 / median, 3),
                        "ratio_to_float32": round(float_median / median, 3),
                    }
                )
    return found


def show(row: dict[str, Any]) -> None:
    print(
        "{rows:6} x {columns:5}  batch {batch:3}  threads {threads}  {path:20} {median_ms:10.4f} ms"
        "  minimum {minimum_ms:10.4f}  {gb_per_s:7.2f} GB/s  {ratio_to_float32:6.2f} x".format(
            **row
        )
    )


def main() -> None:
    write = wants_to_write(__doc__, RESULT)
    start, code = time.perf_counter(), code_state()
    torch.manual_seed(0)
    print(kernels.info())
    most = torch.get_num_threads()
    rows = []
    for shape in SHAPES if write else SHAPES[:3]:
        for row in of_shape(shape, (1, most) if most > 1 else (1,)):
            rows.append(row)
            show(row)
    torch.set_num_threads(1)
    written = generation(small=not write)
    for entry in written:
        print(entry)
    path = kernels.info().path
    setting = (4096, 4096, 1, 1, path)
    names = ("rows", "columns", "batch", "threads", "path")
    ours = next(r for r in rows if tuple(r[name] for name in names) == setting)
    print(f"4096 x 4096, one row, one thread: {ours['ratio_to_float32']} times as fast as float32")
    if write:
        write_record(
            RESULT,
            value=ours["ratio_to_float32"],
            unit="times as fast as torch's float32: 4096 x 4096, one row, one thread, from memory",
            command="python -m benchmarks.sign_matmul --write",
            seconds=round(time.perf_counter() - start, 1),
            code=code,
            in_use=path,
            info=str(kernels.info()),
            last_cache_bytes=LAST_CACHE,
            rows=rows,
            generation=written,
        )


if __name__ == "__main__":
    main()
