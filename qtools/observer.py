"""The base of all observers: modules that watch tensors go by and choose a range for them."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from qtools.affine import choose_qparams
from qtools.layout import channel_axis
from qtools.spec import QParams, QuantSpec, worst

_FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Observer(nn.Module):
    """What all observers share: a spec, the range seen so far, and their checks.

    Buffers ``x_min`` and ``x_max`` are empty until data came; then their shape is ``[]`` per
    tensor, ``[channels]`` per channel. They are float32, or float64 once float64 data came;
    turning the model to half precision leaves them as they are.

    Parameters
    ----------
    spec : QuantSpec
        What to choose a scale and a zero point for.

    Raises
    ------
    TypeError
        If spec is not a QuantSpec.
    ValueError
        If the observer does not take the spec's granularity.
    """

    granularities: ClassVar[tuple[str, ...]] = ("tensor", "channel")
    _resized: ClassVar[tuple[str, ...]] = ("x_min", "x_max")  # buffers shaped by the data
    x_min: Tensor
    x_max: Tensor

    def __init__(self, spec: QuantSpec) -> None:
        super().__init__()
        if not isinstance(spec, QuantSpec):
            raise TypeError(f"spec must be a QuantSpec, got {type(spec).__name__}")
        if spec.granularity not in self.granularities:
            raise ValueError(
                f"spec must have a granularity from {self.granularities} for"
                f" {type(self).__name__}, got {spec.granularity!r}"
            )
        self.spec = spec
        self.register_buffer("x_min", torch.empty(0))
        self.register_buffer("x_max", torch.empty(0))

    @property
    def has_data(self) -> bool:
        """Whether a tensor with elements has been observed since the last reset."""
        return self.x_min.numel() > 0

    def forward(self, x: Tensor) -> Tensor:
        """Record x and return it: the same tensor, so gradients pass.

        Parameters
        ----------
        x : Tensor
            Finite, floating point, any shape that has ``spec.axis`` where that is used. An empty
            tensor changes nothing.

        Raises
        ------
        TypeError
            If x is not floating point.
        ValueError
            If x holds NaN or infinity, or does not have the axis or the channels seen before.
        """
        if x.dtype not in _FLOATING:
            raise TypeError(f"x must have one of the types {_FLOATING}, got {x.dtype}")
        if x.numel():
            with torch.no_grad():
                self._observe(x.detach())
        return x

    def range(self) -> tuple[Tensor, Tensor]:
        """Return ``(x_min, x_max)``, the range that `qparams` quantizes.

        Raises
        ------
        RuntimeError
            If no data has been observed.
        """
        self._check_data()
        return self.x_min, self.x_max

    def qparams(self) -> QParams:
        """Return ``choose_qparams(*self.range(), self.spec)``.

        Raises
        ------
        RuntimeError
            If no data has been observed.
        """
        return choose_qparams(*self.range(), self.spec)

    def reset(self) -> Self:
        """Forget all data, in place."""
        self.x_min, self.x_max = (self.x_min.new_empty(0, dtype=torch.float32) for _ in range(2))
        return self

    def extra_repr(self) -> str:  # noqa: D102
        return f"{self.spec}" if self.has_data else f"{self.spec}, no data"

    def _observe(self, x: Tensor) -> None:
        raise NotImplementedError

    def _extremes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Smallest and largest value of what shares a scale, finite, float32 or float64."""
        if self.spec.granularity == "tensor":
            low, high = torch.aminmax(in_memory_order(x))
            finite = math.isfinite(low.item()) and math.isfinite(high.item())
        else:
            axis = channel_axis(x, self.spec)
            low, high = torch.aminmax(x.movedim(axis, 0).unsqueeze(-1).flatten(1), dim=1)
            if self.has_data and low.shape != self.x_min.shape:
                raise ValueError(
                    f"x must have {len(self.x_min)} channels along axis {self.spec.axis}, as"
                    f" before, got shape {list(x.shape)}"
                )
            finite = bool((low.isfinite() & high.isfinite()).all())
        if not finite:
            raise ValueError(f"x must be finite, got {worst(torch.stack([low, high]))}")
        wide = torch.promote_types(x.dtype, torch.float32)
        return low.to(self.x_min.device, wide), high.to(self.x_max.device, wide)

    def _widen(self, low: Tensor, high: Tensor) -> None:
        if self.has_data:
            low, high = torch.minimum(self.x_min, low), torch.maximum(self.x_max, high)
        self.x_min, self.x_max = low, high

    def _check_data(self) -> None:
        if not self.has_data:
            raise RuntimeError(
                f"{type(self).__name__} has no data: call it on at least one tensor that is not"
                " empty before asking for a range"
            )

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        def never_narrower(t: Tensor) -> Tensor:
            moved = fn(t)
            if t.is_floating_point() and moved.dtype in (torch.float16, torch.bfloat16):
                return t.to(moved.device)
            return moved

        return super()._apply(never_narrower, recurse)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        # Their shape and type depend on the data: take those of what is loaded.
        for name in self._resized:
            saved = state_dict.get(prefix + name)
            if isinstance(saved, Tensor):
                wide = torch.promote_types(saved.dtype, torch.float32)
                here = getattr(self, name).device
                setattr(self, name, torch.empty(saved.shape, dtype=wide, device=here))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def in_memory_order(x: Tensor) -> Tensor:
    """Return the elements of x, one-dimensional, in the order that saves copying them.

    Convolutions on a CPU return channels last: ``reshape(-1)`` would cost more than the minimum.
    """
    if x.is_contiguous():
        return x.view(-1)
    strides = x.stride()
    return x.permute(sorted(range(x.ndim), key=lambda i: -strides[i])).reshape(-1)
