"""Weights of a few bits, activations in float: language models for generating text."""

from qtools.weight_only.awq import ALPHAS, awq
from qtools.weight_only.checkpoint import KIND, load_, save
from qtools.weight_only.convert import METHODS, LayerReport, Report, quantize_weights
from qtools.weight_only.gptq import gptq
from qtools.weight_only.grid import Grid, Quantized
from qtools.weight_only.layer import WeightOnlyLinear
from qtools.weight_only.packing import pack_rows, row_bytes, unpack_rows
from qtools.weight_only.rtn import rtn

__all__ = [
    "ALPHAS",
    "KIND",
    "METHODS",
    "Grid",
    "LayerReport",
    "Quantized",
    "Report",
    "WeightOnlyLinear",
    "awq",
    "gptq",
    "load_",
    "pack_rows",
    "quantize_weights",
    "row_bytes",
    "rtn",
    "save",
    "unpack_rows",
]
