"""SmallCNN trained with its quantization, at few bits: accuracy in integers over seeds.

    python -m benchmarks.qat_cnn [--write]

Each run starts from the trained float network, calibrates on 512 training images, trains with
`qat.prepare_qat`, converts, and measures the *integer* network on the 10,000 test images; before
training, that is post-training quantization with least-squares ranges. The seed draws the
calibration images and the order and augmentation of the training images. The row "float" trains
the float network on for as long: what more training alone gives.

Without ``--write`` one seed. With it five, which took about an hour of one core; finished runs are
kept beside the record (``*.checkpoint``) until it is complete, and an interrupted command goes on
from the last finished epoch.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks._runs import collected, deviation, is_of, resumable, wants_to_write
from qtools import QuantSpec, ptq, qat
from qtools.data import fashion_mnist, normalise
from qtools.metrics import accuracy
from qtools.models import SmallCNN
from qtools.observers import HistogramObserver, MovingAverageObserver
from qtools.recipes import HELD_OUT
from qtools.results import code_state, write_record
from qtools.training import Split, TrainConfig, fit

RESULT = Path(__file__).parent.parent / "results" / "qat_smallcnn.json"
SEEDS, EPOCHS, CALIBRATION = 5, 4, 512
#: Learning rates were chosen on held-out training images, for each method one.
RATES = {"LearnedStep": 2e-3, "FakeQuantize": 1e-3, "float": 1e-3}


class Setting(NamedTuple):
    """A row: bits of weights and activations (32: float), and how they are trained."""

    weights: int
    activations: int
    method: str


SETTINGS = (
    Setting(4, 4, "LearnedStep"),
    Setting(2, 4, "LearnedStep"),
    Setting(3, 3, "LearnedStep"),
    Setting(2, 2, "LearnedStep"),
    Setting(4, 4, "FakeQuantize"),
    Setting(2, 4, "FakeQuantize"),
    Setting(32, 32, "float"),
)


class Images(NamedTuple):
    """Fashion-MNIST as the runs use it: 55,000 to train on, 5,000 held out, 10,000 to report."""

    train: Split
    held_out: Split
    test: Tensor
    labels: Tensor

    @classmethod
    def load(cls) -> Images:
        """Fetch and split them."""
        data = fashion_mnist()
        return cls(
            Split(data.train_images[:-HELD_OUT], data.train_labels[:-HELD_OUT]),
            Split(data.train_images[-HELD_OUT:], data.train_labels[-HELD_OUT:]),
            normalise(data.test_images),
            data.test_labels,
        )

    def calibration(self, seed: int) -> Tensor:
        """Return the training images that a seed draws to calibrate on, float32."""
        generator = torch.Generator().manual_seed(seed)
        pick = torch.randperm(len(self.train.images), generator=generator)[:CALIBRATION]
        return normalise(self.train.images[pick])

    def percent(self, network: nn.Module) -> float:
        """Return how many of a hundred test images the network gets right."""
        return round(100 * accuracy(network, self.test, self.labels).value, 2)


def recipe(weights: int, activations: int, learned: bool = True) -> ptq.Recipe:
    """A scale a channel for weights; ranges of least squared error where steps are learned."""
    return ptq.Recipe(
        QuantSpec(weights, symmetric=True, granularity="channel"),
        QuantSpec(activations, signed=False),
        HistogramObserver if learned else MovingAverageObserver,
        weight_range="mse" if learned else "minmax",
    )


def prepared(setting: Setting, calibration: Tensor) -> nn.Module:
    """The network that a run trains."""
    if setting.method == "float":
        return SmallCNN.pretrained()
    learned = setting.method == "LearnedStep"
    quantizer = qat.LearnedStep if learned else qat.FakeQuantize
    bits = recipe(setting.weights, setting.activations, learned)
    return qat.prepare_qat(SmallCNN.pretrained(), calibration.split(64), bits, quantizer)


def run(setting: Setting, seed: int, images: Images, checkpoint: Path) -> dict[str, Any]:
    """Train once; return accuracies in percent and the seconds it took."""
    start = time.perf_counter()
    p = prepared(setting, images.calibration(seed))
    before = _test_accuracy(p, images)
    config = TrainConfig(epochs=EPOCHS, lr=RATES[setting.method], seed=seed)
    history = fit(p, images.train, images.held_out, config, checkpoint)
    checkpoint.unlink()
    return {
        **setting._asdict(),
        "seed": seed,
        "before": before,
        "accuracy": _test_accuracy(p, images),
        "held_out": round(100 * history[-1]["held_out_accuracy"], 2),
        "seconds": round(time.perf_counter() - start, 1),
    }


def _test_accuracy(p: nn.Module, images: Images) -> float:
    """Percent of the test images that the network gets right, in integers where it has them."""
    return images.percent(qat.convert(p) if isinstance(p, torch.fx.GraphModule) else p.eval())


def runs(seeds: int, kept: Path) -> Iterator[dict[str, Any]]:
    """All runs, seed by seed."""
    images, checkpoint = Images.load(), kept.with_suffix(".run.checkpoint")
    order = ((setting, seed) for seed in range(seeds) for setting in SETTINGS)
    return resumable(order, kept, lambda setting, seed: run(setting, seed, images, checkpoint))


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation over the seeds, in percent, for each setting."""
    table = []
    for setting in SETTINGS:
        of = [r for r in rows if is_of(r, setting)]
        after, before = ([r[key] for r in of] for key in ("accuracy", "before"))
        table.append({
            **setting._asdict(),
            "seeds": len(of),
            "before": round(statistics.mean(before), 3),
            "accuracy": round(statistics.mean(after), 3),
            "deviation": deviation(after),
        })  # fmt: skip
    return table


def main() -> None:
    write = wants_to_write(__doc__, RESULT)
    torch.set_num_threads(1)
    code, kept = code_state(), RESULT.with_suffix(".checkpoint")
    print(
        f"{'weights':>7} {'activations':>11}  {'method':12} {'seed':>4} {'before':>7} {'after':>7}"
    )
    rows = collected(
        runs(SEEDS if write else 1, kept),
        lambda row: (
            f"{row['weights']:>7} {row['activations']:>11}  {row['method']:12}"
            f" {row['seed']:>4} {row['before']:>7.2f} {row['accuracy']:>7.2f}"
        ),
    )
    table = summary(rows)
    for line in table:
        print(line)
    if write:
        write_record(
            RESULT,
            value=table[0]["accuracy"],
            unit="percent of test images, integer network, W4A4, mean",
            command="python -m benchmarks.qat_cnn --write",
            seconds=round(sum(r["seconds"] for r in rows), 1),
            code=code,
            model="SmallCNN",
            simulated=False,
            float_accuracy=_test_accuracy(SmallCNN.pretrained(), Images.load()),
            epochs=EPOCHS,
            calibration_images=CALIBRATION,
            learning_rates=RATES,
            summary=table,
            runs=rows,
        )
        kept.unlink()


if __name__ == "__main__":
    main()
