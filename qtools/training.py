"""The supervised training loop: seeded, deterministic, resumable bit for bit."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn
from tqdm.auto import tqdm

from qtools.data import normalise
from qtools.files import write_atomic
from qtools.metrics import accuracy


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides the weights, together with the data and the model's start."""

    epochs: int = 20
    batch_size: int = 128
    lr: float = 0.004
    weight_decay: float = 0.05
    warmup: float = 0.1  # share of all steps in which the rate rises to lr; a cosine takes it to 0
    shift: int = 1  # augmentation: up to this many pixels in each direction, and mirror images
    seed: int = 0
    threads: int = 1

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class Split:
    """Images uint8 [n, 28, 28] and labels int64 [n]."""

    images: Tensor
    labels: Tensor


def augment(images: Tensor, shift: int, generator: torch.Generator) -> Tensor:
    """Mirror half of the images and move each by up to `shift` pixels, filling with black.

    uint8 [n, height, width] to the same.
    """
    n, height, width = images.shape
    mirrored = torch.rand(n, generator=generator) < 0.5
    moves = torch.randint(0, 2 * shift + 1, (2, n, 1), generator=generator)
    images = torch.where(mirrored[:, None, None], images.flip(-1), images)
    rows = (moves[0] + torch.arange(height))[:, :, None]  # [n, height, 1]
    columns = (moves[1] + torch.arange(width))[:, None, :]  # [n, 1, width]
    return F.pad(images, (shift,) * 4)[torch.arange(n)[:, None, None], rows, columns]


def fit(
    model: nn.Module,
    train: Split,
    held_out: Split,
    config: TrainConfig,
    checkpoint: Path | None = None,
    before_step: Callable[[int], None] | None = None,
) -> list[dict[str, float]]:
    """Train `model` in place with AdamW and cross-entropy; return one row of history an epoch.

    After each epoch the state goes to `checkpoint` (safetensors, its JSON in the header). If that
    file is there at the start, training goes on from it and ends at the same weights, bit for bit,
    as if it had never stopped: with the same threads, instruction set and torch.

    `before_step` is called with the number of the step, from 0, before each: to prune as it goes.
    What it changes must be in the model's state dict, or a resumed run will lack it.

    Raises
    ------
    ValueError
        If the checkpoint belongs to another configuration or another number of images.
    """
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=config.weight_decay)
    identity = {"config": asdict(config), "images": len(train.images)}
    history: list[dict[str, float]] = []
    if checkpoint is not None and checkpoint.exists():
        history = _load(checkpoint, model, optimiser, identity)
    steps = -(-len(train.images) // config.batch_size)
    x_held_out = normalise(held_out.images)
    with (
        _deterministic(config.threads),
        tqdm(total=config.epochs * steps, initial=len(history) * steps, unit="step") as bar,
    ):
        for epoch in range(len(history), config.epochs):
            start, total_loss = time.perf_counter(), 0.0
            # All of an epoch's chance comes from its number, so a checkpoint needs no generator.
            generator = torch.Generator().manual_seed(config.seed * 1_000_003 + epoch)
            order = torch.randperm(len(train.images), generator=generator)
            model.train()
            for step, index in enumerate(order.split(config.batch_size)):
                if before_step is not None:
                    before_step(epoch * steps + step)
                rate = _rate(config, (epoch * steps + step) / (config.epochs * steps))
                for group in optimiser.param_groups:
                    group["lr"] = rate
                x = normalise(augment(train.images[index], config.shift, generator))
                loss = F.cross_entropy(model(x), train.labels[index])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                total_loss += loss.item() * len(index)
                bar.update()
            right = accuracy(model, x_held_out, held_out.labels)
            row = {
                "epoch": epoch + 1,
                "train_loss": total_loss / len(train.images),
                "held_out_accuracy": right.value,
                "seconds": time.perf_counter() - start,
            }
            history.append(row)
            bar.set_postfix(loss=f"{row['train_loss']:.3f}", held_out=f"{right.value:.2%}")
            if checkpoint is not None:
                _save(checkpoint, model, optimiser, identity, history)
    return history


def _rate(config: TrainConfig, progress: float) -> float:
    """Learning rate after the share `progress` of all steps."""
    if progress < config.warmup:
        return config.lr * progress / config.warmup
    done = (progress - config.warmup) / (1 - config.warmup)
    return config.lr * 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * done))))


@contextmanager
def _deterministic(threads: int) -> Iterator[None]:
    """Deterministic algorithms and a fixed number of threads, as they were again afterwards."""
    before = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.set_num_threads(before[1])


def _save(
    path: Path,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    identity: dict[str, Any],
    history: list[dict[str, float]],
) -> None:
    tensors = {f"model.{name}": t for name, t in model.state_dict().items()}
    for number, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{number}.{key}": t for key, t in state.items()}
    metadata = {"identity": json.dumps(identity), "history": json.dumps(history)}
    write_atomic(path, safetensors.torch.save(tensors, metadata))


def _load(
    path: Path, model: nn.Module, optimiser: torch.optim.Optimizer, identity: dict[str, Any]
) -> list[dict[str, float]]:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        if json.loads(metadata["identity"]) != identity:
            raise ValueError(
                f"{path} belongs to {metadata['identity']}, not to {json.dumps(identity)}: "
                "delete it or train with its settings"
            )
        tensors = {name: file.get_tensor(name) for name in file.offset_keys()}
    model.load_state_dict({name[6:]: t for name, t in tensors.items() if name.startswith("model.")})
    state: dict[int, dict[str, Tensor]] = {}
    for name, t in tensors.items():
        if name.startswith("optimiser."):
            _, number, key = name.split(".")
            state.setdefault(int(number), {})[key] = t
    optimiser.load_state_dict(
        {"state": state, "param_groups": optimiser.state_dict()["param_groups"]}
    )
    return json.loads(metadata["history"])
