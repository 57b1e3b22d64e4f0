"""How the trained networks of the book were made, from data to record."""

import json
from dataclasses import asdict
from pathlib import Path

import safetensors.torch
import torch

from qtools.data import fashion_mnist, normalise
from qtools.files import sha256, write_atomic
from qtools.metrics import Accuracy, accuracy, latency, storage
from qtools.models import SmallCNN
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


def checkpoint_path(record: Path) -> Path:
    """Where the run that writes `record` keeps its state until it is done."""
    return record.with_suffix(".checkpoint")


def _note_hash(weights: Path, digest: str) -> None:
    path = weights.with_name("sha256.json")
    hashes = json.loads(path.read_text()) if path.exists() else {}
    text = json.dumps(hashes | {weights.name: digest}, indent=2, sort_keys=True) + "\n"
    write_atomic(path, text.encode())
