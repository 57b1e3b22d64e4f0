"""SmallCNN quantized after training, from 8 bits to 2: accuracy in integers over seeds.

    python -m benchmarks.ptq_cnn [--write]

Every network is converted, and it is the *integer* network that is measured, on the 10,000 test
images; only the weights of a dynamic one are decided beforehand. Its input and its logits have 8
bits in every row. The seed draws the 512 calibration images (histogram observers, squared error),
and AdaRound's samples. The fixes add up: least squares chooses the scales, bias correction and
AdaRound start from it. Equalization is tried where it can help, with one scale a weight tensor.

Without ``--write`` one seed, about two minutes. With it five.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks._runs import wants_to_write
from benchmarks.qat_cnn import CALIBRATION, SEEDS, Images
from qtools import QuantSpec, ptq
from qtools.models import SmallCNN
from qtools.results import code_state, write_record

RESULT = Path(__file__).parent.parent / "results" / "ptq_smallcnn.json"
BITS = ((8, 8), (6, 6), (4, 8), (4, 4), (3, 8), (3, 3), (2, 8), (2, 4), (2, 2))
#: Adam steps a layer; the paper takes 10,000, and more than these change little here.
ITERATIONS = 500


class Row(NamedTuple):
    """Bits of weights and activations, what was done, and percent of test images right."""

    weights: int
    activations: int
    method: str
    accuracy: float


def networks(
    weights: int, activations: int, calibration: tuple[Tensor, ...], seed: int
) -> Iterator[tuple[str, nn.Module]]:
    """Yield the integer networks of one pair of bits, each with its name."""
    spec = QuantSpec(weights, symmetric=True, granularity="channel")
    of_activations = QuantSpec(activations, signed=False)
    m = SmallCNN.pretrained()

    def prepared(network: nn.Module, **settings: Any) -> torch.fx.GraphModule:
        settings = {"weights": spec, "activations": of_activations} | settings
        return ptq.calibrate(ptq.prepare(network, ptq.Recipe(**settings)), calibration)

    if weights >= 4 and activations >= 6:
        one = {"weights": QuantSpec(weights, symmetric=True)}
        yield "one scale a tensor", ptq.convert(prepared(m, **one))
        yield "one scale, equalized", ptq.convert(prepared(ptq.equalize(m), **one))
    yield "min-max", ptq.convert(prepared(m))
    p = prepared(m, weight_range="mse")
    yield "least squares", ptq.convert(p)
    yield "bias correction", ptq.convert(ptq.correct_bias(p, calibration))
    if weights <= 4:
        rounded = ptq.adaround(p, calibration, ITERATIONS, seed=seed)
        yield "AdaRound", ptq.convert(rounded)
        yield "AdaRound, bias correction", ptq.convert(ptq.correct_bias(rounded, calibration))


@torch.no_grad()
def measured(images: Images, seed: int) -> Iterator[Row]:
    """All rows of one seed."""
    calibration = images.calibration(seed).split(64)
    if seed == 0:  # nothing in it depends on a seed
        yield Row(8, 8, "dynamic", images.percent(ptq.quantize_dynamic(SmallCNN.pretrained())))
    for weights, activations in BITS:
        with torch.enable_grad():
            found = list(networks(weights, activations, calibration, seed))
        for method, q in found:
            yield Row(weights, activations, method, images.percent(q))


def summary(rows: list[Row]) -> list[dict[str, Any]]:
    """Mean and standard deviation over the seeds, in percent, of each row."""
    table: dict[tuple[int, int, str], list[float]] = {}
    for row in rows:
        table.setdefault(row[:3], []).append(row.accuracy)
    return [
        {
            "weights": weights,
            "activations": activations,
            "method": method,
            "seeds": len(values),
            "accuracy": round(statistics.mean(values), 3),
            "deviation": round(statistics.stdev(values), 3) if len(values) > 1 else 0.0,
        }
        for (weights, activations, method), values in table.items()
    ]


def main() -> None:
    write = wants_to_write(__doc__, RESULT)
    torch.set_num_threads(1)
    start, code, images = time.perf_counter(), code_state(), Images.load()
    rows = []
    for seed in range(SEEDS if write else 1):
        for row in measured(images, seed):
            rows.append(row)
            print(f"W{row.weights}A{row.activations}  {row.method:26} seed {seed}"
                  f" {row.accuracy:>7.2f}", flush=True)  # fmt: skip
    table = summary(rows)
    if write:
        best = next(r for r in table if r["method"] == "min-max" and r["weights"] == 8)
        write_record(
            RESULT,
            value=best["accuracy"],
            unit="percent of test images, integer network, static int8, mean",
            command="python -m benchmarks.ptq_cnn --write",
            seconds=round(time.perf_counter() - start, 1),
            code=code,
            model="SmallCNN",
            simulated=False,
            float_accuracy=images.percent(SmallCNN.pretrained()),
            calibration_images=CALIBRATION,
            adaround_iterations=ITERATIONS,
            summary=table,
            runs=[row._asdict() for row in rows],
        )


if __name__ == "__main__":
    main()
