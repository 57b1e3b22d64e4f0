"""Checkpoints of a distillation: bit for bit the run that was not interrupted, or refused."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from qtools.distillation import Distiller, Hinton, Summed
from qtools.distillation.checkpoint import Checkpoint, load, save
from qtools.distillation.history import Table
from tests.distillation_runs import (
    CHANCE,
    Noisy,
    classifier,
    everything_by_chance,
    same,
    with_state,
)

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run that nobody interrupts: folder, student, history."""
    folder = tmp_path_factory.mktemp("whole")
    student = with_state()
    return folder, student, everything_by_chance(folder, student).run()


def without_seconds(rows):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


class Interrupted:
    """`Hinton`, up to a number of calls (two a step here); in checkpoints it is `Hinton`."""

    def __init__(self, calls: int) -> None:
        self.calls = calls

    def __repr__(self) -> str:
        return repr(Hinton())

    def __call__(self, student: nn.Module, teacher: nn.Module | None, batch: object) -> Summed:
        self.calls -= 1
        if self.calls < 0:
            raise KeyboardInterrupt
        return Hinton()(student, teacher, batch)


# ---- going on


@pytest.mark.parametrize("calls", [1, 8, 9, 31, 59])
def test_interrupted_and_resumed_gives_the_same_bits(whole, tmp_path, calls):
    """Interrupted between or inside steps, before and after the first checkpoint."""
    with pytest.raises(KeyboardInterrupt):
        everything_by_chance(tmp_path, loss=Interrupted(calls)).run()
    checkpoint = tmp_path / "checkpoint.safetensors"
    assert checkpoint.exists() == (calls >= 8)
    # Its own start must not matter once there is a checkpoint.
    student = with_state(77) if checkpoint.exists() else with_state()
    torch.rand(3)
    history = everything_by_chance(tmp_path, student).run()
    assert same(student, whole[1])
    assert without_seconds(history.steps) == without_seconds(whole[2].steps)
    ours, theirs = (load_file(f / "checkpoint.safetensors") for f in (tmp_path, whole[0]))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours | theirs)


def test_interrupted_again_and_again(whole, tmp_path):
    for _ in range(6):
        with pytest.raises(KeyboardInterrupt):
            everything_by_chance(tmp_path, loss=Interrupted(11)).run()
    student = with_state()
    history = everything_by_chance(tmp_path, student).run()
    assert same(student, whole[1])
    assert [row["step"] for row in history.steps] == list(range(1, 31))


@pytest.mark.slow
def test_killed_at_a_random_step_and_resumed_gives_the_same_bits(whole, tmp_path):
    """SIGKILL, in a process of its own: nothing gets a chance to tidy up."""
    command = (sys.executable, "-m", "tests.distillation_runs", str(tmp_path))
    rows, steps = random.randrange(5, 27), tmp_path / "steps.csv"
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE) as process:
        while not steps.exists() or steps.read_bytes().count(b"\n") <= rows:
            assert process.poll() is None, process.communicate()[1].decode()
            time.sleep(0.002)
        process.kill()
    assert process.returncode == -9
    with safe_open(tmp_path / "checkpoint.safetensors", "pt") as file:
        done = json.loads(file.metadata()["state"])["step"]
    assert 4 <= done < 30, "it was killed on the way"
    student = with_state(77)
    everything_by_chance(tmp_path, student).run()
    assert same(student, whole[1])
    ours, theirs = (load_file(f / "checkpoint.safetensors") for f in (tmp_path, whole[0]))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours), f"killed after {rows} rows"
    assert without_seconds(Table(steps, 30).rows) == without_seconds(whole[2].steps)


def test_a_finished_run_trains_no_further(whole):
    student = with_state(5)
    before = (whole[0] / "checkpoint.safetensors").stat().st_mtime_ns
    history = everything_by_chance(whole[0], student, evaluate=lambda m: {"a": 1.0}).run()
    assert same(student, whole[1])
    assert history.steps == whole[2].steps
    assert (whole[0] / "checkpoint.safetensors").stat().st_mtime_ns == before


def test_what_changes_no_weight_may_change(whole, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        everything_by_chance(tmp_path, loss=Interrupted(20)).run()
    config = replace(CHANCE, log_every=7, checkpoint_every=9, evaluate_every=2)
    student = with_state()
    everything_by_chance(tmp_path, student, config=config, evaluate=lambda m: {}).run()
    assert same(student, whole[1])


@pytest.mark.parametrize("name", ["SGD", "Adam", "RMSprop", "Adagrad"])
def test_any_optimizer_of_torch_resumes(tmp_path, name):
    def run(folder: Path, **settings: object) -> nn.Module:
        student = with_state()
        momentum = {"momentum": 0.9} if name in ("SGD", "RMSprop") else {}
        optimizer = getattr(torch.optim, name)(student.parameters(), lr=0.01, **momentum)
        everything_by_chance(folder, student, optimizer=optimizer, **settings).run()
        return student

    uninterrupted = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "halves", loss=Interrupted(33))
    assert same(run(tmp_path / "halves"), uninterrupted)


def test_tied_weights_resume(tmp_path):
    def tied() -> nn.Module:
        student = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Linear(6, 5))
        student[2].weight = student[0].weight
        return student

    student = tied()
    everything_by_chance(tmp_path, student).run()
    again = tied()
    everything_by_chance(tmp_path, again).run()
    assert same(student, again)
    assert again[2].weight is again[0].weight


# ---- the file


def test_it_is_safetensors_and_json(whole):
    assert sorted(p.name for p in whole[0].iterdir()) == ["checkpoint.safetensors", "steps.csv"]
    with safe_open(whole[0] / "checkpoint.safetensors", "pt") as file:
        header = file.metadata()
        groups = {name.partition(".")[0] for name in file.keys()}  # noqa: SIM118
    assert groups == {"student", "optimizer"}
    state = json.loads(header["state"])
    assert state["step"] == 30
    assert state["identity"]["config"]["batch_size"] == 8
    assert state["identity"]["loss"] == "Hinton(temperature=4.0, alpha=0.9)"


def copy_of(whole, tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes((whole[0] / path.name).read_bytes())
    return path


@pytest.mark.parametrize("keep", [0, 5, 100, 0.5, 0.99, -1])
def test_a_file_cut_short_is_refused(whole, tmp_path, keep):
    path = copy_of(whole, tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if 0 < keep < 1 else keep])
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors is damaged or cut short"):
        everything_by_chance(tmp_path).run()


def test_any_flipped_bit_is_noticed(whole, tmp_path):
    """In the header or the tensors: an error of ours, never a wrong weight."""
    path = copy_of(whole, tmp_path)
    content = path.read_bytes()
    identity = everything_by_chance(None)._identity
    chance = random.Random(0)
    for place in (*range(8), *(chance.randrange(len(content)) for _ in range(150))):
        flipped = bytearray(content)
        flipped[place] ^= 1 << chance.randrange(8)
        path.write_bytes(flipped)
        with pytest.raises(ValueError, match=r"checkpoint\.safetensors (is|must|holds)"):
            load(path, identity)
    path.write_bytes(content)
    assert load(path, identity).step == 30


def test_an_edited_file_is_refused(whole, tmp_path):
    path = copy_of(whole, tmp_path)
    with safe_open(path, "pt") as file:
        header = file.metadata()
    tensors = load_file(path)
    edited = dict(header, state=header["state"].replace('"step": 30', '"step": 29'))
    other = {**tensors, "student.4.bias": torch.ones(5)}
    for changed, what in ((tensors, edited), (other, header)):
        save_file(changed, path, what)
        with pytest.raises(ValueError, match="damaged or was edited"):
            everything_by_chance(tmp_path).run()
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(ValueError, match=r"is not a checkpoint of qtools\.distillation"):
        everything_by_chance(tmp_path).run()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"config": replace(CHANCE, lr=0.1)}, r"config\.lr is 0\.02 there and 0\.1 here"),
        ({"config": replace(CHANCE, seed=3)}, r"config\.seed is 0 there and 3 here"),
        ({"config": replace(CHANCE, epochs=11)}, r"config\.epochs"),
        ({"config": replace(CHANCE, accumulation=1)}, r"config\.accumulation"),
        ({"loss": Hinton(2.0)}, r"loss is 'Hinton\(temperature=4\.0.*temperature=2\.0"),
        ({"student": classifier(9)}, "of another student: .* is in only one of the two"),
        ({"student": with_state(width=9)}, r"0\.weight must be torch.float32 \[9, 6\], got .*8, 6"),
    ],
)  # fmt: skip
def test_a_checkpoint_of_another_run_is_refused(whole, tmp_path, settings, says):
    copy_of(whole, tmp_path)
    with pytest.raises(ValueError, match=says):
        everything_by_chance(tmp_path, **settings).run()


def test_another_teacher_other_data_another_optimizer_are_refused(whole, tmp_path):
    copy_of(whole, tmp_path)
    keys = {"config": CHANCE, "loss": Hinton(), "folder": tmp_path, "progress": False}
    fewer = Noisy()
    fewer.points = torch.utils.data.TensorDataset(*fewer.points[:23])
    runs = {
        "teacher": Distiller(with_state(), with_state(4), Noisy(), **keys),
        "examples is 24 there and 23 here": Distiller(with_state(), with_state(3), fewer, **keys),
        r"optimizer\.": Distiller(
            student := with_state(), with_state(3), Noisy(), **keys,
            optimizer=torch.optim.SGD(student.parameters(), lr=0.02),
        ),
    }  # fmt: skip
    for says, run in runs.items():
        with pytest.raises(ValueError, match=says):
            run.run()


def test_shapes_and_types_are_looked_at(tmp_path):
    path = tmp_path / "c.safetensors"
    identity = {"a": 1}
    save(path, Checkpoint(3, {"w": torch.ones(2)}, {"0.exp_avg": torch.zeros(2)}, {}), identity)
    found = load(path, identity)
    assert (found.step, found.scaler) == (3, {})
    assert torch.equal(found.student["w"], torch.ones(2))
    assert torch.equal(found.optimizer["0.exp_avg"], torch.zeros(2))
    with pytest.raises(ValueError, match="a is 1 there and 2 here"):
        load(path, {"a": 2})


def test_the_state_of_loss_scaling_is_kept(tmp_path):
    """With fp16 on a GPU; here its scaler alone, which also runs on a CPU."""
    config = replace(CHANCE, checkpoint_every=0)
    run = everything_by_chance(tmp_path, config=config)
    run.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=7)
    run.run()
    with safe_open(tmp_path / "checkpoint.safetensors", "pt") as file:
        scaler = json.loads(file.metadata()["state"])["scaler"]
    assert scaler["scale"] == 64.0 * 2**4  # 30 steps: grown four times
    assert scaler["_growth_tracker"] == 2
    again = everything_by_chance(tmp_path, config=config)
    again.accelerator.scaler = torch.amp.GradScaler("cpu")
    again._resume()
    assert again.accelerator.scaler.get_scale() == 1024.0


def test_an_overflow_under_loss_scaling_skips_the_step_only(tmp_path):
    plain, scaled = with_state(), with_state()
    everything_by_chance(None, plain).run()
    run = everything_by_chance(None, scaled)
    run.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    history = run.run()
    assert not all(torch.tensor(row["norm"]).isfinite() for row in history.steps)
    assert all(p.isfinite().all() for p in scaled.parameters())
    assert not same(plain, scaled)


def test_a_killed_write_leaves_the_old_checkpoint(whole, tmp_path, monkeypatch):
    path = copy_of(whole, tmp_path)
    before = path.read_bytes()

    def killed(*args: object) -> None:
        (tmp_path / ".checkpoint.safetensors.part").write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("qtools.distillation.checkpoint.save_file", killed)
        with pytest.raises(KeyboardInterrupt):
            save(path, Checkpoint(1, {}, {}, {}), {})
    assert path.read_bytes() == before
    save(path, Checkpoint(1, {}, {}, {}), {})
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.safetensors"]


def test_a_row_that_was_cut_short_is_dropped(tmp_path):
    path = tmp_path / "steps.csv"
    path.write_text("step,loss\n1,0.5\n2,nan\n3,0.12")
    assert [row["step"] for row in Table(path, 9).rows] == [1, 2]
    assert path.read_text() == "step,loss\n1,0.5\n2,nan\n"


def test_state_that_is_no_tensor_is_refused(tmp_path):
    class Extra(nn.Linear):
        def get_extra_state(self) -> dict[str, int]:
            return {"calls": 3}

        def set_extra_state(self, state: dict[str, int]) -> None:
            pass

    with pytest.raises(TypeError, match="student's state must be tensors, got _extra_state"):
        everything_by_chance(tmp_path, Extra(6, 5)).run()
