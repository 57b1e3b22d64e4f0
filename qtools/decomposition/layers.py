"""A linear layer that is two thin ones."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from qtools.decomposition.rank import check_rank
from qtools.decomposition.whitening import rank_k


class LowRankLinear(nn.Module):
    """``y = (x Rᵀ) Lᵀ + b`` with L [out, rank] and R [rank, in]: ``W = L R`` is never formed.

    It has ``rank · (in + out)`` weights instead of ``in · out``, and takes as many
    multiplications a row. That is fewer up to ``break_even_rank(out, in)``.

    The factors are plain linear layers, ``right`` (without bias) and then ``left``: whatever
    quantizes or prunes an ``nn.Linear`` takes them too.

    Parameters
    ----------
    in_features, out_features, rank : int
        The rank from 1 to the smaller of the two.
    bias : bool
    device, dtype
        As of ``nn.Linear``. A new layer draws its factors as ``nn.Linear`` draws them.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_rank(rank, min(in_features, out_features))
        self.in_features, self.out_features, self.rank = in_features, out_features, rank
        self.right = nn.Linear(in_features, rank, bias=False, device=device, dtype=dtype)
        self.left = nn.Linear(rank, out_features, bias=bias, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return self.left(self.right(x))

    @property
    def bias(self) -> nn.Parameter | None:
        """The bias [out], or None."""
        return self.left.bias

    def reconstruct(self) -> Tensor:
        """The weight [out, in] that the layer stands for."""
        return self.left.weight.detach() @ self.right.weight.detach()

    @classmethod
    def from_linear(cls, linear: nn.Linear, rank: int, gram: Tensor | None = None) -> Self:
        """The nearest layer of this rank: in its weight, or on the inputs behind `gram`.

        Parameters
        ----------
        linear : nn.Linear
            Unchanged. Its bias, device, dtype, mode and ``requires_grad`` carry over.
        rank : int
            1 to the smaller of in and out.
        gram : Tensor, optional
            ``XᵀX / n`` [in, in] of its inputs: see `whitened_rank_k`. Without it, `best_rank_k`.
        """
        weight = linear.weight
        check_rank(rank, min(weight.shape))
        factors = rank_k(weight, rank, gram)
        new = nn.utils.skip_init(
            cls, linear.in_features, linear.out_features, rank, linear.bias is not None,
            device=weight.device, dtype=weight.dtype,
        )  # fmt: skip
        with torch.no_grad():
            new.left.weight.copy_(factors.left)
            new.right.weight.copy_(factors.right)
            if linear.bias is not None:
                new.left.bias.copy_(linear.bias)
                new.left.bias.requires_grad_(linear.bias.requires_grad)
        new.left.weight.requires_grad_(weight.requires_grad)
        new.right.weight.requires_grad_(weight.requires_grad)
        return new.train(linear.training)

    def extra_repr(self) -> str:  # noqa: D102
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"rank={self.rank}, bias={self.bias is not None}"
        )
