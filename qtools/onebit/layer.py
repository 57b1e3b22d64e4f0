"""The OneBit layer while it trains: signs of a latent weight between two vectors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: The released code adds this to the derivative of tanh, so that no weight's gradient is 0.
RELEASED_FLOOR = 0.001

#: What stands for the derivative of sign in the backward pass, by name.
GRADIENTS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": lambda w: 1 - w.tanh().square(),
    "released": lambda w: (1 + RELEASED_FLOOR) - w.tanh().square(),
    "clipped": lambda w: (w.abs() <= 1).to(w.dtype),
    "identity": torch.ones_like,
}


def sign(w: Tensor) -> Tensor:
    """``-1 where w < 0, else +1``: ``sign(0) = sign(-0.0) = +1``, unlike ``torch.sign``.

    Parameters
    ----------
    w : Tensor
        Floating point, any shape.

    Returns
    -------
    Tensor
        Shape and dtype of w, with no gradient.
    """
    return torch.ones_like(w, requires_grad=False).masked_fill_(w.detach() < 0, -1)


class _StraightSign(torch.autograd.Function):
    """`sign` forward; backward the gradient times ``GRADIENTS[name](w)``."""

    generate_vmap_rule = True  # so torch.func takes it

    @staticmethod
    def forward(w: Tensor, name: str) -> Tensor:
        return sign(w)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, str], output: Tensor) -> None:
        w, ctx.name = inputs
        ctx.save_for_backward(w)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (w,) = ctx.saved_tensors
        return grads[0] * GRADIENTS[ctx.name](w), None


def straight_through_sign(w: Tensor, gradient: str = "tanh") -> Tensor:
    """``sign(w)`` with ``d sign(w)/dw`` replaced by a derivative that can teach.

    | gradient | d sign(w)/dw | source |
    |---|---|---|
    | ``"tanh"`` | ``1 - tanh²(w)`` | Xu et al. 2024, appendix A.5 |
    | ``"released"`` | ``1.001 - tanh²(w)`` | the code released with that paper |
    | ``"clipped"`` | ``1 if abs(w) <= 1 else 0`` | Courbariaux et al. 2016 |
    | ``"identity"`` | ``1`` | Bengio et al. 2013 |

    Near 0, where trained weights are, they differ by w² and the thousandth of the released one.

    Parameters
    ----------
    w : Tensor
        Floating point, any shape.
    gradient : str
        A name of the table.

    Raises
    ------
    ValueError
        If there is no gradient of that name.
    """
    check_gradient(gradient)
    result: Tensor = _StraightSign.apply(w, gradient)
    return result


def check_gradient(gradient: str) -> None:
    """Refuse a name that is not in `GRADIENTS`."""
    if gradient not in GRADIENTS:
        raise ValueError(f"gradient must be one of {', '.join(GRADIENTS)}, got {gradient!r}")


class OneBitLinear(nn.Module):
    """``Y = [(X ⊙ g) W±1ᵀ] ⊙ h``, ``Z = LayerNorm(Y) + bias`` with ``W±1 = sign(W)``.

    Xu et al. 2024, eq. 3. The LayerNorm has no parameters of its own; the bias, which the paper
    does not mention, comes after it as in the released code. The brackets matter: ``W±1 ⊙ h gᵀ``
    would be a full matrix, while two products with vectors leave one with signs alone.

    The latent ``weight`` [out, in] is what learns; only its signs are used, and `pack_` keeps only
    these. ``g`` [in] and ``h`` [out] learn as they are, and may become negative.

    Parameters
    ----------
    in_features, out_features : int
        At least 1.
    bias : bool
    layer_norm : bool
        Over the outputs of one row: with a single output that is 0 whatever the input.
    gradient : str
        Of the sign: see `straight_through_sign`.
    eps : float
        Of the LayerNorm.
    device, dtype
        As of ``nn.Linear``.

    Notes
    -----
    A new layer draws ``weight`` and bias as ``nn.Linear`` does, with ``g = h = sqrt(mean|W|)``:
    the best one scale for the matrix, split evenly. `convert_` starts from a trained layer.
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        layer_norm: bool = True,
        gradient: str = "tanh",
        eps: float = 1e-5,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_sizes(in_features, out_features)
        check_gradient(gradient)
        check_eps(eps)
        self.in_features, self.out_features = in_features, out_features
        self.layer_norm, self.gradient, self.eps = layer_norm, gradient, eps

        def empty(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape, device=device, dtype=dtype))

        self.weight = empty(out_features, in_features)
        self.g, self.h = empty(in_features), empty(out_features)
        if bias:
            self.bias = empty(out_features)
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the layer anew."""
        if self.weight.is_meta:  # nothing to draw, and slow at that
            return
        limit = 1 / math.sqrt(self.in_features)
        nn.init.uniform_(self.weight, -limit, limit)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -limit, limit)
        with torch.no_grad():
            scale = self.weight.abs().mean().sqrt()
            self.g.copy_(scale.expand_as(self.g))
            self.h.copy_(scale.expand_as(self.h))

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        signs = straight_through_sign(self.weight, self.gradient)
        return equation_3(self, x, self.g, signs, self.h)

    def reconstruct(self) -> Tensor:
        """``sign(W) ⊙ h gᵀ`` [out, in]: the weight before the LayerNorm as one matrix."""
        return sign(self.weight) * torch.outer(self.h.detach(), self.g.detach())

    def extra_repr(self) -> str:  # noqa: D102
        return describe(self)


def equation_3(layer: Any, x: Tensor, g: Tensor, signs: Tensor, h: Tensor) -> Tensor:
    """``LayerNorm([(X ⊙ g) Sᵀ] ⊙ h) + bias``, the last two if the layer has them.

    Raises
    ------
    ValueError
        If x does not end in ``in_features``: ``X ⊙ g`` would spread a single column over all.
    """
    if x.shape[-1:] != g.shape:
        raise ValueError(f"x must have the shape [..., {len(g)}], got {list(x.shape)}")
    return normalized(layer, F.linear(x * g, signs) * h)


def normalized(layer: Any, y: Tensor) -> Tensor:
    """``LayerNorm(y) + bias``, each if the layer has it."""
    if layer.layer_norm:
        y = F.layer_norm(y, y.shape[-1:], eps=layer.eps)
    return y if layer.bias is None else y + layer.bias.to(y.dtype)


def check_sizes(in_features: object, out_features: object) -> None:
    """Refuse sizes that are no positive int."""
    for name, size in (("in_features", in_features), ("out_features", out_features)):
        if type(size) is not int or size < 1:
            raise ValueError(f"{name} must be an int of at least 1, got {size!r}")


def check_eps(eps: object) -> None:
    """Refuse an eps that is no positive finite float: with 0, LayerNorm divides 0 by 0."""
    if type(eps) is not float or not 0 < eps < math.inf:
        raise ValueError(f"eps must be a positive float, got {eps!r}")


def describe(layer: Any) -> str:
    """What ``repr`` says of a layer, training or packed."""
    text = (
        f"in_features={layer.in_features}, out_features={layer.out_features}, "
        f"bias={layer.bias is not None}, layer_norm={layer.layer_norm}"
    )
    return text + (f", gradient={layer.gradient!r}" if hasattr(layer, "gradient") else "")
