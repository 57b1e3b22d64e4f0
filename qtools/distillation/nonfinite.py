"""The early end of a run whose loss is NaN or infinite, and the batch that made it so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor


class NonFiniteError(RuntimeError):
    """The loss or its gradient is NaN or infinite; the weights are those before the step.

    Attributes
    ----------
    step : int
        Counted from 1.
    path : Path or None
        Where this process saved its part of the batch.
    """

    def __init__(self, step: int, values: Mapping[str, float], path: Path | None) -> None:
        numbers = ", ".join(f"{name} {value:g}" for name, value in values.items())
        where = f"the batch is in {path}" if path else "give a folder to have the batch saved"
        super().__init__(
            f"step {step}: the loss or its gradient is not finite ({numbers}); {where}"
        )
        self.step, self.path = step, path


def save_batch(path: Path, batches: Sequence[Any], indices: Sequence[Tensor]) -> None:
    """Write the parts of a batch to a safetensors file: ``<part>.<name>``, ``<part>.index``.

    The names are those of a mapping, or places in a tuple; what is no tensor is left out. The index
    says which examples of the data a part is made of.
    """
    tensors: dict[str, Tensor] = {}
    for i, (batch, index) in enumerate(zip(batches, indices, strict=True)):
        tensors |= {f"{i}.{name}".rstrip("."): t for name, t in _named(batch).items()}
        tensors[f"{i}.index"] = index
    path.parent.mkdir(parents=True, exist_ok=True)
    copies = {name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}
    safetensors.torch.save_file(copies, path)


def _named(batch: Any) -> dict[str, Tensor]:
    """Tensors of a nested batch by the way that leads to them."""
    if isinstance(batch, Tensor):
        return {"": batch}
    if not isinstance(batch, (Mapping, tuple, list)):
        return {}
    inside = batch.items() if isinstance(batch, Mapping) else enumerate(batch)
    return {
        f"{key}.{name}".rstrip("."): t for key, value in inside for name, t in _named(value).items()
    }
