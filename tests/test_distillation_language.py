"""Language models in a distillation: text, the teacher's own text, from TOML to a packed file."""

from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from qtools import cli, evaluation, text
from qtools.distillation import DistillConfig, language, written
from qtools.distillation.recipe import Recipe
from qtools.models import CharGPT
from qtools.onebit import OneBitLinear, PackedOneBitLinear, report

RECIPE = """
out = "out"

[student]
make = "qtools.distillation.language:onebit_student"

[teacher]
make = "qtools.distillation.language:model"

[data]
make = "qtools.distillation.language:windows"
file = "{text}"
context = 32

[loss]
make = "qtools.distillation:OneBit"

[optimizer]
make = "qtools.distillation.language:two_rates"
vectors = 0.001

[distill]
epochs = 1
batch_size = 20
lr = 0.003
device = "cpu"
"""


@pytest.fixture(scope="module")
def small() -> CharGPT:
    torch.manual_seed(0)
    model = CharGPT("abcdefgh", width=16, layers=2, heads=2, context=48).eval()
    for p in model.parameters():  # sure of some things
        p.data.mul_(8)
    return model


@pytest.fixture(scope="module")
def tokens(small) -> torch.Tensor:
    return written.write(small, 300, 40, seed=3, batch=100, progress=False)


@torch.no_grad()
def probabilities(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """p(token t + 1 | tokens to t) over all tokens, [n, t - 1, tokens]."""
    return model(tokens[:, :-1]).logits.double().softmax(-1)


def test_sequences_have_the_shape_asked_for_and_come_again_with_the_seed(small, tokens):
    assert tokens.shape == (300, 40)
    assert tokens.dtype == torch.int64
    again = written.write(small, 300, 40, seed=3, batch=100, progress=False)
    other = written.write(small, 300, 40, seed=4, batch=100, progress=False)
    assert torch.equal(again, tokens)
    assert not torch.equal(other, tokens)
    assert written.write(small, 7, 40, batch=3, progress=False).shape == (7, 40)


def test_the_first_tokens_are_random_the_next_three_to_five_the_likeliest(small, tokens):
    assert torch.bincount(tokens[:, 0], minlength=8).min() > 300 / 8 / 3
    likeliest = probabilities(small, tokens).argmax(-1) == tokens[:, 1:]
    assert bool(likeliest[:, :3].all())
    assert not bool(likeliest[:, 5].all())  # drawn in all batches


def test_the_rest_is_drawn_from_the_teachers_distribution(small, tokens):
    # What was drawn surprises as much as it should: -log p has the mean H, within four standard
    # errors. Another temperature, top-k or an off-by-one place would not.
    p = probabilities(small, tokens)[:, 5:]
    log_p = p.clamp_min(1e-300).log()
    drawn = -log_p.gather(-1, tokens[:, 6:, None])[..., 0]
    entropy = -(p * log_p).sum(-1)
    excess = drawn - entropy
    error = (p * (log_p + entropy[..., None]).square()).sum(-1).sum().sqrt() / excess.numel()
    assert abs(excess.mean()) <= 4 * error
    assert entropy.mean() > 20 * error  # or the test would see nothing


def test_global_chance_and_mode_stay(small):
    small.train()
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    written.write(small, 2, 10, progress=False)
    assert torch.equal(torch.rand(3), expected)
    assert small.training
    small.eval()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"sequences": 0}, "sequences and batch must be at least 1, got 0"),
        ({"length": 6}, "length must be more than 6, got 6"),
    ],
)
def test_too_little_to_write(small, settings, says):
    with pytest.raises(ValueError, match=says):
        written.write(small, **{"sequences": 1, "length": 10, **settings}, progress=False)


def test_sequences_are_written_once_and_never_mistaken(small, tmp_path):
    file = str(tmp_path / "text.safetensors")
    first = written.written(file, small, 5, 12)
    stamp = Path(file).stat().st_mtime_ns
    again = written.written(file, small, 5, 12)
    assert Path(file).stat().st_mtime_ns == stamp
    index = torch.tensor([4, 0])
    assert torch.equal(first[index]["input_ids"], again[index]["input_ids"])
    assert first[index]["input_ids"].dtype == torch.int64
    with pytest.raises(ValueError, match="holds other sequences"):
        written.written(file, small, 5, 13)


def test_a_students_matrices_are_bits_and_it_drops_nothing():
    student = language.onebit_student(start="sign")
    assert sum(isinstance(m, OneBitLinear) for m in student.modules()) == 5 * 6
    assert type(student.lm_head) is nn.Linear
    assert student.blocks[0].up.weight.abs().unique().tolist() == pytest.approx([0.01])
    x = student.encode("Call me Ishmael.")[None]
    assert torch.equal(student.train()(x).logits, student.train()(x).logits)


def test_signs_and_vectors_learn_at_their_own_rates():
    student = language.onebit_student()
    config = DistillConfig(lr=0.006, betas=(0.9, 0.98), weight_decay=0.1)
    latent, rest = language.two_rates(student, config, 0.002).param_groups
    assert (latent["lr"], latent["betas"], latent["weight_decay"]) == (0.006, (0.9, 0.98), 0.1)
    assert (rest["lr"], rest["betas"], rest["weight_decay"]) == (0.002, (0.9, 0.98), 0.0)
    names = {id(p): name for name, p in student.named_parameters()}
    named = [{names[id(p)] for p in group["params"]} for group in (latent, rest)]
    assert named[0] | named[1] == set(names.values())
    assert len(named[0]) == 30
    assert all(name.endswith("weight") and "norm" not in name for name in named[0])
    assert {"blocks.0.up.g", "blocks.0.up.h", "embedding.weight", "lm_head.weight"} <= named[1]


def test_rates_that_cannot_be():
    with pytest.raises(ValueError, match="student must have OneBit layers"):
        language.two_rates(CharGPT.pretrained(), DistillConfig())
    with pytest.raises(ValueError, match="vectors must be a positive learning rate, got 0"):
        language.two_rates(language.onebit_student(), DistillConfig(), 0)


def test_text_of_ones_own(tmp_path):
    file = tmp_path / "own.txt"
    file.write_text("The sea, the sea! " * 100, encoding="utf-8")
    windows = language.windows(file=str(file), context=32)
    assert CharGPT.pretrained().decode(windows.tokens[:8]) == "The sea,"
    assert len(windows.tokens) == 1620
    nats = language.held_out(file=str(file), context=32)(CharGPT.pretrained())["nats"]
    assert 0 < nats < 3


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"caf\xe9 " * 1000, "must be text in UTF-8"),
        ("Прибой ".encode() * 1000, "must be of the model's characters, got"),
        (b"The sea.", "tokens must be more than 64, got 7"),
    ],
)
def test_text_that_cannot_be_used(tmp_path, content, says):
    file = tmp_path / "own.txt"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=says):
        language.windows(file=str(file), context=32)


def test_held_out_text_that_is_too_short(tmp_path):
    file = tmp_path / "own.txt"
    file.write_text("The sea. " * 100)
    with pytest.raises(ValueError, match="it is too short"):
        language.held_out(file=str(file), context=128)


def test_from_a_toml_file_to_a_packed_model_that_writes(tmp_path):
    run, file = CliRunner(), tmp_path / "one_bit.toml"
    (tmp_path / "own.txt").write_text("The sea, the sea! The whale! " * 80)
    file.write_text(RECIPE.format(text=tmp_path / "own.txt"))
    early = run.invoke(cli.app, ["pack", "--config", str(file)])
    assert early.exit_code == 2
    assert "student.safetensors must be there: run qtools distill" in early.output
    result = run.invoke(cli.app, ["distill", "--config", str(file)])
    assert result.exit_code == 0, result.output
    result = run.invoke(cli.app, ["pack", "--config", str(file)])
    assert result.exit_code == 0, result.output
    assert "30 packed layers" in result.output
    packed = tmp_path / "out/packed.safetensors"
    network, student = evaluation.load(str(packed)), Recipe.read(file).student()
    assert isinstance(network.blocks[0].up, PackedOneBitLinear)
    x = network.encode("Call me Ishmael.")[None]
    torch.testing.assert_close(network(x).logits, student(x).logits, rtol=0, atol=0.05)
    counted = report(packed)
    assert evaluation.file_bytes(network) == counted.file_bytes
    assert network.blocks[0].up.weight_bytes == 768 * 24 + 2 * (768 + 192)
    settings = ["--prompt", "The whale", "--length", "30", "--seed", "1"]
    result = run.invoke(cli.app, ["generate", str(packed), *settings])
    assert result.exit_code == 0, result.output
    assert result.output.startswith("The whale")
    assert len(result.output.rstrip("\n")) >= 9 + 25


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["generate", "nobody"], "model must be chargpt-teacher"),
        (
            ["generate", "chargpt-teacher", "--prompt", "Прибой"],
            "must be of the model's characters",
        ),
        (["generate", "chargpt-teacher", "--prompt", ""], "tokens must have the shape"),
    ],
)
def test_wrong_arguments(arguments, says):
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 2
    assert says in result.output.replace("\n", " ")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    path = tmp_path_factory.mktemp("llama")
    words = {word: i for i, word in enumerate(["[unk]", "the", "sea", "whale", "and", "ship"])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[unk]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[unk]")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=6, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=64, eos_token_id=None,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(path)
    fast.save_pretrained(path)
    return str(path)


def test_a_model_of_transformers_in_a_folder_and_its_student(folder):
    student = language.onebit_student(folder)
    assert sum(isinstance(m, OneBitLinear) for m in student.modules()) == 2 * 7
    x = torch.tensor([[1, 2, 4, 1, 3]])
    assert student(x).logits.shape == language.model(folder)(x).logits.shape == (1, 5, 6)


def test_text_in_its_tokens(folder, tmp_path):
    file = tmp_path / "own.txt"
    file.write_text("the sea and the whale and the ship " * 30)
    windows = language.windows(folder, str(file), context=8)
    assert windows.tokens[:5].tolist() == [1, 2, 4, 1, 3]
    nats = language.held_out(folder, str(file), context=8)(language.model(folder))["nats"]
    assert nats == pytest.approx(torch.tensor(6.0).log().item(), abs=0.5)


def test_a_model_of_transformers_writes(folder):
    model = language.model(folder)
    tokens = written.write(model, 50, 12, batch=25, progress=False)
    assert tokens.shape == (50, 12)
    with torch.no_grad():
        likeliest = model(tokens).logits.argmax(-1)[:, :-1] == tokens[:, 1:]
    assert bool(likeliest[:, :3].all())
    assert not bool(likeliest[:, 5:].all())


def test_a_name_that_it_does_not_know(tmp_path):
    with pytest.raises(ValueError, match="name must be 'chargpt' or a model of transformers"):
        language.model(str(tmp_path / "nothing"))


def test_split_keeps_all_of_the_text():
    first, rest = text.split("0123456789")
    assert (first, rest) == ("012345678", "9")
