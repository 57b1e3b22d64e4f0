"""The logits behind the explorable `Temperature`: a teacher's and a student's, on six test images.

    python -m benchmarks.temperature [--write]

The teacher is the pretrained SmallCNN. The student has a fifteenth of its parameters and learned
from the labels of 2,000 images. It takes half a minute.
"""

from __future__ import annotations

import base64
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks._runs import wants_to_write
from qtools.data import fashion_mnist, normalise
from qtools.models import SmallCNN
from qtools.recipes import HELD_OUT
from qtools.results import code_state, write_record
from qtools.training import Split, TrainConfig, fit

RESULT = Path(__file__).parent.parent / "results" / "temperature.json"
#: Indices into the test images: what an example shows is said in the explorable.
IMAGES = (76, 2352, 548, 1825, 441, 529)
WIDTH, TRAIN, CONFIG = 0.25, 2000, TrainConfig(epochs=40, lr=0.01)


def trained_student() -> nn.Module:
    """SmallCNN of a quarter of the width, trained on 2,000 labelled images."""
    data = fashion_mnist()
    train = Split(data.train_images[:TRAIN], data.train_labels[:TRAIN])
    held_out = Split(data.train_images[-HELD_OUT:], data.train_labels[-HELD_OUT:])
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(CONFIG.seed)
        student = SmallCNN(WIDTH)
    fit(student, train, held_out, CONFIG)
    return student.eval()


def main() -> None:
    write = wants_to_write(__doc__, RESULT)
    torch.set_num_threads(1)
    start, code, data = time.perf_counter(), code_state(), fashion_mnist()
    images = data.test_images[list(IMAGES)]
    x = normalise(images)
    networks = SmallCNN.pretrained(), trained_student()
    with torch.inference_mode():
        teacher, student = (network(x) for network in networks)
    entropy = -(teacher.softmax(1) * teacher.log_softmax(1)).sum(1)
    print(f"entropy at temperature 1, nats: {rounded(entropy[None])[0]}")
    if write:
        write_record(
            RESULT,
            value=round(float(entropy.mean()), 4),
            unit="nats, entropy of the teacher at temperature 1, mean of the images",
            command="python -m benchmarks.temperature --write",
            seconds=round(time.perf_counter() - start, 1),
            code=code,
            model="SmallCNN",
            images=list(IMAGES),
            labels=data.test_labels[list(IMAGES)].tolist(),
            teacher=rounded(teacher),
            student=rounded(student),
            student_width=WIDTH,
            student_images=TRAIN,
            pixels=[packed(image) for image in images],
        )


def rounded(logits: Tensor) -> list[list[float]]:
    """Logits to three decimals: enough for a picture, and the same on every processor."""
    return [[round(v, 3) for v in row] for row in logits.tolist()]


def packed(image: Tensor) -> str:
    """Pixels uint8 in 16 shades of grey, two to a byte, the first in the low half; in base64."""
    shades = (image.flatten().int() + 8) // 17
    return base64.b64encode(bytes((shades[::2] + 16 * shades[1::2]).tolist())).decode()


if __name__ == "__main__":
    main()
