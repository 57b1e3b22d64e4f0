"""How the trained networks of the book were made, from data to record."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from qtools import text
from qtools.data import fashion_mnist, moby_dick, normalise
from qtools.distillation import DistillConfig, Distiller, LabelsOnly
from qtools.files import sha256, write_atomic
from qtools.metrics import Accuracy, accuracy, latency, storage
from qtools.models import CharGPT, SmallCNN
from qtools.results import code_state, write_record
from qtools.training import Split, TrainConfig, fit

HELD_OUT = 5000  # of the training images, the last ones: for choosing; the test set only reports


def smallcnn(config: TrainConfig, weights: Path, record: Path) -> Accuracy:
    """Train SmallCNN on Fashion-MNIST; write `weights` (safetensors) and `record` (JSON).

    The file's hash goes to ``sha256.json`` beside it. An interrupted run leaves a checkpoint beside
    `record` (see `checkpoint_path`) and goes on from it.

    Returns
    -------
    Accuracy
        On the 10,000 test images.
    """
    code = code_state()
    data = fashion_mnist()
    train = Split(data.train_images[:-HELD_OUT], data.train_labels[:-HELD_OUT])
    held_out = Split(data.train_images[-HELD_OUT:], data.train_labels[-HELD_OUT:])
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(config.seed)
        model = SmallCNN()
    checkpoint = checkpoint_path(record)
    history = fit(model, train, held_out, config, checkpoint)

    state = {name: t.contiguous() for name, t in model.eval().state_dict().items()}
    content = safetensors.torch.save(state)
    test = accuracy(model, normalise(data.test_images), data.test_labels)
    image = normalise(data.test_images[:1])
    with torch.inference_mode():
        one = latency(lambda: model(image), warmup=50, runs=500)
    size = storage(state)
    write_atomic(weights, content)
    _note_hash(weights, sha256(content))
    write_record(
        record,
        value=test.value,
        unit="test accuracy",
        command=f"qtools train smallcnn --epochs {config.epochs} --seed {config.seed}",
        seconds=round(sum(row["seconds"] for row in history), 1),
        code=code,
        model="SmallCNN",
        method="float32",
        simulated=False,
        parameters=sum(p.numel() for p in model.parameters()),
        accuracy=test._asdict(),
        storage={
            "file_bytes": size.file_bytes,
            "data_bytes": size.data_bytes,
            "header_bytes": size.header_bytes,
        },
        latency={
            "batch": 1,
            "threads": torch.get_num_threads(),
            "median_ms": round(one.median * 1e3, 4),
            "minimum_ms": round(one.minimum * 1e3, 4),
            "runs": one.runs,
        },
        weights={"file": weights.name, "sha256": sha256(content)},
        seed=config.seed,
        config=asdict(config),
        images={"train": len(train.images), "held_out": HELD_OUT, "test": test.n},
        history=[{key: round(value, 6) for key, value in row.items()} for row in history],
    )
    checkpoint.unlink(missing_ok=True)
    return test


#: What decides CharGPT, beside its own defaults; the seed is the caller's.
CHARGPT = DistillConfig(
    epochs=8,
    batch_size=16,
    lr=0.003,
    betas=(0.9, 0.95),
    weight_decay=0.1,
    warmup=0.05,
    device="cpu",
    threads=2,
    log_every=20,
    evaluate_every=500,
    checkpoint_every=100,
)


def chargpt(config: DistillConfig, weights: Path, record: Path) -> float:
    """Train CharGPT on the first 90 % of Moby Dick; write `weights` (float16) and `record`.

    An interrupted run leaves its state in a folder beside `record` (`run_folder`) and goes on
    from it.

    Returns
    -------
    float
        Nats a character on the rest of the text, with the weights as they are stored.
    """
    code = code_state()
    train, held_out = text.split()
    characters = "".join(sorted(set(moby_dick())))
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(config.seed)
        model = CharGPT(characters)
    tokens = model.encode(held_out)

    def evaluate(network: nn.Module) -> dict[str, float]:
        return {"nats": text.nats_per_character(network, tokens, model.context)}

    windows = text.Windows(model.encode(train), model.context)
    folder = run_folder(record)
    run = Distiller(model, None, windows, config, LabelsOnly(), folder=folder, evaluate=evaluate)
    history = run.run()

    content = model.half().save()
    stored = CharGPT.load(content)
    nats = text.nats_per_character(stored, tokens, stored.context)
    write_atomic(weights, content)
    _note_hash(weights, sha256(content))
    write_record(
        record,
        value=round(nats, 4),
        unit="nats a character, held-out text",
        command=f"qtools train chargpt --seed {config.seed}",
        seconds=round(sum(row["seconds"] for row in history.steps) * config.log_every, 1),
        code=code,
        model="CharGPT",
        method="float16",
        simulated=False,
        parameters=sum(p.numel() for p in stored.parameters()),
        perplexity=round(text.perplexity(nats), 4),
        characters={"train": len(train), "held_out": len(held_out)},
        file_bytes=len(content),
        weights={"file": weights.name, "sha256": sha256(content)},
        settings=stored.settings,
        config=asdict(config),
        steps=[{k: round(v, 6) for k, v in row.items()} for row in history.steps[::10]],
        evaluations=[{k: round(v, 6) for k, v in row.items()} for row in history.evaluations],
    )
    shutil.rmtree(folder)
    return nats


def run_folder(record: Path) -> Path:
    """Where the run that writes `record` keeps its checkpoint and measurements until it is done."""
    return record.with_suffix(".run")


def checkpoint_path(record: Path) -> Path:
    """Where the run that writes `record` keeps its state until it is done."""
    return record.with_suffix(".checkpoint")


def _note_hash(weights: Path, digest: str) -> None:
    path = weights.with_name("sha256.json")
    hashes = json.loads(path.read_text()) if path.exists() else {}
    text = json.dumps(hashes | {weights.name: digest}, indent=2, sort_keys=True) + "\n"
    write_atomic(path, text.encode())
