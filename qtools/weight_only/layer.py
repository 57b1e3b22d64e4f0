"""A linear layer whose weights are packed codes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qtools.weight_only.grid import Quantized
from qtools.weight_only.packing import check_bits, pack_rows, row_bytes, unpack_rows


class WeightOnlyLinear(nn.Module):
    """``y = (x ⊙ t) Ŵᵀ + b`` with ``Ŵ = s (q - z)``: inference only.

    Every call unpacks all codes into a matrix of the input's type and multiplies by it: small on
    disk and at rest, and **slower** than a float layer. Made by `from_weight`; the constructor
    takes what a file holds.

    Attributes
    ----------
    codes : Tensor
        q, uint8 [out, row_bytes(in, bits)]: see `pack_rows`.
    scale : Tensor
        s, float16 [out, groups], also after ``.float()`` or ``.to(torch.bfloat16)``, which would
        make it larger or worse.
    zero_point : Tensor or None
        z, uint8 [out, row_bytes(groups, bits)], packed like the codes.
    input_scale : Tensor or None
        t, float16 [in], of AWQ.
    bias : Tensor or None
        [out].
    """

    codes: Tensor
    scale: Tensor
    zero_point: Tensor | None
    input_scale: Tensor | None
    bias: Tensor | None

    def __init__(
        self,
        in_features: int,
        bits: int,
        codes: Tensor,
        scale: Tensor,
        zero_point: Tensor | None = None,
        input_scale: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> None:
        super().__init__()
        check_bits(bits)
        if type(in_features) is not int or in_features < 1:
            raise ValueError(f"in_features must be an int of at least 1, got {in_features!r}")
        if scale.ndim != 2 or not scale.shape[1] or in_features % scale.shape[1]:
            raise ValueError(
                f"scale must be [out, groups] with groups that divide {in_features}, "
                f"got {list(scale.shape)}"
            )
        self.in_features, self.out_features, self.bits = in_features, len(scale), bits
        self.group_size = in_features // scale.shape[1]
        rows = self.out_features
        _check("codes", codes, torch.uint8, rows, row_bytes(in_features, bits))
        _check("scale", scale, torch.float16, rows, scale.shape[1])
        if zero_point is not None:
            if bits == 1:
                raise ValueError("zero_point must be None with 1 bit, which has none")
            _check("zero_point", zero_point, torch.uint8, rows, row_bytes(scale.shape[1], bits))
        if input_scale is not None:
            _check("input_scale", input_scale, torch.float16, in_features)
        if bias is not None:
            _check("bias", bias, bias.dtype if bias.is_floating_point() else torch.float32, rows)
        tensors = {
            "codes": codes, "scale": scale, "zero_point": zero_point,
            "input_scale": input_scale, "bias": bias,
        }  # fmt: skip
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)

    @classmethod
    def from_weight(cls, weight: Quantized, bias: Tensor | None = None) -> Self:
        """Pack a weight; a copy of the bias goes with it."""
        zero_point = weight.zero_point
        return cls(
            weight.codes.shape[1],
            weight.bits,
            pack_rows(weight.codes, weight.bits),
            weight.scale,
            None if zero_point is None else pack_rows(zero_point, weight.bits),
            weight.input_scale,
            None if bias is None else bias.detach().clone(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out].

        Raises
        ------
        ValueError
            If x does not end in ``in_features``: t would spread a single column over all.
        """
        if x.shape[-1:] != (self.in_features,):
            raise ValueError(
                f"x must have the shape [..., {self.in_features}], got {list(x.shape)}"
            )
        weight = self.unpacked().levels().to(x.dtype)
        if self.input_scale is not None:
            x = x * self.input_scale.to(x.dtype)
        return F.linear(x, weight, None if self.bias is None else self.bias.to(x.dtype))

    def unpacked(self) -> Quantized:
        """The weight as codes, a byte each."""
        z = self.zero_point
        return Quantized(
            unpack_rows(self.codes, self.in_features, self.bits),
            self.scale,
            None if z is None else unpack_rows(z, self.scale.shape[1], self.bits),
            self.bits,
            self.input_scale,
        )

    def dequantize(self) -> Tensor:
        """``Ŵ diag(t)`` float32 [out, in]: what the layer multiplies its input by."""
        return self.unpacked().dequantize()

    @property
    def weight_bytes(self) -> int:
        """Bytes of codes, scales, zero points and input scale, padding included, without bias."""
        stored = (self.codes, self.scale, self.zero_point, self.input_scale)
        return sum(t.nbytes for t in stored if t is not None)

    @property
    def bits_per_weight(self) -> float:
        """``8 weight_bytes / (in out)``; NaN for a layer without weights."""
        weights = self.in_features * self.out_features
        return 8 * self.weight_bytes / weights if weights else float("nan")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # .to(dtype) goes through here. The scales follow to the device, not to the type.
        kept = self.scale, self.input_scale
        result = super()._apply(fn, recurse)
        if not self.scale.is_meta:
            self.scale = kept[0].to(self.codes.device)
            self.input_scale = None if kept[1] is None else kept[1].to(self.codes.device)
        return result

    def extra_repr(self) -> str:  # noqa: D102
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, bits={self.bits}, group_size={self.group_size}, "
            f"zero_point={self.zero_point is not None}, "
            f"input_scale={self.input_scale is not None}"
        )


def _check(name: str, tensor: Tensor, dtype: torch.dtype, *shape: int) -> None:
    if tensor.dtype != dtype or tensor.shape != shape:
        raise ValueError(
            f"{name} must be {dtype} {list(shape)}, got {tensor.dtype} {list(tensor.shape)}"
        )
