"""SmallCNN: its shape, its weights, its record."""

import json
import re
import shutil

import pytest
import safetensors.torch
import torch
import torch.fx
from torch import nn

from qtools import models
from qtools.data import fashion_mnist, normalise
from qtools.files import sha256
from qtools.metrics import accuracy, storage
from qtools.models import SmallCNN
from qtools.results import PACKAGE

RECORD = PACKAGE.parent / "results/smallcnn.json"


def test_size_and_shapes():
    model = SmallCNN()
    parameters = sum(p.numel() for p in model.parameters())
    assert parameters == 98_554
    assert model.fc1.weight.shape == (128, 576)
    assert 0.74 < model.fc1.weight.numel() / parameters < 0.76
    assert sum(isinstance(m, nn.BatchNorm2d) for m in model.modules()) == 3
    for n in (1, 3):
        assert model(torch.zeros(n, 1, 28, 28)).shape == (n, 10)


@pytest.mark.parametrize(("width", "parameters"), [(0.5, 25_090), (0.25, 6_502), (2, 390_634)])
def test_width(width, parameters):
    model = SmallCNN(width)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    with pytest.raises(ValueError, match=r"leave each layer a channel, got 0\.01"):
        SmallCNN(width=0.01)


def test_traceable():
    model = SmallCNN.pretrained()
    traced = torch.fx.symbolic_trace(model)
    x = torch.randn(4, 1, 28, 28)
    assert torch.equal(traced(x), model(x))
    called = [node.target for node in traced.graph.nodes if node.op == "call_module"]
    modules = [name for name, _ in model.named_children() if name != "pool"]
    assert [name for name in called if name != "pool"] == modules
    exported = torch.export.export(model, (x,))
    assert torch.equal(exported.module()(x), model(x))


def test_pretrained_is_trained_and_in_eval_mode():
    model = SmallCNN.pretrained()
    assert not model.training
    data = fashion_mnist()
    got = accuracy(model, normalise(data.test_images), data.test_labels)
    record = json.loads(RECORD.read_text())
    assert got.value >= 0.90
    # Other processors sum in another order; a handful of images lie on the edge.
    assert abs(got.value - record["value"]) <= 0.0005
    assert got.n == record["images"]["test"] == 10_000


def test_record_tells_all():
    record = json.loads(RECORD.read_text())
    content = (models.WEIGHTS / "smallcnn.safetensors").read_bytes()
    hashes = json.loads((models.WEIGHTS / "sha256.json").read_text())
    assert record["weights"]["sha256"] == sha256(content) == hashes["smallcnn.safetensors"]
    size = storage(safetensors.torch.load(content))
    assert record["storage"]["file_bytes"] == size.file_bytes == len(content)
    assert record["storage"]["data_bytes"] == size.data_bytes
    assert record["parameters"] == sum(p.numel() for p in SmallCNN().parameters())
    assert record["unit"] == "test accuracy"
    assert record["command"].startswith("qtools train smallcnn")
    assert record["accuracy"]["low"] < record["value"] < record["accuracy"]["high"]
    assert len(record["history"]) == record["config"]["epochs"]
    assert record["seconds"] == pytest.approx(sum(r["seconds"] for r in record["history"]), abs=1)
    assert record["seed"] == record["config"]["seed"]
    assert re.fullmatch("[0-9a-f]{40}", record["code"]["commit"])
    assert record["code"]["changed_files"] == []
    assert record["versions"].keys() >= {"python", "torch"}
    assert record["machine"].keys() >= {"processor", "cores", "torch_threads"}
    assert 0 < record["latency"]["minimum_ms"] <= record["latency"]["median_ms"]
    assert not record["simulated"]


def test_weights_are_float32():
    state = safetensors.torch.load_file(models.WEIGHTS / "smallcnn.safetensors")
    kinds = {name: t.dtype for name, t in state.items() if "num_batches" not in name}
    assert set(kinds.values()) == {torch.float32}
    assert all(t.isfinite().all() for t in state.values())


def test_damaged_weights_are_refused(tmp_path, monkeypatch):
    shutil.copytree(models.WEIGHTS, tmp_path / "weights")
    monkeypatch.setattr(models, "WEIGHTS", tmp_path / "weights")
    SmallCNN.pretrained()
    path = tmp_path / "weights/smallcnn.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(RuntimeError, match=r"smallcnn\.safetensors is damaged"):
        SmallCNN.pretrained()
