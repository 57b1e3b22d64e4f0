"""Softened logits without a browser: the record against the network, the numbers by hand."""

from __future__ import annotations

import base64
import json
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import traitlets
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import temperature as bench
from qtools.data import CLASSES, fashion_mnist, normalise
from qtools.explore import Temperature
from qtools.explore.temperature import EXAMPLES, STUDENTS, data_script, logits
from qtools.models import SmallCNN
from qtools.results import read_record


def figures(**fixed: st.SearchStrategy) -> st.SearchStrategy[Temperature]:
    drawn = {
        "image": st.integers(0, len(EXAMPLES) - 1),
        "student": st.sampled_from(STUDENTS),
        "temperature": st.floats(0.5, 128),
    }
    return st.builds(Temperature, **(drawn | fixed))


def pair(figure: Temperature) -> tuple[torch.Tensor, torch.Tensor]:
    v = logits("teacher")[figure.image]
    z = logits("student")[figure.image] if figure.student == "trained" else torch.zeros(10)
    return v, z.double()


def listed(numbers: dict[str, float], letter: str) -> list[float]:
    return [numbers[f"{letter}_{i}"] for i in range(len(CLASSES))]


def test_the_logits_are_the_networks() -> None:
    data, record = fashion_mnist(), read_record("temperature")
    images = list(bench.IMAGES)
    assert record["images"] == images
    assert record["labels"] == data.test_labels[images].tolist()
    with torch.inference_mode():
        v = SmallCNN.pretrained()(normalise(data.test_images[images]))
    assert (v - logits("teacher")).abs().max() < 6e-4  # three decimals
    assert record["pixels"] == [bench.packed(image) for image in data.test_images[images]]
    assert record["student_images"] == bench.TRAIN
    assert len(images) == len(EXAMPLES) == len(logits("student"))


def test_shades_are_the_nearest_of_sixteen() -> None:
    image = torch.arange(256, dtype=torch.uint8).repeat(4)[: 28 * 28].view(28, 28)
    content = base64.b64decode(bench.packed(image))
    shades = [shade for byte in content for shade in (byte % 16, byte // 16)]
    assert all(abs(17 * s - int(p)) <= 8 for s, p in zip(shades, image.flatten(), strict=True))


@given(figures())
def test_the_gradient_is_that_of_the_loss(figure: Temperature) -> None:
    """By autograd, through torch's own KL divergence, which has the same gradient."""
    t, (v, z) = figure.temperature, pair(figure)
    z.requires_grad_()
    soft = F.log_softmax(z / t, 0), F.log_softmax(v / t, 0)
    F.kl_div(*soft, log_target=True, reduction="sum").backward()
    assert z.grad is not None
    numbers = figure.compute()
    assert listed(numbers, "g") == pytest.approx((t**2 * z.grad).tolist(), rel=1e-7, abs=1e-10)
    assert numbers["plain"] == pytest.approx(z.grad.norm().item(), rel=1e-7, abs=1e-12)
    assert numbers["scaled"] == pytest.approx(t**2 * numbers["plain"], rel=1e-12)


@given(figures())
def test_the_softened_answer(figure: Temperature) -> None:
    numbers, t = figure.compute(), figure.temperature
    powers = [math.exp(x / t) for x in logits("teacher")[figure.image].tolist()]
    p = [x / sum(powers) for x in powers]
    assert listed(numbers, "p") == pytest.approx(p, rel=1e-10)
    assert numbers["entropy"] == pytest.approx(-sum(x * math.log(x) for x in p), abs=1e-10)
    assert 1 <= numbers["classes"] <= 10
    assert sum(listed(numbers, "g")) == pytest.approx(0, abs=1e-10)


@given(figures())
def test_the_limit_is_as_near_as_the_proposition_says(figure: Temperature) -> None:
    """Chapter 9: each logit's gradient is off by at most the squared ranges over 8 T."""
    v, z = pair(figure)
    far = ((z - z.mean()) - (v - v.mean())) / 10
    bound = sum(float(x.max() - x.min()) ** 2 / (8 * figure.temperature) for x in (v, z))
    numbers = figure.compute()
    g = torch.tensor(listed(numbers, "g"), dtype=torch.float64)
    assert (g - far).abs().max() <= bound
    assert numbers["limit"] == pytest.approx(far.norm().item())


@given(figures(), st.floats(0.5, 128))
def test_warmer_is_never_surer(figure: Temperature, other: float) -> None:
    low, high = sorted((figure.temperature, other))
    state = figure.state()
    cool, warm = (Temperature(**{**state, "temperature": t}).compute() for t in (low, high))
    assert cool["entropy"] <= warm["entropy"] + 1e-12


def test_the_page_carries_the_record() -> None:
    record = read_record("temperature")
    data = json.loads(data_script().removeprefix("const DATA = ").rstrip(";\n"))
    assert data["teacher"] == record["teacher"]
    assert data["student"] == record["student"]
    assert data["classes"] == list(CLASSES)
    assert data["examples"] == list(EXAMPLES)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"image": 6}, "image"),
        ({"student": "good"}, "student"),
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": math.nan}, "temperature must be a finite number"),
    ],
    ids=str,
)
def test_wrong_state_is_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(traitlets.TraitError, match=words):
        Temperature(**wrong)
