"""Settings of known operations that have no integer form: kept in float, with the reason."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from qtools import ptq
from qtools.error import sqnr
from tests.ptq_networks import images

CASES = {
    "ceil_mode": lambda x: F.max_pool2d(x, 3, 2, 0, ceil_mode=True),
    "an average with padding or a divisor of its own": lambda x: F.avg_pool2d(x, 3, 1, 1),
    "an addition with a factor": lambda x: torch.add(x, x, alpha=2),
    "an input is not an activation": lambda x: x + 1.0,
    "a mean, but not over height and width": lambda x: x.mean((1, 2), keepdim=True),
    "kernel_size is computed": lambda x: F.avg_pool2d(x, x.shape[2:]),
    "its weight is not in a module": lambda x: F.conv2d(x, torch.full((2, 8, 1, 1), 0.3)),
    "no integer form of this operation": lambda x: F.avg_pool2d(x.exp(), 2),
}


@torch.no_grad()
@pytest.mark.parametrize("reason", CASES)
def test_reason(reason):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)

        def forward(self, x):
            return CASES[reason](self.conv(x))

    torch.manual_seed(0)
    m, x = Net().eval(), images(4)
    q = ptq.convert(ptq.calibrate(ptq.prepare(m), [x]))
    assert reason in ptq.report(q).stayed_float.values()
    assert q(x).shape == m(x).shape
    assert sqnr(m(x), q(x)) > 20
