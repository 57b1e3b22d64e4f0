"""Budget: what a model's weights weigh, and how fast memory lets it speak."""

from __future__ import annotations

import math

import traitlets

from qtools.explore._base import Explorable, Finite, state_trait


class Budget(Explorable):
    """Parameters × bits give bytes; bandwidth ÷ bytes bounds the tokens per second.

    ``bytes = parameters · bits / 8 + 2 · ceil(parameters / group_size)``, the second term being
    one 16-bit scale a group. A language model that writes one sequence reads each weight once per
    token, so it writes at most ``bandwidth / bytes`` tokens per second.

    Parameters
    ----------
    parameters : float
        Number of weights, 1e5 to 1e12.
    bits : int
        Bits per weight, 1 to 32.
    group_size : int
        Weights that share a 16-bit scale; 0 for none.
    bandwidth : float
        Memory bandwidth in GB/s (10⁹ bytes per second), 1 to 10000.
    memory : float
        Memory for the weights in GB (10⁹ bytes), 0.1 to 10000.
    """

    script = "budget.js"
    moves = (
        "Move the number of weights, the bits of each and the machine, and see how large the"
        " model is, whether it fits, and how fast it can be."
    )

    parameters = state_trait(Finite(7e9, min=1e5, max=1e12))
    bits = state_trait(traitlets.Int(4, min=1, max=32))
    group_size = state_trait(traitlets.Int(0, min=0, max=65536))
    bandwidth = state_trait(Finite(90.0, min=1.0, max=1e4))
    memory = state_trait(Finite(16.0, min=0.1, max=1e4))

    def compute(self) -> dict[str, float]:
        """Return the numbers shown.

        Returns
        -------
        dict
            ``bytes``; ``bits_per_weight``, scales included; ``versus_fp32`` and ``versus_fp16``,
            how many times smaller; ``tokens_per_second``; ``fits`` (0 or 1); ``share`` of the
            memory that the weights take.
        """
        scales = math.ceil(self.parameters / self.group_size) if self.group_size else 0
        size = self.parameters * self.bits / 8 + 2 * scales
        return {
            "bytes": size,
            "bits_per_weight": 8 * size / self.parameters,
            "versus_fp32": self.parameters * 4 / size,
            "versus_fp16": self.parameters * 2 / size,
            "tokens_per_second": self.bandwidth * 1e9 / size,
            "fits": float(size <= self.memory * 1e9),
            "share": size / (self.memory * 1e9),
        }
