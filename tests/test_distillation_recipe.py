"""``qtools distill`` and the TOML file it reads; the same file on two processes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from qtools import cli
from qtools.distillation import fashion, recipe
from qtools.distillation.recipe import Recipe
from qtools.files import sha256
from tests.distillation_runs import classifier, launched, same_run

CLASSIFIER = """
out = "out"

[student]
make = "tests.distillation_runs:classifier"

[teacher]
make = "tests.distillation_runs:classifier"
width = 32
seed = 9

[data]
make = "tests.distillation_runs:points"

[loss]
make = "qtools.distillation:Hinton"
temperature = 3

[evaluate]
make = "tests.distillation_runs:norm_of_the_first_layer"

[distill]
epochs = 2
batch_size = 8
betas = [0.9, 0.98]
checkpoint_every = 3
"""

LANGUAGE_MODEL = """
out = "{out}"

[student]
make = "tests.distillation_runs:language_model"
seed = 1

[teacher]
make = "tests.distillation_runs:language_model"

[data]
make = "tests.distillation_runs:Tokens"

[loss]
make = "qtools.distillation:OneBit"

[distill]
epochs = 6
batch_size = 6
accumulation = 2
lr = 0.01
device = "cpu"
"""


def distill(path: Path, *arguments: str):
    return CliRunner().invoke(cli.app, ("distill", "--config", str(path), *arguments))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(CLASSIFIER)
    return path


# ---- the command


def test_it_writes_weights_record_and_measurements(file):
    result = distill(file)
    assert result.exit_code == 0, result.output
    out = file.parent / "out"
    assert {p.name for p in out.iterdir()} == {
        *("checkpoint.safetensors", "student.safetensors", "run.json"),
        *("steps.csv", "evaluations.csv"),
    }
    student = classifier()
    student.load_state_dict(load_file(out / "student.safetensors"))
    record = json.loads((out / "run.json").read_text())
    assert record["weights"]["sha256"] == sha256((out / "student.safetensors").read_bytes())
    assert record["recipe"]["distill"]["betas"] == [0.9, 0.98]
    assert record["value"] == record["last_step"]["loss"]
    assert record["evaluations"] == [
        {"step": 10, "norm": pytest.approx(student[0].weight.norm().item())}
    ]
    assert "step 10, loss " in result.output
    assert f"wrote {out / 'student.safetensors'}" in result.output


def test_a_checkpoint_needs_resume_and_resume_a_checkpoint(file, monkeypatch):
    result = distill(file, "--resume")
    assert result.exit_code == 2
    assert "leave out --resume to start" in result.output

    def interrupted(self, step):
        if step == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(recipe.Distiller, "_evaluate", interrupted)
        result = distill(file)
    assert result.exit_code == 130
    assert "stopped; go on with --resume" in result.output
    out = file.parent / "out"
    assert not (out / "student.safetensors").exists()
    result = distill(file)
    assert result.exit_code == 2
    assert "go on with --resume, or delete it" in result.output
    assert distill(file, "--resume").exit_code == 0
    resumed = load_file(out / "student.safetensors")
    for path in out.iterdir():
        path.unlink()
    assert distill(file).exit_code == 0
    whole = load_file(out / "student.safetensors")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_loss_that_is_not_finite_is_one_clear_message(file):
    huge = {name: 1e38 * t for name, t in classifier().state_dict().items()}
    save_file(huge, file.parent / "huge.safetensors")
    file.write_text(CLASSIFIER.replace("[teacher]", 'weights = "huge.safetensors"\n[teacher]'))
    result = distill(file)
    assert result.exit_code == 2
    assert "is not finite" in result.output
    assert "try a smaller lr" in result.output
    assert len(list((file.parent / "out").glob("nonfinite-*-0.safetensors"))) == 1


def test_weights_to_start_from(file):
    save_file(classifier(seed=4).state_dict(), file.parent / "start.safetensors")
    text = CLASSIFIER.replace("[teacher]", 'weights = "start.safetensors"\n\n[teacher]', 1)
    file.write_text(text.replace("epochs = 2", "epochs = 1\nlr = 0.0"))
    assert distill(file).exit_code == 0
    student = classifier()
    student.load_state_dict(load_file(file.parent / "out/student.safetensors"))
    assert torch.equal(student[0].weight, classifier(seed=4)[0].weight)


def test_modules_beside_the_file_are_found(file):
    (file.parent / "beside_the_toml.py").write_text(
        "from tests.distillation_runs import classifier as mine\n"
    )
    text = CLASSIFIER.replace("tests.distillation_runs:classifier", "beside_the_toml:mine")
    file.write_text(text)
    before = list(sys.path)
    Recipe.read(file)
    assert sys.path == before


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("epochs = 2", "epoch = 2", "[distill] has the unknown key 'epoch'; did you mean 'epochs'"),
        ("epochs = 2", "epochs = 'x'", "epochs must be an integer, got 'x'"),
        ("epochs = 2", "epochs = 0", "epochs must be at least 1"),
        ("[distill]", "[destill]", "the file has the unknown key 'destill'; did you mean 'dis"),
        ('out = "out"', "", "out must name a folder"),
        ('out = "out"', 'out = "out"\nteecher = 1', "unknown key 'teecher'; did you mean 'teach"),
        ("[loss]", "[[loss]]", "loss must be a table"),
        ("temperature = 3", "temprature = 3", "[loss] has the unknown key 'temprature'; did you"),
        ("temperature = 3", "temperature = 0", "temperature must be positive"),
        ("width = 32", "depth = 32", "[teacher] has the unknown key 'depth'; did you mean 'wid"),
        ("Hinton", "Hilton", "[loss] make = 'qtools.distillation:Hilton' cannot be found"),
        (":Hinton", ".Hinton", "[loss] make must be 'module:callable', got"),
        ("qtools.distillation:Hinton", "no_such:x", "No module named 'no_such'"),
        ("qtools.distillation:Hinton", "math:pi", "make must name something to call, got 3.14"),
        ("runs:points", "runs:everything_by_chance", "missing a required argument: 'folder'"),
        ('[teacher]', 'weights = "no.safetensors"\n[teacher]', "[student] weights must be a file"),
        ('out = "out"', "out = ", "run.toml: Invalid value"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(file, old, new, says):
    assert old in CLASSIFIER
    file.write_text(CLASSIFIER.replace(old, new, 1))
    result = distill(file)
    assert result.exit_code == 2
    assert says in result.output.replace("\n", " ")
    assert str(file) in result.output or "temperature" in says
    assert not (file.parent / "out").exists()


def test_a_missing_table_and_a_missing_file(file, tmp_path):
    file.write_text(CLASSIFIER.replace("[data]", "[evaluate]").replace("[evaluate]", "[x]", 1))
    assert "unknown key 'x'" in distill(file).output
    file.write_text('out = "out"\n[student]\nmake = "tests.distillation_runs:classifier"\n')
    assert "the table [data] must be there" in distill(file).output
    assert "No such file" in distill(tmp_path / "none.toml").output


def test_weights_that_do_not_fit(file):
    save_file(classifier(9).state_dict(), file.parent / "nine.safetensors")
    (file.parent / "broken.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0broken!!")
    for name in ("nine", "broken"):
        line = f'weights = "{name}.safetensors"\n\n[teacher]'
        file.write_text(CLASSIFIER.replace("[teacher]", line))
        result = distill(file)
        assert result.exit_code == 2
        assert f"{name}.safetensors does not fit the model" in result.output


# ---- Fashion-MNIST


def test_fashion_mnist_from_the_file(file, monkeypatch):
    from qtools.data import FashionMNIST

    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (30, 28, 28), generator=generator, dtype=torch.uint8)
    tiny = FashionMNIST(images, torch.arange(30) % 10, images[:0], torch.arange(0))
    monkeypatch.setattr(fashion, "fashion_mnist", lambda: tiny)
    monkeypatch.setattr(fashion, "HELD_OUT", 10)
    file.write_text(
        'out = "out"\n[student]\nmake = "qtools.models:SmallCNN"\nwidth = 0.25\n'
        '[data]\nmake = "qtools.distillation.fashion:training_images"\nsize = 20\n'
        '[loss]\nmake = "qtools.distillation:LabelsOnly"\n'
        '[evaluate]\nmake = "qtools.distillation.fashion:held_out_accuracy"\n'
        "[distill]\nepochs = 1\nbatch_size = 10\n"
    )
    result = distill(file)
    assert result.exit_code == 0, result.output
    assert "held_out_accuracy" in result.output
    file.write_text(file.read_text().replace("size = 20", "size = 0"))
    (file.parent / "out/checkpoint.safetensors").unlink()
    assert "size must be between 1 and" in distill(file).output


# ---- two processes


@pytest.mark.slow
def test_two_processes_learn_what_one_does(tmp_path):
    """Same global batch, parts of different length, padding: the same curve, the same weights.

    Sums are only taken in another order. In float64 that is 1e-16 of a gradient, which Adam and 18
    steps make larger; 1e-9 leaves room for that and for nothing else.
    """
    for name in ("one", "two"):
        (tmp_path / f"{name}.toml").write_text(LANGUAGE_MODEL.format(out=name))
    assert distill(tmp_path / "one.toml").exit_code == 0
    launched(tmp_path / "two.toml")
    same_run(tmp_path / "one", tmp_path / "two", 18)

    result = distill(tmp_path / "two.toml", "--resume")
    assert "processes is 2 there and 1 here" in result.output
