"""BatchNorm folding: the same function without its BatchNorms."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from qtools import ptq
from qtools.models import SmallCNN
from tests.ptq_networks import NETWORKS, DenseNet, images, trained_like


@pytest.mark.parametrize("network", [*NETWORKS, SmallCNN])
def test_folding_computes_the_same_function(network):
    m = (trained_like(network, 0) if network in NETWORKS else SmallCNN.pretrained()).double()
    x = torch.randn(4, 1, 28, 28).double() if network is SmallCNN else images(4).double()
    folded = ptq.fold_batch_norm(m).requires_grad_(False)
    y = m(x).detach()
    assert float((folded(x) - y).abs().max()) <= 1e-12 * max(1.0, float(y.abs().max()))
    norms = [n for n in folded.modules() if isinstance(n, nn.BatchNorm2d)]
    assert len(norms) == (network is DenseNet)  # the one that precedes its convolution


def test_folding_a_linear_layer_and_one_without_affine_parameters():
    torch.manual_seed(0)
    m = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7, affine=False), nn.Linear(7, 3, bias=False),
                      nn.BatchNorm1d(3)).double()  # fmt: skip
    for _ in range(5):
        m(torch.randn(20, 5).double() * 3 + 1)
    x = torch.randn(9, 5).double()
    before = copy.deepcopy(m.state_dict())
    folded = ptq.fold_batch_norm(m)
    assert float((folded(x) - m.eval()(x)).detach().abs().max()) <= 1e-12
    assert not any(isinstance(n, nn.BatchNorm1d) for n in folded.modules())
    assert all(torch.equal(t, before[name]) for name, t in m.state_dict().items())


def test_what_must_not_be_folded_is_not():
    """A convolution used twice, and one whose output is also used before its BatchNorm."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
            self.other, self.bn2 = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x):
            x = self.conv(self.bn(self.conv(x)))
            y = self.other(x)
            return self.bn2(y) + y

    torch.manual_seed(0)
    m = Twice().double()
    for _ in range(3):
        m(torch.randn(8, 3, 4, 4).double() * 2 + 1)
    x = torch.randn(2, 3, 4, 4).double()
    folded = ptq.fold_batch_norm(m)
    assert sum(isinstance(n, nn.BatchNorm2d) for n in folded.modules()) == 2
    assert torch.equal(folded(x), m.eval()(x))
