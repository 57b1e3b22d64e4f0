"""What `RankLab` shows: SmallCNN with fc1 at every rank, and a picture to cut in the same way.

    python -m benchmarks.rank_lab [--write]

For each rank from 1 to 128 the weight of fc1 is replaced by the matrix of that rank that is
nearest to it ("weights"), and by the one whose outputs are nearest on calibration images
("outputs"); the 10,000 test images are classified with both. Beside fc1's singular values stand
those of a matrix of Gaussian numbers, same shape and same Frobenius norm. The picture is twelve
test images of Fashion-MNIST in three rows, uint8 in base64. Takes about half a minute.
"""

from __future__ import annotations

import base64
import time
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from benchmarks._runs import wants_to_write
from qtools.data import fashion_mnist, normalise
from qtools.decomposition import LowRank, best_rank_k, whitened_rank_k
from qtools.models import SmallCNN
from qtools.results import code_state, write_record

RESULT = Path(__file__).parent.parent / "results" / "rank_lab.json"
CALIBRATION = 2048
#: Test images of the picture, row by row: things with edges, so that every rank shows.
PICTURE = ((0, 1, 2, 4), (8, 9, 11, 12), (18, 19, 23, 28))


def features(images: Tensor, batch_size: int = 500) -> Tensor:
    """What fc1 of the trained network is given: float32 [n, 576]."""
    model = SmallCNN.pretrained()
    seen: list[Tensor] = []
    model.fc1.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.inference_mode():
        for x in images.split(batch_size):
            model(x)
    return torch.cat(seen)


@torch.inference_mode()
def right_answers(terms: LowRank, x: Tensor, labels: Tensor) -> list[int]:
    """Right answers with fc1 at rank 1, 2, ...: the best of rank k are the first k terms."""
    model = SmallCNN.pretrained()
    inner = x @ terms.right.float().T  # [n, r]
    found = []
    for hidden in accumulate(
        a[:, None] * b for a, b in zip(inner.T, terms.left.float().T, strict=True)
    ):
        logits = model.fc2(torch.relu(hidden + model.fc1.bias))
        found.append(int((logits.argmax(1) == labels).sum()))
    return found


def picture(images: Tensor) -> Tensor:
    """The twelve images side by side: uint8 [84, 112]."""
    return torch.cat([torch.cat([images[i] for i in row], dim=1) for row in PICTURE])


def main() -> None:
    write = wants_to_write(__doc__, RESULT)
    torch.set_num_threads(1)
    code, start = code_state(), time.perf_counter()
    data = fashion_mnist()
    weight = SmallCNN.pretrained().fc1.weight.detach().double()
    seen = features(normalise(data.train_images[:CALIBRATION])).double()
    gram = seen.T @ seen / len(seen)
    test = features(normalise(data.test_images))
    right = {
        "weights": right_answers(best_rank_k(weight, 128), test, data.test_labels),
        "outputs": right_answers(whitened_rank_k(weight, 128, gram), test, data.test_labels),
    }
    gauss = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)).double()
    gauss *= weight.norm() / gauss.norm()
    for k in (1, 2, 4, 8, 16, 32, 64, 104, 128):
        print(f"rank {k:3}: " + ", ".join(f"{n} {r[k - 1] / 100:.2f} %" for n, r in right.items()))
    if not write:
        return
    pixels = picture(data.test_images)
    write_record(
        RESULT,
        value=right["weights"][15] / 100,
        unit="percent of test images, fc1 at rank 16, nearest in the weights",
        command="python -m benchmarks.rank_lab --write",
        seconds=round(time.perf_counter() - start, 1),
        code=code,
        model="SmallCNN",
        simulated=False,
        layer="fc1",
        shape=list(weight.shape),
        test_images=len(test),
        calibration_images=CALIBRATION,
        full_right=right["weights"][-1],
        right={name: " ".join(map(str, counts)) for name, counts in right.items()},
        singular_values=torch.linalg.svdvals(weight).tolist(),
        random_singular_values=torch.linalg.svdvals(gauss).tolist(),
        picture_images=PICTURE,
        picture_shape=list(pixels.shape),
        picture=base64.b64encode(pixels.numpy().tobytes()).decode(),
    )


if __name__ == "__main__":
    main()
