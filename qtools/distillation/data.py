"""Which examples a step learns from, and what else it draws by chance: functions of its number."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

#: What a stream of chance is for comes first, or the same numbers would give the same stream.
_ORDER, _STEP = 1, 2


class Examples(Protocol):
    """Data that gives a batch for a tensor of numbers. `torch.utils.data.TensorDataset` does."""

    def __len__(self) -> int:
        """How many examples there are."""
        ...

    def __getitem__(self, index: Tensor) -> Any:
        """Return the batch of the examples with these numbers, int64 [n].

        Chance, as in augmentation, comes from the global generators of torch, numpy or Python:
        `Distiller` sets them before each step.
        """
        ...


@runtime_checkable
class Drawing(Protocol):
    """`Examples` that draw by chance and mean the same to any number of processes and parts.

    `Distiller` lets them draw once for all examples of a step, in each process alike, and takes
    from that what its part is. Other data draw in each process for its own part.
    """

    def draw(self, index: Tensor) -> Tensor:
        """Return what chance decides for the examples with these numbers, [n, ...]."""
        ...

    def at(self, drawn: Tensor) -> Any:
        """Return the batch of what was drawn, or of a part of it."""
        ...


class Collated:
    """Any map-style dataset, one example a number, as `Examples`.

    Parameters
    ----------
    dataset : object
        With ``len(dataset)`` and ``dataset[i]`` for an int i.
    collate : callable
        From a list of examples to a batch.
    """

    def __init__(self, dataset: Any, collate: Callable[[list[Any]], Any] = default_collate) -> None:
        self.dataset = dataset
        self.collate = collate

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: Tensor) -> Any:
        return self.collate([self.dataset[i] for i in index.tolist()])


class Order:
    """The order of the examples: a permutation an epoch, from the seed and the epoch's number.

    What does not fill a batch at the end of an epoch is left out; another epoch leaves out others.
    """

    def __init__(self, examples: int, batch_size: int, seed: int) -> None:
        if examples < batch_size:
            raise ValueError(
                f"data must have at least batch_size = {batch_size} examples, got {examples}"
            )
        self.examples, self.batch_size, self.seed = examples, batch_size, seed
        self.steps = examples // batch_size  # an epoch
        self._epoch = -1
        self._permutation = torch.empty(0, dtype=torch.int64)

    def batch(self, step: int) -> Tensor:
        """Numbers of the examples of a step, int64 [batch_size]: the same for every process."""
        epoch, place = divmod(step, self.steps)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(_mixed(_ORDER, self.seed, epoch))
            self._permutation = torch.randperm(self.examples, generator=generator)
            self._epoch = epoch
        return self._permutation[place * self.batch_size : (place + 1) * self.batch_size]


def parts(batch: Tensor, process: int, processes: int, each: int) -> tuple[Tensor, ...]:
    """Split a step's examples evenly over the processes, then each share into so many parts.

    Sizes differ by one at most.
    """
    return batch.tensor_split(processes)[process].tensor_split(each)


def seed_step(seed: int, step: int, process: int, device: torch.device) -> None:
    """Set the global generators of torch (CPU and device), numpy and Python for one step.

    So a run can go on at any step with nothing to restore, and what an evaluation draws in between
    changes nothing.
    """
    mixed = _mixed(_STEP, seed, step, process)
    random.seed(mixed)
    np.random.seed(mixed)
    # Not torch.manual_seed: without a GPU it takes milliseconds to note that one might come.
    torch.default_generator.manual_seed(mixed)
    if device.type != "cpu":
        getattr(torch, device.type).manual_seed(mixed)


@contextmanager
def generators_kept(device: torch.device) -> Iterator[None]:
    """Leave the global generators as they were before."""
    devices = [] if device.type == "cpu" else [device]
    ours, theirs = random.getstate(), np.random.get_state()
    try:
        kind = "cuda" if device.type == "cpu" else device.type
        with torch.random.fork_rng(devices, device_type=kind):
            yield
    finally:
        random.setstate(ours)
        np.random.set_state(theirs)


def _mixed(*numbers: int) -> int:
    """32 bits that depend on all numbers and look random: no two runs share a stream by a sum."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
