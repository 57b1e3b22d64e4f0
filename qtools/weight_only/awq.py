"""AWQ: larger weights where inputs are large, so that rounding them costs less."""

from __future__ import annotations

import torch
from torch import Tensor

from qtools.pruning.compensation import checked_hessian, output_error
from qtools.weight_only.grid import Quantized
from qtools.weight_only.rtn import rtn

#: Exponents that `awq` tries, 0 first: that is round to nearest.
ALPHAS = tuple(i / 20 for i in range(21))


def awq(
    weight: Tensor,
    hessian: Tensor,
    bits: int,
    group_size: int | None = None,
    symmetric: bool = False,
    *,
    alphas: tuple[float, ...] = ALPHAS,
) -> Quantized:
    """``Ŵ = Q(W diag(1/t)) diag(t)`` with ``t_j = x_j^-α``, for the α of least output error.

    A column that is large after the division by a small t loses less by rounding; the inputs that
    meet it are large, so it matters more (Lin et al. 2024, eqs. 4-5). Here ``x_j`` is the
    root mean square of input j, where the paper has the mean magnitude, and the error is that of
    the layer itself, ``tr((W - Ŵ) H (W - Ŵ)ᵀ)``. As α = 0 is among those tried, it never
    exceeds that of `rtn` for this H.

    t, scaled to ``sqrt(max t * min t) = 1`` and rounded to float16, is kept with the weight and
    multiplies the layer's input: 16 bits a column. The paper folds it into what comes before,
    which costs nothing, but needs to know what that is. α = 0 stores no t. The search for a
    narrower range of the weights, which the released code adds, is left out.

    Parameters
    ----------
    weight, hessian
        As in `gptq`.
    bits, group_size, symmetric
        As in `rtn`.
    alphas : tuple of float
        Exponents to try, 0 among them.

    Raises
    ------
    ValueError
        As in `rtn`; if H does not fit or is not finite; if alphas lacks 0 or leaves 0 to 1.
    """
    if 0 not in alphas or not all(0 <= a <= 1 for a in alphas):
        raise ValueError(f"alphas must be from 0 to 1 and have 0, got {alphas}")
    if not bool(hessian.isfinite().all()):
        raise ValueError("hessian must be finite; does the calibration data give finite inputs?")
    h = checked_hessian(weight, hessian)
    best = rtn(weight, bits, group_size, symmetric)
    least = output_error(weight, best.dequantize(), h)
    for alpha in sorted(set(alphas) - {0}):
        t = _input_scale(h, alpha)
        try:
            trial = rtn(weight.double() / t.double(), bits, group_size, symmetric)
        except ValueError:  # so large now that float16 has no scale for it
            continue
        trial = trial._replace(input_scale=t)
        error = output_error(weight, trial.dequantize(), h)
        if error < least:
            best, least = trial, error
    return best


def _input_scale(hessian: Tensor, alpha: float) -> Tensor:
    """Return t as float16; an input that is always 0 counts as the smallest other."""
    size = hessian.diagonal().sqrt()
    live = size[size > 0]
    smallest = live.min() if len(live) else size.new_ones(())
    t = size.clamp_min(smallest) ** -alpha
    t = t / (t.max() * t.min()).sqrt()
    return t.clamp(2.0**-14, 2.0**14).to(torch.float16)  # what float16 has with all its digits
