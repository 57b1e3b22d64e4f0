"""SmallCNN pruned: by one shot with and without compensation, fine-tuned, and made smaller.

    python -m benchmarks.pruning_cnn [--write]

One shot: every convolution and linear layer of the trained network loses the same share of its
weights, with no training; what compensates sees 512 training images. Gradual: the share, of all
layers together, grows through the first half of eight epochs of training. Channels: the network
without the channels of least L1 norm, down to half of its multiplications and to multiples of
eight, trained for as long.
The seed draws the calibration images and the order and augmentation of the training images.
Accuracies are of the 10,000 test images.

Without ``--write`` one seed. With it five; finished runs are kept beside the record
(``*.checkpoint``) until it is complete, and an interrupted command goes on from there.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks._runs import collected, deviation, is_of, resumable, wants_to_write
from benchmarks.qat_cnn import CALIBRATION, Images
from qtools import pruning
from qtools.flops import macs
from qtools.metrics import latency
from qtools.models import SmallCNN
from qtools.pruning import Gram
from qtools.results import code_state, write_record
from qtools.training import TrainConfig, fit

RESULT = Path(__file__).parent.parent / "results" / "pruning_smallcnn.json"
SEEDS, EPOCHS, EVERY = 5, 8, 50
#: Of 2.5e-3 and 4e-3 the better on held-out training images.
RATE = 2.5e-3
SHARES = (0.4, 0.5, 0.6, 0.7, 0.8)
GRADUAL, CHANNELS = "magnitude, gradual", "channels"
LAYERS = ("conv1", "conv2", "conv3", "fc1", "fc2")


class Setting(NamedTuple):
    """A row: how the network is pruned, how much, and whether it is trained for that.

    ``sparsity`` is the share of zeros; for "channels" the share of multiplications taken out.
    """

    method: str
    sparsity: float
    trained: bool


def _magnitude(weight: Tensor, gram: Gram, sparsity: float) -> Tensor:
    return weight * pruning.unstructured_mask(pruning.magnitude(weight), sparsity)


def _wanda(weight: Tensor, gram: Gram, sparsity: float) -> Tensor:
    score = pruning.wanda(weight, gram.input_norm)
    return weight * pruning.unstructured_mask(score, sparsity)


def _least_squares(weight: Tensor, gram: Gram, sparsity: float) -> Tensor:
    mask = pruning.unstructured_mask(pruning.magnitude(weight), sparsity)
    return pruning.compensate(weight, mask, gram.matrix)


def _sparse_gpt(weight: Tensor, gram: Gram, sparsity: float) -> Tensor:
    return pruning.sparse_gpt(weight, gram.matrix, sparsity)


def _surgeon(weight: Tensor, gram: Gram, sparsity: float) -> Tensor:
    h = gram.matrix
    damped = h + 0.01 * h.diagonal().mean() * torch.eye(len(h), dtype=h.dtype)
    return pruning.obs_prune(weight, damped, sparsity)


ONE_SHOT: dict[str, Callable[[Tensor, Gram, float], Tensor]] = {
    "magnitude": _magnitude,
    "Wanda": _wanda,
    "magnitude, least squares": _least_squares,
    "SparseGPT": _sparse_gpt,
    "optimal brain surgeon": _surgeon,
}
SETTINGS = (
    *(Setting(method, share, False) for share in SHARES for method in ONE_SHOT),
    Setting(GRADUAL, 0.8, True),
    Setting(CHANNELS, 0.5, True),
)


def one_shot(method: str, sparsity: float, grams: dict[str, Gram]) -> nn.Module:
    """Return the trained network, pruned."""
    network = SmallCNN.pretrained()
    for name in LAYERS:
        weight = network.get_submodule(name).get_parameter("weight")
        weight.data = ONE_SHOT[method](weight.data, grams[name], sparsity)
    return network


def prune(network: nn.Module, sparsity: float) -> None:
    """Keep the largest weights of all layers together; what is 0 stays 0."""
    scores = {
        name: pruning.magnitude(network.get_submodule(name).weight)  # type: ignore[arg-type]
        for name in LAYERS
    }
    pruning.apply_masks(network, pruning.global_masks(scores, sparsity))


def trained(setting: Setting, seed: int, images: Images, checkpoint: Path) -> nn.Module:
    """Prune while training, or before; return the network with plain weights."""
    network: nn.Module = SmallCNN.pretrained()
    config = TrainConfig(epochs=EPOCHS, lr=RATE, seed=seed)
    half = EPOCHS // 2 * -(-len(images.train.images) // config.batch_size)

    def more_zeros(step: int) -> None:
        if step % EVERY == 0 and step < half + EVERY:
            prune(network, pruning.cubic_sparsity(step, 0, half, setting.sparsity))

    if setting.method == CHANNELS:
        network = smaller(network, setting.sparsity)
        fit(network, images.train, images.held_out, config, checkpoint)
    else:
        prune(network, 0.0)  # masks are there before the first step, as a resumed run needs them
        fit(network, images.train, images.held_out, config, checkpoint, more_zeros)
        pruning.bake_masks(network)
    checkpoint.unlink()
    return network


def smaller(network: nn.Module, taken: float) -> nn.Module:
    """Return the network without channels, a share of its multiplications taken out.

    A multiple of 8 channels is left in each layer: those fill the processor's vectors.
    """
    return pruning.prune_to_macs(network, torch.zeros(8, 1, 28, 28), 1 - taken, round_to=8)


def speed() -> dict[str, Any]:
    """Multiplications, parameters and time of a batch of 64, whole and with fewer channels."""
    whole = SmallCNN.pretrained()
    x = torch.randn(64, 1, 28, 28)
    networks = {"whole": whole, "channels": smaller(whole, 0.5)}
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    with torch.inference_mode():
        for _ in range(100):  # in turns, so that a busy machine slows both
            for name, network in networks.items():
                seconds[name].append(latency(lambda n=network: n(x), warmup=1, runs=1).median)  # type: ignore[misc]
    return {
        "batch": 64,
        **{
            name: {
                "macs": macs(network, x[:1]),
                "parameters": sum(p.numel() for p in network.parameters()),
                "median_ms": round(statistics.median(seconds[name]) * 1e3, 3),
                "minimum_ms": round(min(seconds[name]) * 1e3, 3),
            }
            for name, network in networks.items()
        },
    }


def run(setting: Setting, seed: int, images: Images, checkpoint: Path) -> dict[str, Any]:
    """Prune once; return the accuracy in percent and the seconds it took."""
    start = time.perf_counter()
    if setting.trained:
        network = trained(setting, seed, images, checkpoint)
    else:
        batches = images.calibration(seed).split(64)
        grams = pruning.gram_matrices(SmallCNN.pretrained(), batches)
        network = one_shot(setting.method, setting.sparsity, grams)
    return {
        **setting._asdict(),
        "seed": seed,
        "zeros": round(pruning.sparsity_of(network), 4),
        "accuracy": images.percent(network),
        "seconds": round(time.perf_counter() - start, 1),
    }


def runs(seeds: int, kept: Path) -> Iterator[dict[str, Any]]:
    """All runs, seed by seed."""
    images, checkpoint = Images.load(), kept.with_suffix(".run.checkpoint")
    order = ((setting, seed) for seed in range(seeds) for setting in SETTINGS)
    return resumable(order, kept, lambda setting, seed: run(setting, seed, images, checkpoint))


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation over the seeds, in percent, for each setting."""
    table = []
    for setting in SETTINGS:
        of = [r["accuracy"] for r in rows if is_of(r, setting)]
        table.append({
            **setting._asdict(),
            "seeds": len(of),
            "accuracy": round(statistics.mean(of), 3),
            "deviation": deviation(of),
        })  # fmt: skip
    return table


def main() -> None:
    write = wants_to_write(__doc__, RESULT)
    torch.set_num_threads(1)
    code, kept = code_state(), RESULT.with_suffix(".checkpoint")
    rows = collected(runs(SEEDS if write else 1, kept))
    table = summary(rows)
    for line in table:
        print(line)
    if write:
        write_record(
            RESULT,
            value=next(r["accuracy"] for r in table if r["method"] == GRADUAL),
            unit="percent of test images, 80 % zeros, gradual, fine-tuned, mean",
            command="python -m benchmarks.pruning_cnn --write",
            seconds=round(sum(r["seconds"] for r in rows), 1),
            code=code,
            model="SmallCNN",
            simulated=True,
            dense_accuracy=Images.load().percent(SmallCNN.pretrained()),
            epochs=EPOCHS,
            learning_rate=RATE,
            calibration_images=CALIBRATION,
            speed=speed(),
            summary=table,
            runs=rows,
        )
        kept.unlink()


if __name__ == "__main__":
    main()
