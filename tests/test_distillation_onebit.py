"""A OneBit student of CharGPT's kind, as recipes make it: killed and resumed, on two processes."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from typer.testing import CliRunner

from qtools import cli, text
from qtools.distillation import DistillConfig, Distiller, OneBit
from qtools.distillation.history import Table
from tests.distillation_runs import (
    ROOT,
    double_model,
    double_student,
    forked,
    rows,
    same_run,
    small_chargpt,
    small_recipe,
)

STEPS = 20


def distill(path: Path, *arguments: str):
    result = CliRunner().invoke(cli.app, ["distill", "--config", str(path), *arguments])
    assert result.exit_code == 0, result.output
    return result.output


def measured(path: Path) -> list[dict[str, float]]:
    found = Table(path, STEPS).rows
    return [{k: v for k, v in row.items() if k != "seconds"} for row in found]


@pytest.mark.slow
def test_killed_between_checkpoints_and_resumed_gives_the_same_bits(tmp_path):
    """SIGKILL to `qtools distill`, then ``--resume``: weights, state and curve of the whole run."""
    whole, killed = small_recipe(tmp_path, "whole"), small_recipe(tmp_path, "killed")
    distill(whole)
    recipe = killed.read_text()
    killed.write_text(recipe.replace("qtools.distillation:OneBit", "tests.distillation_runs:Slow"))
    steps = tmp_path / "killed/steps.csv"
    number = random.choice([5, 6, 9, 10, 13, 14])  # checkpoints are at 4, 8, 12, 16
    command = [sys.executable, "-m", "qtools.cli", "distill", "--config", str(killed)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE) as process:
        while not steps.exists() or steps.read_bytes().count(b"\n") <= number:
            assert process.poll() is None, process.communicate()[1].decode()
            time.sleep(0.002)
        process.kill()
    assert process.returncode == -9
    assert not (tmp_path / "killed/student.safetensors").exists()
    with safe_open(tmp_path / "killed/checkpoint.safetensors", "pt") as file:
        done = json.loads(file.metadata()["state"])["step"]
    assert 4 <= done < STEPS, "it was killed on the way"

    killed.write_text(recipe)
    distill(killed, "--resume")
    for name in ("student.safetensors", "checkpoint.safetensors"):
        ours, theirs = (load_file(tmp_path / out / name) for out in ("killed", "whole"))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), f"after {number} steps"
    for name in ("steps.csv", "evaluations.csv"):
        assert measured(tmp_path / "killed" / name) == measured(tmp_path / "whole" / name)
    assert len(measured(steps)) == STEPS
    record = json.loads((tmp_path / "killed/run.json").read_text())
    assert record["cost"]["items"] == (STEPS - done) * 12 * 16, "since its last start"


@pytest.mark.slow
def test_two_processes_learn_what_one_does(tmp_path):
    """Windows that chance moves are the same whoever reads them; sums differ by their order.

    In float64, where only that is left: see `test_parts_one_after_another_are_one_batch`.
    """
    for name in ("one", "two"):
        path = small_recipe(tmp_path, name)
        recipe = path.read_text()
        for maker in ("onebit_student", "model"):
            ours = f"tests.distillation_runs:double_{maker.removeprefix('onebit_')}"
            recipe = recipe.replace(f'"qtools.distillation.language:{maker}"', f'"{ours}"')
        path.write_text(recipe)
    distill(tmp_path / "one.toml")
    forked(tmp_path / "two.toml")
    same_run(tmp_path / "one", tmp_path / "two", STEPS)
    assert json.loads((tmp_path / "two/run.json").read_text())["cost"]["items"] == STEPS * 12 * 16


def test_parts_read_the_windows_that_the_whole_batch_reads(tmp_path):
    """And with them the student learns the same."""
    (tmp_path / "model").write_bytes(small_chargpt().save())
    model = double_model(str(tmp_path / "model"))
    windows = text.Windows(torch.arange(400) % 15, 16)
    histories = []
    for accumulation in (1, 3):
        config = DistillConfig(epochs=3, batch_size=8, accumulation=accumulation, lr=0.003)
        student = double_student(str(tmp_path / "model"))
        run = Distiller(student, model, windows, config, OneBit(), progress=False)
        histories.append(run.run().steps)
    assert len(histories[0]) == 6
    for one, many in zip(*histories, strict=True):
        for name in ("loss", "logits", "states", "items", "norm"):
            assert one[name] == pytest.approx(many[name], rel=1e-10), name


def test_what_it_costs_is_printed_and_recorded(tmp_path):
    path = small_recipe(tmp_path)
    output = distill(path)
    cost = json.loads((tmp_path / "out/run.json").read_text())["cost"]
    assert cost["items"] == STEPS * 12 * 16
    seconds = sum(row["seconds"] for row in rows(tmp_path / "out"))
    assert cost["training_seconds"] == pytest.approx(seconds, abs=0.001)
    assert cost["items_per_second"] == pytest.approx(cost["items"] / seconds, rel=1e-2)
    assert 50e6 < cost["peak_memory_bytes"] < 20e9
    assert re.search(r"[\d,]+ items a second, at most [\d,]+ MB of memory", output)
    # A run that had ended already trains nothing.
    output = distill(path, "--resume")
    assert "no step, at most " in output
    cost = json.loads((tmp_path / "out/run.json").read_text())["cost"]
    assert (cost["items"], cost["items_per_second"]) == (0, None)
