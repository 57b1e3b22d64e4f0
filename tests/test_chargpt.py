"""CharGPT and its text: what a token sees, what is kept, what is measured."""

import itertools
import math
import re

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from qtools import text
from qtools.data import moby_dick
from qtools.files import sha256
from qtools.models import WEIGHTS, Cache, CharGPT, CharGPTOutput, rotate, rotations
from qtools.results import read_record

CHARACTERS = "abcdefghij"


@pytest.fixture(scope="module")
def model() -> CharGPT:
    torch.manual_seed(0)
    small = CharGPT(CHARACTERS, width=48, layers=3, heads=4, context=32).eval()
    for p in small.parameters():  # far from the start, where nothing depends on anything
        p.data.mul_(3)
    return small


def tokens(n: int, t: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(10, (n, t), generator=torch.Generator().manual_seed(seed))


def test_a_token_sees_itself_and_all_before_it_and_nothing_after(model):
    x = tokens(1, 32)
    before = model(x).logits
    changed = x.clone()
    changed[0, 20] = (changed[0, 20] + 1) % 10
    moved = (model(changed).logits - before).abs().amax(-1)[0]
    assert bool((moved[:20] == 0).all())
    assert bool((moved[20:] > 1e-6).all())


@settings(max_examples=20, deadline=None)
@given(cuts=st.sets(st.integers(1, 31), max_size=6), seed=st.integers(0, 99))
def test_kept_keys_and_values_change_nothing(model, cuts, seed):
    x, places = tokens(2, 32, seed), [0, *sorted(cuts), 32]
    cache = Cache(3, 32)
    with torch.no_grad():
        parts = [model(x[:, a:b], False, cache).logits for a, b in itertools.pairwise(places)]
        whole = model(x).logits
    assert cache.length == 32
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=2e-5)


def test_generating_is_taking_the_likeliest_next_character(model):
    x = tokens(2, 4)
    written = model.generate(x, 28, temperature=0)
    expected = x
    for _ in range(28):
        step = model(expected).logits[:, -1].argmax(1, keepdim=True)
        expected = torch.cat([expected, step], 1)
    assert torch.equal(written, expected)


def test_generating_goes_on_beyond_the_context(model):
    written = model.generate(tokens(1, 40), 50, temperature=0)
    assert written.shape == (1, 90)
    # Just after the context was full, the later half of it is what the model knew.
    full = 40 - 32  # tokens that were never read
    step = next(t for t in range(40, 90) if t - full > 32)
    assert written[0, step] == model(written[:, step - 16 : step]).logits[0, -1].argmax()


def test_chance_is_the_generators(model):
    drawn = [
        model.generate(tokens(1, 4), 20, 1.0, torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_hidden_states_are_the_embedding_and_each_block(model):
    out = model(tokens(2, 5))
    assert isinstance(out, CharGPTOutput)
    assert [s.shape for s in out.hidden_states] == [(2, 5, 48)] * 4
    torch.testing.assert_close(model.lm_head(model.norm(out.hidden_states[-1])), out.logits)


@given(shift=st.integers(0, 20), a=st.integers(0, 20), b=st.integers(0, 20))
def test_turned_vectors_know_only_how_far_they_are_apart(shift, a, b):
    q, k = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64)
    turn = rotations(41, 8).double()

    def product(i: int, j: int) -> torch.Tensor:
        return (rotate(q, turn[i : i + 1]) * rotate(k, turn[j : j + 1])).sum()

    # The angles are float32: their cosines are off by their roundoff.
    torch.testing.assert_close(product(a, b), product(a + shift, b + shift), rtol=0, atol=1e-4)


def test_saved_and_loaded_it_is_the_same_model(model):
    loaded = CharGPT.load(model.save())
    assert loaded.settings == model.settings
    assert all(
        torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True)
    )


def test_text_to_tokens_and_back(model):
    assert model.decode(model.encode("badge")) == "badge"
    with pytest.raises(ValueError, match="got 'xz'"):
        model.encode("zax")


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda m: CharGPT("aba"), "characters must be different"),
        (lambda m: CharGPT("ab", width=40, heads=6), "width must be a multiple of 12"),
        (lambda m: m(tokens(1, 33)), "within the context of 32, at 33"),
        (lambda m: m.generate(tokens(1, 0), 3), r"tokens must have the shape \[n, t\], t > 0"),
        (lambda m: m.generate(tokens(1, 1), 3, -1.0), "temperature must not be negative"),
        (lambda m: text.Windows(tokens(1, 64)[0], 32), "tokens must be more than 64"),
        (lambda m: text.nats_per_character(m, tokens(1, 64)[0], 31), "context must be even"),
    ],
)
def test_what_is_refused(model, call, named):
    with pytest.raises(ValueError, match=named):
        call(model)


def test_windows_are_pieces_of_the_text_with_what_follows():
    stream = torch.arange(100)
    windows = text.Windows(stream, 10)
    assert len(windows) == 8
    batch = windows[torch.tensor([0, 7])]
    assert torch.equal(batch["labels"], batch["input_ids"] + 1)
    assert bool((batch["input_ids"].diff() == 1).all())
    starts = {int(windows[torch.tensor([3])]["input_ids"][0, 0]) for _ in range(300)}
    assert starts == set(range(30, 40))


class Bigram(nn.Module):
    """Knows the last character only: what it foretells does not depend on how windows are cut."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(10, 10))

    def forward(self, x: torch.Tensor) -> CharGPTOutput:
        return CharGPTOutput(self.table[x], ())


@given(length=st.integers(9, 80), context=st.sampled_from([2, 4, 8]), batch=st.integers(1, 5))
def test_every_character_is_counted_once(length, context, batch):
    torch.manual_seed(length)
    stream, bigram = tokens(1, length, length)[0], Bigram()
    expected = F.cross_entropy(bigram.table[stream[:-1]], stream[1:]).item()
    found = text.nats_per_character(bigram, stream, context, batch)
    assert found == pytest.approx(expected, rel=1e-5)


def test_later_characters_have_half_a_context_to_go_by(model):
    stream = tokens(1, 70)[0]
    total = 0.0
    for i in range(1, 70):
        start = 0 if i <= 32 else min(16 * math.ceil((i - 32) / 16), 69 - 32)
        logits = model(stream[None, start:i]).logits[0, -1]
        total += F.cross_entropy(logits, stream[i]).item()
    assert text.nats_per_character(model, stream, 32) == pytest.approx(total / 69, rel=1e-4)


def test_the_split_is_nine_to_one():
    train, held_out = text.split("0123456789" * 3)
    assert (len(train), len(held_out)) == (27, 3)
    assert train + held_out == "0123456789" * 3


def test_perplexity():
    assert text.perplexity(math.log(7)) == pytest.approx(7)


def test_the_trained_model_is_the_one_of_its_record():
    record, content = read_record("chargpt"), (WEIGHTS / "chargpt.safetensors").read_bytes()
    trained = CharGPT.pretrained()
    assert record["weights"]["sha256"] == sha256(content)
    assert record["file_bytes"] == len(content)
    assert record["settings"] == trained.settings
    assert record["parameters"] == sum(p.numel() for p in trained.parameters())
    assert 2e6 <= record["parameters"] <= 4e6
    assert trained.context >= 128
    assert not trained.training
    assert record["value"] <= 1.48


@pytest.mark.slow
def test_the_trained_model_foretells_the_held_out_text_as_recorded():
    trained = CharGPT.pretrained()
    tokens = trained.encode(text.split()[1])
    # Two windows at a time stay in the cache: a sixth faster than 32.
    nats = text.nats_per_character(trained, tokens, trained.context, batch=2)
    assert nats == pytest.approx(read_record("chargpt")["value"], abs=2e-4)
    assert nats <= 1.48
    assert 2e6 <= sum(p.numel() for p in trained.parameters()) <= 4e6


def test_it_writes_words_of_the_book():
    trained = CharGPT.pretrained()
    written = trained.generate(
        trained.encode("Call me ")[None], 400, 0.8, torch.Generator().manual_seed(0)
    )
    words = re.findall("[a-z]+", trained.decode(written[0, 8:-8]).lower())
    known = set(re.findall("[a-z]+", moby_dick().lower()))
    assert sum(word in known for word in words) >= 0.8 * len(words) > 40


def test_angles_keep_their_digits_through_float16():
    model = CharGPT("abcd", width=16, layers=1, heads=2, context=32)
    exact = model.turn.clone()
    assert torch.equal(model.half().turn, exact.half())
    assert torch.equal(model.float().turn, exact)
    assert torch.equal(model.double().turn, exact.double())
    assert model.to("meta").turn.is_meta
