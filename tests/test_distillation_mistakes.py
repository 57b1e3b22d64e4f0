"""What is wrong with a distillation of language models is said before anything is trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from qtools import cli
from qtools.distillation.fit import check_fit
from qtools.distillation.written import Sequences
from tests.distillation_runs import small_chargpt, small_recipe

TEXT = "the sea, the sea! the whale and the ship. " * 60


@pytest.fixture
def file(tmp_path) -> Path:
    """A recipe of a small CharGPT that works."""
    return small_recipe(tmp_path)


def distill(path: Path):
    return CliRunner().invoke(cli.app, ["distill", "--config", str(path)])


def refused(path: Path, says: str) -> None:
    result = distill(path)
    assert result.exit_code == 2, result.output
    assert says in result.output.replace("\n", " ")
    assert "Traceback" not in result.output
    assert not list(path.parent.glob("out/*")), "nothing was trained"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("the sé, ".encode("latin-1") * 300, "must be text in UTF-8"),
        ("море ".encode() * 300, "[data] text must be of the model's characters, got 'емор'"),
        (b"the sea", "[data] tokens must be more than 32, got 6"),
        # Enough to learn from, too short to hold out a window of it.
        (b"the sea, " * 12, "[evaluate] the text must have more than 160 tokens"),
        (b"the sea, " * 20, "data must have at least batch_size = 12 examples, got 9"),
    ],
)
def test_a_text_that_cannot_be_used(file, content, says):
    (file.parent / "own.txt").write_bytes(content)
    refused(file, says)


def test_a_text_that_is_not_there(file):
    (file.parent / "own.txt").unlink()
    refused(file, "No such file or directory")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("vectors = 0.001", "vector = 0.001", "[optimizer] has the unknown key 'vector'; did you"),
        ("vectors = 0.001", "vectors = -1", "[optimizer] vectors must be a positive learning rate"),
        (":two_rates", ":two_rate", "[optimizer] make = 'qtools.distillation.language:two_rate'"),
        (":two_rates", ":two_rate", "did you mean 'two_rates'?"),
        (":onebit_student", ":onebit_studnet", "did you mean 'onebit_student'?"),
        ("[student]", "[student]\nskip = ['lm_haed']", "[student] skip must name modules of the"),
        ("[student]", "[student]\ngradient = 'tahn'", "[student] gradient must be one of tanh"),
        ("[student]", "[student.extra]\nx = 1\n[student]", "[student] has the unknown key 'extra'"),
        ("alpha = 1.0", "alpha = -1.0", "[loss] alpha must be finite and not negative, got -1.0"),
        ("alpha = 1.0", "alpha = nan", "[loss] alpha must be finite and not negative, got nan"),
        ("alpha = 1.0", "alpha = 'much'", "[loss] "),
        ("context = 16 # data", "context = 0", "[data] context must be at least 1, got 0"),
        ("context = 16 # data", "context = 8.5", "[data] context must be an integer, got 8.5"),
        ("lr = 0.003", "lr = -0.003", "lr must be finite and not negative"),
        ("lr = 0.003", "learning_rate = 1", "[distill] has the unknown key 'learning_rate'"),
        ('out = "out"', 'out = "own.txt"', "own.txt is a file"),
        ('out = "out"', 'out = "own.txt/new/folder"', "own.txt is a file"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(file, old, new, says):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    refused(file, says)


def test_a_teacher_of_another_vocabulary(file, tmp_path):
    (tmp_path / "teacher").write_bytes(small_chargpt(" !,.adehilnpstwxyz").save())
    old = f'name = "{tmp_path / "model"}" # teacher'
    file.write_text(file.read_text().replace(old, f'name = "{tmp_path / "teacher"}"'))
    refused(file, "student and teacher must have one vocabulary: 15 and 18 tokens")


def test_text_in_the_tokens_of_another_model(file, tmp_path):
    (tmp_path / "reader").write_bytes(small_chargpt("xyz !,.adehilnpstw").save())
    old = f'name = "{tmp_path / "model"}" # data'
    file.write_text(file.read_text().replace(old, f'name = "{tmp_path / "reader"}"'))
    refused(file, "the student knows 15 tokens, and the data have token 17")


def test_a_name_that_is_a_file_of_something_else(file, tmp_path):
    (tmp_path / "model").write_text("{}")
    refused(file, "is no file of a language model")


def test_nothing_is_drawn_and_nothing_stays_changed():
    model, teacher = small_chargpt("abc").train(), small_chargpt("abc")
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    check_fit(model, teacher, Sequences(torch.zeros(2, 16, dtype=torch.int64)))
    assert torch.equal(torch.rand(3), expected)
    assert model.training
