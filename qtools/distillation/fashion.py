"""Fashion-MNIST as a distillation takes it: images to train on, and how many are got right."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qtools.data import fashion_mnist, normalise
from qtools.distillation.loop import Evaluation
from qtools.metrics import accuracy
from qtools.recipes import HELD_OUT
from qtools.training import Split, augment


class AugmentedImages:
    """Images mirrored and moved by chance, float32 [n, 1, 28, 28], and their labels int64 [n].

    Parameters
    ----------
    split : Split
    shift : int
        Up to this many pixels in each direction; with 0 the images are only mirrored.
    """

    def __init__(self, split: Split, shift: int = 1) -> None:
        self.split, self.shift = split, shift

    def __len__(self) -> int:
        return len(self.split.images)

    def __getitem__(self, index: Tensor) -> tuple[Tensor, Tensor]:
        images = augment(self.split.images[index], self.shift, torch.default_generator)
        return normalise(images), self.split.labels[index]


def training_images(size: int = 60_000 - HELD_OUT, shift: int = 1) -> AugmentedImages:
    """Return the first images of the training set, up to the 55,000 that are not held out."""
    if not 1 <= size <= 60_000 - HELD_OUT:
        raise ValueError(f"size must be between 1 and {60_000 - HELD_OUT}, got {size}")
    data = fashion_mnist()
    return AugmentedImages(Split(data.train_images[:size], data.train_labels[:size]), shift)


def held_out_accuracy() -> Evaluation:
    """Return a function from a network to its accuracy on the 5,000 held-out training images."""
    data = fashion_mnist()
    images, labels = data.train_images[-HELD_OUT:], data.train_labels[-HELD_OUT:]

    def evaluate(model: nn.Module) -> dict[str, float]:
        device = next(model.parameters()).device
        found = accuracy(model, normalise(images).to(device), labels.to(device))
        return {"held_out_accuracy": found.value}

    return evaluate
