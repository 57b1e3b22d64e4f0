"""qtools: quantization and model compression in PyTorch, one file an idea."""

from qtools.affine import (
    QParams,
    QuantSpec,
    choose_qparams,
    dequantize,
    fake_quantize,
    qparams_from_tensor,
    quantize,
)
from qtools.claims import claim

__version__ = "0.1.0"
__all__ = [
    "QParams",
    "QuantSpec",
    "choose_qparams",
    "claim",
    "dequantize",
    "fake_quantize",
    "qparams_from_tensor",
    "quantize",
]
