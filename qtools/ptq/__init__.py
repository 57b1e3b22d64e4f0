"""Post-training quantization: from a trained network to one that computes with integers."""

from qtools.ptq.convert import convert
from qtools.ptq.dynamic import quantize_dynamic
from qtools.ptq.files import load, save
from qtools.ptq.flow import calibrate, layers, prepare
from qtools.ptq.fold import fold_batch_norm
from qtools.ptq.recipe import Recipe
from qtools.ptq.report import Report, report

__all__ = [
    "Recipe",
    "Report",
    "calibrate",
    "convert",
    "fold_batch_norm",
    "layers",
    "load",
    "prepare",
    "quantize_dynamic",
    "report",
    "save",
]
