"""The long run behind chapter 9: what its record says, and that its pairs are pairs."""

from __future__ import annotations

import statistics

import pytest
import torch
from torch import Tensor, nn

from benchmarks import student_cnn as bench
from benchmarks._runs import is_of
from qtools.data import normalise
from qtools.distillation import hinton_loss
from qtools.distillation.fashion import AugmentedImages
from qtools.models import SmallCNN
from qtools.results import read_record
from qtools.training import Split

RECORD = read_record("student_smallcnn")


def split(n: int = 40) -> Split:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, 28, 28), dtype=torch.uint8, generator=generator)
    return Split(images, torch.arange(n) % 10)


def test_the_student_has_a_quarter_of_the_parameters_or_less() -> None:
    models = {"student": SmallCNN(bench.WIDTH), "teacher": SmallCNN()}
    sizes = {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()}
    assert RECORD["parameters"] == sizes
    assert 4 * sizes["student"] <= sizes["teacher"]


def test_every_setting_has_five_seeds_and_the_summary_is_theirs() -> None:
    for setting in bench.SETTINGS:
        seeds = [r["seed"] for r in RECORD["runs"] if is_of(r, setting)]
        assert seeds == list(range(bench.SEEDS))
    assert RECORD["summary"] == bench.summary(RECORD["runs"])
    assert len(RECORD["runs"]) == bench.SEEDS * len(bench.SETTINGS)
    for run in RECORD["runs"]:
        if "confusion" in run:
            pairs = torch.tensor(run["confusion"])
            assert pairs.sum(1).tolist() == [1_000] * 10
            assert run["accuracy"] == pytest.approx(pairs.trace().item() / 100)


def test_the_interval_is_students() -> None:
    differences = [1.0, 2.5, 0.5, 3.0, 1.5]
    half = 2.7764451 * statistics.stdev(differences) / 5**0.5
    expected = {"mean": 1.7, "low": 1.7 - half, "high": 1.7 + half}
    assert bench.interval(differences) == pytest.approx(expected, abs=6e-4)
    # The density of t with 4 degrees of freedom, integrated: 97.5 % lie below T975.
    t = torch.linspace(0, bench.T975, 100_001, dtype=torch.float64)
    inside = torch.trapezoid(0.375 * (1 + t**2 / 4) ** -2.5, t).item()
    assert inside == pytest.approx(0.475, abs=1e-8)


def test_versions_are_those_of_the_augmentation() -> None:
    """With and without a teacher, and in `Distiller`'s own data: the same images."""
    data, index = split(), torch.randperm(40)[:17]
    teacher = SmallCNN(0.25).eval()
    batches = []
    for examples in (
        AugmentedImages(data),
        bench.Asked(data, None, augmented=True),
        bench.Asked(data, teacher, augmented=True),
    ):
        torch.manual_seed(3)
        batches.append(examples[index])
    for batch in batches[1:]:
        assert torch.equal(batch[0], batches[0][0])
        assert torch.equal(batch[1], batches[0][1])
    with torch.no_grad():
        asked = teacher(batches[2][0])
    torch.testing.assert_close(batches[2][2], asked, atol=1e-5, rtol=1e-5)


def test_without_augmentation_images_stay_as_they_are() -> None:
    data, index = split(), torch.tensor([3, 1, 39])
    x, y = bench.Asked(data, None, augmented=False)[index]
    assert torch.equal(x, normalise(data.images[index]))
    assert torch.equal(y, data.labels[index])


def test_answers_kept_give_hintons_loss() -> None:
    class Logits(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    z, v, y = torch.randn(6, 10), torch.randn(6, 10), torch.arange(6)
    summed = bench.Kept(4.0, 0.9)(Logits(), None, (z, y, v))
    assert summed.items == 6
    torch.testing.assert_close(summed.total / 6, hinton_loss(z, v, 4.0, y, 0.9))


def test_no_boot_among_the_boots_setting() -> None:
    few, boots = bench.transfer_set("few"), bench.transfer_set("boots")
    assert bench.BOOT not in boots.labels
    assert len(boots.images) == len(few.images) - int((few.labels == bench.BOOT).sum())
