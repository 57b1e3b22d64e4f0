"""One bit a weight: signs, and a number for each row and each column (Xu et al. 2024, OneBit)."""

from qtools.onebit.svid import SVID, svid

__all__ = ["SVID", "svid"]
