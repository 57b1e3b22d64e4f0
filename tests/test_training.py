"""The training loop: deterministic, resumable bit for bit, and it learns."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from qtools import training
from qtools.models import SmallCNN
from qtools.training import Split, TrainConfig, augment, fit

CONFIG = TrainConfig(epochs=3, batch_size=16)


def toy(n: int) -> Split:
    """Images with a bright square whose place is their label."""
    generator = torch.Generator().manual_seed(n)
    labels = torch.arange(n) % 10
    images = torch.randint(0, 50, (n, 28, 28), generator=generator, dtype=torch.uint8)
    for image, label in zip(images, labels.tolist(), strict=True):
        row, column = 3 + 10 * (label // 5), 3 + 4 * (label % 5)
        image[row : row + 8, column : column + 4] = 255
    return Split(images, labels)


def start() -> SmallCNN:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return SmallCNN()


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return all(torch.equal(ours[name], theirs[name]) for name in ours | theirs)


@pytest.fixture(scope="module")
def reference():
    model = start()
    history = fit(model, toy(72), toy(20), CONFIG)
    return model, history


def test_same_seed_same_bits_whatever_else_draws_numbers(reference):
    torch.rand(3)
    again = start()
    history = fit(again, toy(72), toy(20), CONFIG)
    assert same(again, reference[0])
    for ours, theirs in zip(history, reference[1], strict=True):
        assert {**ours, "seconds": 0} == {**theirs, "seconds": 0}


def test_other_seed_other_bits(reference):
    other = start()
    fit(other, toy(72), toy(20), TrainConfig(epochs=3, batch_size=16, seed=1))
    assert not same(other, reference[0])


@pytest.mark.parametrize("stop", [1, 6, 12])
def test_interrupted_and_resumed_gives_the_same_bits(reference, tmp_path, monkeypatch, stop):
    """Stopped in the middle of an epoch, any number of steps in; five steps are an epoch."""
    checkpoint = tmp_path / "run.checkpoint"
    steps = 0

    def interrupted(*args):
        nonlocal steps
        steps += 1
        if steps == stop:
            raise KeyboardInterrupt
        return augment(*args)

    with monkeypatch.context() as patch:
        patch.setattr(training, "augment", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fit(start(), toy(72), toy(20), CONFIG, checkpoint)
    assert checkpoint.exists() == (stop > 5)
    torch.manual_seed(99)
    resumed = SmallCNN()  # its own start must not matter once there is a checkpoint
    if stop <= 5:
        resumed = start()
    history = fit(resumed, toy(72), toy(20), CONFIG, checkpoint)
    assert same(resumed, reference[0])
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert [row["train_loss"] for row in history] == [row["train_loss"] for row in reference[1]]


def test_finished_checkpoint_trains_no_further(reference, tmp_path):
    checkpoint = tmp_path / "run.checkpoint"
    fit(start(), toy(72), toy(20), CONFIG, checkpoint)
    again = SmallCNN()
    history = fit(again, toy(72), toy(20), CONFIG, checkpoint)
    assert same(again, reference[0])
    assert len(history) == 3


def test_checkpoint_is_safetensors_and_json(tmp_path):
    checkpoint = tmp_path / "run.checkpoint"
    fit(start(), toy(16), toy(10), TrainConfig(epochs=1, batch_size=16), checkpoint)
    with safe_open(checkpoint, framework="pt") as file:
        assert set(file.metadata()) == {"identity", "history"}
        names = {name.partition(".")[0] for name in file.offset_keys()}
    assert names == {"model", "optimiser"}
    assert [p.name for p in tmp_path.iterdir()] == ["run.checkpoint"]


@pytest.mark.parametrize("config", [{"epochs": 2}, {"seed": 1}, {"lr": 0.1}])
def test_checkpoint_of_another_run_is_refused(tmp_path, config):
    checkpoint = tmp_path / "run.checkpoint"
    small = {"epochs": 1, "batch_size": 16}
    fit(start(), toy(16), toy(10), TrainConfig(**small), checkpoint)
    with pytest.raises(ValueError, match="belongs to"):
        fit(start(), toy(16), toy(10), TrainConfig(**small | config), checkpoint)
    with pytest.raises(ValueError, match="belongs to"):
        fit(start(), toy(17), toy(10), TrainConfig(**small), checkpoint)


def test_settings_are_put_back():
    torch.set_num_threads(1)
    assert not torch.are_deterministic_algorithms_enabled()
    fit(start(), toy(16), toy(10), TrainConfig(epochs=1, batch_size=16, threads=2))
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.get_num_threads() == 1


def test_it_learns():
    model = start()
    history = fit(model, toy(200), toy(100), TrainConfig(epochs=6, batch_size=20, lr=0.003))
    assert history[-1]["train_loss"] < history[0]["train_loss"] / 3
    assert history[-1]["held_out_accuracy"] >= 0.9


@given(st.integers(1, 30), st.floats(0, 1))
def test_rate_rises_linearly_then_falls_as_a_cosine(epochs, progress):
    config = TrainConfig(epochs=epochs, lr=0.5, warmup=0.25)
    rate = training._rate(config, progress)
    if progress < 0.25:
        assert rate == pytest.approx(2 * progress)
    else:
        share = (progress - 0.25) / 0.75
        assert rate == pytest.approx(0.25 * (1 + math.cos(math.pi * share)), abs=1e-6)


@given(st.integers(0, 3), st.integers(0, 2**31))
def test_augment_moves_and_mirrors_each_image(shift, seed):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (6, 7, 9), generator=generator, dtype=torch.uint8)
    got = augment(images, shift, generator)
    assert got.shape == images.shape
    assert got.dtype == torch.uint8
    for image, result in zip(images, got, strict=True):
        candidates = []
        for source in (image, image.flip(-1)):
            canvas = torch.zeros(7 + 2 * shift, 9 + 2 * shift, dtype=torch.uint8)
            canvas[shift : shift + 7, shift : shift + 9] = source
            candidates += [
                canvas[i : i + 7, j : j + 9]
                for i in range(2 * shift + 1)
                for j in range(2 * shift + 1)
            ]
        assert any(torch.equal(result, candidate) for candidate in candidates)


def test_augment_uses_all_moves():
    images = torch.zeros(2000, 5, 5, dtype=torch.uint8)
    images[:, 2, 1] = 255
    got = augment(images, 1, torch.Generator().manual_seed(0))
    places = {tuple(p) for p in (got == 255).nonzero()[:, 1:].tolist()}
    assert places == {(i, j) for i in (1, 2, 3) for j in range(5)}


@pytest.mark.parametrize("name", ["epochs", "batch_size", "threads"])
def test_config_refuses(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        TrainConfig(**{name: 0})
