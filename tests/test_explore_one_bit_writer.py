"""The 1-bit writer without a browser: what it carries, flips, writes and refuses."""

from __future__ import annotations

import base64
import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import traitlets
from hypothesis import given, settings
from hypothesis import strategies as st

from qtools import onebit
from qtools.explore import one_bit_writer
from qtools.explore.one_bit_writer import (
    LENGTH,
    SENTENCE,
    OneBitWriter,
    known,
    mixed,
    packed_layers,
    uniform,
)
from qtools.models import CharGPT
from qtools.text import split
from tests import test_explore as every
from tests.one_bit_writers import SmallWriter, large, small


def test_adds_less_than_a_megabyte_to_the_page() -> None:
    writer = OneBitWriter(large())
    blob = writer._data["blob"]
    fragment = writer.to_html()
    assert len(blob) <= 4 * math.ceil(writer.compute()["bytes"] / 3) <= 520_000
    assert fragment.count(blob) == 1
    assert len(fragment.encode()) - len(blob) <= 45_000
    assert blob not in repr(writer)


@pytest.mark.parametrize("exact", [True, False])
def test_the_page_carries_the_model_to_the_bit(exact: bool) -> None:
    """Float16 where it is enough; where the embedding has more digits, float32."""
    model = SmallWriter().flipped()
    with torch.no_grad():
        for p in (*model.embedding.parameters(), *model.lm_head.parameters()):
            p.copy_(p.half().float() if exact else p * 1.0001)
    d = OneBitWriter(model)._data
    assert d["size"] == (2 if exact else 4)
    content = base64.b64decode(d["blob"])
    layers = packed_layers(model).values()
    expected = [m.bits for m in layers] + [t for m in layers for t in (m.g, m.h)]
    norms = [t for b in model.blocks for n in (b.norm1, b.norm2) for t in (n.weight, n.bias)]
    norms += [model.norm.weight, model.norm.bias]
    rest = [*norms, model.embedding.weight, model.lm_head.weight]
    expected += [t.detach().half() if exact else t.detach() for t in rest]
    assert content == b"".join(t.numpy().tobytes() for t in expected)


def test_bytes_are_those_of_the_file(tmp_path: Path) -> None:
    numbers = OneBitWriter(large()).compute()
    report = onebit.save(large(), tmp_path / "model.safetensors")
    assert numbers["signs"] == report.sign_bytes + report.padding_bytes
    assert numbers["vectors"] == report.vector_bytes
    assert 2 * (numbers["norms"] + numbers["tables"]) == report.other_bytes  # float32 in the file
    teacher = CharGPT.pretrained()
    assert numbers["teacher"] == sum(2 * p.numel() for p in teacher.parameters())
    assert numbers["bits"] == 12 * 5 * 192**2
    assert numbers["bytes"] == sum(numbers[k] for k in ("signs", "vectors", "norms", "tables"))
    assert numbers["ratio"] == numbers["teacher"] / numbers["bytes"] > 10


@pytest.mark.parametrize("half", [False, True])
def test_a_file_gives_the_same_page(half: bool, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    model = copy.deepcopy(large())
    onebit.save(model.half() if half else model, path)
    assert OneBitWriter(path)._data == OneBitWriter(large())._data
    assert OneBitWriter(str(path), share=1.0).write(20) == OneBitWriter(large(), share=1.0).write(
        20
    )


def test_without_a_file_it_says_so() -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no nowhere$"):
        OneBitWriter("nowhere")


def changed(writer: OneBitWriter) -> dict[str, np.ndarray]:
    """Which bits differ from the model's, by matrix."""
    before = packed_layers(small())
    return {
        name: np.unpackbits((m.bits ^ before[name].bits).numpy(), axis=1, bitorder="little")
        for name, m in packed_layers(writer.flipped()).items()
    }


def test_flips_are_where_they_should_be() -> None:
    for where in ("", "blocks.1", "blocks.0.up"):
        half = changed(SmallWriter(where=where, share=50.0))
        whole = changed(SmallWriter(where=where, share=100.0))
        for name, m in packed_layers(small()).items():
            chosen = not where or name == where or name.startswith(where + ".")
            n = m.in_features * m.out_features
            assert whole[name].sum() == chosen * n  # all of it, and nothing in the padding
            assert not whole[name][:, m.in_features :].any()
            assert abs(int(half[name].sum()) - chosen * n / 2) <= 2.5 * math.sqrt(n)


def test_more_flips_keep_the_earlier_ones() -> None:
    before = changed(SmallWriter(share=0.0))
    assert not any(flips.any() for flips in before.values())
    for share in (0.5, 2.0, 30.0):
        after = changed(SmallWriter(share=share))
        assert all((after[name] >= before[name]).all() for name in after)
        before = after


def test_the_hand_flips_cells_of_64_bits() -> None:
    # In 40 × 40 bits there are 25 cells: 7 is row 1, column 2; the up matrix begins with 100.
    flips = changed(SmallWriter(hand=[7, 100]))
    assert {name: int(f.sum()) for name, f in flips.items() if f.any()} == {
        "blocks.0.query": 64,
        "blocks.0.up": 64,
    }
    assert flips["blocks.0.query"][8:16, 16:24].all()
    assert flips["blocks.0.up"][:8, :8].all()
    both = changed(SmallWriter(where="blocks.0.query", share=100.0, hand=[7]))
    assert both["blocks.0.query"].sum() == 40 * 40 - 64  # twice flipped is not flipped


def test_numbers_in_a_damaged_state() -> None:
    writer = SmallWriter(where="blocks.1", share=20.0, hand=[3])
    numbers = writer.compute()
    assert numbers["flipped"] == sum(f.sum() for f in changed(writer).values())
    tokens = small().encode(known(small(), SENTENCE))[:48]
    with torch.no_grad():
        logits = writer.flipped()(tokens[None]).logits[0, :-1]
    assert numbers["surprise"] == pytest.approx(F.cross_entropy(logits, tokens[1:]).item(), 1e-5)
    assert numbers["intact"] == pytest.approx(SmallWriter().compute()["surprise"], rel=1e-8)
    assert numbers["intact"] != pytest.approx(numbers["surprise"], rel=1e-3)
    assert (
        changed(SmallWriter(share=5.0)).keys() == packed_layers(small()).keys()
    )  # model untouched


def test_at_temperature_0_it_writes_what_generate_writes() -> None:
    writer = SmallWriter(temperature=0.0, prompt="The white ", share=1.0)
    model = writer.flipped()
    tokens = model.generate(model.encode("The white ")[None], 120, 0.0)  # two contexts and more
    assert writer.write(120) == model.decode(tokens[0, len("The white ") :])


def test_it_writes_what_the_seed_says() -> None:
    first = SmallWriter(seed=1).write(60)
    assert first == SmallWriter(seed=1).write(60)
    assert first != SmallWriter(seed=2).write(60)
    assert SmallWriter(prompt="Thé white").write(9) == SmallWriter(prompt="Th white").write(9)
    assert len(SmallWriter(prompt="é").write(9)) == 9
    assert len(SmallWriter(prompt="T" * 200).write(3)) == 3
    assert large().context < LENGTH  # the context fills up and half of it is read again


def test_draws_follow_the_probabilities() -> None:
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0], dtype=torch.float64)
    p = (logits / 0.7).softmax(0)
    n = 4000
    drawn = [one_bit_writer.choose(logits, 0.7, uniform(5, i)) for i in range(n)]
    counts = torch.tensor(drawn).bincount(minlength=4)
    assert float(((counts - n * p) ** 2 / (n * p)).sum()) < 20  # chi squared, 3 degrees: p < 0.001
    assert one_bit_writer.choose(logits, 0.0, 0.9) == 3
    assert one_bit_writer.choose(logits, 1.0, 0.0) == 0
    assert one_bit_writer.choose(logits, 0.01, 1 - 2**-32) == 3


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1))
def test_the_hash_by_plain_integers(x: int) -> None:
    y = x
    for shift, factor in ((16, 0x21F0AAAD), (15, 0xD35A2D97)):
        y = (y ^ (y >> shift)) * factor % 2**32
    y ^= y >> 15
    assert int(mixed(np.array([x]))[0]) == y


def test_it_refuses_what_is_not_packed() -> None:
    model = CharGPT("abcdefgh", width=16, layers=1, heads=2, context=8)
    with pytest.raises(ValueError, match=r"blocks\.0\.query packed"):
        OneBitWriter(model)
    onebit.convert_(model, skip=("lm_head", "down"))
    onebit.pack_(model)
    with pytest.raises(ValueError, match=r"blocks\.0\.down packed"):
        OneBitWriter(model)
    odd = CharGPT("abcdefgh", width=12, layers=1, heads=2, context=8)
    onebit.convert_(odd)
    onebit.pack_(odd)
    with pytest.raises(ValueError, match="multiples of 8"):
        OneBitWriter(odd)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"where": "blocks.2"}, "where must name"),
        ({"where": "block"}, "where must name"),
        ({"share": 101.0}, "share"),
        ({"temperature": math.nan}, "temperature"),
        ({"hand": [600]}, "hand must have different cells below 600"),
        ({"hand": [1, 1]}, "hand must have different cells"),
        ({"hand": [-1]}, "hand"),
        ({"seed": 0}, "seed"),
    ],
    ids=str,
)
def test_wrong_state_is_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(traitlets.TraitError, match=words):
        SmallWriter(**wrong)
    widget = SmallWriter()
    with pytest.raises(traitlets.TraitError, match=words):
        widget.set_state(wrong)
    assert widget.state() == SmallWriter().state()


def test_the_sentence_is_held_out() -> None:
    _, held_out = split()
    assert SENTENCE in held_out.replace("\n", " ")
    assert known(large(), SENTENCE) == SENTENCE


def test_state_goes_both_ways() -> None:
    widget = SmallWriter()
    widget.set_state({"share": 7.0, "hand": [1, 5]})
    assert widget.compute()["flipped"] > 0
    copy = SmallWriter(**widget.state())
    assert copy.compute() == widget.compute()
    assert every.Parts(copy.to_html()).state == widget.state()
