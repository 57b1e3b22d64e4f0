"""Operations in place, which share memory in torch and must share edges in a graph of codes."""

from __future__ import annotations

import operator

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from qtools import ptq
from qtools.error import sqnr
from qtools.ptq.fold import trace
from tests.ptq_networks import images


def discarded(x):
    torch.relu_(x)
    return x


def method(x):
    x.relu_()
    return x - 1.0


def by_position(x):
    y = F.hardtanh(x, 0.0, 0.5, True)
    return x + y


def by_keyword(x):
    y = x
    F.relu(x, inplace=True)
    return y


def augmented(x):
    before = x
    x += x.abs()
    x -= 0.25
    x *= 0.5
    return before


def through_dropout(x):
    y = F.dropout(x, 0.5, training=False)
    x.relu_()
    return y


def into_dropout(x):
    F.dropout(x, 0.5, training=False).relu_()
    return x


def one_part(x):
    left, right = x.chunk(2, 1)
    right.relu_()
    return torch.cat([right, left], 1)


def before_and_after(x):
    early = x * 2.0
    x.relu_()
    late = x.flatten(1).view(x.shape)
    return early + late


def numbers(x):
    n = m = x.shape[1]
    n += 1
    return x[:, : n - 1] * m


FUNCTIONS = [discarded, method, by_position, by_keyword, augmented, through_dropout, into_dropout,
             one_part, before_and_after, numbers]  # fmt: skip


class Net(nn.Module):
    def __init__(self, f) -> None:
        super().__init__()
        self.f = f
        self.conv, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        return self.last(self.f(self.conv(x)))


@torch.no_grad()
@pytest.mark.parametrize("f", FUNCTIONS, ids=lambda f: f.__name__)
def test_names_mean_the_result(f):
    torch.manual_seed(0)
    m, x = Net(f).eval(), images(8)
    y = m(x)
    assert torch.equal(trace(m)(x), y)
    q = ptq.convert(ptq.calibrate(ptq.prepare(m), [x]))
    assert sqnr(y, q(x)) > 30


@torch.no_grad()
def test_relu_module_in_place_changes_the_shortcut():
    """Pre-activation blocks whose shortcut is what the ReLU left behind."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 3, padding=1)
            self.relu, self.conv = nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3, padding=1)

        def forward(self, x):
            x = self.stem(x)
            return self.conv(self.relu(x)) + x

    torch.manual_seed(0)
    m, x = Block().eval(), images(8)
    q = ptq.convert(ptq.calibrate(ptq.prepare(m), [x]))
    assert not ptq.report(q).stayed_float
    assert sqnr(m(x), q(x)) > 30


def test_another_view_used_later_is_refused():
    def views(x):
        x.flatten(2).relu_()
        return x

    def base(x):
        y = x.transpose(2, 3)
        x.relu_()
        return y

    def through_dropout_too(x):
        F.dropout(x, 0.5, training=False).flatten(2).relu_()
        return x

    for f, name in ((views, "conv"), (base, "transpose"), (through_dropout_too, "conv")):
        with pytest.raises(ValueError, match=f"m must not use {name} after relu_ changed"):
            ptq.prepare(Net(f))


def test_sums_in_place_keep_their_names():
    gm = trace(Net(augmented))
    targets = {node.name: node.target for node in gm.graph.nodes}
    assert [targets[name] for name in ("add", "sub", "mul")] == [
        operator.add, operator.sub, operator.mul,
    ]  # fmt: skip
