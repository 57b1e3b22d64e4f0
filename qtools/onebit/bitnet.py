"""The layers of BitNet, one bit and ternary: what OneBit is compared with."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from qtools.onebit.layer import sign

#: Of the LayerNorm, and what keeps a matrix of zeros from dividing by 0.
EPS = 1e-5


class BitNetLinear(nn.Linear):
    """``Y = η LN(X) W±1ᵀ`` with ``W±1 = sign(W - mean W)``, ``η = mean|W - mean W|``.

    Wang et al. 2023 (BitNet), as Xu et al. 2024 write it, eq. 2. The LayerNorm over the inputs has
    no parameters. One number η for the whole matrix, where OneBit has one for each row and column.
    BitNet also rounds X to 8 bits; here, as in the comparison of Xu et al., only weights are
    quantized. Backward, the quantized weight passes its gradient on to W unchanged, η included.

    Simulated: the weight is kept in float and quantized at every call.
    """

    #: Of a packed weight.
    bits = 1

    def levels(self) -> tuple[Tensor, Tensor]:
        """``(W±1, η)``: levels [out, in] and their scale [], in the weight's dtype, no gradient."""
        w = self.weight.detach()
        w = w - w.mean()
        return sign(w), w.abs().mean()

    def quantized(self) -> Tensor:
        """``η W±1`` [out, in], without gradient."""
        levels, scale = self.levels()
        return levels * scale

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        x = F.layer_norm(x, (self.in_features,), eps=EPS)
        w = self.weight
        return F.linear(x, w + (self.quantized() - w).detach(), self.bias)


class TernaryLinear(BitNetLinear):
    """``Y = γ LN(X) W̃ᵀ`` with ``W̃ = clip(round(W / γ), -1, 1)``, ``γ = mean|W|``.

    Ma et al. 2024 (BitNet b1.58), eqs. 1-3; ε = 1e-5 is added to γ in the division. Activations
    stay in float here, see `BitNetLinear`.
    """

    bits = 2

    def levels(self) -> tuple[Tensor, Tensor]:
        """``(W̃, γ)``: levels -1, 0, 1 [out, in] and their scale []."""
        w = self.weight.detach()
        scale = w.abs().mean()
        return (w / (scale + EPS)).round().clamp(-1, 1), scale
