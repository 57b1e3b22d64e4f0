"""A student of a fifteenth of the parameters, with and without its teacher, over seeds.

    python -m benchmarks.student_cnn [--write]

The teacher is the pretrained SmallCNN, the student a SmallCNN of a quarter of the width. Both
students of a pair start from the same weights and see the same batches of augmented images; only
the loss differs: labels alone, or Hinton's. So the differences are paired, seed by seed, and
their mean stands with its 95 % interval of Student's t.

- "few": the first 2,000 training images; also with a weak teacher, a SmallCNN of full width that
  learned from the labels of these same 2,000 images.
- "all": 55,000 training images, for as many steps as "few" (1,287 and 1,200).
- "boots": the same 2,000 without their ankle boots. What becomes of the boots in the test set?

Without ``--write`` one seed, with it five. Temperature, alpha and learning rate were chosen with
other seeds on the 5,000 held-out training images. Finished runs are kept beside the record
(``*.checkpoint``) until it is complete, and an interrupted command goes on after the last.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from qtools.data import CLASSES, fashion_mnist, normalise
from qtools.distillation import DistillConfig, Distiller, Hinton, LabelsOnly
from qtools.distillation.fashion import AugmentedImages
from qtools.files import write_atomic
from qtools.models import SmallCNN
from qtools.recipes import HELD_OUT
from qtools.results import code_state, write_record
from qtools.training import Split

RESULT = Path(__file__).parent.parent / "results" / "student_smallcnn.json"
SEEDS, WIDTH, WEAK_EPOCHS = 5, 0.25, 30
CONFIG = DistillConfig(lr=0.012, weight_decay=0.05, max_norm=0.0, device="cpu")
T975 = 2.7764451  # Student's t with 4 degrees of freedom: 97.5 % lie below it
BOOT = CLASSES.index("ankle boot")


class Setting(NamedTuple):
    """A row of the table: on which images, how long, and from whom the student learns."""

    images: str  # "few", "all" or "boots"
    epochs: int
    teacher: str  # "none", "good" or "weak"
    temperature: float = 4.0
    alpha: float = 0.9


SETTINGS = (
    Setting("few", 80, "none"),
    Setting("few", 80, "good"),
    Setting("boots", 20, "none"),
    Setting("boots", 20, "good", temperature=1.0, alpha=1.0),
    Setting("boots", 20, "good", temperature=4.0, alpha=1.0),
    Setting("boots", 20, "good", temperature=16.0, alpha=1.0),
    Setting("all", 3, "none"),
    Setting("all", 3, "good"),
    Setting("few", 80, "weak"),
)


def transfer_set(name: str) -> Split:
    """The images that a setting trains on."""
    data = fashion_mnist()
    size = {"few": 2_000, "all": len(data.train_images) - HELD_OUT, "boots": 2_000}[name]
    images, labels = data.train_images[:size], data.train_labels[:size]
    if name == "boots":
        images, labels = images[labels != BOOT], labels[labels != BOOT]
    return Split(images, labels)


def train(
    student: nn.Module, teacher: nn.Module | None, split: Split, setting: Setting, seed: int
) -> nn.Module:
    """Train in place from labels, or from labels and a teacher's answers to the same images."""
    loss = LabelsOnly() if teacher is None else Hinton(setting.temperature, setting.alpha)
    config = replace(CONFIG, epochs=setting.epochs, seed=seed)
    Distiller(student, teacher, AugmentedImages(split), config, loss, progress=False).run()
    return student.eval()


def network(width: float, seed: int) -> nn.Module:
    """An untrained network, the same for the same seed."""
    torch.manual_seed(seed)
    return SmallCNN(width)


@cache
def weak_teacher() -> nn.Module:
    """A SmallCNN of full width that learned from the labels of the 2,000 images."""
    seed, setting = 1_000, Setting("few", WEAK_EPOCHS, "none")
    return train(network(1.0, seed), None, transfer_set("few"), setting, seed)


def run(setting: Setting, seed: int, test: tuple[Tensor, Tensor]) -> dict[str, Any]:
    """Train once; return what the student does on the test images, and the seconds it took."""
    start = time.perf_counter()
    split = transfer_set(setting.images)
    teacher: nn.Module | None = None
    found: dict[str, Any] = {**setting._asdict(), "seed": seed}
    if setting.teacher == "good":
        teacher = SmallCNN.pretrained()
    elif setting.teacher == "weak":
        teacher = weak_teacher()
        found["teacher_accuracy"] = percent(*answers(teacher, test))
    student = train(network(WIDTH, seed), teacher, split, setting, seed)
    predicted, labels = answers(student, test)
    found["accuracy"] = percent(predicted, labels)
    if setting.images == "boots":
        boots = labels == BOOT
        found["boots"] = percent(predicted[boots], labels[boots])
    if setting[:3] == SETTINGS[0][:3]:
        pairs = (10 * labels + predicted).bincount(minlength=100)
        found["confusion"] = pairs.view(10, 10).tolist()  # rows: labels
    return {**found, "seconds": round(time.perf_counter() - start, 1)}


@torch.inference_mode()
def answers(model: nn.Module, test: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Predicted classes and labels of the test images."""
    return torch.cat([model(x).argmax(1) for x in test[0].split(500)]), test[1]


def percent(predicted: Tensor, labels: Tensor) -> float:
    """How many of a hundred are right."""
    return round(100 * (predicted == labels).double().mean().item(), 2)


def runs(seeds: int, kept: Path) -> Iterator[dict[str, Any]]:
    """All runs, setting by setting; those in the file ``kept`` are not done again."""
    done = json.loads(kept.read_text()) if kept.exists() else []
    data = fashion_mnist()
    test = normalise(data.test_images), data.test_labels
    for setting in SETTINGS:
        for seed in range(seeds):
            found = [r for r in done if (r["seed"], *_setting(r)) == (seed, *setting)]
            if not found:
                found = [run(setting, seed, test)]
                done += found
                write_atomic(kept, json.dumps(done).encode())
            yield found[0]


def _setting(row: dict[str, Any]) -> Setting:
    return Setting(*(row[name] for name in Setting._fields))


def interval(differences: list[float]) -> dict[str, float]:
    """Mean and its 95 % interval, ``mean ± t s/√n`` with Student's t for five values."""
    mean = statistics.mean(differences)
    half = T975 * statistics.stdev(differences) / math.sqrt(len(differences))
    return {name: round(v, 3) for name, v in
            (("mean", mean), ("low", mean - half), ("high", mean + half))}  # fmt: skip


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each setting the mean over seeds, and the gain over labels alone, seed by seed."""
    table = []
    for setting in SETTINGS:
        measured = "boots" if setting.images == "boots" else "accuracy"
        of = [r[measured] for r in rows if _setting(r) == setting]
        base = [
            r[measured] for r in rows if (r["images"], r["teacher"]) == (setting.images, "none")
        ]
        line = {**setting._asdict(), "measured": measured, "mean": round(statistics.mean(of), 3)}
        if setting.teacher != "none" and len(of) == SEEDS:
            line["gain"] = interval([a - b for a, b in zip(of, base, strict=True)])
        table.append(line)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"write results/{RESULT.name}")
    write = parser.parse_args().write
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    code, kept = code_state(), RESULT.with_suffix(".checkpoint")
    rows = []
    for row in runs(SEEDS if write else 1, kept):
        rows.append(row)
        print({k: v for k, v in row.items() if k != "confusion"}, flush=True)
    table = summary(rows)
    for line in table:
        print(line)
    if write:
        students = SmallCNN(WIDTH), SmallCNN()
        sizes = [sum(p.numel() for p in model.parameters()) for model in students]
        gain = next(line for line in table if line["teacher"] == "good")["gain"]
        write_record(
            RESULT,
            value=gain["mean"],
            unit="points of accuracy gained by the teacher on 2,000 images, mean of 5 seeds",
            command="python -m benchmarks.student_cnn --write",
            seconds=round(sum(r["seconds"] for r in rows), 1),
            code=code,
            model="SmallCNN",
            simulated=False,
            parameters={"student": sizes[0], "teacher": sizes[1]},
            width=WIDTH,
            config=asdict(CONFIG),
            summary=table,
            runs=rows,
        )
        kept.unlink()


if __name__ == "__main__":
    main()
