"""What to do to a network: integers for weights and activations, observers, exceptions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from torch import nn

from qtools.observers import HistogramObserver
from qtools.spec import QuantSpec

WEIGHTS = QuantSpec(bits=8, symmetric=True, granularity="channel")
ACTIVATIONS = QuantSpec(bits=8, signed=False)
WeightRange = Literal["minmax", "mse"]


@dataclass(frozen=True)
class Recipe:
    """Settings of a quantized network, one for post-training and quantization-aware flows.

    Parameters
    ----------
    weights : QuantSpec
        Per tensor, or per channel on axis 0 (output channels); 2 to 8 bits.
    activations : QuantSpec
        Per tensor, 2 to 8 bits.
    observer : callable
        Makes the observer of one activation: ``observer(spec)`` returns a module that passes its
        input on and has ``qparams()``. Any class of `qtools.observers`, or one of your own.
    weight_range : {"minmax", "mse"}
        How the scale of a weight follows from its values: `qtools.ptq.weights`.
    ends : QuantSpec, optional
        The grid of the network's inputs and outputs. Without it that of activations, with 8 bits:
        an image has 256 levels, and logits of 4 bits tie.
    keep_float : tuple of str
        Names of modules that stay in float, with everything inside them: ``"features.0"``.
        Names of graph nodes (the first column of `report`) count too.

    Raises
    ------
    ValueError, TypeError
        If an argument is not one of the above; the message names it.
    """

    weights: QuantSpec = WEIGHTS
    activations: QuantSpec = ACTIVATIONS
    observer: Callable[[QuantSpec], nn.Module] = field(default=HistogramObserver)
    weight_range: WeightRange = "minmax"
    ends: QuantSpec | None = None
    keep_float: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.ends is None and isinstance(self.activations, QuantSpec):
            object.__setattr__(self, "ends", replace(self.activations, bits=8))
        tensor = ("tensor",)
        for name, allowed in (
            ("weights", ("tensor", "channel")), ("activations", tensor), ("ends", tensor),
        ):  # fmt: skip
            spec = getattr(self, name)
            if not isinstance(spec, QuantSpec):
                raise TypeError(f"{name} must be a QuantSpec, got {type(spec).__name__}")
            if spec.bits > 8:
                raise ValueError(f"{name} must have at most 8 bits, got {spec.bits}")
            if spec.granularity not in allowed:
                raise ValueError(
                    f"{name} must have a granularity from {allowed}, got {spec.granularity!r}"
                )
        if self.weights.granularity == "channel" and self.weights.axis != 0:
            raise ValueError(
                f"weights must have axis 0, the output channels, got axis {self.weights.axis}"
            )
        if not callable(self.observer):
            raise TypeError(f"observer must be callable, got {type(self.observer).__name__}")
        if self.weight_range not in get_args(WeightRange):
            raise ValueError(
                f"weight_range must be one of {get_args(WeightRange)}, got {self.weight_range!r}"
            )
        if not isinstance(self.keep_float, tuple) or not all(
            isinstance(name, str) for name in self.keep_float
        ):
            raise TypeError(f"keep_float must be a tuple of names, got {self.keep_float!r}")
