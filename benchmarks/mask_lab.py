"""The block of SmallCNN's fc1 that ``MaskLab`` prunes, and what its inputs look like.

    python -m benchmarks.mask_lab [--write]

Rows 33 to 56 and columns 97 to 144 of ``fc1.weight``, and the Gram matrix ``XᵀX / n`` of those 48
inputs over 2048 training images. Both are rounded to 16 bits, relative to the largest entry: the
page carries them, and `qtools` computes from the very same numbers. A few seconds of one core.
"""

from __future__ import annotations

import math
import time
from pathlib import Path

import torch
from torch import Tensor

from benchmarks._runs import wants_to_write
from qtools.data import fashion_mnist, normalise
from qtools.models import SmallCNN
from qtools.results import code_state, write_record

RESULT = Path(__file__).parent.parent / "results" / "mask_lab.json"
ROWS, COLUMNS = slice(32, 56), slice(96, 144)
IMAGES = 2048


@torch.inference_mode()
def block() -> tuple[Tensor, Tensor]:
    """Weight float64 [24, 48] and Gram matrix float64 [48, 48] of the block."""
    network, images = SmallCNN.pretrained(), fashion_mnist().train_images[:IMAGES]
    seen: list[Tensor] = []
    hook = network.fc1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(normalise(images))
    hook.remove()
    x = seen[0][:, COLUMNS].double()
    return network.fc1.weight[ROWS, COLUMNS].double(), x.T @ x / len(x)


def to_16_bits(x: Tensor) -> tuple[Tensor, int]:
    """Integers q, int64, and k with ``x ≈ q / 2^k`` and ``|q| < 2^15``."""
    k = 15 - math.ceil(math.log2(x.abs().max().item()))
    q = (x * 2**k).round().clamp(1 - 2**15, 2**15 - 1).long()
    return q, k


def main() -> None:
    write = wants_to_write(__doc__, RESULT)
    torch.set_num_threads(1)
    start, code = time.perf_counter(), code_state()
    (weight, weight_bits), (gram, gram_bits) = (to_16_bits(x) for x in block())
    eigenvalues = torch.linalg.eigvalsh(gram.double() / 2**gram_bits)
    condition = (eigenvalues[-1] / eigenvalues[0]).item()
    print(
        f"weights / 2^-{weight_bits}, Gram matrix / 2^-{gram_bits}, its condition {condition:.0f}"
    )
    if write:
        write_record(
            RESULT,
            value=round(condition, 1),
            unit="condition of the Gram matrix",
            command="python -m benchmarks.mask_lab --write",
            seconds=round(time.perf_counter() - start, 1),
            code=code,
            layer="fc1",
            rows=[ROWS.start, ROWS.stop],
            columns=[COLUMNS.start, COLUMNS.stop],
            images=IMAGES,
            weight=[" ".join(str(v) for v in row) for row in weight.tolist()],
            weight_bits=weight_bits,
            # Symmetric: row i up to its diagonal.
            gram=[" ".join(str(v) for v in row[: i + 1]) for i, row in enumerate(gram.tolist())],
            gram_bits=gram_bits,
        )
        print(f"wrote {RESULT}")


if __name__ == "__main__":
    main()
