"""`HistogramObserver("mse")` beside torch.ao's `HistogramObserver`: squared error and time.

    python -m benchmarks.observers [--write]

Every tensor comes in 8 batches: what each layer of SmallCNN takes in and gives out on 1024
Fashion-MNIST test images, and synthetic ones of 8 × 1,000,000 values. Both observers see the same
batches and choose unsigned asymmetric parameters; the time is that of observing all batches and
of choosing. One thread; the two take turns of 50 ms at least, so that a busy machine slows both.

At 8 bits we hold ourselves to at most 1.02 times torch's squared error and a third of its time.
torch's search counts 256 levels whatever the bits; at 4 bits it is told that there are 16.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.ao.quantization.observer import HistogramObserver as TorchObserver

from benchmarks._runs import wants_to_write
from qtools import QParams, QuantSpec, fake_quantize
from qtools.data import fashion_mnist, normalise
from qtools.models import SmallCNN
from qtools.observers import HistogramObserver
from qtools.results import code_state, write_record

BATCHES, IMAGES, VALUES, REPEATS = 8, 128, 1_000_000, 7
TURN = 0.05  # seconds, at least: what takes a millisecond is repeated, as benchmarks do
LIMIT_ERROR, LIMIT_TIME = 1.02, 3.0
RESULT = Path(__file__).parent.parent / "results" / "benchmark_observers.json"


def activations() -> dict[str, list[Tensor]]:
    """Input of the network and output of each of its layers, batch by batch."""
    model = SmallCNN.pretrained()
    seen: dict[str, list[Tensor]] = {"input": []}

    def record(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            # The pooling layer is used three times: its outputs are told apart by their size.
            key = f"{name} {output.shape[-1]}" if isinstance(module, nn.MaxPool2d) else name
            seen.setdefault(key, []).append(output)

        return hook

    for name, module in model.named_children():
        module.register_forward_hook(record(name))
    images = normalise(fashion_mnist().test_images[: BATCHES * IMAGES])
    with torch.no_grad():
        for batch in images.split(IMAGES):
            seen["input"].append(batch)
            model(batch)
    return seen


def synthetic() -> dict[str, list[Tensor]]:
    """Distributions that activations resemble, and two with outliers."""
    torch.manual_seed(0)
    shape = (BATCHES * VALUES,)
    normal = torch.randn(shape)
    laplace = torch.distributions.Laplace(0.0, 1.0).sample(shape)
    student = torch.distributions.StudentT(3.0).sample(shape)
    many, one = normal.clone(), normal.clone()
    many[::1000] *= 50
    one[VALUES // 2] = 100
    tensors = {
        "gaussian": normal,
        "laplace": laplace,
        "student_t": student,
        "uniform": torch.rand(shape),
        "relu(gaussian)": normal.relu(),
        "relu(student_t)": student.relu(),
        "gaussian, 0.1 % × 50": many,
        "gaussian, one at 100": one,
    }
    return {name: list(x.split(VALUES)) for name, x in tensors.items()}


def torchs(batches: list[Tensor], spec: QuantSpec) -> QParams:
    observer = TorchObserver(quant_min=spec.qmin, quant_max=spec.qmax)
    observer.dst_nbins = spec.qmax - spec.qmin + 1
    for x in batches:
        observer(x)
    scale, zero_point = observer.calculate_qparams()
    return QParams(scale[0], zero_point[0].to(torch.int32), spec)


def ours(batches: list[Tensor], spec: QuantSpec) -> QParams:
    observer = HistogramObserver(spec, "mse")
    for x in batches:
        observer(x)
    return observer.qparams()


class Row(NamedTuple):
    """One line of the table: ratios are ours to torch's for the error, torch's to ours for time."""

    tensor: str
    bits: int
    values: int
    torch_ms: float
    ours_ms: float
    times_faster: float
    times_faster_of_minima: float
    torch_mse: float
    ours_mse: float
    mse_ratio: float

    def __str__(self) -> str:
        return (
            f"{self.tensor:22}{self.bits:>5}{self.values:>11,}{self.torch_ms:>10.2f}"
            f"{self.ours_ms:>9.2f}{self.times_faster:>8.1f}{self.times_faster_of_minima:>8.1f}"
            f"{self.torch_mse:>12.3e}{self.ours_mse:>12.3e}{self.mse_ratio:>9.4f}"
        )


def measure(name: str, batches: list[Tensor], bits: int) -> Row:
    spec = QuantSpec(bits=bits, signed=False)
    values = torch.cat([x.reshape(-1) for x in batches])
    seconds: dict[str, list[float]] = {"torch": [], "ours": []}
    error = {}
    for _ in range(REPEATS):
        for who, choose in (("torch", torchs), ("ours", ours)):
            start, calls = time.perf_counter(), 0
            while time.perf_counter() - start < TURN:
                qp = choose(batches, spec)
                calls += 1
            seconds[who].append((time.perf_counter() - start) / calls)
            if who not in error:
                difference = values.double() - fake_quantize(values, qp).double()
                error[who] = difference.square().mean().item()
    median = {who: statistics.median(s) for who, s in seconds.items()}
    return Row(
        name,
        bits,
        values.numel(),
        median["torch"] * 1e3,
        median["ours"] * 1e3,
        median["torch"] / median["ours"],
        min(seconds["torch"]) / min(seconds["ours"]),
        error["torch"],
        error["ours"],
        error["ours"] / error["torch"],
    )


def main() -> None:
    write = wants_to_write(__doc__, RESULT)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    start, code, rows = time.perf_counter(), code_state(), []
    print(f"{'tensor':22}{'bits':>5}{'values':>11}{'torch ms':>10}{'ours ms':>9}{'faster':>8}"
          f"{'(min)':>8}{'torch MSE':>12}{'our MSE':>12}{'ratio':>9}")  # fmt: skip
    for bits in (8, 4):
        for name, batches in (activations() | synthetic()).items():
            rows.append(measure(name, batches, bits))
            print(rows[-1], flush=True)
    eight = [row for row in rows if row.bits == 8]
    error = max(row.mse_ratio for row in eight)
    faster = {
        "medians": statistics.geometric_mean(row.times_faster for row in eight),
        "minima": statistics.geometric_mean(row.times_faster_of_minima for row in eight),
        "least of minima": min(row.times_faster_of_minima for row in eight),
    }
    print(f"8 bits: squared error at most {error:.4f} times torch's (limit {LIMIT_ERROR});"
          f" times faster (limit {LIMIT_TIME}): geometric mean of the medians' ratios"
          f" {faster['medians']:.1f}, of the minima's {faster['minima']:.1f}, the least of these"
          f" {faster['least of minima']:.1f}")  # fmt: skip
    if write:
        write_record(
            RESULT,
            value=error,
            unit="largest ratio of our squared error to torch's, 8 bits",
            command="python -m benchmarks.observers --write",
            seconds=time.perf_counter() - start,
            code=code,
            times_faster=faster,
            rows=[row._asdict() for row in rows],
        )


if __name__ == "__main__":
    main()
