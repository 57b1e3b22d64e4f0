"""Round to nearest: what every other method has to beat."""

from __future__ import annotations

from torch import Tensor

from qtools.weight_only.grid import Grid, Quantized, check_weight, gather


def rtn(
    weight: Tensor, bits: int, group_size: int | None = None, symmetric: bool = False
) -> Quantized:
    """``q = clip(round(w / s) + z, 0, 2^bits - 1)`` with s and z of each row and group.

    No weight moves further than s/2. With 1 bit ``ŵ = sign(w) mean|w|``. See `Grid.fit`.

    Parameters
    ----------
    weight : Tensor
        [out, in], floating point.
    bits : int
        1 to 8.
    group_size : int, optional
        Columns that share a scale, a divisor of in; otherwise all of a row.
    symmetric : bool
        Zero points in the middle, not stored.

    Raises
    ------
    ValueError
        If weight is not finite or no matrix, needs a scale beyond float16, group_size does not
        divide the columns, or bits is not from 1 to 8.

    Examples
    --------
    >>> import torch
    >>> rtn(torch.tensor([[0.0, 0.4, 1.1, 3.0]]), bits=2).dequantize()
    tensor([[0., 0., 1., 3.]])
    """
    parts = weight.detach().split(check_weight(weight, group_size), dim=1)
    grids = [Grid.fit(part, bits, symmetric) for part in parts]
    codes = [grid.round(part) for grid, part in zip(grids, parts, strict=True)]
    return gather(grids, codes, symmetric)
