"""Signs as bits: a OneBit layer in the bytes that it is worth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from qtools.kernels import onebit_linear
from qtools.kernels.bits import pack_signs, row_bytes, unpack_signs
from qtools.onebit.layer import OneBitLinear, check_eps, check_sizes, describe, normalized
from qtools.onebit.modules import all_names, has_hooks, named, replace_


class PackedOneBitLinear(nn.Module):
    """``Z = LayerNorm([(X ⊙ g) W±1ᵀ] ⊙ h) + bias`` with one bit for each sign: inference only.

    Xu et al. 2024, eq. 3, as `OneBitLinear`, computed on the bits by `qtools.kernels`: where its C
    library is built, **faster** than a float layer of more than some hundred columns, and small.
    Without the library plain torch looks sums up in a table, or unpacks the signs for many rows:
    as small, and slower than a float layer. `qtools.kernels.info` says which it is.

    The input may have any floating type. float16 and bfloat16 are computed in float32 and rounded
    once, float64 in float64. The library keeps the bits once more in its own order, made at the
    first call and anew after a change: ``out in / 8`` bytes of memory beside as many in `bits`, and
    none on disk. Bits are to be changed through torch, so that the change is seen.

    Attributes
    ----------
    bits : Tensor
        uint8 [out, row_bytes(in)]: see `pack_signs`.
    g, h : Tensor
        float16 [in] and [out], also after ``.float()`` or ``.to(torch.bfloat16)``, which would
        make them larger or worse.
    bias : Tensor or None
        [out].
    """

    bits: Tensor
    g: Tensor
    h: Tensor
    bias: Tensor | None

    def __init__(
        self,
        bits: Tensor,
        g: Tensor,
        h: Tensor,
        bias: Tensor | None = None,
        layer_norm: bool = True,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        check_sizes(g.numel(), h.numel())
        check_eps(eps)
        self.in_features, self.out_features = g.numel(), h.numel()
        self.layer_norm, self.eps = layer_norm, eps
        for name, vector, size in (("g", g, self.in_features), ("h", h, self.out_features)):
            if vector.dtype != torch.float16 or vector.shape != (size,):
                raise ValueError(
                    f"{name} must be a float16 vector, got {vector.dtype} {list(vector.shape)}"
                )
        expected = (self.out_features, row_bytes(self.in_features))
        if bits.dtype != torch.uint8 or bits.shape != expected:
            raise ValueError(
                f"bits must be uint8 {list(expected)}, got {bits.dtype} {list(bits.shape)}"
            )
        if bias is not None and (
            not bias.is_floating_point() or bias.shape != (self.out_features,)
        ):
            raise ValueError(
                f"bias must be floating point [{self.out_features}], "
                f"got {bias.dtype} {list(bias.shape)}"
            )
        for name, value in (("bits", bits), ("g", g), ("h", h), ("bias", bias)):
            self.register_buffer(name, value)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        return normalized(self, onebit_linear(x, self.bits, self.g, self.h))

    @property
    def weight_bytes(self) -> int:
        """Bytes of signs, their padding, g and h."""
        return self.bits.nbytes + self.g.nbytes + self.h.nbytes

    def signs(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """``W±1`` [out, in]."""
        return unpack_signs(self.bits, self.in_features, dtype)

    def reconstruct(self) -> Tensor:
        """``W±1 ⊙ h gᵀ`` float32 [out, in]: the weight before the LayerNorm as one matrix."""
        return self.signs() * torch.outer(self.h.float(), self.g.float())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # .to(dtype) goes through here. g and h follow to the device, not to the type.
        kept = self.g, self.h
        result = super()._apply(fn, recurse)
        if not self.g.is_meta:
            self.g, self.h = (old.to(self.bits.device) for old in kept)
        return result

    @classmethod
    def from_layer(cls, layer: OneBitLinear, bits: Tensor | None = None) -> Self:
        """Pack a layer.

        Parameters
        ----------
        layer : OneBitLinear
            Unchanged. Its bias keeps its type; g and h are rounded to float16.
        bits : Tensor, optional
            ``pack_signs(layer.weight)`` where it is at hand already.

        Raises
        ------
        ValueError
            If the weight has NaN, or g or h values that float16 cannot hold.
        """
        if layer.weight.isnan().any():
            raise ValueError("weight must have no NaN: it has no sign")
        bias = None if layer.bias is None else layer.bias.detach().clone()
        packed = cls(
            pack_signs(layer.weight) if bits is None else bits,
            _half("g", layer.g), _half("h", layer.h), bias, layer.layer_norm, layer.eps,
        )  # fmt: skip
        return packed.train(layer.training)

    def extra_repr(self) -> str:  # noqa: D102
        return describe(self)


def _half(name: str, vector: Tensor) -> Tensor:
    half = vector.detach().to(torch.float16, copy=True)
    if not half.isfinite().all():
        raise ValueError(
            f"{name} must be finite and at most 65504 in magnitude to be float16, "
            f"got {vector.abs().max():.6g}"
        )
    return half


def pack_(model: nn.Module) -> list[str]:
    """Replace every OneBitLinear of the model, in place, by a PackedOneBitLinear.

    Layers that share a latent weight share its bits; a layer known by several names stays one.
    All layers are packed before the first is replaced: after an error the model is as it was.

    Parameters
    ----------
    model : nn.Module
        Its other layers stay as they are, and an optimizer of its parameters is of no more use.

    Returns
    -------
    list of str
        Names of the packed layers, each once.

    Raises
    ------
    ValueError
        With the name of the layer: NaN in its weight, g or h beyond float16, or hooks; or if the
        model is itself such a layer (use `PackedOneBitLinear.from_layer`) or has none.
    """
    if isinstance(model, OneBitLinear):
        raise ValueError("model must hold its layers; use PackedOneBitLinear.from_layer for one")
    made: dict[nn.Module, nn.Module] = {}
    bits: dict[Any, Tensor] = {}
    names = []
    for name, module in all_names(model):
        if not isinstance(module, OneBitLinear) or module in made:
            continue
        if has_hooks(module):
            raise ValueError(f"{name} must have no hooks, they would be lost")
        if module.weight not in bits:
            bits[module.weight] = pack_signs(module.weight)
        with named(name):
            made[module] = PackedOneBitLinear.from_layer(module, bits[module.weight])
        names.append(name)
    if not made:
        raise ValueError("model must have OneBitLinear layers, got none; convert_ makes them")
    replace_(model, made)
    return names
