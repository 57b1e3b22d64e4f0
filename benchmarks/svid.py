"""`onebit.svid` beside other ways to the best rank 1 of |W|: time and squared error.

    python -m benchmarks.svid [--write]

A Gaussian weight [4096, 11008] in float32, the size of an MLP's matrix in LLaMA 7B, and one whose
rows and columns differ in scale. One thread, seconds of the processor, so that a busy machine
changes little. All but the full SVD take turns; the ratio is that of the medians. The others are
given |W| ready made, `svid` makes its own, and the signs. scikit-learn's NMF has its default
settings; multiplicative updates written in torch stop sooner.

Limits: 50 times faster than `torch.linalg.svd`, 10 times than NMF, no slower than
`torch.svd_lowrank` and scipy's `svds`, squared error within 1e-5 of the smallest.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from scipy.sparse.linalg import svds
from sklearn.decomposition import NMF
from threadpoolctl import threadpool_limits
from torch import Tensor

from benchmarks._runs import wants_to_write
from qtools.onebit import svid
from qtools.results import code_state, write_record

SHAPE = 4096, 11008
REPEATS = 5
LIMITS = {"torch.linalg.svd": 50.0, "sklearn NMF": 10.0, "torch.svd_lowrank": 1.0, "svds": 1.0}
RESULT = Path(__file__).parent.parent / "results" / "benchmark_svid.json"
Pair = tuple[Tensor, Tensor]


def weights(shape: tuple[int, int]) -> dict[str, Tensor]:
    torch.manual_seed(0)
    gauss = torch.randn(shape)
    rows, columns = torch.exp(torch.randn(shape[0], 1)), torch.exp(torch.randn(1, shape[1]))
    return {"Gaussian": gauss, "rows and columns scaled": gauss * rows * columns}


def ours(w: Tensor, _: Tensor) -> Pair:
    found = svid(w)
    return found.a, found.b


def full_svd(_: Tensor, m: Tensor) -> Pair:
    u, s, vh = torch.linalg.svd(m, full_matrices=False)
    return s[0] * u[:, 0], vh[0]


def lowrank(_: Tensor, m: Tensor) -> Pair:
    torch.manual_seed(0)
    u, s, v = torch.svd_lowrank(m)
    return s[0] * u[:, 0], v[:, 0]


def lanczos(_: Tensor, m: Tensor) -> Pair:
    u, s, vh = svds(m.numpy(), k=1, rng=0)
    return torch.from_numpy(s[0] * u[:, 0]), torch.from_numpy(vh[0].copy())


def updates(_: Tensor, m: Tensor, steps: int = 200, tol: float = 1e-4) -> Pair:
    """Lee and Seung's, with scikit-learn's rule: every ten steps, has the error still fallen?"""
    a = m.new_full((len(m),), float(m.mean()) ** 0.5)
    b = m.new_full((m.shape[1],), float(m.mean()) ** 0.5)
    first = last = torch.dist(m, torch.outer(a, b))
    for step in range(1, steps + 1):
        a = a * (m @ b) / (a * (b @ b))
        b = b * (m.T @ a) / (b * (a @ a))
        if step % 10 == 0:
            error = torch.dist(m, torch.outer(a, b))
            if last - error < tol * first:
                break
            last = error
    return a, b


def sklearn_nmf(_: Tensor, m: Tensor) -> Pair:
    model = NMF(n_components=1, random_state=0)  # as it comes: coordinate descent from an SVD
    a = model.fit_transform(m.numpy())
    return torch.from_numpy(a[:, 0]), torch.from_numpy(model.components_[0])


class Row(NamedTuple):
    """One method on one weight: how long, and how well."""

    weight: str
    method: str
    runs: int
    seconds: float
    fastest: float
    ratio: float
    squared_error: float

    def __str__(self) -> str:
        return (f"{self.weight:25}{self.method:20}{self.runs:>3}{self.seconds:>10.3f}"
                f"{self.fastest:>10.3f}{self.ratio:>9.2f}{self.squared_error:>13.8f}")  # fmt: skip


def squared_error(m: Tensor, pair: Pair) -> float:
    """``‖M − a bᵀ‖² / ‖M‖²``, row by row in float64."""
    a, b = (part.double().abs() for part in pair)
    off = sum((row.double() - x * b).square().sum().item() for row, x in zip(m, a, strict=True))
    return off / sum(row.double().square().sum().item() for row in m)


def measure(name: str, w: Tensor) -> list[Row]:
    m = w.abs()
    methods: dict[str, Callable[[Tensor, Tensor], Pair]] = {
        "svid": ours, "torch.svd_lowrank": lowrank, "svds": lanczos, "NMF updates": updates,
        "sklearn NMF": sklearn_nmf, "torch.linalg.svd": full_svd,
    }  # fmt: skip
    seconds: dict[str, list[float]] = {method: [] for method in methods}
    errors: dict[str, float] = {}
    for turn in range(REPEATS):
        for method, call in methods.items():
            if turn and method == "torch.linalg.svd":
                continue
            start = time.process_time()
            pair = call(w, m)
            seconds[method].append(time.process_time() - start)
            errors.setdefault(method, squared_error(m, pair))
    mine = statistics.median(seconds["svid"])
    return [
        Row(name, method, len(s), statistics.median(s), min(s), statistics.median(s) / mine,
            errors[method]) for method, s in seconds.items()
    ]  # fmt: skip


def missed(rows: list[Row]) -> list[str]:
    """Limits that do not hold."""
    found = []
    for row in rows:
        if row.ratio < LIMITS.get(row.method, 0.0):
            found.append(f"{row.weight}: {row.method} takes {row.ratio:.2f} times as long")
        if row.method == "svid":
            best = min(r.squared_error for r in rows if r.weight == row.weight)
            if row.squared_error > best + 1e-5:
                found.append(
                    f"{row.weight}: squared error {row.squared_error - best:.1e} too large"
                )
    return found


def main() -> None:
    write = wants_to_write(__doc__, RESULT)
    torch.set_num_threads(1)
    threadpool_limits(1)  # NumPy's and SciPy's
    code, start, rows = code_state(), time.perf_counter(), list[Row]()
    print(
        f"{'weight':25}{'method':20}{'':3}{'median s':>10}{'min s':>10}{'ratio':>9}{'error²':>13}"
    )
    for name, w in weights(SHAPE).items():
        found = measure(name, w)
        print(*found, sep="\n", flush=True)
        rows += found
    print("\n".join(missed(rows)) or "all limits hold")
    if write:
        details: dict[str, Any] = {"rows": [row._asdict() for row in rows], "limits": LIMITS}
        write_record(
            RESULT,
            value=min(row.ratio for row in rows if row.method == "torch.linalg.svd"),
            unit="times as long as svid: torch.linalg.svd",
            command="python -m benchmarks.svid --write",
            seconds=round(time.perf_counter() - start, 1),
            code=code,
            shape=SHAPE,
            missed=missed(rows),
            **details,
        )


if __name__ == "__main__":
    main()
