"""Packed codes come back, and a layer of them computes what its weight says."""

from __future__ import annotations

import pytest
import torch

from qtools.metrics import pack_codes
from qtools.weight_only import (
    Quantized,
    WeightOnlyLinear,
    pack_rows,
    row_bytes,
    rtn,
    unpack_rows,
)


@pytest.mark.parametrize("bits", range(1, 9))
def test_codes_packed_and_unpacked_are_the_same(bits):
    generator = torch.Generator().manual_seed(bits)
    for columns in range(1, 201):
        codes = torch.randint(1 << bits, (3, columns), generator=generator, dtype=torch.uint8)
        packed = pack_rows(codes, bits)
        assert packed.shape == (3, -(-columns * bits // 8))
        assert torch.equal(unpack_rows(packed, columns, bits), codes)
        if columns % 8 == 0:  # no padding: the packing that files of other chapters use
            assert torch.equal(packed.flatten(), pack_codes(codes, bits, signed=False))
            assert packed.shape[1] == bits * columns // 8 == row_bytes(columns, bits)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (
            lambda: pack_rows(torch.ones(2, 3).double(), 4),
            r"codes must be a uint8 matrix, got torch\.float64",
        ),
        (lambda: pack_rows(torch.tensor([[8]]).byte(), 3), "codes must be below 8 .* got 8"),
        (lambda: unpack_rows(torch.zeros(2, 3).byte(), 13, 2), "13 columns of 2 bits"),
    ],
)
def test_what_is_refused(call, named):
    with pytest.raises(ValueError, match=named):
        call()


def layer(**changed: object) -> WeightOnlyLinear:
    q: Quantized = rtn(torch.randn(6, 12), 3, 4)
    packed = WeightOnlyLinear.from_weight(q, torch.zeros(6))
    parts = {"in_features": 12, "bits": 3, **dict(packed.named_buffers()), **changed}
    return WeightOnlyLinear(**parts)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"bits": 0}, "bits must be an int"),
        ({"in_features": 0}, "in_features must be an int of at least 1, got 0"),
        ({"in_features": 13}, "groups that divide 13"),
        ({"bits": 4}, r"codes must be torch\.uint8 \[6, 6\], got torch\.uint8 \[6, 5\]"),
        ({"scale": torch.ones(6, 3)}, r"scale must be torch\.float16"),
        ({"scale": torch.ones(6)}, r"scale must be \[out, groups\]"),
        ({"zero_point": torch.ones(6, 3).byte()}, r"zero_point must be torch\.uint8 \[6, 2\]"),
        ({"input_scale": torch.ones(6).half()}, r"input_scale must be torch\.float16 \[12\]"),
        ({"bias": torch.ones(5)}, r"bias must be torch\.float32 \[6\]"),
        ({"bias": torch.ones(6).int()}, "bias must be"),
    ],
)
def test_a_layer_refuses_what_does_not_fit(changed, named):
    with pytest.raises(ValueError, match=named):
        layer(**changed)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_layer_computes_in_the_type_of_its_input(dtype):
    torch.manual_seed(0)
    q = layer()
    scale = q.scale.clone()
    moved = q.to(dtype)
    assert torch.equal(moved.scale, scale)  # neither larger nor rounded
    assert moved.scale.dtype == torch.float16
    x = torch.randn(2, 3, 12, dtype=dtype)
    y = moved(x)
    assert y.dtype == dtype
    exact = x.double() @ moved.dequantize().double().T
    eps = torch.finfo(dtype).eps
    bound = 20 * eps * (x.double().abs() @ moved.dequantize().double().abs().T) + eps
    assert bool(((y.double() - exact).abs() <= bound).all())


def test_a_layer_takes_no_other_number_of_columns():
    with pytest.raises(ValueError, match=r"x must have the shape \[\.\.\., 12\], got \[2, 1\]"):
        layer(input_scale=torch.ones(12).half())(torch.ones(2, 1))


def test_bytes_of_a_layer_are_counted():
    q = layer()
    # 6 rows: 12 codes of 3 bits in 5 bytes, three float16 scales, three zero points in 2 bytes.
    assert q.weight_bytes == 6 * (5 + 6 + 2)
    assert q.bits_per_weight == pytest.approx(8 * 78 / 72)
