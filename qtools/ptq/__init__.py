"""Post-training quantization: from a trained network to one that computes with integers."""

from qtools.ptq.convert import convert
from qtools.ptq.corrections import adaround, correct_bias
from qtools.ptq.dynamic import quantize_dynamic
from qtools.ptq.equalization import equalize
from qtools.ptq.files import load, save
from qtools.ptq.flow import calibrate, layers, prepare
from qtools.ptq.fold import fold_batch_norm
from qtools.ptq.recipe import Recipe
from qtools.ptq.report import Report, report
from qtools.ptq.simulate import simulate

__all__ = [
    "Recipe",
    "Report",
    "adaround",
    "calibrate",
    "convert",
    "correct_bias",
    "equalize",
    "fold_batch_norm",
    "layers",
    "load",
    "prepare",
    "quantize_dynamic",
    "report",
    "save",
    "simulate",
]
