"""Small distillations that the tests run, here or in processes of their own.

``python -m tests.distillation_runs FOLDER`` runs the one of `everything_by_chance`, slowly enough
to be killed on the way; with ``--forked FILE`` that of a recipe, on two processes.
"""

from __future__ import annotations

import csv
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import debug_launcher
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from qtools import cli
from qtools.distillation import DistillConfig, Distiller, Hinton, OneBit, language
from qtools.distillation.objectives import Summed
from qtools.distillation.recipe import Recipe
from qtools.models import CharGPT

ROOT = Path(__file__).parent.parent


def seeded(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return make()


def same(a: nn.Module, b: nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return all(torch.equal(ours[name], theirs[name]) for name in ours | theirs)


# ---- a classifier


def classifier(width: int = 8, seed: int = 0) -> nn.Module:
    return seeded(lambda: nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, 5)), seed)


def points(n: int = 40) -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 6, generator=generator)
    return TensorDataset(x, classifier(32, seed=9)(x).argmax(-1))


def norm_of_the_first_layer() -> Callable[[nn.Module], dict[str, float]]:
    return lambda model: {"norm": next(model.parameters()).norm().item()}


# ---- everything that draws by chance or has a state: noise in the data, dropout, BatchNorm


class Noisy:
    """Points moved by numpy and torch, so that both generators matter."""

    def __init__(self) -> None:
        self.points = points(24)

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, index: Tensor) -> tuple[Tensor, Tensor]:
        x, y = self.points[index]
        moved = x + 0.1 * torch.randn(x.shape) + float(np.random.normal(0, 0.1))
        return moved, y


def with_state(seed: int = 0, width: int = 8) -> nn.Module:
    def make() -> nn.Module:
        first, last = nn.Linear(6, width), nn.Linear(width, 5)
        return nn.Sequential(first, nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.3), last)

    return seeded(make, seed)


CHANCE = DistillConfig(epochs=10, batch_size=8, accumulation=2, lr=0.02, checkpoint_every=4)


def everything_by_chance(
    folder: Path | None, student: nn.Module | None = None, **settings: Any
) -> Distiller:
    """30 steps; the checkpoint holds AdamW's state, BatchNorm's, and the step."""
    student = with_state() if student is None else student
    keys = {"config": CHANCE, "loss": Hinton(), "progress": False, **settings}
    return Distiller(student, with_state(3), Noisy(), folder=folder, **keys)


# ---- a language model, with tokens that do not count


class Tokens:
    """Sequences of different length, padded; mappings, as for `transformers`."""

    def __init__(self, n: int = 20, tokens: int = 7) -> None:
        generator = torch.Generator().manual_seed(2)
        self.ids = torch.randint(0, 11, (n, tokens), generator=generator)
        lengths = torch.randint(1, tokens + 1, (n, 1), generator=generator)
        self.mask = (torch.arange(tokens) < lengths).long()

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: Tensor) -> dict[str, Tensor]:
        return {"input_ids": self.ids[index], "attention_mask": self.mask[index]}


class LanguageModel(nn.Module):
    """Two layers over an embedding; sees one token at a time, which is enough here. float64."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(2))
        self.head = nn.Linear(6, 11)
        nn.init.normal_(self.head.weight, std=1.0)  # tokens differ in their loss
        self.double()

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, output_hidden_states: bool = False
    ) -> SimpleNamespace:
        states = [self.embedding(input_ids)]
        for layer in self.layers:
            states.append(states[-1] + layer(states[-1]).tanh())
        return SimpleNamespace(
            logits=self.head(states[-1]), hidden_states=states if output_hidden_states else None
        )


def language_model(seed: int = 0) -> nn.Module:
    return seeded(LanguageModel, seed)


# ---- a OneBit student of a small CharGPT, as a recipe has it


def small_chargpt(characters: str = " !,.adehilnpstw", context: int = 16) -> CharGPT:
    return seeded(lambda: CharGPT(characters, width=16, layers=2, heads=2, context=context))


ONE_BIT = """
out = "{out}"

[student]
make = "qtools.distillation.language:onebit_student"
name = "{folder}/model" # student
layer_norm = false

[teacher]
make = "qtools.distillation.language:model"
name = "{folder}/model" # teacher

[data]
make = "qtools.distillation.language:windows"
name = "{folder}/model" # data
file = "{folder}/own.txt"
context = 16 # data

[loss]
make = "qtools.distillation:OneBit"
alpha = 1.0

[evaluate]
make = "qtools.distillation.language:held_out"
name = "{folder}/model" # evaluate
file = "{folder}/own.txt"
context = 16

[optimizer]
make = "qtools.distillation.language:two_rates"
vectors = 0.001

[distill]
epochs = 2
batch_size = 12
lr = 0.003
betas = [0.9, 0.98]
evaluate_every = 5
checkpoint_every = 4
device = "cpu"
"""


def double_student(name: str, **settings: Any) -> nn.Module:
    return language.onebit_student(name, **settings).double()


def double_model(name: str) -> nn.Module:
    return language.model(name).double()


def small_recipe(folder: Path, out: str = "out") -> Path:
    """Write a recipe, its model and its text into a folder; it takes 20 steps."""
    (folder / "model").write_bytes(small_chargpt().save())
    (folder / "own.txt").write_text("the sea, the sea! the whale and the ship. " * 55)
    path = folder / f"{out}.toml"
    path.write_text(ONE_BIT.format(folder=folder, out=out))
    return path


# ---- runs in processes of their own


class Slow:
    """A loss with time enough to be killed in; in checkpoints it is the loss itself."""

    def __init__(self, alpha: float = 1.0, loss: Any = None) -> None:
        self.loss = OneBit(alpha) if loss is None else loss

    def __repr__(self) -> str:
        return repr(self.loss)

    def __call__(self, student: nn.Module, teacher: nn.Module | None, batch: Any) -> Summed:
        time.sleep(0.01)
        found: Summed = self.loss(student, teacher, batch)
        return found


def launched(file: Path) -> None:
    """`qtools distill` on two processes of one thread each, under Accelerate's launcher."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    # --multi_gpu is how its launcher starts several processes; the file says that they use CPUs.
    command = ["accelerate.commands.launch", "--multi_gpu"]
    command += ["--num_processes=2", "--num_machines=1", "--mixed_precision=no"]
    command += ["--dynamo_backend=no", f"--main_process_port={port}", "-m", "qtools.cli"]
    two_processes(*command, "distill", "--config", str(file))


def forked(file: Path) -> None:
    """The same by Accelerate's launcher for debugging: it forks, so all is imported once."""
    two_processes("tests.distillation_runs", "--forked", str(file))


def two_processes(*command: str) -> None:
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, env=variables, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("wrote ") == 1, "only the main process speaks"


def rows(out: Path) -> list[dict[str, float]]:
    with (out / "steps.csv").open() as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def same_run(one: Path, two: Path, steps: int) -> None:
    """Assert the same curve and the same weights, as near as float64 sums in another order are."""
    ours, theirs = rows(one), rows(two)
    assert len(ours) == len(theirs) == steps
    for a, b in zip(ours, theirs, strict=True):
        for key in ("step", "loss", "logits", "states", "items", "norm", "rate"):
            assert a[key] == pytest.approx(b[key], rel=1e-9), key
    weights, others = (load_file(out / "student.safetensors") for out in (one, two))
    for name in weights:
        torch.testing.assert_close(weights[name], others[name], rtol=1e-7, atol=1e-9)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "--forked":
        file = Path(sys.argv[2])
        Recipe.read(file).makers["teacher"]()  # imports what it needs, once for both
        debug_launcher(cli.distill, (file,))
    else:
        everything_by_chance(Path(sys.argv[1]), loss=Slow(loss=Hinton())).run()
