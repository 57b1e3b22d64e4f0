"""A row of the scoreboard: one measured network."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

MODELS = ("SmallCNN", "CharGPT")
FAMILIES = (
    "float",
    "post-training",
    "quantization-aware",
    "pruning",
    "distillation",
    "low rank",
    "weights only",
    "one bit",
    "combined",
)


class Row(NamedTuple):
    """A measured network.

    Attributes
    ----------
    model : {"SmallCNN", "CharGPT"}
    family : str
        One of `FAMILIES`.
    method : str
        What was done, in a few words.
    bits : int
        Of a stored weight, without its scales.
    activations : int
        Bits of an activation; 32 where it stays in float.
    quality : float
        Mean over the seeds. SmallCNN: percent of the 10,000 test images that are right, more is
        better. CharGPT: nats a character on the held-out text, less is better.
    deviation : float
        Standard deviation of the quality over the seeds, 0 for one.
    seeds : int
    bytes : float
        Of the whole file: weights, scales, what was not compressed, and the header.
    ms : float or None
        Median milliseconds of one image, or of one character that is written, with qtools; one
        thread.
    batch_ms : float or None
        The same for 64 images together.
    ort_ms, ort_batch_ms : float or None
        The same with ONNX Runtime, for networks that it can run.
    real : bool
        Whether the network computes from what is in the file. A simulated one computes in float
        with weights that were rounded or set to zero: smaller on disk, never faster.
    epochs : float or None
        Passes over the training set that the method took, after the float network was there.
    seconds : float or None
        Mean seconds of a run as it was recorded, on whatever the machine was then.
    record : str
        The file in results/ that the row comes from.
    chapter : int
        Where the book explains it.
    """

    model: str
    family: str
    method: str
    bits: int
    activations: int
    quality: float
    deviation: float
    seeds: int
    bytes: float
    ms: float | None
    batch_ms: float | None
    ort_ms: float | None
    ort_batch_ms: float | None
    real: bool
    epochs: float | None
    seconds: float | None
    record: str
    chapter: int

    @property
    def loss(self) -> float:
        """What less is better of: percent of wrong answers, or nats a character."""
        return round(100 - self.quality, 4) if self.model == "SmallCNN" else self.quality

    @property
    def name(self) -> str:
        """Return method and bits: "AdaRound, W4A8"; "W4" alone where activations are in float."""
        of_activations = f"A{self.activations}" if self.activations < 32 else ""
        return f"{self.method}, W{self.bits}{of_activations}"


def table(rows: Iterable[Row]) -> str:
    """Return rows as text in columns, in the order given.

    n is the number of seeds, ms and ORT the milliseconds with qtools and with ONNX Runtime, ep the
    epochs of training on top.

    Examples
    --------
    >>> print(table([]))
    kB quality ± n ms ORT ep real ch method
    """
    head = ("kB", "quality", "±", "n", "ms", "ORT", "ep", "real", "ch", "method")
    lines = [head, *(_cells(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head) - 1)]
    return "\n".join(
        " ".join([*(c.rjust(w) for c, w in zip(line, widths, strict=False)), line[-1]])
        for line in lines
    )


def _cells(row: Row) -> tuple[str, ...]:
    digits = 2 if row.model == "SmallCNN" else 3
    return (
        f"{row.bytes / 1000:.1f}",
        f"{row.quality:.{digits}f}",
        f"{row.deviation:.{digits}f}" if row.seeds > 1 else "",
        str(row.seeds),
        "" if row.ms is None else f"{row.ms:.2f}",
        "" if row.ort_ms is None else f"{row.ort_ms:.2f}",
        "" if row.epochs is None else f"{row.epochs:.2g}",
        "yes" if row.real else "no",
        str(row.chapter),
        row.name,
    )
