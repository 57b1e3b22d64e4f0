"""Modules that quantize in the forward pass and let gradients through: `FakeQuantize`, LSQ.

Both are made from an observer that has seen data, and both have ``qparams()``, so that all of
`qtools.ptq` takes them where it takes an observer.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from qtools.affine import fake_quantize
from qtools.ptq.recipe import WeightRange
from qtools.ptq.weights import choose_weight_qparams
from qtools.qat.estimators import learned_fake_quantize
from qtools.spec import QParams, QuantSpec


class WeightObserver(nn.Module):
    """The parameters of the weight it saw last: `qtools.ptq.weights.choose_weight_qparams`.

    A weight is there as a whole at each step, so nothing has to be remembered. Observing in eval
    mode is then harmless, and keeps the range that of the weight at hand.

    Parameters
    ----------
    spec : QuantSpec
    weight_range : {"minmax", "mse"}
    """

    memoryless: ClassVar[bool] = True
    scale: Tensor
    zero_point: Tensor

    def __init__(self, spec: QuantSpec, weight_range: WeightRange = "minmax") -> None:
        super().__init__()
        self.spec, self.weight_range = spec, weight_range
        self.register_buffer("scale", torch.empty(0))
        self.register_buffer("zero_point", torch.empty(0, dtype=torch.int32))

    def forward(self, weight: Tensor) -> Tensor:
        """Choose a scale for the weight, and return it."""
        qp = choose_weight_qparams(weight, self.spec, self.weight_range)
        self.scale, self.zero_point = qp.scale, qp.zero_point
        return weight

    def qparams(self) -> QParams:
        """Return what was chosen last.

        Raises
        ------
        RuntimeError
            If no weight has been observed.
        """
        if self.scale.shape == (0,):
            raise RuntimeError("WeightObserver has no data: call it on a weight first")
        return QParams(self.scale, self.zero_point, self.spec)

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *args: object) -> None:
        # Their shape depends on the weight: take that of what is loaded.
        for name in ("scale", "zero_point"):
            if prefix + name in state:
                setattr(self, name, torch.empty_like(state[prefix + name]))
        super()._load_from_state_dict(state, prefix, *args)


class Quantizer(nn.Module):
    """What `prepare_qat` needs: ``forward(x)`` is fake-quantized x, ``qparams()`` says how."""

    def __init__(self, observer: nn.Module) -> None:
        super().__init__()
        if not callable(getattr(observer, "qparams", None)):
            raise TypeError(f"observer must have qparams(), got {type(observer).__name__}")

    def qparams(self) -> QParams:
        """Return the parameters in use, without gradient."""
        raise NotImplementedError

    def freeze(self) -> None:
        """Keep the parameters as they are from now on."""
        raise NotImplementedError


class FakeQuantize(Quantizer):
    """``x_hat = fake_quantize(x, observer.qparams())``, the observer watching while it trains.

    In training mode the observer sees each x before it is quantized, so the range follows the
    network as it changes. In eval mode it does not, or measuring accuracy would move the ranges
    (those of weights are chosen anew for each weight, in both modes). The gradient is the
    straight-through one with clip mask (Jacob et al. 2018, section 3).

    Parameters
    ----------
    observer : nn.Module
        That has seen data. One that forgets suits training, as `MovingAverageObserver` does; a
        histogram holds on to what early weights gave.
    """

    def __init__(self, observer: nn.Module) -> None:
        super().__init__(observer)
        self.observer = observer
        self.observing = True

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        if self.observing and (self.training or getattr(self.observer, "memoryless", False)):
            self.observer(x.detach())
        return fake_quantize(x, self.qparams())

    def qparams(self) -> QParams:  # noqa: D102
        found = self.observer.qparams()  # type: ignore[operator]
        assert isinstance(found, QParams)
        return found

    def freeze(self) -> None:  # noqa: D102
        self.observing = False

    def extra_repr(self) -> str:  # noqa: D102
        return "" if self.observing else "frozen"


class LearnedStep(Quantizer):
    """LSQ: ``x_hat = s clip(round(x/s), qmin - z, qmax - z)``, and s is a parameter.

    Its gradient is `learned_fake_quantize`'s times ``g = 1 / sqrt(N Q_P)``: N values share the
    step (for activations: values of one sample), ``Q_P = max(qmax - z, z - qmin)``. That brings
    the ratio of a step's update to its size near that of the weights (Esser et al. 2020, section
    2.2), for plain gradient descent. Optimisers that divide by the gradient's own size, as Adam
    does, cancel g.

    The step starts at the observer's scale; the paper starts at ``2 mean |x| / sqrt(Q_P)``. The
    zero point stays the observer's.

    Parameters
    ----------
    observer : nn.Module
        That has seen data: asked for ``qparams()`` once, and not kept.
    """

    zero_point: Tensor

    def __init__(self, observer: nn.Module) -> None:
        super().__init__(observer)
        qp: QParams = observer.qparams()  # type: ignore[operator]
        self.spec = qp.spec
        self.of_weight = isinstance(observer, WeightObserver)
        self.scale = nn.Parameter(qp.scale.detach().clone())
        self.register_buffer("zero_point", qp.zero_point.detach().clone())

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        qp = self.qparams()
        shared = x.numel() if self.of_weight else x[0].numel() if len(x) else 0
        n = max(1, shared // max(1, self.scale.numel()))
        levels = max(1, self.spec.qmax - int(qp.zero_point.min()))
        return learned_fake_quantize(x, self._positive(), qp, 1 / math.sqrt(n * levels))

    def qparams(self) -> QParams:  # noqa: D102
        return QParams(self._positive().detach(), self.zero_point, self.spec)

    def _positive(self) -> Tensor:
        """The step, should an update have taken it through 0."""
        return self.scale.abs().clamp_min(torch.finfo(self.scale.dtype).tiny)

    def freeze(self) -> None:  # noqa: D102
        self.scale.requires_grad_(False)
