"""One bit a weight: signs, and a number for each row and each column (Xu et al. 2024, OneBit)."""

from qtools.onebit.checkpoint import load_, save
from qtools.onebit.convert import Conversion, Converted, convert_
from qtools.onebit.layer import OneBitLinear, sign, straight_through_sign
from qtools.onebit.packing import PackedOneBitLinear, pack_, pack_signs, unpack_signs
from qtools.onebit.storage import LLAMA, Llama, Report, bits_per_weight, report
from qtools.onebit.svid import SVID, svid

__all__ = [
    "LLAMA",
    "SVID",
    "Conversion",
    "Converted",
    "Llama",
    "OneBitLinear",
    "PackedOneBitLinear",
    "Report",
    "bits_per_weight",
    "convert_",
    "load_",
    "pack_",
    "pack_signs",
    "report",
    "save",
    "sign",
    "straight_through_sign",
    "svid",
    "unpack_signs",
]
