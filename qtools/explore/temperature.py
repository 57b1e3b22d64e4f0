"""Temperature: what softening does to real logits, and to the gradient that the student gets."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import torch
import traitlets
from torch import Tensor

from qtools.data import CLASSES
from qtools.explore._base import Explorable, Finite, module_text, state_trait
from qtools.results import read_record

#: Test images of the record, in its order, and what each is an example of.
EXAMPLES = (
    "A sure one",
    "Two answers",
    "Three answers",
    "Sandal or sneaker",
    "Boot or sneaker",
    "Bag or T-shirt",
)
STUDENTS = ("blank", "trained")


class Temperature(Explorable):
    """``p = softmax(v/T)`` for a teacher's logits v, and the gradient of the student's loss.

    The student's logits are z, its softened answer is ``q = softmax(z/T)``. The gradient of the
    cross-entropy between p and q with respect to z is ``(q - p)/T``; with the factor T² it is
    ``T (q - p)``. As T grows the latter tends to ``((z - z̄) - (v - v̄))/10``, z̄ and v̄ the means
    over the ten classes. The logits are those of ``python -m benchmarks.temperature``.

    Parameters
    ----------
    image : int
        Which of the six test images, 0 to 5.
    student : {"blank", "trained"}
        All logits 0, or a small network that learned from 2,000 labels.
    temperature : float
        T, 0.5 to 128.
    """

    script = "temperature.js"
    moves = (
        "Turn the temperature and see the teacher's answer soften, class by class, and what the"
        " student's gradient becomes with the factor T² and without it."
    )

    image = state_trait(traitlets.Int(1, min=0, max=len(EXAMPLES) - 1))
    student = state_trait(traitlets.Enum(STUDENTS, "trained"))
    temperature = state_trait(Finite(4.0, min=0.5, max=128.0))

    def compute(self) -> dict[str, float]:
        """Return the numbers shown.

        Returns
        -------
        dict
            ``p_0``, ..., ``p_9``, the teacher's softened probabilities; ``g_0``, ..., ``g_9``, the
            gradient with the factor T², a logit each; ``entropy`` of p in nats and ``classes``,
            its exponential: the number of equally probable classes with that entropy. Euclidean
            lengths of the gradient: ``plain``, ``scaled`` with T², and ``limit``, what the latter
            tends to; ``cosine`` of the angle between the scaled gradient and that limit.
        """
        v, z = logits("teacher")[self.image], logits("student")[self.image]
        if self.student == "blank":
            z = torch.zeros_like(v)
        t = self.temperature
        log_p = (v / t).log_softmax(0)
        p = log_p.exp()
        entropy = -(p * log_p).sum()
        scaled = t * ((z / t).softmax(0) - p)
        limit = ((z - z.mean()) - (v - v.mean())) / len(v)
        return {
            **{f"p_{i}": x for i, x in enumerate(p.tolist())},
            **{f"g_{i}": x for i, x in enumerate(scaled.tolist())},
            "entropy": entropy.item(),
            "classes": entropy.exp().item(),
            "plain": scaled.norm().item() / t**2,
            "scaled": scaled.norm().item(),
            "limit": limit.norm().item(),
            "cosine": (scaled @ limit / (scaled.norm() * limit.norm())).item(),
        }


@cache
def logits(name: str) -> Tensor:
    """Logits of the ``"teacher"`` or the ``"student"`` in the record, float64 [6, 10]."""
    return torch.tensor(read_record("temperature")[name], dtype=torch.float64)


def data_script() -> str:
    """Return logits, labels and pictures as one line of JavaScript."""
    record = read_record("temperature")
    kept = {name: record[name] for name in ("labels", "teacher", "student", "pixels")}
    data: dict[str, Any] = {"classes": CLASSES, "examples": EXAMPLES, **kept}
    return f"const DATA = {json.dumps(data, separators=(',', ':'))};\n"


# No state: it never changes, and a notebook would store it with every copy.
Temperature._esm = data_script() + module_text(Temperature.script)
