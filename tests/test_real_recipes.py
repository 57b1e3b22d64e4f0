"""The recipes for models of transformers: read, and run with nothing but the names replaced.

Nothing is downloaded: a small random model of the same architecture and a tokenizer of bytes
stand in for the ones that are named.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from typer.testing import CliRunner

from qtools import causal, cli
from qtools.distillation import language
from qtools.distillation.recipe import Recipe
from tests.distillation_runs import ROOT, rows

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
