"""The settings of a distillation, and the learning rate they give at every step."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

PRECISIONS = ("auto", "no", "fp16", "bf16")
DEVICES = ("auto", "cpu")

#: How often something is written changes no weight, so a run may go on with other values.
_NO_EFFECT = ("log_every", "evaluate_every", "checkpoint_every")
_KINDS = {float: "a number", int: "an integer", str: "a string", tuple: "a pair of numbers"}
_AT_LEAST_ONE = ("epochs", "batch_size", "accumulation", "log_every")
_NOT_NEGATIVE = (
    *("lr", "weight_decay", "max_norm", "threads", "seed"),
    *("evaluate_every", "checkpoint_every"),
)


@dataclass(frozen=True)
class DistillConfig:
    """Everything that decides the student's weights, beside models, data and loss.

    A *step* is one update of the weights. Its batch is the same examples in the same order whatever
    the number of processes: each takes its share, in parts if that is what fits into memory. So
    one file serves one GPU and many: `batch_size / accumulation` examples is what each has at once.
    """

    epochs: int = 10
    batch_size: int = 128  # examples of a step, over all processes and parts
    accumulation: int = 1  # parts of a step; processes share them, each does its own one by one
    lr: float = 0.002
    betas: tuple[float, float] = (0.9, 0.999)  # of AdamW
    weight_decay: float = 0.0
    warmup: float = 0.1  # share of all steps in which the rate rises to lr; a cosine takes it to 0
    max_norm: float = 1.0  # the gradient is shortened to this length; 0: never
    precision: str = "auto"  # bf16 or fp16 on a GPU, whichever it has; on a CPU no
    device: str = "auto"  # what Accelerate finds, or "cpu"
    threads: int = 1  # of a CPU; 0: as torch has it
    seed: int = 0
    log_every: int = 1  # steps
    evaluate_every: int = 0  # steps; after the last step anyway
    checkpoint_every: int = 0  # steps; after the last step anyway

    def __post_init__(self) -> None:
        if isinstance(self.betas, list):  # as TOML has it
            object.__setattr__(self, "betas", tuple(self.betas))
        for field in fields(self):
            _check_type(field.name, getattr(self, field.name), field.default)
        for name in _AT_LEAST_ONE:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in _NOT_NEGATIVE:
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be finite and not negative: {getattr(self, name)}")
        if not 0 <= self.warmup <= 1:
            raise ValueError(f"warmup must be between 0 and 1, got {self.warmup}")
        if len(self.betas) != 2 or not all(0 <= b < 1 for b in self.betas):
            raise ValueError(f"betas must be two numbers of at least 0 and below 1: {self.betas}")
        for name, allowed in (("precision", PRECISIONS), ("device", DEVICES)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}")

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> Self:
        """Make one from a table of a TOML file.

        Raises
        ------
        ValueError
            If a key is unknown, by its name, or a value is not allowed.
        TypeError
            If a value has the wrong type.
        """
        refuse_unknown(table, [field.name for field in fields(cls)], "[distill]")
        return cls(**table)

    def deciding(self) -> dict[str, Any]:
        """Return the settings that a run cannot change and go on, JSON types only."""
        settings = {k: v for k, v in asdict(self).items() if k not in _NO_EFFECT}
        return settings | {"betas": list(self.betas)}

    def share(self, step: int, steps: int) -> float:
        """Learning rate of the step (from 0 on) over its peak: up in a line, down in a cosine."""
        rising = round(self.warmup * steps)
        if step < rising:
            return (step + 1) / rising
        return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(steps - rising, 1)))


def refuse_unknown(given: Iterable[str], allowed: Iterable[str], where: str) -> None:
    """Raise ValueError if something is given that is not allowed; name it, and the nearest word."""
    allowed = list(allowed)
    for name in given:
        if name not in allowed:
            hint = did_you_mean(name, allowed) or f"; it may have {sorted(allowed)}"
            raise ValueError(f"{where} has the unknown key {name!r}{hint}")


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """Return the end of a message: the nearest word that is allowed, or nothing if none is near."""
    near = difflib.get_close_matches(name, list(allowed), 1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _check_type(name: str, value: object, default: object) -> None:
    """A float may be written as an integer, nothing else bends."""
    if isinstance(default, tuple) and isinstance(value, tuple):
        for number in value:
            _check_type(name, number, 0.0)
        return
    allowed: tuple[type, ...] = (int, float) if isinstance(default, float) else (type(default),)
    if not isinstance(value, allowed) or isinstance(value, bool):
        raise TypeError(f"{name} must be {_KINDS[allowed[-1]]}, got {value!r}")
