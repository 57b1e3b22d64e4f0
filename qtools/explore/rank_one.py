"""RankOne: a row pattern times a column pattern, drawn by hand."""

from __future__ import annotations

import torch
import traitlets
from torch import Tensor

from qtools.decomposition import best_rank_k
from qtools.explore._base import Explorable, Finite, state_trait
from qtools.onebit.svid import signs

#: Signs apart, the first three hold the same numbers.
MATRICES = {
    "positive": ((3, 1, 2, 2, 1), (6, 2, 5, 2, 4), (9, 3, 5, 3, 7), (4, 2, 3, 1, 3)),
    "mixed": ((-3, 1, 2, 2, -1), (6, 2, -5, -2, 4), (-9, -3, -5, -3, 7), (-4, 2, 3, -1, -3)),
    "pattern": ((3, 1, -2, 2, -1), (-6, -2, 5, -2, 4), (9, 3, -5, 3, -7), (-4, -2, 3, -1, 3)),
    "blocks": ((5, 5, 0, 0, 0), (5, 5, 0, 0, 0), (0, 0, 4, 4, 4), (0, 0, 4, 4, 4)),
}
ENTRY = 4.0


class RankOne(Explorable):
    """``W ≈ a bᵀ``, or, with absolute values first, ``W ≈ sign(W) ⊙ (a bᵀ)``; a and b by hand.

    Parameters
    ----------
    matrix : {"positive", "mixed", "pattern", "blocks"}
        W [4, 5]: nearly of rank one; the same numbers with signs mixed; the same with signs of
        rank one; two blocks.
    magnitude : bool
        Approximate ``|W|`` and put the signs back.
    a1, ..., a4, b1, ..., b5 : float
        −4 to 4.
    """

    script = "rank_one.js"
    moves = (
        "Drag the entries of a and b, and see their product beside the matrix, the error, and how"
        " far it is above the smallest there is."
    )

    matrix = state_trait(traitlets.Enum(tuple(MATRICES), "positive"))
    magnitude = state_trait(traitlets.Bool(False))
    a1 = state_trait(Finite(1.0, min=-ENTRY, max=ENTRY))
    a2 = state_trait(Finite(1.0, min=-ENTRY, max=ENTRY))
    a3 = state_trait(Finite(1.0, min=-ENTRY, max=ENTRY))
    a4 = state_trait(Finite(1.0, min=-ENTRY, max=ENTRY))
    b1 = state_trait(Finite(2.0, min=-ENTRY, max=ENTRY))
    b2 = state_trait(Finite(2.0, min=-ENTRY, max=ENTRY))
    b3 = state_trait(Finite(2.0, min=-ENTRY, max=ENTRY))
    b4 = state_trait(Finite(2.0, min=-ENTRY, max=ENTRY))
    b5 = state_trait(Finite(2.0, min=-ENTRY, max=ENTRY))

    def vectors(self) -> tuple[Tensor, Tensor]:
        """Return a [4] and b [5], float64."""
        a, b = (
            [getattr(self, f"{n}{i}") for i in range(1, k + 1)] for n, k in (("a", 4), ("b", 5))
        )
        return torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64)

    def target(self) -> Tensor:
        """Return what a bᵀ is to approximate: W, or |W|. float64 [4, 5]."""
        w = torch.tensor(MATRICES[self.matrix], dtype=torch.float64)
        return w.abs() if self.magnitude else w

    def product(self) -> Tensor:
        """Return the approximation of W: a bᵀ, with W's signs if absolute values came first."""
        product = torch.outer(*self.vectors())
        if not self.magnitude:
            return product
        return product * signs(torch.tensor(MATRICES[self.matrix]).double(), torch.float64)

    def compute(self) -> dict[str, float]:
        """Return the numbers shown.

        Returns
        -------
        dict
            ``error``, the squared error of the approximation over the squared norm of W; ``best``,
            the smallest possible, ``Σ_{i>1} σ_i² / Σ_i σ_i²`` of W or of |W|; ``above``, their
            difference.
        """
        w, target = torch.tensor(MATRICES[self.matrix], dtype=torch.float64), self.target()
        norm = w.square().sum()
        error = float((w - self.product()).square().sum() / norm)
        best = float((target - best_rank_k(target, 1).reconstruct()).square().sum() / norm)
        return {"error": error, "best": best, "above": error - best}
