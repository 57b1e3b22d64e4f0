"""Observers: modules that watch tensors go by and choose the range to quantize them with.

``obs(x)`` records and returns x itself; ``obs.qparams()`` is the scale and zero point for
``obs.range()``. What an observer has seen is in its buffers: they are saved with the model, move
with ``.to()``, and take the same memory however much data goes by.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal, Self, get_args

import numpy as np
import torch
from torch import Tensor

from qtools.criteria import Candidates, relative_entropy, squared_error
from qtools.histogram import (
    Grid,
    Histogram,
    count,
    grid_of,
    magnitudes,
    order_statistic,
    quantile,
    regrid,
)
from qtools.observer import Observer, in_memory_order
from qtools.spec import QuantSpec

__all__ = [
    "HistogramObserver",
    "MinMaxObserver",
    "MovingAverageObserver",
    "Observer",
    "PercentileObserver",
]

Criterion = Literal["mse", "kl"]


class MinMaxObserver(Observer):
    """``x_min = min over all batches, x_max = max over all batches``.

    Nothing is clipped; one outlier sets the scale. Neither order nor batch size matters. Ranges
    equal those of torch.ao's ``MinMaxObserver`` and ``PerChannelMinMaxObserver`` bit for bit; so
    do scale and zero point when asymmetric, unless torch holds the scale above 2⁻²³
    (`qtools.affine.choose_qparams` lists the differences).

    Parameters
    ----------
    spec : QuantSpec
        Per tensor or per channel.

    Examples
    --------
    >>> obs = MinMaxObserver(QuantSpec(bits=8, signed=False))
    >>> for batch in (torch.tensor([0.0, 1.0]), torch.tensor([-1.0, 0.5])):
    ...     _ = obs(batch)
    >>> [end.item() for end in obs.range()]
    [-1.0, 1.0]
    """

    def _observe(self, x: Tensor) -> None:
        self._widen(*self._extremes(x))


class MovingAverageObserver(Observer):
    """``m ← m + c (min x - m)``, and the same for the largest value; m is at first ``min x``.

    After n batches ``m = (1-c)^(n-1) min x₁ + Σ_{k=2}^{n} c (1-c)^(n-k) min x_k``: the first
    batch has the weight ``(1-c)^(n-1)``, not c. With c = 0.01 it still weighs 0.37 after 100
    batches, more than any other until batch 459. (Starting at 0 and dividing by ``1 - (1-c)^n``,
    as Adam does, would have no such bias.) A constant minimum is reproduced; otherwise the
    average lies inside the extremes seen, so that values get clipped. The order of batches
    matters, and so does their size: the minimum of a larger batch is lower.

    Jacob et al. 2018, section 3.1, use it to train with simulated quantization, with c "close to
    1" weighing the past where ours weighs the present. Equal to torch.ao's
    ``MovingAverageMinMaxObserver`` and ``MovingAveragePerChannelMinMaxObserver`` as far as
    `MinMaxObserver` is, and where theirs does not overflow to infinity.

    Parameters
    ----------
    spec : QuantSpec
        Per tensor or per channel.
    averaging_constant : float
        c, above 0 and at most 1 (the last batch alone).

    Raises
    ------
    ValueError
        If averaging_constant is not in that range.
    """

    def __init__(self, spec: QuantSpec, averaging_constant: float = 0.01) -> None:
        super().__init__(spec)
        if not 0 < averaging_constant <= 1:
            raise ValueError(
                f"averaging_constant must be above 0 and at most 1, got {averaging_constant!r}"
            )
        self.averaging_constant = averaging_constant

    def extra_repr(self) -> str:  # noqa: D102
        return f"{super().extra_repr()}, averaging_constant={self.averaging_constant}"

    def _observe(self, x: Tensor) -> None:
        low, high = self._extremes(x)
        if self.has_data:
            low, high = self._step(self.x_min, low), self._step(self.x_max, high)
        self.x_min, self.x_max = low, high

    def _step(self, average: Tensor, new: Tensor) -> Tensor:
        c = self.averaging_constant
        moved = average + c * (new - average)
        # Near the largest float the difference overflows, where the two products do not.
        return torch.where(moved.isfinite(), moved, (1 - c) * average + c * new)


class _CountingObserver(Observer):
    """Counts values in bins: what `PercentileObserver` and `HistogramObserver` share."""

    granularities: ClassVar[tuple[str, ...]] = ("tensor",)
    counts: Tensor
    zeros: Tensor

    def __init__(self, spec: QuantSpec, bins: int) -> None:
        super().__init__(spec)
        if not isinstance(bins, int) or isinstance(bins, bool) or not 16 <= bins <= 65536:
            raise ValueError(f"bins must be an integer from 16 to 65536, got {bins!r}")
        self.bins = bins
        self.register_buffer("counts", torch.zeros(bins, dtype=torch.int64))
        self.register_buffer("zeros", torch.zeros((), dtype=torch.int64))

    def histogram(self) -> Histogram:
        """Return what was counted: int64 counts [bins], their grid, the range, the exact zeros.

        Raises
        ------
        RuntimeError
            If no data has been observed.
        """
        self._check_data()
        counts = self.counts.numpy(force=True).copy()
        return Histogram(
            counts, self._grid(), self.x_min.item(), self.x_max.item(), int(self.zeros)
        )

    def reset(self) -> Self:
        self.counts.zero_()
        self.zeros.zero_()
        return super().reset()

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, bins={self.bins}"

    def _observe(self, x: Tensor) -> None:
        x = in_memory_order(x)
        low, high = self._extremes(x)
        before = grid = self._grid() if self.has_data else None
        if grid is None or self._is_wider(low, high):
            self._widen(low, high)
            grid = self._grid()
        if before is not None and grid != before:
            self.counts = regrid(self.counts, before, grid)
        counts, zeros = count(x, grid, self.bins)
        self.counts.add_(counts.to(self.counts.device))
        self.zeros.add_(zeros)

    def _is_wider(self, low: Tensor, high: Tensor) -> bool:
        """Whether the range or its type has to change: for most batches it has not."""
        return (
            low.dtype != self.x_min.dtype
            or low.item() < self.x_min.item()
            or high.item() > self.x_max.item()
        )

    def _grid(self) -> Grid:
        return grid_of(self.x_min.item(), self.x_max.item(), self.bins)

    def _ends(self, low: float, high: float) -> tuple[Tensor, Tensor]:
        """Two ends as tensors like the buffers, held to finite numbers."""
        largest = torch.finfo(self.x_min.dtype).max
        low, high = max(low, -largest), min(high, largest)
        return self.x_min.new_tensor(low), self.x_max.new_tensor(high)


class PercentileObserver(_CountingObserver):
    """``x_max`` = the p-th percentile of the values seen so far, ``x_min`` = the (100 - p)-th.

    Symmetric: both are the p-th percentile of |x|. The percentile is the linear interpolation of
    order statistics, as in ``numpy.percentile``: of the N sorted values, the one at position
    ``p/100 (N - 1)``. It is that of all values of all batches, not an average of percentiles, and
    neither the order nor the size of batches matters.

    Up to ``bins`` values it is exact. From then on the order statistics are read from a histogram
    with an error of less than one bin, whose width is a power of two and at most
    ``2 / (bins - 2)`` of the range (widened to contain 0): one outlier makes it coarser. p = 100
    is min-max, exactly.

    Parameters
    ----------
    spec : QuantSpec
        Per tensor.
    percentile : float
        p, above 50 and at most 100. Each tail loses 100 - p percent.
    bins : int
        16 to 65536.

    Raises
    ------
    ValueError
        If percentile or bins is not in its range, or the spec is not per tensor.

    Examples
    --------
    >>> obs = PercentileObserver(QuantSpec(), percentile=90.0)
    >>> _ = obs(torch.arange(101.0))
    >>> [end.item() for end in obs.range()]
    [10.0, 90.0]
    """

    _resized: ClassVar[tuple[str, ...]] = (*Observer._resized, "values")
    values: Tensor

    def __init__(self, spec: QuantSpec, percentile: float = 99.99, bins: int = 2048) -> None:
        super().__init__(spec, bins)
        if not 50 < percentile <= 100:
            raise ValueError(f"percentile must be above 50 and at most 100, got {percentile!r}")
        self.percentile = percentile
        self.register_buffer("values", torch.zeros(bins))

    def extra_repr(self) -> str:  # noqa: D102
        return f"{super().extra_repr()}, percentile={self.percentile}"

    def range(self) -> tuple[Tensor, Tensor]:
        """Return ``(x_min, x_max)``, the two percentiles.

        Raises
        ------
        RuntimeError
            If no data has been observed.
        """
        h = self.histogram()
        n = int(h.counts.sum())
        position = self.percentile / 100 * (n - 1)
        value: Callable[[int], float]
        if n <= self.bins:
            values = self.values[:n].cpu().numpy()
            value = sorted((abs(values) if self.spec.symmetric else values).tolist()).__getitem__
        else:
            value = order_statistic(magnitudes(h) if self.spec.symmetric else h)
        high = quantile(value, position)
        if self.spec.symmetric:
            return self._ends(-high, high)
        return self._ends(-quantile(lambda i: -value(n - 1 - i), position), high)

    def _observe(self, x: Tensor) -> None:
        seen = int(self.counts.sum())
        super()._observe(x)
        if seen < self.bins:
            first = x.reshape(-1)[: self.bins - seen].to(self.values.device)
            self.values = self.values.to(torch.promote_types(self.values.dtype, x.dtype))
            self.values[seen : seen + len(first)] = first


class HistogramObserver(_CountingObserver):
    """The range that costs least, judged on a histogram of all values seen so far.

    ``criterion="mse"``: least mean squared error of the quantizer itself, its scale and rounded
    zero point, with values spread evenly over each bin; `qtools.criteria.squared_error` has the
    formula (Nagel et al. 2021, section 3.1, "mean squared error"). A wide range rounds coarsely
    (the error grows as s²), a narrow one clips; the optimum is where they balance.

    ``criterion="kl"``: least Kullback-Leibler divergence between the clipped histogram and what
    the codes keep of it; `qtools.criteria.relative_entropy` (Migacz 2017).

    The histogram has bins of a power-of-two width and keeps whole counts as its range doubles, so
    that neither the order nor the size of batches changes anything (`qtools.histogram`). If all
    values are equal, so are ``x_min`` and ``x_max``: the value is then represented exactly. One
    outlier M times larger than the rest leaves the rest ``bins / M`` bins or so; below a handful
    both criteria see little of its shape, and more bins help.

    Parameters
    ----------
    spec : QuantSpec
        Per tensor.
    criterion : {"mse", "kl"}
        What to minimise.
    bins : int
        16 to 65536.

    Raises
    ------
    ValueError
        If criterion or bins is not one of the above, or the spec is not per tensor.
    """

    def __init__(self, spec: QuantSpec, criterion: Criterion = "mse", bins: int = 2048) -> None:
        super().__init__(spec, bins)
        if criterion not in get_args(Criterion):
            raise ValueError(f"criterion must be one of {get_args(Criterion)}, got {criterion!r}")
        self.criterion = criterion

    def extra_repr(self) -> str:  # noqa: D102
        return f"{super().extra_repr()}, criterion={self.criterion!r}"

    def candidates(self) -> Candidates:
        """Return every range that the criterion compares, with its cost.

        Raises
        ------
        RuntimeError
            If no data has been observed.
        """
        return self._search(prune=False)

    def range(self) -> tuple[Tensor, Tensor]:
        """Return ``(x_min, x_max)``, the cheapest of `candidates`, the widest if several are.

        Raises
        ------
        RuntimeError
            If no data has been observed.
        """
        return self._ends(*self._search(prune=True).best)

    def _search(self, prune: bool) -> Candidates:
        h = self.histogram()
        if h.x_min == h.x_max:
            return Candidates(np.array([h.x_min]), np.array([h.x_max]), np.zeros(1))
        if self.criterion == "mse":
            return squared_error(h, self.spec, prune=prune)
        return relative_entropy(h, self.spec)
