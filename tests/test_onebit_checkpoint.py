"""Files of OneBit networks: exact, shared where the model shares, every byte accounted for."""

from __future__ import annotations

import copy
import re

import pytest
import safetensors.torch
import torch
from torch import nn
from typer.testing import CliRunner

from qtools import cli
from qtools.onebit import OneBitLinear, PackedOneBitLinear, convert_, load_, pack_, report, save
from tests.onebit_files import INPUT, Net, net, seal, split


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "latent"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("target", ["fresh", "converted", "packed"])
def test_a_loaded_model_computes_the_same_bits(tmp_path, packed, dtype, target):
    torch.manual_seed(1)
    model = Net().eval().to(dtype)
    convert_(model, layer_norm=False, gradient="clipped", eps=1e-3)
    if packed:
        pack_(model)
    model.norm.running_mean.normal_()
    expected = model(INPUT)
    save(model, tmp_path / "net.safetensors")
    torch.manual_seed(2)
    new = Net().eval().to(dtype)
    if target != "fresh":
        convert_(new)
    if target == "packed":
        pack_(new)
    load_(new, tmp_path / "net.safetensors")
    assert torch.equal(new(INPUT), expected)
    kind = PackedOneBitLinear if packed else OneBitLinear
    assert type(new.first) is type(new.last) is kind
    assert new.again[0] is new.again[1]
    assert new.lm_head.weight is new.embed.weight
    assert not new.first.training
    assert new.first.bias.dtype == dtype
    assert (new.first.layer_norm, new.first.eps) == (False, 1e-3)
    if not packed:
        assert new.first.gradient == "clipped"
        new(INPUT).float().square().sum().backward()
        assert all(p.grad is not None for p in new.parameters())


def test_layers_with_one_latent_weight_share_it_again(tmp_path):
    for packed in (True, False):
        model = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 5))
        model[1].weight = model[0].weight
        convert_(model)
        if packed:
            pack_(model)
        path = tmp_path / "tied.safetensors"
        save(model, path)
        new = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 5))
        load_(new, path)
        name = "bits" if packed else "weight"
        assert getattr(new[0], name) is getattr(new[1], name)
        assert new[0].g is not new[1].g
        assert f"1.{name}" not in safetensors.torch.load_file(path)


class OneBias(nn.Module):
    """Two layers and a norm with the very same bias."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        self.norm = nn.LayerNorm(4)
        self.layers[0].bias = self.layers[1].bias = self.norm.bias

    def forward(self, x):
        return self.norm(self.layers(x))


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "latent"])
def test_a_shared_bias_is_shared_again_while_it_trains(tmp_path, packed):
    model, new, x = OneBias(), OneBias(), torch.randn(3, 4)
    convert_(model)
    nn.init.normal_(model.norm.bias)
    assert model.layers[0].bias is model.layers[1].bias is model.norm.bias
    if packed:
        pack_(model)
    for _ in range(2):  # what was loaded can be saved and loaded too
        save(model, tmp_path / "x")
        load_(new, tmp_path / "x")
        assert torch.equal(new(x), model(x))
        if not packed:
            assert new.layers[0].bias is new.layers[1].bias is new.norm.bias
        model, new = new, OneBias()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("norm.running_mean", torch.zeros(1).expand(70)),
        ("norm.bias", torch.zeros(70, device="meta")),
    ],
)
def test_a_model_that_cannot_hold_the_values_is_refused_before_it_changes(tmp_path, name, value):
    save(net(), tmp_path / "net")
    model = Net()
    setattr(model.norm, name.partition(".")[2],
            nn.Parameter(value) if "bias" in name else value)  # fmt: skip
    first = model.first
    with pytest.raises(ValueError, match=f"{name} must have a place for each value"):
        load_(model, tmp_path / "net")
    assert model.first is first


def test_frozen_stays_frozen(tmp_path):
    model = nn.Sequential(nn.Linear(5, 5))
    model[0].weight.requires_grad_(False)
    convert_(model)
    save(model, tmp_path / "x")
    new = nn.Sequential(nn.Linear(5, 5))
    new[0].weight.requires_grad_(False)
    load_(new, tmp_path / "x")
    assert [p.requires_grad for p in new.parameters()] == [False, False, False, True]


def test_the_file_is_an_ordinary_safetensors_file_the_same_every_time(tmp_path):
    model = net()
    save(model, tmp_path / "a")
    save(model, tmp_path / "b")
    content = (tmp_path / "a").read_bytes()
    assert content == (tmp_path / "b").read_bytes() == seal(content)
    assert {p.name for p in tmp_path.iterdir()} == {"a", "b"}  # nothing temporary is left
    state = model.state_dict()
    stored = safetensors.torch.load_file(tmp_path / "a")
    assert state.keys() - stored.keys() == {
        "lm_head.weight", "again.1.bits", "again.1.g", "again.1.h"
    }  # fmt: skip
    assert all(torch.equal(v, state[k]) for k, v in stored.items())
    assert stored["first.g"].dtype == torch.float16
    assert split(content)[1]["version"] == 1
    assert (
        int.from_bytes(content[:8], "little") % 8 == 0
    )  # so every tensor lies where its type asks


def test_views_of_one_memory_are_no_ties(tmp_path):
    model = nn.Sequential(nn.Linear(4, 4))
    model.register_buffer("a", torch.arange(16.0).reshape(4, 4))
    model.register_buffer("b", model.a.T)
    model.register_buffer("c", model.a[:2])
    model.register_buffer("d", model.a.flatten())
    convert_(model)
    expected = copy.deepcopy(model.state_dict())
    save(model, tmp_path / "x")
    new = nn.Sequential(nn.Linear(4, 4))
    for name in "abcd":
        new.register_buffer(name, torch.zeros_like(getattr(model, name)).contiguous())
    load_(new, tmp_path / "x")
    assert all(torch.equal(v, expected[k]) for k, v in new.state_dict().items())


def test_report_accounts_for_every_byte(tmp_path):
    path = tmp_path / "net.safetensors"
    result = save(net(), path)
    assert result == report(path)
    assert result.file_bytes == path.stat().st_size
    assert (result.layers, result.weights) == (3, 10 * 70 + 70 * 70 + 70 * 10)
    assert result.sign_bytes == 70 * 2 + 70 * 9 + 10 * 9
    assert result.sign_bytes + result.padding_bytes == 70 * 8 + 70 * 16 + 10 * 16
    assert result.vector_bytes == 2 * (80 + 140 + 80)
    assert result.bias_bytes == 4 * (70 + 10)
    assert result.other_bytes == 4 * (13 * 10 + 4 * 70) + 8
    stored = result.sign_bytes + result.padding_bytes + result.vector_bytes
    assert result.bits_per_weight == 8 * stored / result.weights
    assert f"{result.bits_per_weight:.4f} bits per weight" in str(result)
    latent = save(net(packed=False), path)
    assert latent.layers == latent.sign_bytes == 0
    assert latent.latent_bytes == 4 * (700 + 80 + 70 + 4900 + 140 + 700 + 80 + 10)
    assert "nan" in str(latent)


def test_a_large_square_layer_takes_1_0078_bits_a_weight(tmp_path):
    model = nn.Sequential(PackedOneBitLinear(
        torch.zeros(4096, 512, dtype=torch.uint8), torch.ones(4096).half(), torch.ones(4096).half()
    ))  # fmt: skip
    assert f"{save(model, tmp_path / 'x').bits_per_weight:.4f}" == "1.0078"


def test_the_memory_of_the_file_is_let_go(tmp_path):
    for packed in (True, False):
        save(net(packed=packed), tmp_path / "net")
        model = Net()
        load_(model, tmp_path / "net")
        for tensor in model.state_dict().values():
            assert tensor.untyped_storage().nbytes() == tensor.nbytes


def test_the_command_line_reports_a_file(tmp_path):
    path = tmp_path / "net.safetensors"
    result = save(net(), path)
    run = CliRunner().invoke(cli.app, ["report", str(path)])
    assert run.exit_code == 0
    assert str(result) in run.output
    for name, rows in (("first", "10 to 70"), ("again.0", "70 to 70"), ("last", "70 to 10")):
        assert re.search(rf"{re.escape(name)}\s+{rows}, packed", run.output)
    path.write_bytes(path.read_bytes()[:100])
    run = CliRunner().invoke(cli.app, ["report", str(path)])
    assert run.exit_code == 2
    assert run.output.startswith("qtools: ")
