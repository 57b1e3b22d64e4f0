"""Files and models that do not fit are refused with a reason, and the model stays as it was."""

from __future__ import annotations

import copy
import io
import json
import os
import random
import re
import resource

import pytest
import torch
from torch import nn

from qtools.onebit import container, convert_, load_, pack_, report, save
from tests.onebit_files import INPUT, Net, join, net, seal, split


def test_save_refuses_what_it_cannot_keep(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="model must have OneBit layers"):
        save(nn.Sequential(nn.Linear(2, 2)), tmp_path / "x")
    model = net()
    model.register_buffer("wave", torch.zeros(2, dtype=torch.complex64))
    with pytest.raises(TypeError, match="wave must be dense"):
        save(model, tmp_path / "x")
    model = net()
    model.register_buffer("__metadata__", torch.zeros(2))
    with pytest.raises(ValueError, match="must not have the name '__metadata__'"):
        save(model, tmp_path / "x")
    monkeypatch.setattr(container, "_LARGEST_HEADER", 1000)
    with pytest.raises(ValueError, match="tensors must need a header of at most 1000 bytes, got"):
        save(net(), tmp_path / "x")
    assert not list(tmp_path.iterdir())


def changed(model):
    model.last = nn.Linear(70, 11)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed, "last must map 70 to 11"),
        (lambda m: m.half(), "embed.weight must be torch.float16"),
        (lambda m: setattr(m, "extra", nn.Linear(1, 1)), "'extra.bias' is in only one"),
        (
            lambda m: convert_(m, skip=("first", "again", "last")),
            "lm_head is a OneBit layer in the",
        ),
        (lambda m: delattr(m, "first"), "no linear layer 'first'"),
        (lambda m: setattr(m, "first", nn.Linear(10, 70, bias=False)), "'first.bias' is in only"),
        (lambda m: setattr(m.norm, "weight", m.norm.bias), "norm.bias and norm.weight are one"),
        (lambda m: setattr(m, "again", nn.ModuleList([m.last, m.last])), "must map 70 to 10"),
    ],
)
def test_a_file_of_another_network_is_refused(tmp_path, change, message):
    save(net(), tmp_path / "net")
    model = Net()
    if "lm_head" in message:
        model.lm_head.weight = nn.Parameter(torch.randn(13, 10))
    change(model)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=re.escape(message)):
        load_(model, tmp_path / "net")
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_subclass_of_linear_is_not_replaced_by_loading_either(tmp_path):
    save(net(), tmp_path / "net")
    model = Net()
    model.first = type("Special", (nn.Linear,), {})(10, 70)
    with pytest.raises(TypeError, match="first: Special is a subclass of Linear"):
        load_(model, tmp_path / "net")


def test_one_module_in_the_model_must_be_one_in_the_file(tmp_path):
    two = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    convert_(two)
    pack_(two)
    save(two, tmp_path / "two")
    layer = nn.Linear(4, 4)
    with pytest.raises(ValueError, match="1 and 0 are one module in the model alone"):
        load_(nn.Sequential(layer, layer), tmp_path / "two")


def test_what_is_no_file_is_refused_at_once(tmp_path):
    with pytest.raises(FileNotFoundError, match="path must be a file"):
        load_(Net(), tmp_path / "missing")
    with pytest.raises(FileNotFoundError, match="path must be a file"):
        load_(Net(), tmp_path)
    (tmp_path / "zero").symlink_to("/dev/zero")
    with pytest.raises(FileNotFoundError, match="path must be a file"):
        load_(Net(), tmp_path / "zero")
    (tmp_path / "empty").touch()
    with pytest.raises(ValueError, match="is too short for its header"):
        load_(Net(), tmp_path / "empty")
    os.mkfifo(tmp_path / "pipe")  # reading it would wait for ever
    with pytest.raises(FileNotFoundError, match="path must be a file"):
        load_(Net(), tmp_path / "pipe")
    for length in (
        2**39,
        2**18,
    ):  # a terabyte of nothing; more than a network as small as Net needs
        with (tmp_path / "sparse").open("wb") as file:
            file.write(length.to_bytes(8, "little"))
            file.truncate(2 * length)
        with pytest.raises(ValueError, match=f"has a header of {length} bytes, at most"):
            load_(Net(), tmp_path / "sparse")


def edits():
    """Well-sealed files that lie, each with what the error must say."""
    big = 2**62

    def tensor(name, **fields):
        return lambda h, m: h[name].update(fields)

    def layer(index, value):
        return lambda h, m: m["layers"]["first"].__setitem__(index, value)

    return [
        (lambda h, m: m.update(version=2), "format version is 2, this package reads 1"),
        (lambda h, m: m.update(version=True), "format version is True"),
        (lambda h, m: m.pop("version"), "format version is None"),
        (lambda h, m: m.update(layers={}), "no list of layers"),
        (lambda h, m: m.update(shared=[]), "no list of layers"),
        (lambda h, m: m["layers"].update(norm=m["layers"]["first"]), "no linear layer 'norm'"),
        (lambda h, m: m["layers"].pop("first"), "is in only one of the two"),
        (lambda h, m: m["shared"].update({"x": "embed.weight"}), "'x' is in only one"),
        (lambda h, m: m["shared"].update({"lm_head.weight": "none"}), "without its other"),
        (lambda h, m: m["shared"].update({"embed.weight": "first.g"}), "without its other"),
        (
            lambda h, m: m["shared"].update({"lm_head.weight": ["embed.weight"]}),
            "without its other",
        ),
        (
            lambda h, m: m["shared"].update({"again.1.g": "again.0.h"}),
            "again.1 and again.0 are one",
        ),
        (lambda h, m: h.update(more={**h["first.g"]}), "starts at"),
        (layer(0, "float"), "describes first in another way"),
        (layer(1, 11), "first must map 10 to 70"),
        (layer(2, big), "first must map 10 to 70"),
        (layer(3, 1), "describes first in another way"),
        (layer(4, 0), "eps must be a positive float"),
        (layer(4, float("inf")), "Infinity is no JSON"),
        (layer(5, "tanh"), "describes first in another way"),
        (layer(5, []), "describes first in another way"),
        (tensor("first.bits", shape=[70, 8, 1]), "first.bits must be torch.uint8 [70, 8]"),
        (tensor("first.bits", dtype="I8"), "first.bits must be torch.uint8 [70, 8]"),
        (tensor("first.g", dtype="BF16"), "first.g must be torch.float16 [10]"),
        (tensor("first.g", shape=[10, 0]), "which its shape does not have"),
        (tensor("first.g", shape=[big, big, big]), "which its shape does not have"),
        (tensor("first.g", shape=[2**63]), "no natural numbers"),
        (tensor("first.g", shape=[True]), "no natural numbers"),
        (tensor("first.g", shape=[-10]), "no natural numbers"),
        (tensor("first.g", shape=[1] * 65), "no natural numbers"),
        (tensor("first.g", shape=[10.0]), "no natural numbers"),
        (tensor("first.g", dtype="F8_E4M3"), "has an unknown type, 'F8_E4M3'"),
        (tensor("first.g", dtype=["F16"]), "has an unknown type"),
        (tensor("first.g", data_offsets=[0, 20]), "starts at"),
        (tensor("first.g", data_offsets=[1, 21]), "in the middle of an item"),
        (tensor("first.g", data_offsets=[0]), "no natural numbers"),
        (tensor("first.g", extra=1), "must have a dtype, a shape and data_offsets"),
        (lambda h, m: h.pop("first.g"), "starts at"),
    ]


@pytest.mark.parametrize("number", range(len(edits())))
def test_a_forged_header_is_refused(tmp_path, number):
    save(net(), tmp_path / "net")
    header, metadata, data = split((tmp_path / "net").read_bytes())
    edit, message = edits()[number]
    edit(header, metadata)
    (tmp_path / "net").write_bytes(join(header, metadata, data))
    with pytest.raises(ValueError, match=re.escape(message)):
        load_(Net(), tmp_path / "net")


@pytest.mark.parametrize(
    ("index", "value"), [(0, "float"), (1, 0), (1, -10), (1, 9), (1, 65), (2, True), (2, 2**62)]
)
def test_report_refuses_layers_that_their_bits_are_not_of(tmp_path, index, value):
    path = tmp_path / "net"
    save(net(packed=value != -10), path)  # of a latent layer there are no bits to count
    header, metadata, data = split(path.read_bytes())
    metadata["layers"]["first"][index] = value
    path.write_bytes(join(header, metadata, data))
    if value == 9:  # as many bytes a row as before: that is for load_ to see
        assert report(path).layers == 3
        return
    with pytest.raises(ValueError, match=r"describes first in another way|first\.bits must have"):
        report(path)


@pytest.mark.parametrize("change", [lambda c: c + b"\0" * 8, lambda c: c[:-8]])
def test_a_file_of_another_length_is_refused_under_a_good_checksum(tmp_path, change):
    save(net(), tmp_path / "net")
    (tmp_path / "net").write_bytes(seal(change((tmp_path / "net").read_bytes())))
    with pytest.raises(ValueError, match="bytes of tensors, announced"):
        load_(Net(), tmp_path / "net")


def test_a_latent_layer_has_one_type(tmp_path):
    model = net(packed=False)
    model.last.g = nn.Parameter(model.last.g.detach().double())
    save(model, tmp_path / "net")
    with pytest.raises(ValueError, match="last must have one type for weight, g and h"):
        load_(Net(), tmp_path / "net")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "Expecting value"),
        (b"[]", "no JSON object"),
        (b"{}", "__metadata__"),
        (b'{"a":1,"a":2}', "a name twice"),
        (b'{"a":' + b"[" * 4000, "nested too deeply|Expecting value"),
        (b'{"__metadata__":{"onebit":"{}","other":""}}', "its metadata is not that of onebit.save"),
        (b'{"__metadata__":{"format":"pt"}}', "its metadata is not that of onebit.save"),
        (b'{"__metadata__":{"onebit":"[]"}}', "no JSON object"),
        (b'{"__metadata__":{"onebit":"{\\"version\\":1}"}}', "it has no checksum"),
        (b'{"a":NaN}', "NaN is no JSON"),
        (b'{"a":' + b"9" * 5000 + b"}", "digits"),
        (b"\xff\xfe", "utf-8"),
    ],
)
def test_a_header_that_is_none_is_refused(tmp_path, raw, message):
    (tmp_path / "x").write_bytes(len(raw).to_bytes(8, "little") + raw)
    with pytest.raises(ValueError, match=f"x is not a whole file from onebit.save: .*({message})"):
        load_(Net(), tmp_path / "x")
    with pytest.raises(ValueError, match=message):
        report(tmp_path / "x")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("first.g", float("nan"), "first.g must be finite"),
        ("last.h", float("inf"), "last.h must be finite"),
        ("first.bits", 255, "first.bits must have zeros behind the last column"),
    ],
)
def test_forged_values_are_refused(tmp_path, name, value, message):
    model = net()
    model.state_dict()[name].fill_(value)
    save(model, tmp_path / "net")
    target = Net()
    before = target.first
    with pytest.raises(ValueError, match=message):
        load_(target, tmp_path / "net")
    assert target.first is before


def test_every_single_byte_counts(tmp_path):
    """A changed, missing or additional byte anywhere is noticed."""
    model = nn.Sequential(nn.Linear(3, 2))
    convert_(model)
    pack_(model)
    path = tmp_path / "x"
    save(model, path)
    content, target = path.read_bytes(), nn.Sequential(nn.Linear(3, 2))
    chance = random.Random(0)
    for i in range(len(content)):
        changed = content[i] ^ (1 << chance.randrange(8))
        path.write_bytes(content[:i] + bytes([changed]) + content[i + 1 :])
        with pytest.raises(ValueError, match="x"):
            load_(target, path)
        path.write_bytes(content[:i])
        with pytest.raises(ValueError, match="x"):
            load_(target, path)
    path.write_bytes(content + b"\0")
    with pytest.raises(ValueError, match="x"):
        load_(target, path)
    assert type(target[0]) is nn.Linear


HOSTILE = [
    0, 1, -1, 7, 8, 2**31, 2**62, 2**63, 2**64, 10**400, -(2**70), 0.0, 1e308, True, None, "", "x",
    "F16", "packed", "latent", "tanh", "first", "first.g", [], [0], [[]], {}, {"first": []},
    [2**62, 2**62], [0] * 64, "\ud800", "a" * 500,
]  # fmt: skip


def mutate(value, chance):
    """Replace, drop, copy or rename something somewhere in a JSON value."""
    if isinstance(value, dict) and value and chance.random() < 0.95:
        key = chance.choice(sorted(value))
        what = chance.random()
        if what < 0.07:
            return {k: v for k, v in value.items() if k != key}
        if what < 0.14:
            return {**value, str(chance.choice(["a", "first", key + "x", "lm_head.g"])): value[key]}
        return {**value, key: mutate(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.8:
        i = chance.randrange(len(value))
        return [*value[:i], mutate(value[i], chance), *value[i + 1 :]]
    if type(value) is int and chance.random() < 0.5:
        return value + chance.choice([-8, -1, 1, 2, 8, 64])
    return chance.choice(HOSTILE)


def fuzzed(content, chance):
    """A mutated file, and whether it is sealed anew."""
    kind = chance.randrange(6)
    if kind == 0:  # bytes anywhere
        new = bytearray(content)
        for _ in range(chance.choice([1, 1, 2, 8, 64])):
            new[chance.randrange(len(new))] = chance.randrange(256)
    elif kind == 1:  # a part removed, doubled or inserted
        i, j = sorted(chance.randrange(len(content) + 1) for _ in "ij")
        middle = chance.choice([b"", content[i:j] * 2, chance.randbytes(j - i)])
        new = content[:i] + middle + content[j:]
    elif kind == 2:  # another length of the header
        length = chance.choice([0, 1, 2**16, 2**32, 2**63, 2**64 - 1, chance.randrange(4000)])
        new = length.to_bytes(8, "little") + content[8:]
    elif kind == 3:  # the values
        new = bytearray(content)
        start = 8 + int.from_bytes(content[:8], "little")
        for _ in range(chance.choice([1, 4, 64])):
            new[chance.randrange(start, len(new))] = chance.randrange(256)
    else:  # the header
        header, metadata, data = split(content)
        for _ in range(chance.choice([1, 1, 1, 2, 3])):
            if kind == 4:
                header = mutate(header, chance)
            else:
                metadata = mutate(metadata, chance)
            if not isinstance(header, dict):
                break
        if not isinstance(header, dict):
            raw = json.dumps(header).encode()
            return seal(len(raw).to_bytes(8, "little") + raw + data)
        return join(header, metadata if kind == 5 else None, data)
    return seal(bytes(new)) if chance.random() < 0.7 else bytes(new)


def test_ten_thousand_mutated_files_give_a_clear_error_or_a_sound_model(tmp_path, monkeypatch):
    """No crash, no other exception, no memory, and after an error a model that is as it was.

    One in 20 is a file on disk, where opening takes longer than all the rest; the others are read
    from memory by the same code.
    """
    contents = []
    for packed in (True, False):
        save(net(packed=packed), tmp_path / "net")
        contents.append((tmp_path / "net").read_bytes())
    chance, model = random.Random(20260611), Net().eval()
    before = [*model.modules()], [t.clone() for t in model.state_dict().values()]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused = loaded = longest = 0
    path = tmp_path / "mutated"
    for number in range(10_000):
        content = fuzzed(chance.choice(contents), chance)
        try:
            if number % 20 == 0:
                path.write_bytes(content)
                load_(model, path)
            else:
                with monkeypatch.context() as patch:
                    patch.setattr(container, "_open", lambda _, c=content: io.BytesIO(c))
                    load_(model, path)
        except (ValueError, TypeError) as error:
            refused += 1
            longest = max(longest, len(str(error)))
        else:  # new values under a good checksum, or a change that means nothing
            loaded += 1
            assert model(INPUT).shape == (13, 13)
            model = Net().eval()
            before = [*model.modules()], [t.clone() for t in model.state_dict().values()]
        if refused % 100 == 0:
            assert [*model.modules()] == before[0]
            assert all(map(torch.equal, model.state_dict().values(), before[1]))
    assert refused > 7000
    assert loaded > 100
    assert longest < 1000  # whatever the file says
    # Kilobytes: what these 24 kB files make us take at most, beside the 30 kB of the model.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 64 * 1024
