"""Whole networks with weights of a few bits: in order, in place or not at all, and on disk."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from qtools.onebit.modules import is_linear
from qtools.pruning import gram_matrices, output_error
from qtools.weight_only import METHODS, gptq, load_, quantize_weights, rtn, save
from qtools.weight_only.stages import stages
from tests.weight_only_networks import BATCHES, chargpt, out

BLOCK = (["query", "key", "value"], ["out"], ["up"], ["down"])


def test_layers_that_read_one_input_share_a_stage():
    model = chargpt()
    names = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and n != "lm_head"]
    found = stages(model, names, BATCHES)
    expected = [[f"blocks.{i}.{n}" for n in part] for i in (0, 1) for part in BLOCK]
    assert [stage.names for stage in found] == expected
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


class Loop(nn.Module):
    """One layer twice, the second time on an input that another shares."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.b(self.a(x)).relu()
        return self.a(y) + self.c(y)


def test_a_layer_that_runs_twice_has_a_stage_of_its_own_and_all_its_inputs():
    torch.manual_seed(0)
    model, x = Loop(), torch.randn(40, 8)
    assert [s.names for s in stages(model, ["a", "b", "c"], [x])] == [["a"], ["b"], ["c"]]
    gram = gram_matrices(model, [x], ["a"])["a"]
    assert gram.rows == 80
    expected = gptq(model.a.weight.detach(), gram.matrix, 3)
    quantize_weights(model, "gptq", 3, calibration=[x])
    assert torch.equal(model.a.dequantize(), expected.dequantize())


def test_each_layer_sees_what_the_quantized_ones_before_it_give():
    model, by_hand = chargpt(), chargpt()
    report = quantize_weights(model, "gptq", 2, group_size=12, calibration=iter(BATCHES))
    errors = {layer.names[0]: layer.output_error for layer in report.layers}
    for i in (0, 1):
        for part in BLOCK:
            for name in part:
                linear = by_hand.get_submodule(f"blocks.{i}.{name}")
                h = gram_matrices(by_hand, BATCHES, [f"blocks.{i}.{name}"])
                (gram,), w = h.values(), linear.weight.detach().clone()
                new = gptq(w, gram.matrix, 2, 12).dequantize()
                linear.weight.data = new
                assert torch.equal(model.get_submodule(f"blocks.{i}.{name}").dequantize(), new)
                share = output_error(w, new, gram.matrix) / output_error(w, 0 * w, gram.matrix)
                assert errors[f"blocks.{i}.{name}"] == pytest.approx(share, rel=1e-9)
    torch.testing.assert_close(out(model), out(by_hand), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bits", [1, 3, 8])
def test_rounding_needs_no_data_and_its_report_counts_bytes(bits):
    model, before = chargpt(), chargpt()
    report = quantize_weights(model, "rtn", bits, symmetric=bits == 8)
    assert report.kept == {"lm_head": "skip has 'lm_head'"}
    assert [layer.names[0] for layer in report.layers][:2] == ["blocks.0.query", "blocks.0.key"]
    assert report.weights == 2 * 12 * 24 * 24
    zeros = 0 if bits in (1, 8) else 1
    rows = 2 * (4 * 24 + 96) * (bits * 3 + 2 + zeros) + 2 * 24 * (bits * 12 + 2 + zeros)
    assert report.bytes == rows
    assert report.bits_per_weight == pytest.approx(8 * rows / report.weights)
    for layer in report.layers:
        w = before.get_submodule(layer.names[0]).weight.detach()
        hat = rtn(w, bits, symmetric=bits == 8).dequantize()
        assert layer.output_error is None
        share = float((w - hat).square().sum() / w.square().sum())
        assert layer.weight_error == pytest.approx(share, rel=1e-4)
        assert torch.equal(model.get_submodule(layer.names[0]).dequantize(), hat)
    assert f"{report.bits_per_weight:.3f} bits a weight" in str(report)
    assert "lm_head: kept" in str(report)


def opt():
    from transformers import OPTConfig, OPTForCausalLM

    config = OPTConfig(
        vocab_size=97, hidden_size=32, num_hidden_layers=2, ffn_dim=64, num_attention_heads=4,
        max_position_embeddings=64, word_embed_proj_dim=16,
    )  # fmt: skip
    return OPTForCausalLM(config)


def llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=97, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=0,
        eos_token_id=0,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


@pytest.mark.parametrize(("make", "layers"), [(opt, 14), (llama, 14), (gpt2, 8)])
def test_models_of_transformers(make, layers, tmp_path):
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    ids = torch.randint(97, (4, 16))
    batches = [ids, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}]
    model = make().eval()
    exact, errors = out(model, ids), {}
    for method in METHODS:
        small = copy.deepcopy(model)
        report = quantize_weights(small, method, 4, 16, calibration=batches)
        assert len(report.layers) == layers
        assert list(report.kept) == ["lm_head"]
        assert [n for n, m in small.named_modules() if is_linear(m)] == ["lm_head"]
        errors[method] = float((out(small, ids) - exact).norm() / exact.norm())
    assert errors["gptq"] < 0.8 * errors["rtn"]
    assert errors["awq"] < 1.1 * errors["rtn"]
    assert small.generate(ids[:1], max_new_tokens=3, min_new_tokens=3).shape == (1, 19)
    save(small, tmp_path / "file")
    torch.manual_seed(1)
    fresh = make().eval()
    load_(fresh, tmp_path / "file")
    assert torch.equal(out(fresh, ids), out(small, ids))


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.spare = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


X = torch.randn(9, 4)
CALLS = [
    (lambda m: quantize_weights(m, "nf4", 4), "method must be one of rtn, gptq, awq, got 'nf4'"),
    (lambda m: quantize_weights(m, "rtn", 16), "bits must be an int from 1 to 8, got 16"),
    (lambda m: quantize_weights(m, "rtn", 4, 3), "used: group_size must .* 4 columns, got 3"),
    (lambda m: quantize_weights(m, "gptq", 4), "calibration must have a batch for gptq, got None"),
    (lambda m: quantize_weights(m, "awq", 4, calibration=[]), "for awq, got an empty one"),
    (lambda m: quantize_weights(m, "gptq", 4, calibration=[X]), "spare never ran; name it in skip"),
    (
        lambda m: quantize_weights(m, "gptq", 4, calibration=[X * torch.inf], skip=["spare"]),
        "used: hessian must be finite",
    ),
    (lambda m: quantize_weights(m, "rtn", 4, skip=["fc"]), "skip must name modules .* got 'fc'"),
    (lambda m: quantize_weights(m.used, "rtn", 4), "model must hold its linear layers"),
    (lambda m: quantize_weights(m, "rtn", 4, skip=["used", "spare"]), "none that is not in skip"),
]


@pytest.mark.parametrize(("call", "named"), CALLS)
def test_what_is_refused_changes_nothing(call, named):
    torch.manual_seed(0)
    model = Unused()
    modules = list(model.modules())
    with pytest.raises(ValueError, match=named):
        call(model)
    assert list(model.modules()) == modules
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in modules)


def test_an_option_that_a_method_does_not_have():
    with pytest.raises(TypeError, match="act_order"):
        quantize_weights(Unused(), "rtn", 4, act_order=True)


def test_an_error_half_way_puts_everything_back():
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = gpt2().eval()
    bad = model.transformer.h[1].mlp.c_fc
    bad.weight.data[0, 0] = torch.nan
    modules, ids = list(model.modules()), torch.randint(97, (2, 8))
    with pytest.raises(ValueError, match=r"transformer\.h\.1\.mlp\.c_fc: weight must be finite"):
        quantize_weights(model, "gptq", 4, calibration=[ids])
    assert list(model.modules()) == modules


def test_a_weight_tied_to_what_stays_is_refused():
    model = Unused()
    model.embed = nn.Embedding(4, 4)
    model.used.weight = model.embed.weight
    with pytest.raises(ValueError, match="used shares its weight with embed"):
        quantize_weights(model, "rtn", 4)
