"""Dynamic quantization: weights beforehand, activations batch by batch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from qtools import QParams, QuantSpec, ptq
from qtools.data import fashion_mnist, normalise
from qtools.error import sqnr
from qtools.metrics import accuracy
from qtools.models import SmallCNN


def test_dynamic_quantization():
    data = fashion_mnist()
    x, labels = normalise(data.test_images[:2000]), data.test_labels[:2000]
    m = SmallCNN.pretrained()
    q = ptq.quantize_dynamic(m)
    assert sqnr(m(x[:200]), q(x[:200])) > 30
    assert abs(accuracy(m, x, labels).value - accuracy(q, x, labels).value) <= 0.005
    assert q.fc1.weight.dtype == torch.int8
    assert type(m.fc1) is nn.Linear
    kept = ptq.quantize_dynamic(m, ptq.Recipe(keep_float=("conv1",)))
    assert type(kept.conv1) is nn.Conv2d
    with pytest.raises(ValueError, match="keep_float"):
        ptq.quantize_dynamic(m, ptq.Recipe(keep_float=("conv9",)))


def test_dynamic_linear_equals_its_formula():
    torch.manual_seed(0)
    m, x = nn.Linear(30, 7), torch.randn(4, 5, 30)
    q = ptq.quantize_dynamic(m)
    from qtools import dequantize, fake_quantize, qparams_from_tensor

    w = dequantize(q.weight, QParams(q.weight_scale, q.weight_zero_point, q.w_spec))
    expected = F.linear(
        fake_quantize(x, qparams_from_tensor(x, QuantSpec(signed=False))), w, m.bias
    )
    assert torch.allclose(q(x), expected, atol=1e-5)
