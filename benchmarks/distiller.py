"""What the distillation loop costs over one written by hand: time of a step, both taking turns.

    python -m benchmarks.distiller [--write]

One thread, SmallCNN teaches a SmallCNN of a quarter of the width, 128 images a step. The bare loop
does the same work and nothing else: draw a batch, both networks, Hinton's loss, backward, shorten
the gradient, set the rate, AdamW, read the loss. `Distiller` adds Accelerate, sums and norm for the
record, checks that both are finite, seeds, deterministic algorithms, the progress bar and a row of
CSV a step. A bare step runs whenever the Distiller asks for data, so the two alternate step by step
and a busy machine slows both; the ratio is that of the medians.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks._runs import wants_to_write
from qtools.data import fashion_mnist, normalise
from qtools.distillation import DistillConfig, Distiller, Hinton
from qtools.models import SmallCNN
from qtools.results import write_record

RESULT = Path(__file__).parent.parent / "results" / "benchmark_distiller.json"
BATCH, WIDTH, WARM_UP = 128, 0.25, 20


def student() -> nn.Module:
    torch.manual_seed(0)
    return SmallCNN(WIDTH)


def bare_loop(x: Tensor, y: Tensor, steps: int, config: DistillConfig) -> Callable[[], float]:
    """Return a function that does one step of the loop one would write by hand."""
    model, teacher, temperature = student().train(), SmallCNN.pretrained(), 4.0
    optimizer = torch.optim.AdamW(model.parameters(), config.lr, config.betas, weight_decay=0.0)
    order = torch.randperm(len(x))
    done = 0

    def step() -> float:
        nonlocal done
        index = order[done * BATCH % len(x) :][:BATCH]
        images, labels = x[index], y[index]
        with torch.no_grad():
            targets = (teacher(images) / temperature).softmax(-1)
        logits = model(images)
        soft = F.kl_div((logits / temperature).log_softmax(-1), targets, reduction="batchmean")
        loss = 0.9 * temperature**2 * soft + 0.1 * F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.max_norm)
        share = 0.5 * (1 + math.cos(math.pi * done / steps))
        for group in optimizer.param_groups:
            group["lr"] = config.lr * share
        optimizer.step()
        done += 1
        return loss.item()

    return step


class TakingTurns:
    """Images for the Distiller; each time it asks, a bare step runs first, outside its time."""

    def __init__(self, x: Tensor, y: Tensor, bare: Callable[[], float]) -> None:
        self.x, self.y, self.bare_step = x, y, bare
        self.bare: list[float] = []
        self.ours: list[float] = []
        self._left = math.nan

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: Tensor) -> tuple[Tensor, Tensor]:
        self.ours.append(time.perf_counter() - self._left)
        torch.use_deterministic_algorithms(False)  # the bare loop does not ask for them
        start = time.perf_counter()
        self.bare_step()
        self.bare.append(time.perf_counter() - start)
        torch.use_deterministic_algorithms(True)
        self._left = time.perf_counter()
        return self.x[index], self.y[index]


def measure(x: Tensor, y: Tensor, epochs: int, folder: Path) -> dict[str, Any]:
    """Median and minimum milliseconds of a step of either loop."""
    config = DistillConfig(epochs=epochs, batch_size=BATCH, warmup=0.0, device="cpu")
    data = TakingTurns(x, y, bare_loop(x, y, epochs * len(x) // BATCH, config))
    loss = Hinton(temperature=4.0, alpha=0.9)
    Distiller(student(), SmallCNN.pretrained(), data, config, loss, folder=folder).run()
    row: dict[str, Any] = {"steps": len(data.bare) - WARM_UP}
    for name, seconds in (("bare", data.bare), ("distiller", data.ours)):
        kept = seconds[WARM_UP:]
        row[f"{name}_median_ms"] = round(1e3 * statistics.median(kept), 3)
        row[f"{name}_minimum_ms"] = round(1e3 * min(kept), 3)
    row["ratio"] = round(row["distiller_median_ms"] / row["bare_median_ms"], 4)
    row["ratio_of_minima"] = round(row["distiller_minimum_ms"] / row["bare_minimum_ms"], 4)
    return row


def main() -> None:
    write = wants_to_write(__doc__, RESULT)
    torch.set_num_threads(1)
    start = time.perf_counter()
    data = fashion_mnist()
    images, labels = data.train_images[: 50 * BATCH], data.train_labels[: 50 * BATCH]
    with tempfile.TemporaryDirectory() as folder:
        row = measure(normalise(images), labels, 20 if write else 6, Path(folder))
    print(row)
    if write:
        write_record(
            RESULT,
            value=row["ratio"],
            unit="median time of a Distiller step over that of a bare loop",
            command="python -m benchmarks.distiller --write",
            seconds=round(time.perf_counter() - start, 1),
            teacher="SmallCNN",
            student=f"SmallCNN({WIDTH})",
            batch=BATCH,
            **row,
        )


if __name__ == "__main__":
    main()
