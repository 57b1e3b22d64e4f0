"""Models of `transformers` become one bit, and come back from a file in another process.

Small configurations with random weights: nothing is downloaded, and with HF_HUB_OFFLINE, which
conftest.py sets, nothing could be.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import safetensors.torch
import torch
import transformers

from qtools.onebit import OneBitLinear, convert_, load_, pack_, report, save

COMMON = {"vocab_size": 61, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
LLAMA = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "intermediate_size": 44}  # fmt: skip
#: Name: model, configuration, OneBit layers in its two blocks, whether the head is the embedding.
MODELS = {
    "OPT": ("OPTForCausalLM", "OPTConfig",
            {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 48,
             "max_position_embeddings": 32, "word_embed_proj_dim": 24}, 14, True),
    "Llama": ("LlamaForCausalLM", "LlamaConfig", LLAMA, 14, False),
    "Llama, tied": ("LlamaForCausalLM", "LlamaConfig",
                    {**LLAMA, "tie_word_embeddings": True, "attention_bias": True}, 14, True),
    "GPT-2": ("GPT2LMHeadModel", "GPT2Config",
              {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32}, 8, True),
}  # fmt: skip
IDS = torch.randint(0, 61, (2, 9), generator=torch.Generator().manual_seed(0))
#: What a new process knows: the classes, the configurations, the files.
READER = """
import json, sys
import qtools.cli
from qtools.onebit import load_
assert "transformers" not in sys.modules, "it is optional, and slow to import"
import safetensors.torch, torch, transformers
torch.set_num_threads(1)
for name, kind, config in json.load(open("models.json")):
    config = getattr(transformers, config).from_json_file(f"{name}.json")
    model = getattr(transformers, kind)(config).eval()
    load_(model, f"{name}.safetensors")
    pair = safetensors.torch.load_file(f"{name}.pair")
    assert torch.equal(model(pair["ids"]).logits, pair["logits"]), name
    print(name)
"""


def made(name):
    kind, config, settings, *_ = MODELS[name]
    config = getattr(transformers, config)(**COMMON, **settings)
    torch.manual_seed(0)
    return getattr(transformers, kind)(config).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A file of each model, packed, beside its configuration and its logits."""
    path = tmp_path_factory.mktemp("models")
    for name in MODELS:
        model = made(name)
        convert_(model)
        pack_(model)
        with torch.no_grad():
            pair = {"ids": IDS, "logits": model(IDS).logits}
        save(model, path / f"{name}.safetensors")
        safetensors.torch.save_file(pair, path / f"{name}.pair")
        model.config.to_json_file(path / f"{name}.json")
    listed = [[name, *MODELS[name][:2]] for name in MODELS]
    (path / "models.json").write_text(json.dumps(listed))
    return path


@pytest.mark.parametrize("name", MODELS)
def test_converted_it_runs_and_learns(name):
    *_, layers, tied = MODELS[name]
    model = made(name)
    before = model(IDS).logits
    done = convert_(model)
    assert len(done.converted) == layers
    assert list(done.kept) == ["lm_head"]
    assert (model.get_input_embeddings().weight is model.lm_head.weight) == tied
    found = model(IDS, labels=IDS)
    assert found.logits.shape == before.shape
    assert not torch.allclose(found.logits, before)
    found.loss.backward()
    ours = [m for m in model.modules() if isinstance(m, OneBitLinear)]
    assert len(ours) == layers
    assert all(p.grad is not None and p.grad.isfinite().all() for m in ours for p in m.parameters())
    assert any(p.grad.any() for m in ours for p in m.parameters())


def test_a_new_process_computes_the_same_logits(folder):
    run = subprocess.run(
        [sys.executable, "-c", READER], capture_output=True, text=True, cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert run.stdout.split("\n")[:-1] == list(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_a_loaded_model_is_tied_as_before_and_writes_the_same_tokens(name, folder):
    model, path = made(name), folder / f"{name}.safetensors"
    convert_(model)
    pack_(model)
    loaded = made(name)
    load_(loaded, path)
    assert (loaded.get_input_embeddings().weight is loaded.lm_head.weight) == MODELS[name][-1]
    assert report(path).layers == MODELS[name][-2]
    written = (m.generate(IDS, max_new_tokens=5, do_sample=False) for m in (model, loaded))
    assert torch.equal(*written)


def test_a_tied_head_is_refused_by_name_where_it_is_not_skipped():
    with pytest.raises(ValueError, match=r"lm_head shares its weight with .*embed_tokens"):
        convert_(made("OPT"), skip=())


def test_a_block_used_twice_stays_one(tmp_path):
    def shared():
        model = made("Llama")
        model.model.layers[1] = model.model.layers[0]
        return model

    model = shared()
    done = convert_(model)
    assert len(done.converted) == 7
    assert done.converted[0].names == (
        "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"
    )  # fmt: skip
    pack_(model)
    assert save(model, tmp_path / "x").layers == 7
    loaded = shared()
    load_(loaded, tmp_path / "x")
    assert loaded.model.layers[0] is loaded.model.layers[1]
    with torch.no_grad():
        assert torch.equal(loaded(IDS).logits, model(IDS).logits)
