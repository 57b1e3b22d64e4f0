"""Scores: how much each weight matters. A mask drops those of lowest score."""

from __future__ import annotations

from torch import Tensor

from qtools.pruning.masks import as_matrix


def magnitude(weight: Tensor) -> Tensor:
    """``|w|``: what is small is missed least. It needs no data.

    Han et al. 2015. Zeroing the weights of least magnitude changes the matrix as little as any
    mask of that many zeros can, in the Frobenius norm; the output it need not.
    """
    return weight.detach().abs()


def taylor(weight: Tensor, grad: Tensor) -> Tensor:
    """``|w · ∂L/∂w|``: how much the loss changes to first order when w becomes 0.

    Molchanov et al. 2019, eq. 8 without the square, which changes no order.

    Parameters
    ----------
    weight, grad : Tensor
        One shape. The gradient is that of the loss over as much data as there is: at a minimum
        of the training loss it is all noise.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    if weight.shape != grad.shape:
        raise ValueError(
            f"grad must have the weight's shape {list(weight.shape)}, got {list(grad.shape)}"
        )
    return (weight.detach() * grad.detach()).abs()


def wanda(weight: Tensor, input_norm: Tensor) -> Tensor:
    """``|W_ij| ‖x_j‖₂``: how much the output moves, were the inputs uncorrelated.

    Sun et al. 2023, eq. 1. They compare within each row of the matrix; `unstructured_mask`
    compares within the layer.

    Parameters
    ----------
    weight : Tensor
        [out, ...], as a matrix [out, in].
    input_norm : Tensor
        ``‖x_j‖₂`` over the calibration data, [in], not negative: `Gram.input_norm`.

    Raises
    ------
    ValueError
        If input_norm does not have one number for each column.
    """
    matrix = as_matrix(weight.detach())
    if input_norm.shape != matrix.shape[1:]:
        raise ValueError(
            f"input_norm must have the shape [{matrix.shape[1]}], got {list(input_norm.shape)}"
        )
    return (matrix.abs() * input_norm.to(matrix)).reshape(weight.shape)
