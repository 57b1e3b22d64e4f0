"""The recipes for models of transformers: read, and run with nothing but the names replaced.

Nothing is downloaded: a small random model of the same architecture and a tokenizer of bytes
stand in for the ones that are named.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from typer.testing import CliRunner

from qtools import causal, cli, evaluation, text
from qtools.causal import Causal
from qtools.distillation import OneBit, language
from qtools.distillation.recipe import Recipe
from qtools.onebit import OneBitLinear, PackedOneBitLinear
from tests.distillation_runs import ROOT, forked, rows

RECIPES = sorted((ROOT / "recipes").glob("*.toml"))
END = "<|endoftext|>"
TEXT = "the sea and the whale . the ship saw a whale and a ship saw the sea . "
TINY = {"vocab_size": 260, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 512,
        "tie_word_embeddings": True, "bos_token_id": 0, "eos_token_id": 0}  # fmt: skip
SMOLLM2, HALF_BILLION = "smollm2_135m_onebit", "half_billion_onebit"
#: The model that a recipe names: its configuration, as its config.json has it.
NAMED = {
    SMOLLM2: ("HuggingFaceTB/SmolLM2-135M", transformers.LlamaConfig, {
        "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536,
        "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3}),
    HALF_BILLION: ("Qwen/Qwen2.5-0.5B", transformers.Qwen2Config, {
        "vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864,
        "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2}),
}  # fmt: skip
#: What a new process knows: the path of a packed file.
READER = """
import sys, torch, safetensors.torch
from qtools import evaluation
torch.set_num_threads(1)
pair = safetensors.torch.load_file(sys.argv[2])
with torch.no_grad():
    logits = evaluation.load(sys.argv[1])(pair["ids"]).logits
assert torch.equal(logits, pair["logits"])
"""


def tokenizer(folder: Path) -> None:
    known = [END, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    made = Tokenizer(models.BPE({token: i for i, token in enumerate(known)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=made, eos_token=END)
    fast.save_pretrained(folder)


def stand_in(folder: Path, recipe: str) -> Path:
    """The recipe's file with the names of a small model and of a short text in it: two steps."""
    named, config, _ = NAMED[recipe]
    torch.manual_seed(0)
    small = transformers.AutoModelForCausalLM.from_config(config(**TINY))
    small.save_pretrained(folder / "small")
    tokenizer(folder / "small")
    found = (ROOT / "recipes" / f"{recipe}.toml").read_text()
    settings = Recipe.read(ROOT / "recipes" / f"{recipe}.toml").config
    context = 512 if recipe == SMOLLM2 else 256
    letters = (settings.batch_size + 3) * context * 10 // 9
    (folder / "own.txt").write_text(TEXT * (letters // len(TEXT)))
    for old, new in {
        f'"{named}"': f'"{folder / "small"}"',
        '# file = "corpus.txt"': f'file = "{folder / "own.txt"}"',
        f"epochs = {settings.epochs}\n": "epochs = 2\n",
        "[distill]": '[distill]\ndevice = "cpu"',
    }.items():
        assert old in found
        found = found.replace(old, new)
    (folder / "run.toml").write_text(found)
    return folder / "run.toml"


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_read_and_names_itself(path):
    recipe = Recipe.read(path)
    assert recipe.out == path.parent / path.stem
    assert f"--config recipes/{path.name}" in path.read_text()


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    """A folder in which the recipe of half a billion ran, on two processes, and was packed."""
    folder = tmp_path_factory.mktemp("half_billion")
    config = stand_in(folder, HALF_BILLION)
    forked(config)
    assert "14 packed layers" in invoke("pack", "--config", str(config))
    return folder / HALF_BILLION


@pytest.mark.slow
def test_on_two_processes_then_packed_and_read_by_a_new_one(packed):
    assert [row["items"] for row in rows(packed)] == [64 * 256]  # every tenth, the last
    model, student = (
        evaluation.load(str(packed / "packed.safetensors")),
        Recipe.read(packed.parent / "run.toml").student(),
    )
    assert isinstance(model, Causal)
    ids = model.encode(TEXT)[None]
    assert ids.shape == (1, len(TEXT))
    assert model.decode(ids[0]) == TEXT
    with torch.no_grad():
        logits = model(ids).logits
        torch.testing.assert_close(logits, student(ids).logits, rtol=0, atol=0.02)
    save_file({"ids": ids, "logits": logits}, packed.parent / "pair")
    command = [sys.executable, "-c", READER, str(packed / "packed.safetensors")]
    run = subprocess.run(
        [*command, str(packed.parent / "pair")], capture_output=True, text=True, cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr


@pytest.mark.slow
def test_a_packed_model_of_transformers_writes_and_is_evaluated(packed, monkeypatch):
    file = str(packed / "packed.safetensors")
    arguments = ("generate", file, "--prompt", "the sea", "--length", "6")
    first = invoke(*arguments)
    assert first.startswith("the sea")
    assert invoke(*arguments) == first
    assert len({invoke(*arguments, "--seed", str(seed)) for seed in (1, 2, 3)}) > 1
    assert invoke(*arguments, "--temperature", "0").startswith("the sea")

    monkeypatch.setattr(text, "moby_dick", lambda: TEXT * 400)
    found = json.loads(invoke("evaluate", file, "--json"))
    model, held = evaluation.load(file), text.split(TEXT * 400)[1]
    tokens = model.encode(held)
    nats = text.nats_per_character(model, tokens, 512)
    assert found["nats_per_char"] == pytest.approx(
        nats * (len(tokens) - 1) / (len(held) - 1), rel=1e-5
    )
    assert found["bytes"] == pytest.approx((packed / "packed.safetensors").stat().st_size, abs=64)
    layers = [m for m in model.modules() if isinstance(m, PackedOneBitLinear)]
    assert len(layers) == 14
    weights = sum(m.in_features * m.out_features for m in layers)
    assert found["bits_per_weight"] == 8 * sum(m.weight_bytes for m in layers) / weights
    with pytest.raises(ValueError, match="name must be a file of a CharGPT"):
        language.model(file)


def test_the_recipe_for_a_free_gpu_runs(tmp_path):
    config = stand_in(tmp_path, SMOLLM2)
    output = invoke("distill", "--config", str(config))
    assert "items a second" in output
    assert [row["items"] for row in rows(tmp_path / SMOLLM2)] == [32 * 512]  # every tenth, the last
    assert "14 packed layers" in invoke("pack", "--config", str(config))
    path = tmp_path / SMOLLM2 / "packed.safetensors"
    model = causal.read(path)
    fresh = transformers.AutoModelForCausalLM.from_config(transformers.LlamaConfig(**TINY))
    assert torch.equal(model.network.model.rotary_emb.inv_freq, fresh.model.rotary_emb.inv_freq)
    assert model.network.lm_head.weight is model.network.model.embed_tokens.weight


def test_weights_that_lack_something_are_refused(tmp_path):
    """transformers would draw them by chance and warn."""
    stand_in(tmp_path, SMOLLM2)
    file = tmp_path / "small/model.safetensors"
    weights = load_file(file)
    del weights["model.embed_tokens.weight"]
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(ValueError, match=r"must be complete, lm_head.weight is not there"):
        language.model(str(tmp_path / "small"))


def test_a_pickle_is_refused(tmp_path):
    stand_in(tmp_path, SMOLLM2)
    file = tmp_path / "small/model.safetensors"
    torch.save(load_file(file), tmp_path / "small/pytorch_model.bin")
    file.unlink()
    with pytest.raises(ValueError, match="name must be 'chargpt' or a model of transformers"):
        language.model(str(tmp_path / "small"))


# ---- memory


def meta(recipe: str) -> tuple[nn.Module, nn.Module]:
    """Student and teacher of a recipe, at full size, without memory."""
    _, config, settings = NAMED[recipe]
    with torch.device("meta"):
        student, teacher = (
            transformers.AutoModelForCausalLM.from_config(
                config(**settings, tie_word_embeddings=True)
            )
            for _ in range(2)
        )
        for name, m in list(student.named_modules()):
            if type(m) is nn.Linear and name != "lm_head":
                new = OneBitLinear(m.in_features, m.out_features, m.bias is not None)
                student.set_submodule(name, new)
    return student, teacher.requires_grad_(False)


def kept_for_backward(student: nn.Module, teacher: nn.Module, shape: tuple[int, int]) -> int:
    """Bytes that the loss's graph holds beside the parameters, in float32."""
    own = {p.untyped_storage()._cdata for m in (student, teacher) for p in m.parameters()}
    kept: dict[int, Tensor] = {}

    def seen(t: Tensor) -> Tensor:
        kept[t.untyped_storage()._cdata] = t
        return t

    ids = torch.zeros(shape, dtype=torch.int64, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(seen, lambda t: t):
        OneBit()(student, teacher, {"input_ids": ids})
    return sum(t.untyped_storage().nbytes() for place, t in kept.items() if place not in own)


@pytest.mark.parametrize("recipe", NAMED)
def test_the_memory_that_a_recipe_speaks_of(recipe):
    """Counted on the full-size models; with fp16 less is kept than here, in float32."""
    file = ROOT / "recipes" / f"{recipe}.toml"
    config, said = Recipe.read(file).config, file.read_text()
    at_once = config.batch_size // config.accumulation
    context = 512 if recipe == SMOLLM2 else 256
    student, teacher = meta(recipe)
    trained, answering = (sum(p.numel() for p in m.parameters()) for m in (student, teacher))
    fixed = (16 * trained + 4 * answering) / 1e9
    logits = 4 * at_once * context * NAMED[recipe][2]["vocab_size"] / 1e9
    kept = kept_for_backward(student, teacher, (at_once, context)) / 1e9
    assert context == int(said.split("context = ")[1].split()[0])
    for number in (f"{trained:,}", f"{answering:,}", f"{fixed:.2f} GB", f"{logits:.2f} GB"):
        assert number in said, number
    at_most = float(said.split("is at most ")[1].split()[0])
    assert at_most - 0.5 < kept <= at_most
    assert fixed + at_most + 2 * logits < 15
