"""Modules that compute with codes only: int8 or uint8 in, int8 or uint8 out.

Buffers are what has to be stored: codes, biases, scales and zero points. Everything else (sums of
weights, multipliers) follows from them and is made by `refresh`, when a module is built and when
a file has been loaded into it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qtools.affine import quantize
from qtools.fixed_point import FixedPointMultiplier
from qtools.int8_matmul import int8_matmul
from qtools.integer import INT32_MAX, check_accumulator, output_multiplier
from qtools.ptq.arithmetic import (
    Window,
    as_int8,
    conv_in_float,
    max_pool,
    round_half_away_,
    weight_bounds,
    window_rows,
)
from qtools.requantizer import Clamp, Requantizer
from qtools.spec import QParams, QuantSpec

_PIECE = 1 << 15


class IntegerModule(nn.Module):
    """A module whose quantization parameters are buffers: ``x_scale``, ``x_zero_point``, ..."""

    def __init__(self, **params: QParams) -> None:
        super().__init__()
        self.specs: dict[str, QuantSpec] = {}
        for name, qp in params.items():
            self.specs[name] = qp.spec
            self.register_buffer(f"{name}_scale", qp.scale.detach().clone())
            self.register_buffer(f"{name}_zero_point", qp.zero_point.detach().clone())

    def qp(self, name: str) -> QParams:
        """Return the parameters of "input", "weight", "output", ..."""
        scale, zero_point = (self.get_buffer(f"{name}_{part}") for part in ("scale", "zero_point"))
        return QParams(scale, zero_point, self.specs[name])

    def refresh(self) -> None:
        """Derive what the buffers determine; called after they change."""

    def _load_from_state_dict(self, *args: object) -> None:
        super()._load_from_state_dict(*args)
        self.refresh()


class Quantize(IntegerModule):
    """Real numbers to codes: `qtools.affine.quantize`."""

    def __init__(self, output: QParams) -> None:
        super().__init__(output=output)
        self.refresh()

    def refresh(self) -> None:  # noqa: D102
        self._output = self.qp("output")

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return quantize(x, self._output)


class Dequantize(IntegerModule):
    """Codes to real numbers: `qtools.affine.dequantize`, with the zero point made a float before.

    Where a network was split (chunk), so are the codes: each part is returned.
    """

    def __init__(self, input: QParams) -> None:
        super().__init__(input=input)
        self.refresh()

    def refresh(self) -> None:  # noqa: D102
        qp = self.qp("input")
        self._scale, self._zero = qp.scale, int(qp.zero_point)

    def forward(self, q: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:  # noqa: D102
        if isinstance(q, (tuple, list)):
            return tuple(self._real(part) for part in q)
        return self._real(q)

    def _real(self, q: Tensor) -> Tensor:
        return q.contiguous().to(self._scale.dtype).sub_(self._zero).mul_(self._scale)


class _Weighted(IntegerModule):
    """What linear and convolution share: ``q = clip(round(M (Σ (q_x-z_x)(q_w-z_w) + q_b)) + z)``.

    ``Σ (q_x-z_x)(q_w-z_w) + q_b = Σ q_x q_w - z_w Σ q_x + (q_b - z_x Σ q_w + K z_x z_w)``: the
    last bracket is known beforehand, and the middle term is absent for symmetric weights.
    """

    weight: Tensor
    bias: Tensor

    def __init__(
        self, weight: Tensor, bias: Tensor, input: QParams, w_qp: QParams, output: QParams,
        clamp: Clamp,
    ) -> None:  # fmt: skip
        super().__init__(input=input, weight=w_qp, output=output)
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.clamp = clamp
        self.refresh()

    def refresh(self) -> None:
        x, w, out = self.qp("input"), self.qp("weight"), self.qp("output")
        k = self.weight[0].numel()
        check_accumulator(k, x, w)
        steps = self.weight.int() - w.zero_point.view(-1, *[1] * (self.weight.ndim - 1))
        bounds = weight_bounds(steps, x, self.bias.long())
        self.bound = int(bounds.max())
        if self.bound > INT32_MAX:
            raise ValueError(f"sums of {k} products and a bias must fit into int32")
        multiplier = output_multiplier(x, w, out)
        if multiplier.shift.ndim == 0:
            bounds = bounds.max()
        self.requantizer = Requantizer(multiplier, bounds, out, self.clamp)
        self._rows = as_int8(self._channels_last()).flatten(1).contiguous()
        z_w = w.zero_point - (128 if self.weight.dtype == torch.uint8 else 0)
        self._z_w = z_w if bool(z_w.any()) else None
        self._z = int(x.zero_point)
        self._channels = len(self.weight)
        sums = self._rows.sum(1, dtype=torch.int32)
        self._constant = (self.bias - self._z * sums + k * self._z * z_w).to(torch.int32)

    def _channels_last(self) -> Tensor:
        return self.weight if self.weight.ndim == 2 else self.weight.permute(0, 2, 3, 1)

    def _products(self, rows: Tensor) -> Tensor:
        acc = int8_matmul(rows, self._rows).add_(self._constant)
        if self._z_w is not None:
            acc -= rows.sum(1, dtype=torch.int32)[:, None] * self._z_w
        return acc


class IntegerLinear(_Weighted):
    """Codes [..., in_features] to codes [..., out_features], as `qtools.integer.integer_linear`."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        acc = self._products(x.reshape(-1, x.shape[-1]))
        return self.requantizer(acc).view(*x.shape[:-1], self._channels)


class IntegerConv2d(_Weighted):
    """Codes [n, c, h, w] to codes [n, c', h', w'], as `qtools.integer.integer_conv2d`.

    Both are channels-last in memory. A max-pooling that follows can be done on the accumulators,
    of which then fewer are left to requantize: rounding and clamping are monotone, so the largest
    code is the code of the largest accumulator.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor, input: QParams, w_qp: QParams, output: QParams,
        clamp: Clamp, window: Window, groups: int,
    ) -> None:  # fmt: skip
        self.window, self.groups = window, groups
        self.pool: Window | None = None
        super().__init__(weight, bias, input, w_qp, output, clamp)

    def refresh(self) -> None:  # noqa: D102
        super().refresh()
        z_w = self.qp("weight").zero_point.view(-1, 1, 1, 1)
        self._steps = (self.weight.int() - z_w).float() if self.groups > 1 else None

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        x = x.permute(0, 2, 3, 1)
        if self._steps is None:
            n, height, width, _ = x.shape
            rows = window_rows(x, self.window, self._z)
            acc = self._products(rows).view(n, *self.window.out(height, width), self._channels)
        else:
            acc = conv_in_float(x.to(torch.int16) - self._z, self._steps, self.window, self.groups,
                                self.bound)  # fmt: skip
            acc = acc.to(torch.int32) + self.bias
        if self.pool is not None:
            acc = max_pool(acc, self.pool)
        return self.requantizer(acc).permute(0, 3, 1, 2)


class IntegerAdd(IntegerModule):
    """``round(M_x (q_x - z_x) + M_y (q_y - z_y)) + z``, as `qtools.integer.integer_add`.

    The two factors share a shift, and 8-bit steps times 31-bit mantissas are exact in float64.
    """

    def __init__(self, input: QParams, other: QParams, output: QParams, clamp: Clamp) -> None:
        super().__init__(input=input, other=other, output=output)
        self.clamp = clamp
        self.refresh()

    def refresh(self) -> None:  # noqa: D102
        x, y, out = self.qp("input"), self.qp("other"), self.qp("output")
        factors = torch.stack([x.scale, y.scale]).double() / out.scale.double()
        shift = FixedPointMultiplier.from_real(factors.max()).shift
        self._factors = torch.ldexp(torch.round(torch.ldexp(factors, shift)), -shift).tolist()
        self._zeros = int(x.zero_point), int(y.zero_point), int(out.zero_point)
        self._low, self._high = self.clamp.codes(out)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:  # noqa: D102
        x, y = torch.broadcast_tensors(x, y)
        result = torch.empty_like(x, dtype=self.specs["output"].dtype)
        for i in range(0, len(x), step := max(1, _PIECE * len(x) // max(1, x.numel()))):
            part = slice(i, i + step)
            result[part] = self._piece(x[part], y[part])
        return result

    def _piece(self, x: Tensor, y: Tensor) -> Tensor:
        (m_x, m_y), (z_x, z_y, z) = self._factors, self._zeros
        total = x.double().sub_(z_x).mul_(m_x).add_(y.double().sub_(z_y).mul_(m_y))
        return round_half_away_(total).add_(z).clamp_(self._low, self._high).to(torch.int32)


class IntegerAvgPool2d(IntegerModule):
    """``round(M Σ (q_x - z_x)) + z``, ``M = s_x / (s area)``: windows of equal or adapted size.

    Parameters
    ----------
    window : Window, optional
        Without padding and dilation.
    adaptive : (int, int), optional
        Output size instead: bin i of n covers ``floor(i size / n) .. ceil((i + 1) size / n)``.
    keepdim : bool
        Whether a mean over all pixels keeps height and width.
    """

    def __init__(
        self, input: QParams, output: QParams, window: Window | None = None,
        adaptive: tuple[int | None, int | None] = (1, 1), keepdim: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(input=input, output=output)
        self.window, self.adaptive, self.keepdim = window, adaptive, keepdim
        self.refresh()

    def refresh(self) -> None:  # noqa: D102
        self._requantizers: dict[int, Requantizer] = {}

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        rows, columns = (self._bins(size, axis) for axis, size in enumerate(x.shape[-2:]))
        lines = [torch.stack([self._mean(x, r, c) for c in columns], -1) for r in rows]
        y = torch.stack(lines, -2)
        return y if self.keepdim else y[..., 0, 0]

    def _bins(self, size: int, axis: int) -> list[slice]:
        if self.window is not None:
            k, s = self.window.kernel[axis], self.window.stride[axis]
            return [slice(i, i + k) for i in range(0, size - k + 1, s)]
        n = self.adaptive[axis] or size
        return [slice(i * size // n, -((i + 1) * size // -n)) for i in range(n)]

    def _mean(self, x: Tensor, rows: slice, columns: slice) -> Tensor:
        part = x[..., rows, columns]
        area = part.shape[-1] * part.shape[-2]
        z = int(self.input_zero_point)  # type: ignore[arg-type]
        return self._requantizer(area)(part.sum((-2, -1), dtype=torch.int32) - area * z)

    def _requantizer(self, area: int) -> Requantizer:
        if area not in self._requantizers:
            x, out = self.qp("input"), self.qp("output")
            m = FixedPointMultiplier.from_real(x.scale.double() / (out.scale.double() * area))
            self._requantizers[area] = Requantizer(m, torch.tensor(255 * area), out, Clamp())
        return self._requantizers[area]


class IntegerCat(IntegerModule):
    """Concatenate codes after bringing each input to the grid of the output."""

    def __init__(self, inputs: list[QParams], output: QParams, dim: int) -> None:
        names = {f"input_{i}": qp for i, qp in enumerate(inputs)}
        super().__init__(**names, output=output)
        self.dim, self.count = dim, len(inputs)
        self.refresh()

    def refresh(self) -> None:  # noqa: D102
        inputs, out = [self.qp(f"input_{i}") for i in range(self.count)], self.qp("output")
        factors = [qp.scale.double() / out.scale.double() for qp in inputs]
        self._requantizers = [
            Requantizer(FixedPointMultiplier.from_real(f), torch.tensor(255), out, Clamp())
            for f in factors
        ]
        self._zeros = [int(qp.zero_point) for qp in inputs]

    def forward(self, xs: list[Tensor]) -> Tensor:  # noqa: D102
        parts = zip(xs, self._requantizers, self._zeros, strict=True)
        return torch.cat([r(x.to(torch.int32) - z) for x, r, z in parts], self.dim)


class IntegerMaxPool2d(nn.Module):
    """Largest code of each window; the grid stays."""

    def __init__(self, window: Window) -> None:
        super().__init__()
        self.window = window

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return max_pool(x.permute(0, 2, 3, 1), self.window).permute(0, 3, 1, 2)


class IntegerClamp(IntegerModule):
    """ReLU and its like on a grid that stays: a clamp of codes."""

    def __init__(self, input: QParams, clamp: Clamp) -> None:
        super().__init__(input=input)
        self.clamp = clamp
        self.refresh()

    def refresh(self) -> None:  # noqa: D102
        self._low, self._high = self.clamp.codes(self.qp("input"))

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return x.clamp(self._low, self._high)
