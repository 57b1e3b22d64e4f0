"""SVIDLab: which spread of the weights two vectors of scales can take up, and which they cannot."""

from __future__ import annotations

import numpy as np
import torch
import traitlets
from torch import Tensor

from qtools.decomposition import best_rank_k
from qtools.explore._base import Explorable, Finite, state_trait
from qtools.explore._hash import hash32
from qtools.onebit import svid

ROWS, COLUMNS = 24, 36
METHODS = ("scale", "row", "rank_one", "svid")
#: Streams of random numbers of one seed.
WEIGHTS, OWN, ROW_SCALES, COLUMN_SCALES, ROW_SIGNS, COLUMN_SIGNS = range(6)


class SVIDLab(Explorable):
    """``w_ij = z_ij · exp(r ρ_i + c γ_j + t τ_ij)``: W [24, 36], and four approximations of it.

    z, τ are standard normal; ρ and γ too, shifted and scaled to mean 0 and variance 1. So r spreads
    the rows, c the columns, and t every weight by itself: a heavier tail. Of endless matrices, with
    signs at random, ``1 − (2/π) exp(−r² − c² − t²)`` of the squared norm is lost with one scale,
    ``1 − (2/π) exp(−c² − t²)`` with one for each row, ``1 − (2/π) exp(−t²)`` with SVID.

    Parameters
    ----------
    rows, columns, tail : float
        r, c, t, each 0 to 1.
    pattern : bool
        Whether signs are those of a matrix of rank one, ``d_i e_j``, instead of z's.
    method : {"scale", "row", "rank_one", "svid"}
        The approximation in the picture.
    seed : int
        1 to 99.
    """

    script, helpers = "svid_lab.js", ("_hash.js", "_jacobi.js")
    moves = (
        "Spread the rows, the columns and the single weights of a matrix, and see what four"
        " approximations lose: one scale with signs, a scale for each row, rank one, and SVID."
    )

    rows = state_trait(Finite(0.6, min=0.0, max=1.0))
    columns = state_trait(Finite(0.6, min=0.0, max=1.0))
    tail = state_trait(Finite(0.0, min=0.0, max=1.0))
    pattern = state_trait(traitlets.Bool(False))
    method = state_trait(traitlets.Enum(METHODS, "svid"))
    seed = state_trait(traitlets.Int(1, min=1, max=99))

    def weight(self) -> Tensor:
        """Return W, float64 [24, 36]."""

        def z(stream: int, *shape: int) -> np.ndarray:
            return normal(self.seed, stream, int(np.prod(shape))).reshape(shape)

        rho, gamma = (
            (v - v.mean()) / v.std() for v in (z(ROW_SCALES, ROWS, 1), z(COLUMN_SCALES, 1, COLUMNS))
        )
        w = z(WEIGHTS, ROWS, COLUMNS)
        if self.pattern:
            w = abs(w) * np.sign(z(ROW_SIGNS, ROWS, 1)) * np.sign(z(COLUMN_SIGNS, 1, COLUMNS))
        own = z(OWN, ROWS, COLUMNS)
        return torch.from_numpy(
            w * np.exp(self.rows * rho + self.columns * gamma + self.tail * own)
        )

    def approximation(self, method: str) -> Tensor:
        """Return the nearest matrix of the kind that `method` allows, float64 [24, 36].

        One scale is the best there is for these signs, ``mean |W|``; a scale for each row is the
        row's ``mean |W|``, as in XNOR-Net.
        """
        w = self.weight()
        if method == "scale":
            return w.sign() * w.abs().mean()
        if method == "row":
            return w.sign() * w.abs().mean(1, keepdim=True)
        if method == "rank_one":
            return best_rank_k(w, 1).reconstruct()
        return svid(w, tol=1e-13).reconstruct()

    def compute(self) -> dict[str, float]:
        """Return the numbers shown: of each method ``‖W − Ŵ‖²_F / ‖W‖²_F``."""
        w = self.weight()
        return {
            name: float((w - self.approximation(name)).square().sum() / w.square().sum())
            for name in METHODS
        }


def normal(seed: int, stream: int, count: int) -> np.ndarray:
    """Return standard normal numbers, float64 [count], by Box and Muller from hashed counters.

    The browser makes the same, up to the rounding of its logarithm and cosine.
    """
    first = seed * 32768 + stream * 4096
    u = (hash32(np.arange(first, first + 2 * count, dtype=np.uint32)) + 0.5) / 2**32
    return np.sqrt(-2 * np.log(u[0::2])) * np.cos(2 * np.pi * u[1::2])
