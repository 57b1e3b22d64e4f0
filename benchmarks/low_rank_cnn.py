"""SmallCNN with layers of low rank: accuracy, bytes, multiply-adds, as cut and after training on.

    python -m benchmarks.low_rank_cnn [--write]

``fc1`` (128 × 576) by the best approximation of its weight ("svd") and of its outputs on 2,048
training images ("whitened"), at several ranks. ``conv2`` and ``conv3`` together, each kernel at
most at a half or a quarter of its numbers, by Tucker-2, CP, a column after a row ("separable"), and
a 3×3 convolution to few channels ("svd", "whitened"). "all" is both at once. Each network is
measured as it comes out and after one epoch over 10,000 training images, on the 10,000 test images;
"float" is the whole network trained on for as long. The seed draws the calibration images, the
training images, their order and augmentation.

Without ``--write`` one seed. With it five, which took about 20 minutes of one core; finished runs
are kept beside the record (``*.checkpoint``) until it is complete, and an interrupted command goes
on after the last one.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks._runs import collected, deviation, is_of, resumable, wants_to_write
from qtools.data import fashion_mnist, normalise
from qtools.decomposition import cost, cp, decompose, spatial_separable
from qtools.metrics import accuracy
from qtools.models import SmallCNN
from qtools.pruning import gram_matrices
from qtools.recipes import HELD_OUT
from qtools.results import code_state, write_record
from qtools.training import Split, TrainConfig, fit

RESULT = Path(__file__).parent.parent / "results" / "low_rank_smallcnn.json"
SEEDS, CALIBRATION, TRAIN = 5, 2048, 10_000
#: The learning rate was chosen on held-out training images, one for all.
CONFIG = TrainConfig(epochs=1, lr=1e-3)
FC1_RANKS = (4, 8, 16, 32, 64)
#: Ranks of conv2 and conv3 that leave at most this share of each kernel's numbers.
CONV_RANKS: dict[str, dict[str, tuple[Any, Any]]] = {
    "half": {
        "svd": (13, 26),
        "whitened": (13, 26),
        "separable": (16, 32),
        "tucker2": ((9, 18), (18, 36)),
        "cp": (42, 90),
    },
    "quarter": {
        "svd": (6, 13),
        "whitened": (6, 13),
        "separable": (8, 16),
        "tucker2": ((6, 12), (12, 24)),
        "cp": (21, 45),
    },
}


class Setting(NamedTuple):
    """A row: which layers, by which method, at which rank or share of their numbers."""

    layers: str
    method: str
    size: str


SETTINGS = (
    *(Setting("fc1", method, str(k)) for method in ("svd", "whitened") for k in FC1_RANKS),
    *(Setting("conv", method, size) for size, of in CONV_RANKS.items() for method in of),
    Setting("all", "whitened", "half"),
    Setting("none", "float", ""),
)


class Images(NamedTuple):
    """Training images of one seed, and those that all seeds share."""

    calibration: Tensor
    train: Split
    held_out: Split
    test: Tensor
    labels: Tensor

    @classmethod
    def draw(cls, seed: int) -> Images:
        """Draw from the first 55,000 training images; the last 5,000 are held out."""
        data = fashion_mnist()
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(data.train_images) - HELD_OUT, generator=generator)
        pick = order[:TRAIN]
        return cls(
            normalise(data.train_images[order[-CALIBRATION:]]),
            Split(data.train_images[pick], data.train_labels[pick]),
            Split(data.train_images[-HELD_OUT:], data.train_labels[-HELD_OUT:]),
            normalise(data.test_images),
            data.test_labels,
        )

    def percent(self, network: nn.Module) -> float:
        """Return how many of a hundred test images the network gets right."""
        return round(100 * accuracy(network, self.test, self.labels).value, 2)


def network(setting: Setting, calibration: Tensor) -> nn.Module:
    """The network of a row, before it is trained on."""
    model = SmallCNN.pretrained()
    ranks: dict[str, Any] = {}
    if setting.layers == "fc1":
        ranks["fc1"] = int(setting.size)
    if setting.layers in ("conv", "all"):
        found = CONV_RANKS[setting.size][setting.method]
        ranks |= dict(zip(("conv2", "conv3"), found, strict=True))
    if setting.layers == "all":
        ranks["fc1"] = 16
    if setting.method in ("separable", "cp"):
        split = {"separable": spatial_separable, "cp": cp}[setting.method]
        ranks = {name: lambda conv, k=k: split(conv, k) for name, k in ranks.items()}
    gram = None
    if setting.method == "whitened":
        gram = gram_matrices(model, calibration.split(64), ranks)
    return decompose(model, ranks, gram)


def run(setting: Setting, seed: int, images: Images, start_from: nn.Module) -> dict[str, Any]:
    """Measure, train on, measure again; percent of the test images, seconds, costs."""
    start, model = time.perf_counter(), copy.deepcopy(start_from)
    before = images.percent(model)
    config = TrainConfig(**{**CONFIG.__dict__, "seed": seed})
    history = fit(model, images.train, images.held_out, config)
    spent = cost(model.eval(), torch.zeros(1, 1, 28, 28))
    return {
        **setting._asdict(),
        "seed": seed,
        "before": before,
        "accuracy": images.percent(model),
        "held_out": round(100 * history[-1]["held_out_accuracy"], 2),
        **spent._asdict(),
        "seconds": round(time.perf_counter() - start, 1),
    }


def runs(seeds: int, kept: Path) -> Iterator[dict[str, Any]]:
    """All runs, seed by seed."""
    made: dict[Setting, nn.Module] = {}  # CP takes long, and no seed is in it
    draw = lru_cache(maxsize=1)(Images.draw)

    def one(setting: Setting, seed: int) -> dict[str, Any]:
        images = draw(seed)
        if setting not in made or setting.method == "whitened":
            made[setting] = network(setting, images.calibration)
        return run(setting, seed, images, made[setting])

    return resumable(((s, seed) for seed in range(seeds) for s in SETTINGS), kept, one)


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation over the seeds, in percent, for each setting."""
    table = []
    for setting in SETTINGS:
        of = [r for r in rows if is_of(r, setting)]
        before, after = ([r[key] for r in of] for key in ("before", "accuracy"))
        table.append({
            **setting._asdict(),
            "seeds": len(of),
            "before": round(statistics.mean(before), 3),
            "before_deviation": deviation(before),
            "accuracy": round(statistics.mean(after), 3),
            "deviation": deviation(after),
            **{name: of[0][name] for name in ("macs", "parameters", "nbytes")},
        })  # fmt: skip
    return table


def main() -> None:
    write = wants_to_write(__doc__, RESULT)
    torch.set_num_threads(1)
    code, kept = code_state(), RESULT.with_suffix(".checkpoint")
    rows = collected(
        runs(SEEDS if write else 1, kept),
        lambda row: (
            f"{row['layers']:5} {row['method']:10} {row['size']:8} seed {row['seed']}"
            f" {row['before']:6.2f} {row['accuracy']:6.2f} {row['macs']:>9,}"
            f" {row['parameters']:>7,} {row['seconds']:5.1f} s"
        ),
    )
    table = summary(rows)
    for line in table:
        print(line)
    if write:
        chosen = next(t for t in table if is_of(t, Setting("fc1", "svd", "16")))
        whole = cost(SmallCNN.pretrained(), torch.zeros(1, 1, 28, 28))
        write_record(
            RESULT,
            value=chosen["accuracy"],
            unit="percent of test images, fc1 at rank 16, trained on, mean",
            command="python -m benchmarks.low_rank_cnn --write",
            seconds=round(sum(r["seconds"] for r in rows), 1),
            code=code,
            model="SmallCNN",
            simulated=False,
            float_accuracy=Images.draw(0).percent(SmallCNN.pretrained()),
            float_cost=whole._asdict(),
            epochs=CONFIG.epochs,
            learning_rate=CONFIG.lr,
            train_images=TRAIN,
            calibration_images=CALIBRATION,
            summary=table,
            runs=rows,
        )
        kept.unlink()


if __name__ == "__main__":
    main()
