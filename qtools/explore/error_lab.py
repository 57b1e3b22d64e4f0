"""ErrorLab: rounding error against clipping error, and the clip that balances them."""

from __future__ import annotations

import math
from functools import cache

import traitlets

from qtools.error import expected_mse, optimal_clip
from qtools.explore._base import Explorable, Finite, state_trait

DISTRIBUTIONS = ("gaussian", "laplace", "student_t", "uniform")


best_clip = cache(optimal_clip)


class ErrorLab(Explorable):
    """Choose a distribution of unit variance, the bits and the clip; see where the error is.

    The grid is symmetric with a narrow range: ``Q = 2^(bits-1) - 1``, step ``s = clip / Q``,
    levels ``-Q s .. Q s``.

    Parameters
    ----------
    distribution : {"gaussian", "laplace", "student_t", "uniform"}
        All with variance 1; student_t has 3 degrees of freedom.
    bits : int
        2 to 8.
    clip : float
        Largest number that is not clipped, in standard deviations, 0.3 to 40.
    """

    script = "error_lab.js"
    moves = (
        "Choose the data, the bits and the clip, and see rounding error grow while clipping error"
        " shrinks, with the best clip between them."
    )

    distribution = state_trait(traitlets.Enum(DISTRIBUTIONS, "gaussian"))
    bits = state_trait(traitlets.Int(4, min=2, max=8))
    clip = state_trait(Finite(4.0, min=0.3, max=40.0))

    def compute(self) -> dict[str, float]:
        """Return the numbers shown.

        Returns
        -------
        dict
            ``step``; the mean squared errors ``rounding``, ``clipping``, ``total`` and ``model``
            (``step²/12``); ``sqnr`` in dB; the same at the best clip: ``best_clip``,
            ``best_total``, ``best_sqnr``.
        """
        step = self.clip / (2 ** (self.bits - 1) - 1)
        mse = expected_mse(self.distribution, self.clip, self.bits)
        best = best_clip(self.distribution, self.bits)
        best_total = expected_mse(self.distribution, best, self.bits).total
        return {
            "step": step,
            "rounding": mse.rounding,
            "clipping": mse.clipping,
            "total": mse.total,
            "model": step**2 / 12,
            "sqnr": -10 * math.log10(mse.total),
            "best_clip": best,
            "best_total": best_total,
            "best_sqnr": -10 * math.log10(best_total),
        }
