"""Quantization-aware training: the network is trained with the rounding it will be used with."""

from qtools.qat.estimators import fake_quantize_unmasked, learned_fake_quantize
from qtools.qat.flow import convert, fold, freeze_batch_norm, freeze_ranges, prepare_qat
from qtools.qat.layer import QATLayer
from qtools.qat.quantizers import FakeQuantize, LearnedStep, Quantizer, WeightObserver

__all__ = [
    "FakeQuantize",
    "LearnedStep",
    "QATLayer",
    "Quantizer",
    "WeightObserver",
    "convert",
    "fake_quantize_unmasked",
    "fold",
    "freeze_batch_norm",
    "freeze_ranges",
    "learned_fake_quantize",
    "prepare_qat",
]
