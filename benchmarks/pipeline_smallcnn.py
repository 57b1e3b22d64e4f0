"""Three methods in a row on SmallCNN, beside each of them alone in a file of the same size.

    python -m benchmarks.pipeline_smallcnn [--write]

The pipeline takes hidden units out of fc1, where three quarters of the weights are, lets the rest
learn from the whole network's answers, and goes on learning with weights of 4 bits and activations
of 8. Its file is no larger than that of the whole network at 2 bits, the fewest that `QuantSpec`
has; each rival alone gets a file of about that size:

- "quantized": the whole network, trained with weights of 2 bits and activations of 8;
- "pruned": the network without five of eight channels, trained on labels, kept in float16;
- "distilled": an untrained network of the same shape, taught by the whole one, kept in float16.

The rivals get at least as many epochs as the pipeline. Then what each part of it is worth: without
the teacher; in another order (trained at 4 bits, then pruned, then healed, then rounded for good);
and with channels taken out of all layers, down to a quarter of the multiplications.

Rates, temperature and alpha are those of `qat_cnn`, `pruning_cnn` and `student_cnn`; none was
chosen here. The seed draws the calibration images, the order and augmentation of the training
images, and the start of what is untrained. Accuracies are of the 10,000 test images, of what the
file holds: integers, or float16.

Without ``--write`` one seed. With it three; finished runs are kept beside the record
(``*.checkpoint``) until it is complete, and an interrupted command goes on from there.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor, nn

from benchmarks._runs import collected, deviation, is_of, resumable, wants_to_write
from benchmarks.qat_cnn import CALIBRATION, Images, recipe
from benchmarks.student_cnn import CONFIG, Asked, Kept
from benchmarks.student_cnn import network as untrained
from qtools import metrics, pruning, ptq, qat
from qtools.data import normalise
from qtools.distillation import Distiller
from qtools.files import write_atomic
from qtools.flops import macs
from qtools.models import SmallCNN
from qtools.results import code_state, write_record

RESULT = Path(__file__).parent.parent / "results" / "pipeline_smallcnn.json"
SEEDS, TEMPERATURE, ALPHA = 3, 4.0, 0.9
ACTIVATIONS = 8  # bits, wherever weights have fewer than 16
#: Peak rates: of a network that was trained before, of one with learned steps, of a new one.
HEAL, ROUNDED, NEW = 2.5e-3, 2e-3, 0.012
RATIO, WIDTH = 0.625, 0.375  # the same shapes: 6, 12 and 24 channels, 48 hidden units
HIDDEN, SHARE = 44, 0.25  # what the pipelines keep: of 128 hidden units; of the multiplications


class Setting(NamedTuple):
    """A row of the table: the steps in their order, and what they leave.

    ``weights`` are the bits of a weight in the file; ``pruned`` says where channels are taken out;
    ``teacher``, whether the epochs learn from the whole network's answers or from labels.
    """

    name: str
    steps: str
    weights: int
    pruned: str  # "nowhere", "fc1", or "everywhere"
    teacher: bool


PIPELINE = Setting("pipeline", "prune, train 1, train rounded 2", 4, "fc1", True)
ALONE = (
    Setting("quantized", "train rounded 3", 2, "nowhere", False),
    Setting("pruned", "prune, train 10", 16, "everywhere", False),
    Setting("distilled", "new, train 10", 16, "nowhere", True),
)
PARTS = (
    Setting("pipeline, no teacher", PIPELINE.steps, 4, "fc1", False),
    Setting("pipeline, pruned last", "train rounded 2, prune, train 1", 4, "fc1", True),
    Setting("pipeline, pruned everywhere", PIPELINE.steps, 4, "everywhere", True),
)
SETTINGS = (PIPELINE, *ALONE, *PARTS)


def smaller(network: nn.Module, setting: Setting) -> nn.Module:
    """Return the network without the channels of least L1 norm."""
    x = torch.zeros(8, 1, 28, 28)
    if setting.pruned == "fc1":
        return pruning.prune_channels(network, x, keep={"fc1": HIDDEN})
    if setting == ALONE[1]:
        return pruning.prune_channels(network, x, RATIO)
    return pruning.prune_to_macs(network, x, SHARE, round_to=4)


@cache
def asked(kept: Path) -> Asked:
    """All training images in 18 versions, with the whole network's answers, asked once."""
    data, path = (
        Asked(Images.load().train, None, augmented=True),
        kept.with_suffix(".answers.checkpoint"),
    )
    if not path.exists():
        rows = data.versions.flatten(0, 1).split(500)
        with torch.inference_mode():
            teacher = SmallCNN.pretrained()
            answers = torch.cat([teacher(normalise(row)) for row in rows])
        write_atomic(path, safetensors.torch.save({"answers": answers}))
    data.answers = safetensors.torch.load_file(path)["answers"].view(18, -1, 10)
    return data


def train(network: nn.Module, epochs: int, rate: float, setting: Setting, seed: int,
          kept: Path) -> nn.Module:  # fmt: skip
    """Train in place, on the teacher's answers or on labels alone."""
    loss = Kept(TEMPERATURE, ALPHA if setting.teacher else 0.0)
    config = replace(CONFIG, epochs=epochs, lr=rate, seed=seed)
    Distiller(network, None, asked(kept), config, loss, progress=False).run()
    return network.eval()


def made(setting: Setting, seed: int, images: Images, kept: Path) -> nn.Module:
    """Return what the steps make of the trained network, in integers or in float."""
    calibration = images.calibration(seed).split(64)
    network: nn.Module = SmallCNN.pretrained()
    for step in setting.steps.split(", "):
        what, _, epochs = step.rpartition(" ")
        if step == "prune":
            network = smaller(network, setting)
        elif step == "new":
            network = untrained(WIDTH, seed)
        elif what == "train rounded":
            p = qat.prepare_qat(
                network, calibration, recipe(setting.weights, ACTIVATIONS), qat.LearnedStep
            )
            train(p, int(epochs), ROUNDED, setting, seed, kept)
            if setting.steps.endswith(step):
                return qat.convert(p)
            latent(p, network)
        else:
            rate = NEW if setting.steps.startswith("new") else HEAL
            train(network, int(epochs), rate, setting, seed, kept)
    if setting.weights == 16:
        return network
    p = ptq.prepare(network, recipe(setting.weights, ACTIVATIONS))
    return ptq.convert(ptq.calibrate(p, calibration))


def latent(p: nn.Module, network: nn.Module) -> None:
    """Take the weights behind the rounded ones, and BatchNorm, over into a plain network."""
    for name, layer in p.named_modules():
        if isinstance(layer, qat.QATLayer):
            network.get_submodule(name).load_state_dict(layer.layer.state_dict())
            if layer.norm is not None:
                norm = network.get_submodule(name.replace("conv", "bn"))
                norm.load_state_dict(layer.norm.state_dict())


def halved(network: nn.Module) -> dict[str, Tensor]:
    """Tensors of a network, its floats in float16."""
    return {k: v.half() if v.is_floating_point() else v for k, v in network.state_dict().items()}


def stored(network: nn.Module, weights: int, path: Path) -> int:
    """Write the network to a file as small as it can be; return the bytes that the file has.

    Of a float network the parameters become float16, here too: what is measured is in the file.
    """
    if weights < 16:
        ptq.save(network, path)
    else:
        half = halved(network)
        metrics.save(half, path)
        network.load_state_dict(half)
    return path.stat().st_size


def run(setting: Setting, seed: int, images: Images, kept: Path) -> dict[str, Any]:
    """Make one network; return its accuracy in percent, its bytes, and what it took."""
    start = time.perf_counter()
    network = made(setting, seed, images, kept)
    trained = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.safetensors"
        size = stored(network, setting.weights, path)
    return {
        **setting._asdict(),
        "seed": seed,
        "accuracy": images.percent(network),
        "bytes": size,
        "train_seconds": round(trained - start, 1),
        "seconds": round(time.perf_counter() - start, 1),
    }


def runs(seeds: int, kept: Path) -> Iterator[dict[str, Any]]:
    """All runs, seed by seed: first the pipeline and its rivals, then its parts."""
    images = Images.load()
    asked(kept)
    order = [(s, seed) for part in (SETTINGS[:4], PARTS) for seed in range(seeds) for s in part]
    return resumable(order, kept, lambda setting, seed: run(setting, seed, images, kept))


def epochs_of(setting: Setting) -> int:
    """Return how many times the steps see the training images."""
    return sum(int(word) for word in setting.steps.replace(",", "").split() if word.isdigit())


def multiplications(setting: Setting) -> int:
    """Multiplications of one image."""
    x = torch.zeros(1, 1, 28, 28)
    if setting.steps.startswith("new"):
        return macs(SmallCNN(WIDTH), x)
    whole = SmallCNN.pretrained()
    return macs(smaller(whole, setting) if "prune" in setting.steps else whole, x)


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each setting mean and standard deviation over the seeds, bytes, and what it took."""
    table = []
    for setting in SETTINGS:
        of = [r for r in rows if is_of(r, setting)]
        accuracies = [r["accuracy"] for r in of]
        table.append({
            **setting._asdict(),
            "seeds": len(of),
            "accuracy": round(statistics.mean(accuracies), 3),
            "deviation": deviation(accuracies),
            "bytes": round(statistics.mean(r["bytes"] for r in of)),
            "macs": multiplications(setting),
            "epochs": epochs_of(setting),
            "train_seconds": round(statistics.mean(r["train_seconds"] for r in of), 1),
        })  # fmt: skip
    return table


def main() -> None:
    write = wants_to_write(__doc__, RESULT)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    code, kept = code_state(), RESULT.with_suffix(".checkpoint")
    rows = collected(runs(SEEDS if write else 1, kept))
    table = summary(rows)
    for line in table:
        print(line)
    if write:
        write_record(
            RESULT,
            value=table[0]["accuracy"],
            unit="percent of test images, pruned, distilled and rounded to 4 bits, mean",
            command="python -m benchmarks.pipeline_smallcnn --write",
            seconds=round(sum(r["seconds"] for r in rows), 1),
            code=code,
            model="SmallCNN",
            simulated=False,
            float_accuracy=Images.load().percent(SmallCNN.pretrained()),
            calibration_images=CALIBRATION,
            rates={"heal": HEAL, "rounded": ROUNDED, "new": NEW},
            temperature=TEMPERATURE,
            alpha=ALPHA,
            summary=table,
            runs=rows,
        )
        for suffix in (".checkpoint", ".answers.checkpoint"):
            kept.with_suffix(suffix).unlink()


if __name__ == "__main__":
    main()
