"""Multiplications counted by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from qtools.flops import macs
from qtools.models import SmallCNN


@pytest.mark.parametrize("n", [1, 3])
def test_a_layer_costs_what_its_formula_says(n):
    x = torch.randn(n, 6, 9, 8)
    assert macs(nn.Conv2d(6, 4, (3, 2), stride=2, padding=1), x) == n * 4 * 6 * 3 * 2 * (5 * 5)
    assert macs(nn.Conv2d(6, 12, 3, groups=6), x) == n * 12 * 1 * 9 * (7 * 6)
    assert macs(nn.Conv2d(6, 12, 3, groups=3), x) == n * 12 * 2 * 9 * (7 * 6)
    assert macs(nn.ConvTranspose2d(6, 4, 2, 2), x) == n * 6 * 4 * 4 * (9 * 8)
    assert macs(nn.Linear(8, 5), x) == n * 6 * 9 * 8 * 5


def test_what_is_done_once_an_activation_does_not_count():
    free = nn.Sequential(nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(), nn.Flatten())
    assert macs(free, torch.randn(2, 6, 8, 8)) == 0


def test_functions_and_attention_count_as_modules_do():
    class Functions(nn.Module):
        def forward(self, x, w):
            return F.linear(x, w) @ w

    x, w = torch.randn(2, 5, 8), torch.randn(3, 8)
    assert macs(Functions(), x, w) == 2 * 5 * 8 * 3 * 2
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    projections, attention, mlp = 4 * 8 * 8, 2 * 5 * 8, 2 * 8 * 16
    assert macs(layer, x) == 2 * 5 * (projections + attention + mlp)


def test_small_cnn():
    """Three convolutions at 28, 14 and 7 pixels a side, two linear layers."""
    by_hand = 784 * 16 * 9 + 196 * 32 * 16 * 9 + 49 * 64 * 32 * 9 + 576 * 128 + 128 * 10
    assert macs(SmallCNN(), torch.zeros(1, 1, 28, 28)) == by_hand
    assert macs(SmallCNN(), torch.zeros(7, 1, 28, 28)) == 7 * by_hand


def test_the_model_is_left_as_it_was():
    m = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout())
    m[1].eval()
    before = {name: t.clone() for name, t in m.state_dict().items()}
    macs(m, torch.randn(4, 1, 8, 8))
    assert [k.training for k in m.modules()] == [True, True, False, True]
    assert all(torch.equal(t, before[name]) for name, t in m.state_dict().items())
    assert all(p.grad is None for p in m.parameters())
    with pytest.raises(RuntimeError):
        macs(m, torch.randn(4, 2, 8, 8))
    assert [k.training for k in m.modules()] == [True, True, False, True]
