"""SmallCNN with its own bits for every layer: all 3125 combinations, each one measured.

    python -m benchmarks.sensitivity [--write]

Weights of the five layers take 8, 6, 4, 3 or 2 bits each, per channel and symmetric, activations
8; 256 training images calibrate. Each combination classifies the 10,000 test images. Simulated:
every value is rounded as the integer network will round it, the arithmetic is float32.

The layers run one after another, so combinations that begin alike share their work: a tree with 5
first layers, 25 second ones, ... and 3125 last ones, of which only the cheap last are many. Both
ways to choose a weight's scale, min-max and least squared error, are measured: about five minutes
of one core. The explorable ``Sensitivity`` shows what ``--write`` stores.
"""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, fx
from tqdm import tqdm

from benchmarks._runs import wants_to_write
from qtools import QuantSpec, ptq
from qtools.data import fashion_mnist, normalise
from qtools.metrics import accuracy
from qtools.models import SmallCNN
from qtools.ptq.recipe import WeightRange
from qtools.results import code_state, write_record

RESULT = Path(__file__).parent.parent / "results" / "sensitivity.json"
LAYERS = ("conv1", "conv2", "conv3", "fc1", "fc2")
BITS = (8, 6, 4, 3, 2)
RANGES: tuple[WeightRange, ...] = ("minmax", "mse")
CALIBRATION, BATCH = 256, 1000


class Stage(NamedTuple):
    """A piece of a network that is one chain: the modules from one layer to the next."""

    network: fx.GraphModule
    nodes: list[fx.Node]

    def __call__(self, x: Tensor) -> Tensor:
        """Run these modules on the output of the stage before."""
        run = fx.Interpreter(self.network)
        run.env[self.nodes[0].all_input_nodes[0]] = x
        for node in self.nodes:
            run.env[node] = x = run.run_node(node)
        return x


def stages(network: fx.GraphModule) -> list[Stage]:
    """Cut a simulated SmallCNN before each layer but the first."""
    nodes = [n for n in network.graph.nodes if n.op not in ("placeholder", "output")]
    starts = [0, *(i for i, n in enumerate(nodes) if n.target in LAYERS[1:]), len(nodes)]
    return [Stage(network, nodes[a:b]) for a, b in pairwise(starts)]


def networks(weight_range: WeightRange, calibration: Tensor) -> list[fx.GraphModule]:
    """SmallCNN simulated with all its layers at 8, 6, 4, 3 and 2 bits.

    What a layer's weight and bias become depends on its own bits and on the grid of its input,
    which was calibrated in float: so layer i of a mixed network is layer i of one of these.
    """
    found = []
    for bits in BITS:
        weights = QuantSpec(bits, symmetric=True, granularity="channel")
        recipe = ptq.Recipe(weights=weights, weight_range=weight_range)
        p = ptq.prepare(SmallCNN.pretrained(), recipe)
        found.append(ptq.simulate(ptq.calibrate(p, calibration.split(64))))
    return found


@torch.inference_mode()
def right_answers(cut: list[list[Stage]], images: Tensor, labels: Tensor) -> Tensor:
    """Count right answers for every combination of stages.

    Parameters
    ----------
    cut : list of list of Stage
        ``cut[b][i]`` is stage i with choice b.
    images, labels : Tensor
        What the first stage takes, and int64 [n].

    Returns
    -------
    Tensor
        int64 [choices, ..., choices], one axis a stage.
    """
    depth = len(cut[0])
    right = torch.zeros((len(cut),) * depth, dtype=torch.int64)

    def descend(x: Tensor, y: Tensor, path: tuple[int, ...]) -> None:
        if len(path) == depth:
            right[path] += (x.argmax(1) == y).sum()
            return
        for choice, pieces in enumerate(cut):
            descend(pieces[len(path)](x), y, (*path, choice))

    batches = list(zip(images.split(BATCH), labels.split(BATCH), strict=True))
    for x, y in tqdm(batches, desc="batches"):
        descend(x, y, ())
    return right


def calibration_images() -> Tensor:
    """256 training images, drawn with seed 0, float32 [256, 1, 28, 28]."""
    data = fashion_mnist()
    pick = torch.randperm(len(data.train_images), generator=torch.Generator().manual_seed(0))
    return normalise(data.train_images[pick[:CALIBRATION]])


def weight_bytes() -> dict[str, list[int]]:
    """Bytes of each layer's weight at each of `BITS`: codes packed, and a float32 scale a channel.

    ``ceil(weights · bits / 8) + 4 · channels``. Biases stay as they are and are not counted.
    """
    return {
        name: [-(-w.numel() * bits // 8) + 4 * len(w) for bits in BITS]
        for name, w in layer_weights().items()
    }


def layer_weights() -> dict[str, Tensor]:
    """Return the weight of each layer, output channels first."""
    network = SmallCNN.pretrained()
    return {name: network.get_parameter(f"{name}.weight").detach() for name in LAYERS}


def main() -> None:
    write = wants_to_write(__doc__, RESULT)
    torch.set_num_threads(1)
    start, code = time.perf_counter(), code_state()
    data = fashion_mnist()
    images, labels, calibration = (
        normalise(data.test_images),
        data.test_labels,
        calibration_images(),
    )
    n = len(labels)
    in_float = round(n * accuracy(SmallCNN.pretrained(), images, labels).value)
    print(f"float: {100 * in_float / n:.2f} % of {n} test images right. Below, one layer alone at")
    tables = {}
    for weight_range in RANGES:
        cut = [stages(network) for network in networks(weight_range, calibration)]
        right = tables[weight_range] = right_answers(cut, images, labels)
        print(f"\n{weight_range:8}" + "".join(f"{bits:>5} bits" for bits in BITS))
        for i, name in enumerate(LAYERS):
            alone = [right[tuple(b if i == j else 0 for j in range(5))] for b in range(5)]
            print(f"{name:8}" + "".join(f"{100 * r.item() / n:10.2f}" for r in alone))
        equal = [right[(b,) * 5].item() for b in range(5)]
        print(f"{'all':8}" + "".join(f"{100 * r / n:10.2f}" for r in equal), flush=True)
    if write:
        write_record(
            RESULT,
            value=100 * tables["minmax"][(0,) * 5].item() / n,
            unit="percent of test images, simulated network, all layers at 8 bits, min-max",
            command="python -m benchmarks.sensitivity --write",
            seconds=round(time.perf_counter() - start, 1),
            code=code,
            model="SmallCNN",
            simulated=True,
            activation_bits=8,
            calibration_images=CALIBRATION,
            test_images=n,
            float_right=in_float,
            layers=LAYERS,
            bits=BITS,
            weights=sum(w.numel() for w in layer_weights().values()),
            weight_bytes=weight_bytes(),
            order="right answers of all combinations; the bits of the last layer change fastest",
            **{f"right_{name}": " ".join(map(str, right.flatten().tolist()))
               for name, right in tables.items()},
        )  # fmt: skip


if __name__ == "__main__":
    main()
