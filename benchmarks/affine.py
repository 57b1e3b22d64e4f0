"""`fake_quantize`, forward and backward, beside torch's own ops: time and peak memory.

    python -m benchmarks.affine [--write]

One thread. Calls of both are interleaved, so that a busy machine slows both. The ratio is that of
the medians; the time limit we hold ourselves to is 1.3 times torch's, and no more memory.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable
from multiprocessing.queues import Queue
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks._runs import wants_to_write
from qtools import QParams, QuantSpec, fake_quantize, qparams_from_tensor
from qtools.results import write_record

SIZES = (10**4, 10**5, 10**6, 10**7)
CHANNELS = 100
RESULT = Path(__file__).parent.parent / "results" / "benchmark_affine.json"


def inputs(n: int, per_channel: bool) -> tuple[torch.Tensor, torch.Tensor, QParams]:
    generator = torch.Generator().manual_seed(0)
    shape = (CHANNELS, n // CHANNELS) if per_channel else (n,)
    x, grad = (torch.randn(shape, generator=generator) for _ in range(2))
    spec = QuantSpec(granularity="channel" if per_channel else "tensor")
    qp = qparams_from_tensor(x, spec)
    return x.requires_grad_(), grad, qp


def ours(x: torch.Tensor, grad: torch.Tensor, qp: QParams) -> None:
    torch.autograd.grad(fake_quantize(x, qp), x, grad)


def torchs(x: torch.Tensor, grad: torch.Tensor, qp: QParams) -> None:
    spec, s, z = qp.spec, qp.scale, qp.zero_point
    if spec.granularity == "channel":
        y = torch.fake_quantize_per_channel_affine(x, s, z, spec.axis, spec.qmin, spec.qmax)
    else:
        y = torch.fake_quantize_per_tensor_affine(x, s, z, spec.qmin, spec.qmax)
    torch.autograd.grad(y, x, grad)


def times(n: int, per_channel: bool) -> dict[str, list[float]]:
    """Seconds of each call, the two taking turns."""
    arguments = inputs(n, per_channel)
    seconds: dict[str, list[float]] = {"ours": [], "torch": []}
    for _ in range(max(20, min(2000, 2 * 10**7 // n))):
        for name, call in (("torch", torchs), ("ours", ours)):
            start = time.perf_counter()
            call(*arguments)
            seconds[name].append(time.perf_counter() - start)
    return seconds


def peak_bytes(call: Callable[..., None], n: int, per_channel: bool) -> int:
    """Bytes by which one call raises the peak memory of a process of its own (Linux)."""
    context = multiprocessing.get_context("spawn")
    queue: Queue[int] = context.Queue()
    process = context.Process(target=_put_peak, args=(call.__name__, n, per_channel, queue))
    process.start()
    result = queue.get(timeout=120)
    process.join()
    return result


def _put_peak(name: str, n: int, per_channel: bool, queue: Queue[int]) -> None:
    torch.set_num_threads(1)
    call = {"ours": ours, "torchs": torchs}[name]
    call(*inputs(1000, per_channel))  # load what a first call loads
    arguments = inputs(n, per_channel)
    Path("/proc/self/clear_refs").write_text("5")  # let the peak start from here
    before = _peak_resident()
    call(*arguments)
    queue.put(_peak_resident() - before)


def _peak_resident() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(x.split()[1]) for x in lines if x.startswith("VmHWM"))


class Row(NamedTuple):
    """One line of the table; memory only where it can be told from the process's own."""

    granularity: str
    elements: int
    torch_ms: float
    ours_ms: float
    ratio: float
    ratio_of_minima: float
    torch_peak_bytes: int | None
    ours_peak_bytes: int | None

    def __str__(self) -> str:
        line = (
            f"{self.granularity:12}{self.elements:>10,}{self.torch_ms:>10.3f}{self.ours_ms:>10.3f}"
        )
        line += f"{self.ratio:>7.2f}{self.ratio_of_minima:>11.2f}"
        if self.torch_peak_bytes is not None and self.ours_peak_bytes is not None:
            line += f"{self.torch_peak_bytes / 1e6:>10.1f}{self.ours_peak_bytes / 1e6:>9.1f}"
        return line


def measure(n: int, per_channel: bool) -> Row:
    seconds = times(n, per_channel)
    median = {name: statistics.median(s) for name, s in seconds.items()}
    large = n == SIZES[-1]
    return Row(
        "channel" if per_channel else "tensor",
        n,
        median["torch"] * 1e3,
        median["ours"] * 1e3,
        median["ours"] / median["torch"],
        min(seconds["ours"]) / min(seconds["torch"]),
        peak_bytes(torchs, n, per_channel) if large else None,
        peak_bytes(ours, n, per_channel) if large else None,
    )


def main() -> None:
    write = wants_to_write(__doc__, RESULT)
    torch.set_num_threads(1)
    start, rows = time.perf_counter(), []
    print(f"{'':12}{'elements':>10}{'torch ms':>10}{'ours ms':>10}{'ratio':>7}{'min ratio':>11}"
          f"{'torch MB':>10}{'ours MB':>9}")  # fmt: skip
    for per_channel in (False, True):
        for n in SIZES:
            rows.append(measure(n, per_channel))
            print(rows[-1], flush=True)
    if write:
        write_record(
            RESULT,
            value=max(row.ratio for row in rows),
            unit="largest ratio of our median time to torch's",
            command="python -m benchmarks.affine --write",
            seconds=time.perf_counter() - start,
            rows=[row._asdict() for row in rows],
        )


if __name__ == "__main__":
    main()
