"""Products with a matrix of signs, one bit each: one torch op, several ways to compute it."""

from qtools.kernels.ops import onebit_linear, sign_matmul
from qtools.kernels.paths import Info, info, use

__all__ = ["Info", "info", "onebit_linear", "sign_matmul", "use"]
