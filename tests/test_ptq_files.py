"""Quantized networks on disk: round trips, size, and files that are not what they should be."""

from __future__ import annotations

import json
import struct

import pytest
import torch
from safetensors.torch import save_file

from qtools import QuantSpec, metrics, ptq
from qtools.models import SmallCNN
from qtools.observers import MinMaxObserver
from tests.ptq_networks import NETWORKS, images, trained_like

RECIPE = ptq.Recipe(observer=MinMaxObserver)


def smallcnn(recipe: ptq.Recipe = RECIPE):
    torch.manual_seed(0)
    x = torch.randn(64, 1, 28, 28)
    p = ptq.prepare(SmallCNN.pretrained(), recipe)
    return ptq.convert(ptq.calibrate(p, [x])), x


@pytest.fixture
def saved(tmp_path):
    q, x = smallcnn()
    path = tmp_path / "q.safetensors"
    ptq.save(q, path)
    return q, x, path


@pytest.mark.parametrize("network", NETWORKS)
def test_every_tensor_round_trips(network, tmp_path):
    m = trained_like(network, 0)
    q = ptq.convert(ptq.calibrate(ptq.prepare(m, RECIPE), [images(8)]))
    path, x = tmp_path / "q.safetensors", images(4)
    ptq.save(q, path)
    for skeleton in (ptq.prepare(network(), RECIPE), q):
        again = ptq.load(skeleton, path)
        assert again.state_dict().keys() == q.state_dict().keys()
        for name, t in q.state_dict().items():
            new = again.state_dict()[name]
            assert torch.equal(t, new)
            assert t.dtype == new.dtype
        assert torch.equal(again(x), q(x))
        assert ptq.report(again) == ptq.report(q)


@pytest.mark.parametrize(
    "spec",
    [QuantSpec(bits=b, symmetric=True, granularity="channel") for b in (2, 3, 4, 8)]
    + [QuantSpec(bits=4, signed=False, granularity="channel"), QuantSpec(bits=5)],
    ids=str,
)
def test_codes_take_their_bits(spec, tmp_path):
    q, x = smallcnn(ptq.Recipe(weights=spec, observer=MinMaxObserver))
    path = tmp_path / "q.safetensors"
    size = ptq.save(q, path)
    assert size.file_bytes == path.stat().st_size
    assert size.tensors["fc1.weight"] == 128 * 576 * spec.bits // 8
    recipe = ptq.Recipe(weights=spec, observer=MinMaxObserver)
    assert torch.equal(ptq.load(ptq.prepare(SmallCNN(), recipe), path)(x), q(x))


def test_int8_file_is_at_most_three_tenths_of_the_float_file(saved):
    _, _, path = saved
    floats = metrics.storage(SmallCNN.pretrained().state_dict()).file_bytes
    assert path.stat().st_size <= 0.30 * floats


def test_dynamic_networks_too(tmp_path):
    q = ptq.quantize_dynamic(SmallCNN.pretrained())
    path, x = tmp_path / "d.safetensors", torch.randn(3, 1, 28, 28)
    ptq.save(q, path)
    assert torch.equal(ptq.load(ptq.quantize_dynamic(SmallCNN()), path)(x), q(x))


def test_truncated_at_any_length(saved):
    q, _, path = saved
    content = path.read_bytes()
    for size in [*range(0, 4000, 97), len(content) // 2, len(content) - 1]:
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match=r"is not a whole file from ptq.save"):
            ptq.load(q, path)


def test_any_edited_byte_is_noticed(saved):
    q, x, path = saved
    content, before = path.read_bytes(), q(x)
    generator = torch.Generator().manual_seed(0)
    for i in torch.randint(0, len(content), (150,), generator=generator).tolist():
        edited = bytearray(content)
        edited[i] ^= 1
        path.write_bytes(bytes(edited))
        with pytest.raises(ValueError, match=str(path)):
            ptq.load(q, path)
    assert torch.equal(q(x), before)


def packed(layout: str) -> bytes:
    return json.dumps({"__metadata__": {"packed": layout}}).encode()


def test_hostile_headers(saved):
    q, _, path = saved
    for header in (b"[" * 100_000, b"{}", b'{"a": 1}', b"\xff" * 20,
                   packed('{"x": [[9999999999], 8, true]}'), packed("[1, 2]")):  # fmt: skip
        path.write_bytes(struct.pack("<Q", len(header)) + header)
        with pytest.raises(ValueError, match=str(path)):
            ptq.load(q, path)
    path.write_bytes(struct.pack("<Q", 2**63 - 1) + b"{}")
    with pytest.raises(ValueError, match="not a whole file"):
        ptq.load(q, path)
    save_file({"a": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match="checksum"):
        ptq.load(q, path)


def resealed(path, change):
    """Edit a file and give it a fitting checksum, as someone who means to would."""
    from qtools.ptq.files import _CHECKSUM, _checksum

    tensors = metrics.load(path)
    del tensors[_CHECKSUM]
    change(tensors)
    tensors[_CHECKSUM] = _checksum(tensors)
    metrics.save(tensors, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("fc1.bias"), r"fc1\.bias is in only one"),
        (lambda t: t.update(other=torch.zeros(1)), "other is in only one"),
        (lambda t: t.update({"fc1.bias": torch.zeros(3, dtype=torch.int32)}), r"fc1\.bias must be"),
        (lambda t: t.update({"fc1.bias": t["fc1.bias"].float()}), r"fc1\.bias must be"),
        (lambda t: t.update({"fc1.weight": t["fc1.weight"].codes}), r"fc1\.weight must be codes"),
        (lambda t: t.update({"fc1.output_scale": torch.tensor(float("nan"))}), "scale must be"),
        (lambda t: t.update({"fc1.output_scale": torch.tensor(-1.0)}), "scale must be"),
        (lambda t: t["fc1.output_zero_point"].fill_(999), "zero_point must be"),
        (lambda t: t["fc1.bias"].fill_(2**31 - 1), "must fit into int32"),
    ],
)  # fmt: skip
def test_files_of_another_network_or_with_impossible_values(saved, change, message):
    q, x, path = saved
    before = q(x)
    resealed(path, change)
    with pytest.raises(ValueError, match=message):
        ptq.load(q, path)
    assert torch.equal(q(x), before)


def test_other_bits_and_missing_files_are_named(saved, tmp_path):
    q, _, path = saved
    four = ptq.Recipe(weights=QuantSpec(bits=4, symmetric=True, granularity="channel"))
    with pytest.raises(ValueError, match="must have 4 bits, got 8"):
        ptq.load(ptq.prepare(SmallCNN(), four), path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        ptq.load(q, tmp_path / "nowhere.safetensors")
