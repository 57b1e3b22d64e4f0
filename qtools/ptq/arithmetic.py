"""The integer arithmetic of `qtools.integer`, arranged for speed: the same numbers, bit for bit.

Images are laid out [n, height, width, channels], which torch calls channels-last, so that a window
of an image is a few runs of memory and a row of accumulators is one pixel.
"""

from __future__ import annotations

from functools import cache, reduce
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from qtools.spec import QParams, QuantSpec

# All integers up to here are float32 numbers.
EXACT_IN_FLOAT32 = 1 << 24


def round_half_away_(x: Tensor) -> Tensor:
    """Round in place, halves away from zero; exact for float64 below 2^51 in steps of 2^-1 up."""
    return x.add_(torch.copysign(x.new_tensor(0.5), x)).trunc_()


def as_int8(q: Tensor) -> Tensor:
    """Codes as int8: unsigned ones move down by 128, as their zero point must."""
    return q if q.dtype == torch.int8 else q.bitwise_xor(128).view(torch.int8)


class Window(NamedTuple):
    """Geometry of a convolution or a pooling: (height, width) each."""

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)

    def out(self, height: int, width: int) -> tuple[int, int]:
        """Size of the result.

        Raises
        ------
        ValueError
            If the kernel is larger than the padded input.
        """
        return _out(self, height, width)


@cache
def _out(window: Window, height: int, width: int) -> tuple[int, int]:
    sizes = [
        (size + 2 * p - d * (k - 1) - 1) // s + 1
        for size, k, s, p, d in zip((height, width), *window, strict=True)
    ]
    if min(sizes) < 1:
        raise ValueError(f"input {height}x{width} is too small for {window}")
    return sizes[0], sizes[1]


def pad(x: Tensor, padding: tuple[int, int], value: int) -> Tensor:
    """Frame images [n, height, width, channels] with a code."""
    if padding == (0, 0):
        return x.contiguous()
    return F.pad(x, (0, 0, *[padding[1]] * 2, *[padding[0]] * 2), value=value)


def window_rows(x: Tensor, window: Window, z: int) -> Tensor:
    """Cut padded images into windows: [n · out height · out width, kernel h · kernel w · channels].

    Few channels make short runs to copy, so then all pixels of one place in the window are copied
    together, and what returns is the transpose of a contiguous matrix. The numbers are the same.
    """
    (n, height, width, c), ((kh, kw), (sh, sw), _, (dh, dw)) = x.shape, window
    oh, ow = window.out(height, width)
    if window.kernel == (1, 1) and window.padding == (0, 0):
        return x[:, ::sh, ::sw].reshape(-1, c)
    x = pad(x, window.padding, z)
    image, line, _, _ = x.stride()
    if c * kw < 16 and sw == 1:
        size, stride = (kh, kw, c, n, oh, ow), (dh * line, dw * c, 1, image, sh * line, c)
        return x.as_strided(size, stride).reshape(kh * kw * c, -1).t()
    size, stride = (n, oh, ow, kh, kw, c), (image, sh * line, sw * c, dh * line, dw * c, 1)
    return x.as_strided(size, stride).reshape(-1, kh * kw * c)


def max_pool(x: Tensor, window: Window) -> Tensor:
    """Largest code under the window, [n, height, width, channels], along one axis after another.

    Padding is with the smallest number of the type: it never wins.
    """
    (n, height, width, c), (kernel, stride, padding, dilation) = x.shape, window
    oh, ow = window.out(height, width)
    tiles = kernel == stride and padding == (0, 0) and dilation == (1, 1)
    if tiles and (height, width) == (oh * kernel[0], ow * kernel[1]):
        # Windows that tile the image are axes of a view, which costs less than slices do.
        rows = x.reshape(n, oh, kernel[0], width * c).unbind(2)
        columns = reduce(torch.maximum, rows).view(n, oh, ow, kernel[1], c).unbind(3)
        return reduce(torch.maximum, columns)
    x = pad(x, padding, torch.iinfo(x.dtype).min)
    for axis, size in ((1, oh), (2, ow)):
        k, s, d = kernel[axis - 1], stride[axis - 1], dilation[axis - 1]
        span = [slice(None)] * axis
        views = [x[(*span, slice(i * d, i * d + s * (size - 1) + 1, s))] for i in range(k)]
        x = reduce(torch.maximum, views)
    return x


def conv_in_float(x: Tensor, w: Tensor, window: Window, groups: int, bound: int) -> Tensor:
    """Convolve integers in a floating-point type wide enough to add them exactly.

    For grouped convolutions, whose products are too small for a matrix product to pay. No sum of
    products, partial ones included, may exceed ``bound``.

    Parameters
    ----------
    x : Tensor
        ``q_x - z_x``, any type, [n, height, width, channels].
    w : Tensor
        ``q_w - z_w`` [out channels, channels / groups, kernel h, kernel w].

    Returns
    -------
    Tensor
        float32 or float64 [n, out height, out width, out channels], all integers.
    """
    dtype = torch.float32 if bound < EXACT_IN_FLOAT32 and _float32_is_kept() else torch.float64
    x = x.to(dtype).permute(0, 3, 1, 2)
    geometry = (window.stride, window.padding, window.dilation, groups)
    return F.conv2d(x, w.to(dtype), None, *geometry).permute(0, 2, 3, 1)


def _float32_is_kept() -> bool:
    """Return whether torch may not replace float32 by a narrower type inside convolutions."""
    conv = getattr(torch.backends.mkldnn, "conv", None)
    return torch.get_float32_matmul_precision() == "highest" and getattr(
        conv, "fp32_precision", "none"
    ) in ("none", "ieee")


def weight_bounds(w_steps: Tensor, x_qp: QParams, bias: Tensor) -> Tensor:
    """``max |acc| <= max(z_x - qmin, qmax - z_x) Σ |q_w - z_w| + |q_b|``: int64 [channels].

    It holds for every partial sum too, in whatever order.
    """
    spec: QuantSpec = x_qp.spec
    z = int(x_qp.zero_point)
    return max(z - spec.qmin, spec.qmax - z) * w_steps.long().abs().flatten(1).sum(1) + bias.abs()
