"""What a quantized tensor is: its integers (`QuantSpec`), its scale and zero point (`QParams`)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import torch
from torch import Tensor

Granularity = Literal["tensor", "channel", "group"]


@dataclass(frozen=True)
class QuantSpec:
    """What the integers are: ``{qmin, ..., qmax}``, and which elements share a scale.

    Parameters
    ----------
    bits : int
        Width of a code, 2 to 16. (One bit is a sign times a scale: a type of its own.)
    signed : bool
        Codes ``-2^(bits-1) .. 2^(bits-1)-1`` if true, else ``0 .. 2^bits-1``.
    symmetric : bool
        Fix the zero point: 0 when signed, ``2^(bits-1)`` when unsigned.
    granularity : {"tensor", "channel", "group"}
        One scale for the tensor, for each index along ``axis``, or for each run of
        ``group_size`` elements inside a channel (its other axes flattened in order).
    axis : int
        The channel axis; negative counts from the end. Unused per tensor.
    group_size : int, optional
        Elements in a group; given exactly when ``granularity="group"``.
    narrow_range : bool
        Give up the lowest code, so that signed codes are ``-qmax .. qmax``.

    Raises
    ------
    ValueError, TypeError
        If an argument is not one of the above; the message says what is allowed.

    Examples
    --------
    >>> QuantSpec(bits=8).qmin, QuantSpec(bits=8).qmax
    (-128, 127)
    >>> QuantSpec(bits=4, signed=False, narrow_range=True).qmin
    1
    """

    bits: int = 8
    signed: bool = True
    symmetric: bool = False
    granularity: Granularity = "tensor"
    axis: int = 0
    group_size: int | None = None
    narrow_range: bool = False

    def __post_init__(self) -> None:
        if not _is_int(self.bits) or not 2 <= self.bits <= 16:
            raise ValueError(
                f"bits must be an integer from 2 to 16, got {self.bits!r}"
                " (one bit is a sign times a scale, a type of its own)"
            )
        if self.granularity not in get_args(Granularity):
            raise ValueError(
                f"granularity must be one of {get_args(Granularity)}, got {self.granularity!r}"
            )
        if not _is_int(self.axis):
            raise TypeError(f"axis must be an integer, got {self.axis!r}")
        if self.granularity != "group" and self.group_size is not None:
            raise ValueError(
                f'group_size is for granularity="group" only, got {self.group_size!r}'
                f" with granularity={self.granularity!r}"
            )
        if self.granularity == "group" and (not _is_int(self.group_size) or self.group_size < 1):  # type: ignore[operator]
            raise ValueError(
                f'group_size must be a positive integer with granularity="group",'
                f" got {self.group_size!r}"
            )

    @property
    def qmin(self) -> int:
        """Smallest code."""
        return (-(2 ** (self.bits - 1)) if self.signed else 0) + self.narrow_range

    @property
    def qmax(self) -> int:
        """Largest code."""
        return 2 ** (self.bits - 1) - 1 if self.signed else 2**self.bits - 1

    @property
    def dtype(self) -> torch.dtype:
        """Smallest torch integer type that holds every code."""
        if self.bits <= 8:
            return torch.int8 if self.signed else torch.uint8
        return torch.int16 if self.signed else torch.int32


# Truth table of the code ranges, by eye (n: narrow_range):
#   bits  signed      signed n    unsigned   unsigned n    symmetric z: signed 0, unsigned
#   2     -2 .. 1     -1 .. 1     0 .. 3     1 .. 3                               2
#   4     -8 .. 7     -7 .. 7     0 .. 15    1 .. 15                              8
#   8     -128 .. 127 -127 .. 127 0 .. 255   1 .. 255                             128


@dataclass(frozen=True)
class QParams:
    """Scale and zero point of a tensor, with the spec they belong to.

    Parameters
    ----------
    scale : Tensor
        Positive and finite, float32 or float64, in the unit of the data per step. Shape ``[]``
        per tensor, ``[channels]`` per channel, ``[channels, groups]`` per group.
    zero_point : Tensor
        int32, same shape, each from ``spec.qmin`` to ``spec.qmax``.
    spec : QuantSpec

    Raises
    ------
    ValueError, TypeError
        On a wrong shape, type or value, naming the argument.
    """

    scale: Tensor
    zero_point: Tensor
    spec: QuantSpec

    def __post_init__(self) -> None:
        scale, zero_point, spec = self.scale, self.zero_point, self.spec
        if scale.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"scale must be float32 or float64, got {scale.dtype}")
        if zero_point.dtype != torch.int32:
            raise TypeError(f"zero_point must be int32, got {zero_point.dtype}")
        dims = {"tensor": 0, "channel": 1, "group": 2}[spec.granularity]
        if scale.ndim != dims or zero_point.shape != scale.shape:
            raise ValueError(
                f"scale and zero_point must have {dims} dimensions and one shape with"
                f" granularity={spec.granularity!r}, got {list(scale.shape)} and"
                f" {list(zero_point.shape)}"
            )
        if not all_true((scale > 0) & (scale < float("inf"))):
            raise ValueError(f"scale must be positive and finite, got {worst(scale)}")
        if zero_point.numel():
            low, high = (int(v) for v in torch.aminmax(zero_point))
            if low < spec.qmin or high > spec.qmax:
                raise ValueError(
                    f"zero_point must be from {spec.qmin} to {spec.qmax}, got {low} to {high}"
                )

    @cached_property
    def steps(self) -> tuple[Tensor, Tensor, Tensor]:
        """``(1/s, qmin - z, qmax - z)`` in the type of the scale: what `fake_quantize` needs.

        Made once, since on small tensors these three would cost as much as the work itself.
        """
        low, high = self.spec.qmin - self.zero_point, self.spec.qmax - self.zero_point
        return self.scale.reciprocal(), low.to(self.scale.dtype), high.to(self.scale.dtype)


def all_true(x: Tensor) -> bool:
    """``x.all()`` as a bool; for one value without the reduction, which costs more than a test."""
    return bool(x) if x.ndim == 0 else bool(x.all())


def worst(x: Tensor) -> float:
    """One value to show in a message: the first that is not finite, else the smallest."""
    flat = x.reshape(-1)
    bad = flat[~flat.isfinite()]
    return (bad[0] if bad.numel() else flat.min()).item()


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
