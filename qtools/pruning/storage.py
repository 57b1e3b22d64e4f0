"""Sparse storage: what zeros save once they are not stored, in bytes that are really there."""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from qtools.pruning.masks import as_matrix


class Bitmap(NamedTuple):
    """One bit for each weight, and the weights that are not 0, in order.

    ``bits`` uint8 [ceil(numel / 8)], least significant bit first; ``values`` [non-zeros] in the
    type of the weight; ``shape`` of the weight. -0.0 comes back as 0.0.
    """

    bits: Tensor
    values: Tensor
    shape: torch.Size

    @classmethod
    def encode(cls, weight: Tensor) -> Self:
        """Store a weight of any type and shape."""
        flat = weight.detach().cpu().flatten()
        filled = flat != 0
        bits = torch.from_numpy(np.packbits(filled.numpy(), bitorder="little"))
        return cls(bits, flat[filled], weight.shape)

    def decode(self) -> Tensor:
        """Return the weight, on the CPU."""
        count = self.shape.numel()
        filled = torch.from_numpy(np.unpackbits(self.bits.numpy(), count=count, bitorder="little"))
        weight = torch.zeros(count, dtype=self.values.dtype)
        weight[filled.bool()] = self.values
        return weight.reshape(self.shape)

    @property
    def nbytes(self) -> int:
        """``ceil(numel / 8) + non-zeros * bytes of one``."""
        return self.bits.nbytes + self.values.nbytes


class CSR(NamedTuple):
    """Compressed sparse rows: for each row its non-zeros and the columns they are in.

    ``starts`` int32 [rows + 1], where each row begins in ``values`` and ``columns`` [non-zeros];
    columns are int16 where they fit, else int32. The weight counts as a matrix.
    """

    starts: Tensor
    columns: Tensor
    values: Tensor
    shape: torch.Size

    @classmethod
    def encode(cls, weight: Tensor) -> Self:
        """Store a weight of any type with two dimensions or more."""
        matrix = as_matrix(weight.detach().cpu())
        filled = matrix != 0
        starts = torch.zeros(len(matrix) + 1, dtype=torch.int32)
        starts[1:] = filled.sum(1).cumsum(0)
        columns = filled.nonzero()[:, 1].to(_index_type(matrix.shape[1]))
        return cls(starts, columns, matrix[filled], weight.shape)

    def decode(self) -> Tensor:
        """Return the weight, on the CPU."""
        rows = len(self.starts) - 1
        matrix = torch.zeros(rows, self.shape[1:].numel(), dtype=self.values.dtype)
        row = torch.arange(rows).repeat_interleave(self.starts.diff().long())
        matrix[row, self.columns.long()] = self.values
        return matrix.reshape(self.shape)

    @property
    def nbytes(self) -> int:
        """``4 (rows + 1) + non-zeros * (bytes of one + bytes of a column)``."""
        return self.starts.nbytes + self.columns.nbytes + self.values.nbytes


def bitmap_pays(bits: int) -> float:
    """``1 / bits``: above this sparsity a bitmap is smaller than weights of so many bits.

    A weight costs 1 bit, and ``bits`` more if it is not 0: ``1 + bits (1 - s) < bits``.
    """
    return 1 / bits


def csr_pays(bits: int, shape: tuple[int, int]) -> float:
    """``1 - (bits - 32 (rows + 1) / numel) / (bits + c)``: above it CSR is smaller than dense.

    c is 16 or 32, the bits of a column's number. At 8 bits and less a column's number costs more
    than the weight that it is for.

    Parameters
    ----------
    bits : int
        Of a stored weight.
    shape : tuple of int
        Rows and columns.
    """
    rows, columns = shape
    column = torch.iinfo(_index_type(columns)).bits
    return 1 - (bits - 32 * (rows + 1) / (rows * columns)) / (bits + column)


def _index_type(columns: int) -> torch.dtype:
    return torch.int16 if columns <= 1 << 15 else torch.int32
