"""The float64 requantization against the int64 product, exact halves included."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qtools import QParams, QuantSpec
from qtools.fixed_point import FixedPointMultiplier, multiply
from qtools.integer import (
    requantize,
)
from qtools.requantizer import Clamp, Requantizer
from tests.ptq_codes import qp, seeds


@given(st.data(), seeds, st.floats(-40, 20), st.integers(1, 31))
@settings(max_examples=300)
def test_float64_requantization_is_the_int64_one(data, seed, exponent, bits):
    """Any multiplier and any size of accumulator, exact halves included."""
    out = qp(data.draw)
    generator = torch.Generator().manual_seed(seed)
    bound = min(2**bits, 2**31 - 1)
    acc = torch.randint(-bound, bound + 1, (500,), generator=generator).to(torch.int32)
    acc[:2] = torch.tensor([bound, -bound])
    simple = data.draw(st.booleans())  # a power of two times 1, 3 or 5: halves do occur
    factor = (
        2.0 ** round(exponent) * data.draw(st.sampled_from([1, 3, 5])) if simple else 2.0**exponent
    )
    m = FixedPointMultiplier.from_real(torch.tensor(factor, dtype=torch.float64))
    expected = multiply(acc, m) + out.zero_point
    expected = expected.clamp(out.spec.qmin, out.spec.qmax).to(out.spec.dtype)
    assert torch.equal(Requantizer(m, torch.tensor(bound), out, Clamp())(acc), expected)
    assert torch.equal(requantize(acc, m, out), expected)
    lines = FixedPointMultiplier(m.mantissa.expand(2, 1), m.shift.expand(2, 1))
    assert torch.equal(requantize(acc.view(2, -1), lines, out), expected.view(2, -1))


def test_float64_is_used_where_it_may_be_and_only_there():
    out = QParams(torch.tensor(1.0), torch.tensor(0, dtype=torch.int32), QuantSpec())

    def is_fast(factor: float, bound: int) -> bool:
        m = FixedPointMultiplier.from_real(torch.tensor(factor, dtype=torch.float64))
        return Requantizer(m, torch.tensor(bound), out, Clamp()).fast

    assert is_fast(0.00123456789, 10**6)
    assert not is_fast(0.5, 10**6)  # 1 · 0.5 is halfway
    assert not is_fast(1e-6 / 3, 2**30)
    assert is_fast(2.0**-20, 2**19 - 1)
    assert not is_fast(2.0**-20, 2**19)  # the first half there is


def test_the_smallest_accumulator_and_none():
    out = QParams(torch.tensor(1.0), torch.tensor(0, dtype=torch.int32), QuantSpec())
    m = FixedPointMultiplier.from_real(torch.tensor(2.0**-25, dtype=torch.float64))
    acc = torch.tensor([-(2**31), -(2**31) + 2**24, 2**31 - 1], dtype=torch.int32)
    assert requantize(acc, m, out).tolist() == [-64, -64, 64]
    assert requantize(acc[:0], m, out).shape == (0,)


@pytest.mark.parametrize(
    ("acc", "mantissa", "shift", "fast"),
    [
        (4307911, 1433376247, 45, True),
        (4321285, 1795334963, 45, True),
        (4574713, 2038129737, 46, False),  # float64 would round to the other side of 132.5
        (5784023, 1964817945, 46, False),
        (5097251, 2112200843, 47, False),
    ],
)
def test_products_one_unit_from_a_half(acc, mantissa, shift, fast):
    """``acc · mantissa = (odd · 2^(shift - 1)) ± 1``: the hardest cases there are."""
    product = acc * mantissa
    assert (product + 1) % 2 ** (shift - 1) == 0 or (product - 1) % 2 ** (shift - 1) == 0
    out = QParams(torch.tensor(1.0), torch.tensor(-128, dtype=torch.int32), QuantSpec())
    m = FixedPointMultiplier(torch.tensor(mantissa), torch.tensor(shift))
    requantizer = Requantizer(m, torch.tensor(acc), out, Clamp())
    assert requantizer.fast == fast
    exact = round(Fraction(product, 2**shift)) - 128
    assert requantizer(torch.tensor([acc], dtype=torch.int32)).tolist() == [exact]
