"""The command line: ``qtools data``, ``train``, ``distill``, ``pack``, ``evaluate`` and more."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import torch
import typer

import qtools
from qtools import causal, evaluation, models, onebit, recipes, weight_only
from qtools import data as sets
from qtools.distillation.nonfinite import NonFiniteError
from qtools.distillation.recipe import Recipe
from qtools.onebit import storage
from qtools.results import PACKAGE
from qtools.training import TrainConfig

app = typer.Typer(
    help="The command line of Down to One Bit, an interactive book on model compression.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
train_app = typer.Typer(help="Train the book's networks.", no_args_is_help=True)
app.add_typer(train_app, name="train")


class DataSet(StrEnum):
    """What `qtools data` can fetch."""

    FASHION_MNIST = "fashion-mnist"
    MOBY_DICK = "moby-dick"
    ALL = "all"


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Turn expected errors into one clear message and exit status 2."""
    try:
        yield
    except (sets.DataUnavailableError, OSError, ValueError) as error:
        typer.echo(f"qtools: {error}", err=True)
        raise typer.Exit(2) from None


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"qtools {qtools.__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Options that come before a command."""


@app.command()
def data(
    name: Annotated[DataSet, typer.Argument(help="Which data set.")] = DataSet.ALL,
) -> None:
    """Fetch the book's data sets into the cache and check them.

    The cache is $QTOOLS_CACHE or the platform's user cache. What is there already is only checked.
    """
    with _plain_errors():
        if name in (DataSet.FASHION_MNIST, DataSet.ALL):
            images = sets.fashion_mnist()
            typer.echo(
                f"fashion-mnist: {len(images.train_images)} training and "
                f"{len(images.test_images)} test images in {sets.cache_dir()}"
            )
        if name in (DataSet.MOBY_DICK, DataSet.ALL):
            text = sets.moby_dick()
            typer.echo(f"moby-dick: {len(text)} characters in {sets.cache_dir()}")


Seed = Annotated[int, typer.Option(min=0, help="Decides the start and all chance.")]
Out = Annotated[
    Path | None,
    typer.Option(
        help="Folder for weights and record. Without it: qtools/weights and results "
        "of the checkout that qtools is installed from."
    ),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on from the checkpoint of an interrupted run.")
]


@train_app.command("smallcnn")
def train_smallcnn(
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training images.")] = 20,
    seed: Seed = 0,
    out: Out = None,
    resume: Resume = False,
) -> None:
    """Train SmallCNN on Fashion-MNIST: one thread, deterministic, resumable bit for bit."""
    with _plain_errors():
        weights, record = _places("smallcnn", out)
        with _resumable(recipes.checkpoint_path(record), resume):
            test = recipes.smallcnn(TrainConfig(epochs=epochs, seed=seed), weights, record)
        typer.echo(f"test accuracy {test}\nwrote {weights} and {record}")


@train_app.command("chargpt")
def train_chargpt(
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training text.")] = (
        recipes.CHARGPT.epochs
    ),
    seed: Seed = 0,
    out: Out = None,
    resume: Resume = False,
) -> None:
    """Train CharGPT on Moby Dick: two threads, deterministic, resumable bit for bit."""
    with _plain_errors():
        weights, record = _places("chargpt", out)
        config = replace(recipes.CHARGPT, epochs=epochs, seed=seed)
        with _resumable(recipes.run_folder(record), resume):
            nats = recipes.chargpt(config, weights, record)
        typer.echo(f"held-out text: {nats:.4f} nats a character\nwrote {weights} and {record}")


def _places(name: str, out: Path | None) -> tuple[Path, Path]:
    """Files for the weights and the record of a network."""
    if out is None and not (PACKAGE.parent / "pyproject.toml").exists():
        raise ValueError("qtools is not installed from a checkout: say where with --out")
    weights = (models.WEIGHTS if out is None else out) / f"{name}.safetensors"
    return weights, (PACKAGE.parent / "results" if out is None else out) / f"{name}.json"


@contextmanager
def _resumable(state: Path, resume: bool) -> Iterator[None]:
    """Go on only if that is wanted, start only where nothing is; when stopped say how to go on."""
    if state.exists() and not resume:
        raise ValueError(f"{state} is there: go on with --resume, or delete it")
    if resume and not state.exists():
        raise ValueError(f"{state} is not there: leave out --resume to start")
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("stopped; go on with --resume", err=True)
        raise typer.Exit(130) from None


@app.command()
def distill(
    config: Annotated[Path, typer.Option(help="TOML file: student, teacher, data, loss.")],
    resume: Resume = False,
) -> None:
    """Train a student on its teacher's answers, as a TOML file says.

    On several processes or GPUs: accelerate launch -m qtools.cli distill --config FILE.
    """
    with _plain_errors():
        recipe = Recipe.read(config)
        try:
            with _resumable(recipe.checkpoint, resume):
                history = recipe.run()
        except NonFiniteError as error:
            raise ValueError(f"{error}; try a smaller lr or max_norm") from error
        if history is not None:  # in the main process
            for row in (*history.steps[-1:], *history.evaluations[-1:]):
                typer.echo(", ".join(f"{name} {value:.6g}" for name, value in row.items()))
            typer.echo(str(history.cost))
            typer.echo(f"wrote {recipe.out / 'student.safetensors'} and {recipe.out / 'run.json'}")


Model = Annotated[str, typer.Argument(help=f"{', '.join(evaluation.NAMES)}, or a model's file.")]


@app.command()
def pack(
    config: Annotated[Path, typer.Option(help="TOML file of a distillation that has ended.")],
) -> None:
    """Write the student of a distillation, signs as bits, all else in float16: packed.safetensors.

    It stands beside the student's own file; of a model of transformers, so do its configuration
    and tokenizer.
    """
    with _plain_errors():
        recipe = Recipe.read(config)
        path = recipe.out / "packed.safetensors"
        student = recipe.student()
        onebit.pack_(student)
        student.half()
        causal.keep_beside(student, recipe.out)
        typer.echo(f"{onebit.save(student, path)}\nwrote {path}")


@app.command()
def generate(
    model: Model,
    prompt: Annotated[str, typer.Option(help="What it continues.")] = "Call me Ishmael",
    length: Annotated[int, typer.Option(min=1, help="Characters or tokens to write.")] = 400,
    temperature: Annotated[float, typer.Option(min=0, help="0: always the likeliest.")] = 0.8,
    seed: Seed = 0,
) -> None:
    """Let a language model write on: a CharGPT, or one of transformers that was packed."""
    with _plain_errors():
        network = evaluation.load(model)
        tokens = network.encode(prompt)[None]
        chance = torch.Generator().manual_seed(seed)
        typer.echo(network.decode(network.generate(tokens, length, temperature, chance)[0]))


@app.command()
def report(
    file: Annotated[Path, typer.Argument(help="A file that qtools.onebit.save wrote.")],
) -> None:
    """Say what a OneBit file holds: its layers, bits per weight, bytes by kind."""
    with _plain_errors():
        shapes, total = storage.layers(file), storage.report(file)
    width = max(map(len, shapes), default=0)
    for name, layer in shapes.items():
        typer.echo(f"{name:<{width}}  {layer.in_features} to {layer.out_features}, {layer.kind}")
    typer.echo(str(total))


@app.command()
def evaluate(
    model: Model,
    weights: Annotated[
        str | None,
        typer.Option(help=f"Quantize its weights first: {', '.join(weight_only.METHODS)}."),
    ] = None,
    bits: Annotated[int | None, typer.Option(help="Bits of a weight, 1 to 8.")] = None,
    group_size: Annotated[
        int | None, typer.Option(help="Columns that share a scale; without it a row does.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Foretell the held-out tenth of Moby Dick, character by character or token by token."""
    with _plain_errors():
        if (weights is None) != (bits is None) or (weights is None and group_size is not None):
            raise ValueError("--weights and --bits go together, and --group-size with them")
        network = evaluation.load(model)
        if weights is not None and bits is not None:
            batches = None if weights == "rtn" else evaluation.calibration(network)
            weight_only.quantize_weights(network, weights, bits, group_size, calibration=batches)
        found = evaluation.evaluate(network)._asdict()
    if as_json:
        typer.echo(json.dumps(found))
    else:
        for name, value in found.items():
            typer.echo(f"{name}: {value:.6g}" if isinstance(value, float) else f"{name}: {value}")


if __name__ == "__main__":
    app()
