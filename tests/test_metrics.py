"""Accuracy and its interval, packed codes, bytes on disk, latency."""

import json
import math
import re
from fractions import Fraction

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from qtools.metrics import (
    Packed,
    accuracy,
    latency,
    load,
    pack_codes,
    save,
    storage,
    unpack_codes,
    wilson,
)

# ---------------------------------------------------------------- accuracy


@given(st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_ends_solve_their_equation(right_n):
    right, n = right_n
    got = wilson(right, n)
    assert got.value == right / n
    assert 0 <= got.low <= got.value <= got.high <= 1
    assert got.low < got.high
    # |right/n - p| = 1.96 sqrt(p (1 - p) / n) at both ends
    for p in (got.low, got.high):
        if 0 < p < 1:
            z = abs(right / n - p) / math.sqrt(p * (1 - p) / n)
            assert z == pytest.approx(1.959963984540054, rel=1e-6)


def test_wilson_agrees_with_scipy():
    from scipy.stats import binomtest

    for right, n in [(0, 10), (10, 10), (9150, 10000), (1, 3), (500, 1000)]:
        expected = binomtest(right, n).proportion_ci(0.95, method="wilson")
        got = wilson(right, n)
        assert (got.low, got.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize(("right", "n"), [(-1, 3), (4, 3), (0, 0)])
def test_wilson_refuses(right, n):
    with pytest.raises(ValueError, match=f"got {right} of {n}"):
        wilson(right, n)


class Table(nn.Module):
    """Looks its answers up, and in training mode answers nothing right."""

    def forward(self, x):
        return -x if self.training else x


@pytest.mark.parametrize("batch_size", [1, 3, 7, 500])
def test_accuracy_counts(batch_size):
    logits = torch.eye(10)[torch.tensor([3, 1, 4, 1, 5, 9, 2])]
    labels = torch.tensor([3, 1, 4, 1, 5, 0, 0])
    model = Table()
    got = accuracy(model, logits, labels, batch_size)
    assert (got.value, got.n) == (5 / 7, 7)
    assert model.training
    assert "71.43%" in str(got)


def test_accuracy_keeps_the_mode_when_the_model_fails():
    model = nn.Sequential(nn.Linear(3, 2)).train()
    with pytest.raises(RuntimeError):
        accuracy(model, torch.zeros(1, 4), torch.zeros(1, dtype=torch.long))
    assert model.training


def test_accuracy_refuses_other_lengths():
    with pytest.raises(ValueError, match="got 2 for 3"):
        accuracy(Table(), torch.zeros(3, 10), torch.zeros(2))


# ---------------------------------------------------------------- packing


@st.composite
def codes(draw):
    bits, signed = draw(st.integers(1, 16)), draw(st.booleans())
    low = -(1 << (bits - 1)) if signed else 0
    q = draw(st.lists(st.integers(low, low + (1 << bits) - 1), max_size=40))
    dtype = draw(st.sampled_from([torch.int32, torch.int64]))
    return torch.tensor(q, dtype=dtype), bits, signed


@given(codes())
def test_pack_is_the_definition_and_unpack_its_inverse(case):
    q, bits, signed = case
    packed = pack_codes(q, bits)
    assert packed.dtype == torch.uint8
    assert packed.shape == (math.ceil(Fraction(q.numel() * bits, 8)),)
    # One long little-endian number: code i stands at bit i * bits.
    number = sum((int(c) % 2**bits) << (i * bits) for i, c in enumerate(q))
    assert bytes(packed.tolist()) == number.to_bytes(packed.numel(), "little")
    back = unpack_codes(packed, bits, q.numel(), signed)
    assert back.dtype == torch.int32
    assert torch.equal(back, q.int())


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.bool])
def test_pack_takes_every_integer_type(dtype):
    q = torch.tensor([0, 1, 1, 0, 1], dtype=dtype)
    assert pack_codes(q, 1).tolist() == [0b10110]


def test_pack_takes_any_layout():
    q = torch.arange(24).reshape(2, 3, 4)
    assert torch.equal(pack_codes(q.permute(2, 0, 1), 5), pack_codes(q.permute(2, 0, 1).clone(), 5))


@pytest.mark.parametrize(
    ("q", "bits", "signed", "says"),
    [
        ([4], 2, None, "q must lie in [-2, 1] or [0, 3] for bits=2, got [4, 4]"),
        ([-3], 2, None, "got [-3, -3]"),
        ([-1, 2], 2, None, "got [-1, 2]"),
        ([2], 2, True, "q must lie in [-2, 1] for bits=2"),
        ([-1], 2, False, "q must lie in [0, 3] for bits=2"),
        ([65536], 16, None, "got [65536, 65536]"),
        ([0], 0, None, "bits must be an integer from 1 to 16, got 0"),
        ([0], 17, None, "got 17"),
        ([0], 2.0, None, "got 2.0"),
    ],
)
def test_pack_refuses(q, bits, signed, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        pack_codes(torch.tensor(q), bits, signed)


def test_pack_refuses_floats():
    with pytest.raises(TypeError, match=r"torch\.float32"):
        pack_codes(torch.zeros(3), 4)


@pytest.mark.parametrize(
    ("packed", "bits", "numel", "says"),
    [
        (torch.zeros(2, dtype=torch.uint8), 3, 2, "packed must be uint8 [1] for 2 codes of 3 bits"),
        (torch.zeros(0, dtype=torch.uint8), 3, 2, "uint8 [0]"),
        (torch.zeros(1, dtype=torch.int8), 3, 2, "torch.int8"),
        (torch.zeros(1, 1, dtype=torch.uint8), 3, 2, "[1, 1]"),
        (torch.zeros(0, dtype=torch.uint8), 3, -1, "-1 codes"),
        (torch.tensor([64], dtype=torch.uint8), 3, 2, "zeros after its last code"),
        (torch.zeros(1, dtype=torch.uint8), 0, 2, "bits"),
    ],
)
def test_unpack_refuses(packed, bits, numel, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        unpack_codes(packed, bits, numel, False)


# ---------------------------------------------------------------- storage


@st.composite
def models(draw):
    """A few tensors of any type and packed codes of any width, by name."""
    model = {}
    for i in range(draw(st.integers(0, 4))):
        shape = draw(st.lists(st.integers(0, 5), max_size=3))
        if draw(st.booleans()):
            bits, signed = draw(st.integers(1, 16)), draw(st.booleans())
            low = -(1 << (bits - 1)) if signed else 0
            model[f"t{i}"] = Packed(torch.randint(low, low + (1 << bits), shape), bits, signed)
        else:
            dtype = draw(st.sampled_from([torch.float32, torch.float16, torch.int32, torch.int8]))
            model[f"t{i}"] = torch.randint(-100, 100, shape).to(dtype)
    return model


@given(models())
def test_storage_is_the_file_to_the_byte_and_load_the_inverse(tmp_path_factory, model):
    path = tmp_path_factory.mktemp("storage") / "m.safetensors"
    save(model, path)
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    size = storage(model)
    assert size.header_bytes == header
    assert size.data_bytes == len(content) - header
    assert size.file_bytes == len(content)
    # The file itself says where each tensor lies.
    layout = json.loads(content[8:header])
    for name, (start, end) in {
        n: e["data_offsets"] for n, e in layout.items() if n in model
    }.items():
        assert size.tensors[name] == end - start
    back = load(path)
    assert back.keys() == model.keys()
    for name, t in model.items():
        if isinstance(t, Packed):
            assert torch.equal(back[name].codes, t.codes.int())
            assert back[name][1:] == t[1:]
        else:
            assert back[name].dtype == t.dtype
            assert torch.equal(back[name], t)


def test_bits_of_a_quantized_matrix():
    codes, scale = torch.randint(-4, 4, (128, 576)), torch.rand(128)
    size = storage({"w": Packed(codes, 3), "s": scale, "z": Packed(torch.zeros(128).int(), 3)})
    assert size.tensors == {"w": 128 * 576 * 3 // 8, "s": 512, "z": 48}


def test_storage_takes_any_layout_and_parameters(tmp_path):
    conv = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    save({"w": conv.weight}, tmp_path / "w")
    assert torch.equal(load(tmp_path / "w")["w"], conv.weight)
    assert storage({"w": conv.weight}).data_bytes == 4 * 3 * 9 * 4


def test_plain_tensors_make_a_plain_safetensors_file(tmp_path):
    save({"w": torch.ones(3)}, tmp_path / "w")
    assert safetensors.torch.load_file(tmp_path / "w")["w"].tolist() == [1, 1, 1]


def test_codes_outside_their_type_are_not_written(tmp_path):
    with pytest.raises(ValueError, match="q must lie in"):
        save({"w": Packed(torch.tensor([200]), 8)}, tmp_path / "w")
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- latency


def test_latency_times_every_run(monkeypatch):
    clock = iter([0.0, 3.0, 10.0, 11.0, 20.0, 22.0])
    monkeypatch.setattr("qtools.metrics.time.perf_counter", lambda: next(clock))
    calls = []
    got = latency(lambda: calls.append(1), warmup=2, runs=3)
    assert len(calls) == 5
    assert got == (2.0, 1.0, 3)


@pytest.mark.parametrize("kwargs", [{"runs": 0}, {"warmup": -1}])
def test_latency_refuses(kwargs):
    with pytest.raises(ValueError, match="runs"):
        latency(lambda: None, **kwargs)
