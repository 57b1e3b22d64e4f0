"""Low-rank decomposition: fewer numbers for a layer, by the singular values that it can spare."""

from qtools.decomposition.convolution import conv_svd, merged_kernel, spatial_separable
from qtools.decomposition.layers import LowRankLinear
from qtools.decomposition.power import PowerIteration, PowerStep, power_iteration, power_steps
from qtools.decomposition.rank import LowRank, best_rank_k, truncation_error
from qtools.decomposition.whitening import whitened_rank_k

__all__ = [
    "LowRank",
    "LowRankLinear",
    "PowerIteration",
    "PowerStep",
    "best_rank_k",
    "conv_svd",
    "merged_kernel",
    "power_iteration",
    "power_steps",
    "spatial_separable",
    "truncation_error",
    "whitened_rank_k",
]
