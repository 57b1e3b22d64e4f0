"""Wrong answers a student may give, and words the exercise's message must say about each.

One entry at least for every exercise. `cell` is the grade_id of the solution cell, `answer` its
whole text, `message` a part of what the first failing test says.
"""

from dataclasses import dataclass
from textwrap import dedent


@dataclass(frozen=True)
class Mistake:
    slug: str
    cell: str
    answer: str
    message: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "answer", dedent(self.answer))


MISTAKES = [
    Mistake(
        "02-affine-quantization",
        "scale-and-zero-point",
        """
        def scale_and_zero_point(x_min, x_max, q_min, q_max):
            s = (x_min - x_max) / (q_max - q_min)
            return s, q_min - round(x_min / s)
        """,
        "did you subtract in the wrong order?",
    ),
    Mistake(
        "02-affine-quantization",
        "scale-and-zero-point",
        """
        def scale_and_zero_point(x_min, x_max, q_min, q_max):
            s = (x_max - x_min) / (q_max - q_min + 1)
            return s, q_min - round(x_min / s)
        """,
        "256 codes have 255 steps",
    ),
    Mistake(
        "02-affine-quantization",
        "scale-and-zero-point",
        """
        def scale_and_zero_point(x_min, x_max, q_min, q_max):
            s = (q_max - q_min) / (x_max - x_min)
            return s, q_min - round(x_min * s)
        """,
        "the width of one step",
    ),
    Mistake(
        "02-affine-quantization",
        "scale-and-zero-point",
        """
        def scale_and_zero_point(x_min, x_max, q_min, q_max):
            s = (x_max - x_min) / (q_max - q_min)
            return s, q_min - round(x_min / s)
        """,
        "does not contain 0",
    ),
    Mistake(
        "02-affine-quantization",
        "scale-and-zero-point",
        """
        def scale_and_zero_point(x_min, x_max, q_min, q_max):
            x_min, x_max = min(x_min, 0), max(x_max, 0)
            s = (x_max - x_min) / (q_max - q_min)
            return s, q_min - x_min / s
        """,
        "round it to an int",
    ),
    Mistake(
        "02-affine-quantization",
        "scale-and-zero-point",
        """
        def scale_and_zero_point(x_min, x_max, q_min, q_max):
            x_min, x_max = min(x_min, 0), max(x_max, 0)
            s = (x_max - x_min) / (q_max - q_min)
            return s, q_min + round(x_min / s)
        """,
        "the sign of x_min / s is turned",
    ),
    Mistake(
        "02-affine-quantization",
        "scale-and-zero-point",
        """
        def scale_and_zero_point(x_min, x_max, q_min, q_max):
            x_min, x_max = min(x_min, 0), max(x_max, 0)
            s = (x_max - x_min) / (q_max - q_min)
            return s, -round(x_min / s)
        """,
        "forgets q_min",
    ),
]
