"""Low-rank decomposition: fewer numbers for a layer, by the singular values that it can spare."""

from qtools.decomposition.choice import (
    break_even_rank,
    rank_by_bytes,
    rank_by_energy,
    rank_by_validation,
    tucker2_break_even,
)
from qtools.decomposition.convolution import conv_svd, merged_kernel, spatial_separable
from qtools.decomposition.cost import Cost, cost
from qtools.decomposition.layers import LowRankLinear
from qtools.decomposition.power import PowerIteration, PowerStep, power_iteration, power_steps
from qtools.decomposition.rank import LowRank, best_rank_k, truncation_error
from qtools.decomposition.replace import decompose
from qtools.decomposition.tensor import cp, tucker2
from qtools.decomposition.whitening import whitened_rank_k, whitened_singular_values

__all__ = [
    "Cost",
    "LowRank",
    "LowRankLinear",
    "PowerIteration",
    "PowerStep",
    "best_rank_k",
    "break_even_rank",
    "conv_svd",
    "cost",
    "cp",
    "decompose",
    "merged_kernel",
    "power_iteration",
    "power_steps",
    "rank_by_bytes",
    "rank_by_energy",
    "rank_by_validation",
    "spatial_separable",
    "truncation_error",
    "tucker2",
    "tucker2_break_even",
    "whitened_rank_k",
    "whitened_singular_values",
]
