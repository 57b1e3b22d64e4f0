"""The command line: what it prints, where it writes, how it fails."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from typer.testing import CliRunner

import qtools
from qtools import cli, data, recipes, training
from qtools.data import DataUnavailableError, FashionMNIST
from qtools.files import sha256
from qtools.models import SmallCNN


def run(*arguments: str):
    return CliRunner().invoke(cli.app, arguments)


@pytest.fixture
def few_images(monkeypatch):
    """Fashion-MNIST with 40 training images, 16 of them held out, and 20 test images."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (60, 28, 28), generator=generator, dtype=torch.uint8)
    labels = torch.arange(60) % 10
    tiny = FashionMNIST(images[:40], labels[:40], images[40:], labels[40:])
    monkeypatch.setattr(recipes, "fashion_mnist", lambda: tiny)
    monkeypatch.setattr(recipes, "HELD_OUT", 16)


def test_version():
    result = run("--version")
    assert (result.exit_code, result.output) == (0, f"qtools {qtools.__version__}\n")


def test_runs_as_a_module():
    command = (sys.executable, "-m", "qtools.cli", "--version")
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert out == f"qtools {qtools.__version__}\n"


@pytest.mark.parametrize(
    "command", [(), ("data",), ("train",), ("train", "smallcnn"), ("distill",), ("evaluate",)]
)
def test_help(command):
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert "Usage" in result.output


def test_data_prints_what_is_there(monkeypatch):
    tiny = FashionMNIST(torch.zeros(3), torch.zeros(3), torch.zeros(2), torch.zeros(2))
    monkeypatch.setattr(data, "fashion_mnist", lambda: tiny)
    monkeypatch.setattr(data, "moby_dick", lambda: "abc")
    monkeypatch.setenv("QTOOLS_CACHE", "/somewhere")
    images = "fashion-mnist: 3 training and 2 test images in /somewhere\n"
    text = "moby-dick: 3 characters in /somewhere\n"
    assert run("data").output == images + text
    assert run("data", "all").output == images + text
    assert run("data", "fashion-mnist").output == images
    assert run("data", "moby-dick").output == text


@pytest.mark.parametrize("error", [DataUnavailableError("nowhere"), OSError("nowhere")])
def test_data_that_cannot_be_had(monkeypatch, error):
    def fail() -> str:
        raise error

    monkeypatch.setattr(data, "moby_dick", fail)
    result = run("data", "moby-dick")
    assert (result.exit_code, result.output) == (2, "qtools: nowhere\n")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("data", "mnist"), "mnist"),
        (("train", "smallcnn", "--epochs", "0"), "epochs"),
        (("train", "smallcnn", "--seed", "-1"), "seed"),
        (("train", "largecnn"), "largecnn"),
        (("trian",), "trian"),
    ],
)
def test_wrong_arguments(arguments, says):
    result = run(*arguments)
    assert result.exit_code == 2
    assert says in result.output
    assert "Traceback" not in result.output


def train(out: Path, *arguments: str):
    return run("train", "smallcnn", "--out", str(out), "--epochs", "2", *arguments)


def test_train_writes_weights_hash_and_record(few_images, tmp_path):
    result = train(tmp_path / "new/folder", "--seed", "5")
    assert result.exit_code == 0, result.output
    out = tmp_path / "new/folder"
    assert sorted(p.name for p in out.iterdir()) == [
        "sha256.json",
        "smallcnn.json",
        "smallcnn.safetensors",
    ]
    content = (out / "smallcnn.safetensors").read_bytes()
    SmallCNN().load_state_dict(safetensors.torch.load(content))
    record = json.loads((out / "smallcnn.json").read_text())
    digest = json.loads((out / "sha256.json").read_text())["smallcnn.safetensors"]
    assert record["weights"]["sha256"] == digest == sha256(content)
    assert record["seed"] == 5
    assert record["command"] == "qtools train smallcnn --epochs 2 --seed 5"
    assert record["images"] == {"train": 24, "held_out": 16, "test": 20}
    assert record["storage"]["file_bytes"] == len(content)
    assert f"test accuracy {record['value']:.2%}" in result.output


def test_interrupt_then_resume_gives_the_same_file(few_images, tmp_path, monkeypatch):
    assert train(tmp_path / "whole").exit_code == 0
    out, augment, steps = tmp_path / "halves", training.augment, 0

    def interrupted(*args):
        nonlocal steps
        steps += 1
        if steps == 2:  # the first step of the second epoch
            raise KeyboardInterrupt
        return augment(*args)

    with monkeypatch.context() as patch:
        patch.setattr(training, "augment", interrupted)
        result = train(out)
    assert result.exit_code == 130
    assert "stopped; go on with --resume" in result.output
    assert [p.name for p in out.iterdir()] == ["smallcnn.checkpoint"]

    result = train(out)
    assert result.exit_code == 2
    assert "go on with --resume, or delete it" in result.output

    result = train(out, "--resume", "--seed", "1")
    assert result.exit_code == 2
    assert "belongs to" in result.output

    assert train(out, "--resume").exit_code == 0
    ours, theirs = (p / "smallcnn.safetensors" for p in (out, tmp_path / "whole"))
    assert ours.read_bytes() == theirs.read_bytes()
    assert not (out / "smallcnn.checkpoint").exists()


def test_nothing_to_resume(tmp_path):
    result = train(tmp_path, "--resume")
    assert result.exit_code == 2
    assert "leave out --resume to start" in result.output


def test_without_checkout_out_is_needed(monkeypatch, tmp_path):
    monkeypatch.setattr(cli, "PACKAGE", tmp_path / "site-packages/qtools")
    result = run("train", "smallcnn")
    assert result.exit_code == 2
    assert "say where with --out" in result.output


def test_out_that_is_a_file(few_images, tmp_path):
    (tmp_path / "file").write_text("")
    result = train(tmp_path / "file")
    assert result.exit_code == 2
    assert result.output.strip().splitlines()[-1].startswith("qtools: ")
