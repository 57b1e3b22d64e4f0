"""A student of a fifteenth of the parameters, with and without its teacher, over seeds.

    python -m benchmarks.student_cnn [--write]

The teacher is the pretrained SmallCNN, the student a SmallCNN of a quarter of the width. Both
students of a pair start from the same weights and see the same batches; only the loss differs:
labels alone, or Hinton's. So the differences are paired, seed by seed, and their mean stands with
its 95 % interval of Student's t.

- "few": the first 2,000 training images, mirrored and moved by chance; also with a weak teacher,
  a SmallCNN of full width that learned from the labels of these same 2,000 images.
- "boots": the 2,000 without the ankle boots, as they are. What becomes of the boots in the test
  set? A demonstration: its epochs were picked because they show the effect.
- "all": 55,000 training images, as they are.

Without ``--write`` one seed, with it five. Temperature, alpha and learning rate were chosen with
other seeds on the 5,000 held-out training images. Finished runs are kept beside the record
(``*.checkpoint``) until it is complete, and an interrupted command goes on after the last.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks._runs import collected, is_of, resumable, wants_to_write
from qtools.data import CLASSES, fashion_mnist, normalise
from qtools.distillation import DistillConfig, Distiller, LabelsOnly, Summed, hinton_loss
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
    Setting("few", 80, "weak"),
    Setting("boots", 60, "none"),
    Setting("boots", 60, "good", temperature=1.0, alpha=1.0),
    Setting("boots", 60, "good", temperature=4.0, alpha=1.0),
    Setting("all", 2, "none"),
    Setting("all", 2, "good"),
)


def transfer_set(name: str) -> Split:
    """The images that a setting trains on."""
    data = fashion_mnist()
    size = {"few": 2_000, "all": len(data.train_images) - HELD_OUT, "boots": 2_000}[name]
    images, labels = data.train_images[:size], data.train_labels[:size]
    if name == "boots":
        images, labels = images[labels != BOOT], labels[labels != BOOT]
    return Split(images, labels)


class Asked:
    """Images in their versions, labels, and a teacher's answers to every version of every image.

    Augmented, an image is mirrored and moved by up to a pixel, by chance: 18 versions. The teacher
    is asked about all of them once, for all seeds. Otherwise there is one version.
    """

    def __init__(self, split: Split, teacher: nn.Module | None, augmented: bool) -> None:
        images, labels = split.images, split.labels
        self.augmented = augmented
        if self.augmented:
            padded = [F.pad(one, (1, 1, 1, 1)) for one in (images, images.flip(-1))]
            moved = [
                p[:, r : r + 28, c : c + 28] for p in padded for r in range(3) for c in range(3)
            ]
            self.versions = torch.stack(moved)
        else:
            self.versions = images[None]
        rows = self.versions.flatten(0, 1).split(500)
        with torch.no_grad():
            answers = [] if teacher is None else [teacher(normalise(row)) for row in rows]
        self.answers = torch.cat(answers).view(-1, len(images), 10) if answers else None
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor) -> tuple[Tensor, ...]:
        which = torch.zeros_like(index)
        if self.augmented:  # drawn in the order of `qtools.training.augment`
            mirrored = torch.rand(len(index)) < 0.5
            down, right = torch.randint(0, 3, (2, len(index), 1)).squeeze(-1)
            which = 9 * mirrored + 3 * down + right
        batch = normalise(self.versions[which, index]), self.labels[index]
        return batch if self.answers is None else (*batch, self.answers[which, index])


@dataclass(frozen=True)
class Kept:
    """Hinton's loss with answers that the batch brings along; no teacher runs in the loop."""

    temperature: float
    alpha: float

    def __call__(self, student: nn.Module, teacher: nn.Module | None, batch: Any) -> Summed:
        """Sum the loss over a batch of images, labels and the teacher's logits."""
        x, y, v = batch
        loss = hinton_loss(student(x), v, self.temperature, y, self.alpha, reduction="sum")
        return Summed(loss, len(y), {})


def train(student: nn.Module, data: Asked, setting: Setting, seed: int) -> nn.Module:
    """Train in place from labels, or from labels and a teacher's answers to the same images."""
    kept = data.answers is not None
    loss = Kept(setting.temperature, setting.alpha) if kept else LabelsOnly()
    config = replace(CONFIG, epochs=setting.epochs, seed=seed)
    Distiller(student, None, data, config, loss, progress=False).run()
    return student.eval()


@cache
def asked(images: str, teacher: str) -> Asked:
    """The images of a setting, with the answers of its teacher."""
    good = teacher == "good"
    model = None if teacher == "none" else SmallCNN.pretrained() if good else weak_teacher()
    return Asked(transfer_set(images), model, augmented=images == "few")


def network(width: float, seed: int) -> nn.Module:
    """An untrained network, the same for the same seed."""
    torch.manual_seed(seed)
    return SmallCNN(width)


@cache
def weak_teacher() -> nn.Module:
    """A SmallCNN of full width that learned from the labels of the 2,000 images."""
    seed, setting = 1_000, Setting("few", WEAK_EPOCHS, "none")
    return train(network(1.0, seed), asked("few", "none"), setting, seed)


def run(setting: Setting, seed: int, test: tuple[Tensor, Tensor]) -> dict[str, Any]:
    """Train once; return what the student does on the test images, and the seconds it took."""
    start = time.perf_counter()
    student = train(network(WIDTH, seed), asked(setting.images, setting.teacher), setting, seed)
    predicted, labels = answers(student, test)
    found: dict[str, Any] = {**setting._asdict(), "seed": seed}
    found["accuracy"] = percent(predicted, labels)
    if setting.teacher == "weak":
        found["teacher_accuracy"] = percent(*answers(weak_teacher(), test))
    if setting.images == "boots":
        boots = labels == BOOT
        found["boots"] = percent(predicted[boots], labels[boots])
    if (setting.images, setting.teacher) == ("few", "none"):
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
    """All runs, setting by setting."""
    data = fashion_mnist()
    test = normalise(data.test_images), data.test_labels
    order = ((setting, seed) for setting in SETTINGS for seed in range(seeds))
    return resumable(order, kept, lambda setting, seed: run(setting, seed, test))


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
        of = [r[measured] for r in rows if is_of(r, setting)]
        base = [
            r[measured] for r in rows if (r["images"], r["teacher"]) == (setting.images, "none")
        ]
        line = {**setting._asdict(), "measured": measured, "mean": round(statistics.mean(of), 3)}
        if setting.teacher != "none" and len(of) == SEEDS:
            line["gain"] = interval([a - b for a, b in zip(of, base, strict=True)])
        table.append(line)
    return table


def main() -> None:
    write = wants_to_write(__doc__, RESULT)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    code, kept = code_state(), RESULT.with_suffix(".checkpoint")
    rows = collected(
        runs(SEEDS if write else 1, kept),
        lambda row: {k: v for k, v in row.items() if k != "confusion"},
    )
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
