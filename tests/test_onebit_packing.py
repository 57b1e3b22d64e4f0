"""Packed signs are the training layer's, bit by bit; packed outputs stay within a derived bound."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from qtools.kernels.bits import padding_is_zero, row_bytes
from qtools.onebit import (
    LLAMA,
    OneBitLinear,
    PackedOneBitLinear,
    bits_per_weight,
    convert_,
    pack_,
    pack_signs,
    sign,
    unpack_signs,
)
from tests.roundings import gamma

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
SIZES = [*range(1, 201), 511, 1023, 2049, 4097]


def layer_of(n_in, n_out, dtype=torch.float32, **kwargs):
    layer = OneBitLinear(n_in, n_out, dtype=dtype, **kwargs)
    with torch.no_grad():
        layer.g.uniform_(0.1, 2).mul_(torch.randn_like(layer.g).sign())
        layer.h.uniform_(0.1, 2)
    return layer


@pytest.mark.parametrize("columns", SIZES[::7])
def test_bits_are_numpys_little_endian_ones_of_the_negative_weights(columns):
    w = torch.randn(3, columns)
    w[0, 0] = -0.0
    bits = pack_signs(w)
    assert bits.shape == (3, row_bytes(columns)) == (3, 8 * math.ceil(columns / 64))
    negative = (w < 0).numpy().astype(np.uint8)
    padded = np.pad(negative, ((0, 0), (0, 64 * math.ceil(columns / 64) - columns)))
    assert np.array_equal(bits.numpy(), np.packbits(padded, axis=1, bitorder="little"))
    assert padding_is_zero(bits, columns)
    words = bits.numpy().view("<u8")  # what a kernel reads: column j is bit j % 64 of word j // 64
    for j in (0, columns // 2, columns - 1):
        assert ((words[:, j // 64] >> np.uint64(j % 64)) & np.uint64(1)).tolist() == negative[
            :, j
        ].tolist()


def test_one_row_by_eye():
    w = torch.tensor([[-1.0, 0.0, -3.0, 4.0, 5.0, 6.0, 7.0, -8.0, -9.0]])
    assert pack_signs(w).tolist() == [[0b10000101, 0b1, 0, 0, 0, 0, 0, 0]]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_unpacking_inverts_packing_for_every_width(dtype):
    for columns in SIZES:
        w = torch.randn(2, columns).to(dtype)
        back = unpack_signs(pack_signs(w), columns, dtype)
        assert back.dtype == dtype
        assert torch.equal(back, sign(w))


def test_matrices_without_rows_and_views():
    assert pack_signs(torch.randn(0, 5)).shape == (0, 8)
    w = torch.randn(130, 6)
    assert torch.equal(pack_signs(w.T), pack_signs(w.T.contiguous()))
    with pytest.raises(ValueError, match="weight must be a matrix"):
        pack_signs(torch.randn(3))
    with pytest.raises(ValueError, match=r"bits must be uint8 \[out, 16\] for 65 columns"):
        unpack_signs(torch.zeros(2, 8, dtype=torch.uint8), 65)


@pytest.mark.parametrize("columns", [1, 7, 8, 9, 63, 64, 65])
def test_any_bit_of_the_padding_is_seen(columns):
    for bit in range(8 * row_bytes(columns)):
        bits = torch.zeros(2, row_bytes(columns), dtype=torch.uint8)
        bits[1, bit // 8] = 1 << bit % 8
        assert padding_is_zero(bits, columns) == (bit < columns)


def bound(layer, packed, x):
    """How far the two can be apart before the LayerNorm, [..., out], in float64.

    Both compute ``h_i Σ_j ±x_j g_j``: products rounded to the input's type, the sum in float32 or
    better, and the result rounded twice. So each is off by ``γ |h_i| Σ_j |x_j g_j|`` at most, and
    what they compute differs by ``Σ_j |x_j| |h_i g_j - h'_i g'_j|``, with h' and g' in float16.
    """
    wide, n = torch.promote_types(x.dtype, torch.float32), layer.in_features
    g, h, x = layer.g.detach().double(), layer.h.detach().double(), x.double().abs()
    g16, h16 = packed.g.double(), packed.h.double()
    rounding = (1 + gamma(6, layer.weight.dtype)) * (1 + gamma(n, wide)) - 1
    size = (x @ g.abs())[..., None] * h.abs() + (x @ g16.abs())[..., None] * h16.abs()
    differ = (torch.outer(h, g) - torch.outer(h16, g16)).abs()
    underflow = (n + 2) * torch.finfo(layer.weight.dtype).smallest_normal
    return x @ differ.T + rounding * size + underflow


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_outputs_stay_within_the_bound_for_every_width(dtype):
    torch.manual_seed(3)
    for n_in in SIZES:
        layer = layer_of(n_in, 5, dtype, layer_norm=False, bias=False)
        packed = PackedOneBitLinear.from_layer(layer)
        assert torch.equal(packed.signs(), sign(layer.weight).float())
        x = torch.randn(3, n_in).to(dtype)
        y, z = layer(x), packed(x)
        assert y.dtype == z.dtype == dtype
        assert ((y - z).double().abs() <= bound(layer, packed, x)).all(), n_in


@given(
    seed=st.integers(0, 2**32 - 1),
    n_in=st.integers(1, 150),
    n_out=st.integers(1, 20),
    dtype=st.sampled_from(FLOATS),
    bias=st.booleans(),
    batch=st.sampled_from([(), (1,), (4,), (2, 3), (2, 1, 3, 1), (0,), (3, 0, 2)]),
    strided=st.booleans(),
)
def test_layer_norm_at_most_doubles_the_distance_over_the_deviation(
    seed, n_in, n_out, dtype, bias, batch, strided
):
    torch.manual_seed(seed)
    layer = layer_of(n_in, n_out, dtype, bias=bias)
    packed = PackedOneBitLinear.from_layer(layer)
    x = torch.randn(*batch, n_in).to(dtype)
    if strided:
        x = torch.stack([x, x], -1)[..., 0]
    y, z = layer(x).double(), packed(x).double()
    assert y.shape == z.shape == (*batch, n_out)
    # |c/s - c'/s'| <= 2 |c - c'| / s for the centred c with deviation s (of c and eps together):
    # |c - c'| / s, and |c'| |1/s - 1/s'| <= sqrt(m) s' |s - s'| / (s s') <= |c - c'| / s.
    exact = layer.h.double() * ((x.double() * layer.g.double()) @ sign(layer.weight).double().T)
    apart = bound(layer, packed, x).norm(dim=-1)
    centred = exact - exact.mean(-1, keepdim=True)
    s = (centred.square().mean(-1) + layer.eps).sqrt()
    # `exact` is off from what the layer computed by less than `apart` too.
    s = (s - apart / math.sqrt(n_out)).clamp_min(math.sqrt(layer.eps))
    wide = torch.promote_types(dtype, torch.float32)
    mean_error = gamma(4 * n_out + 16, wide) * (exact.abs().amax(-1) + apart) / s
    rounding = math.sqrt(n_out) * (2 * mean_error + gamma(6, dtype) * math.sqrt(n_out))
    if bias:
        rounding = rounding + 2 * gamma(2, dtype) * layer.bias.double().norm()
    assert ((y - z).norm(dim=-1) <= 2 * apart / s + rounding).all()


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_a_packed_layer_takes_any_floating_type(dtype):
    packed = PackedOneBitLinear.from_layer(layer_of(70, 6))
    y = packed(torch.randn(2, 70, dtype=dtype))
    assert y.dtype == dtype
    assert y.isfinite().all()


def test_vectors_stay_float16_wherever_the_layer_goes():
    packed = PackedOneBitLinear.from_layer(layer_of(70, 6))
    g, bits = packed.g.clone(), packed.bits.clone()
    for move in ("float", "double", "bfloat16", "half", "cpu"):
        getattr(packed, move)()
        assert packed.g.dtype == packed.h.dtype == torch.float16
        assert torch.equal(packed.g, g)
        assert torch.equal(packed.bits, bits)
    assert packed.bias.dtype == torch.float16
    assert copy.deepcopy(packed).to("meta").g.is_meta


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_a_packed_layer_has_no_memory_in_common_with_its_source(dtype):
    layer, x = layer_of(9, 4, dtype), torch.randn(3, 9, dtype=dtype)
    packed = PackedOneBitLinear.from_layer(layer)
    assert packed.bias.dtype == dtype
    before = packed(x)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.fill_(-7)
    assert torch.equal(packed(x), before)


def test_packed_input_gets_a_gradient():
    layer = layer_of(9, 4, torch.float64, layer_norm=False)
    with torch.no_grad():
        layer.g.copy_(layer.g.half())
        layer.h.copy_(layer.h.half())
    packed = PackedOneBitLinear.from_layer(layer)
    x = torch.randn(2, 9, dtype=torch.float64, requires_grad=True)
    (ours,) = torch.autograd.grad(packed(x).sum(), x)
    (theirs,) = torch.autograd.grad(layer(x).sum(), x)
    torch.testing.assert_close(ours, theirs)
    assert not list(packed.parameters())


def test_pack_names_what_it_packs_and_changes_nothing_on_error():
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 2)).eval()
    convert_(model, skip=())
    with torch.no_grad():
        model[2].h.fill_(70000.0)
    with pytest.raises(ValueError, match="2: h must be finite and at most 65504"):
        pack_(model)
    with torch.no_grad():
        model[2].h.fill_(float("nan"))
    with pytest.raises(ValueError, match="2: h must be finite"):
        pack_(model)
    with torch.no_grad():
        model[2].h.fill_(1.0)
        model[2].weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="2: weight must have no NaN"):
        pack_(model)
    assert isinstance(model[0], OneBitLinear)
    with torch.no_grad():
        model[2].weight[0, 0] = -0.0
    assert pack_(model) == ["0", "2"]
    assert not model[0].training
    assert model[2].signs()[0, 0] == 1
    with pytest.raises(ValueError, match="model must have OneBitLinear layers, got none"):
        pack_(model)
    with pytest.raises(ValueError, match=r"PackedOneBitLinear\.from_layer"):
        pack_(layer_of(2, 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bits": torch.zeros(3, 8, dtype=torch.uint8)}, r"bits must be uint8 \[2, 8\]"),
        ({"bits": torch.zeros(2, 8)}, r"bits must be uint8 \[2, 8\], got torch.float32"),
        ({"g": torch.zeros(5)}, "g must be a float16 vector"),
        ({"h": torch.zeros(2, 1).half()}, "h must be a float16 vector"),
        ({"bias": torch.zeros(3)}, r"bias must be floating point \[2\]"),
    ],
)
def test_packed_layer_refuses_parts_that_do_not_fit(change, message):
    parts = {
        "bits": torch.zeros(2, 8, dtype=torch.uint8),
        "g": torch.zeros(5).half(),
        "h": torch.zeros(2).half(),
    }
    with pytest.raises(ValueError, match=message):
        PackedOneBitLinear(**{**parts, **change})


# Bits, counted


def test_the_papers_bits_per_weight():
    assert f"{bits_per_weight(4096, 4096):.4f}" == "1.0073"
    assert f"{bits_per_weight(4096, 4096, of_original=True):.4f}" == "1.0078"
    packed = PackedOneBitLinear.from_layer(OneBitLinear(4096, 4096, bias=False))
    stored = sum(8 * t.nbytes for t in packed.state_dict().values())
    assert stored / 4096**2 == bits_per_weight(4096, 4096, of_original=True)


@pytest.mark.parametrize(
    ("size", "parameters", "float16", "onebit"),
    [
        ("7B", 6_738_415_616, 13.5, 1.3),
        ("13B", 13_015_864_320, 26.0, 2.2),
        ("30B", 32_528_943_616, 65.1, 4.9),
        ("65B", 65_285_660_672, 130.6, 9.2),
    ],
)
def test_the_papers_sizes(size, parameters, float16, onebit):
    shapes = LLAMA[size]
    assert shapes.float16_bytes == 2 * parameters  # of the released weights, to the last one
    assert round(shapes.float16_bytes / 1e9, 1) == float16
    assert round(shapes.onebit_bytes / 1e9, 1) == onebit
    bits = sum(m * n * bits_per_weight(m, n, of_original=True) for m, n in shapes.matrices)
    assert 8 * (shapes.sign_bytes + shapes.vector_bytes) == pytest.approx(shapes.layers * bits)


def test_what_stays_at_16_bits_is_two_fifths_of_the_smallest_model():
    shares = [round(s.embedding_bytes / s.onebit_bytes, 2) for s in LLAMA.values()]
    assert shares == [0.39, 0.29, 0.17, 0.11]
