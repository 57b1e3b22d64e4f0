"""The record of SmallCNN at low rank: its table follows from its runs, costs from the layers."""

from __future__ import annotations

import statistics
from typing import Any

import pytest
import torch

from benchmarks import low_rank_cnn as bench
from qtools.decomposition import cost
from qtools.models import SmallCNN
from qtools.results import read_record

RECORD = read_record("low_rank_smallcnn")
KERNELS = {"conv2": 32 * 16 * 9, "conv3": 64 * 32 * 9}
SHARE = {"half": 2, "quarter": 4}


def of(setting: bench.Setting) -> list[dict[str, Any]]:
    wanted = setting._asdict()
    return [row for row in RECORD["runs"] if {key: row[key] for key in wanted} == wanted]


def test_every_setting_has_every_seed() -> None:
    assert len(RECORD["runs"]) == len(bench.SETTINGS) * bench.SEEDS
    for setting in bench.SETTINGS:
        assert [row["seed"] for row in of(setting)] == list(range(bench.SEEDS)), setting


def test_the_table_is_the_mean_of_the_runs() -> None:
    assert RECORD["summary"] == bench.summary(RECORD["runs"])
    row = next(r for r in RECORD["summary"] if r["layers"] == "fc1" and r["size"] == "8")
    runs = of(bench.Setting("fc1", "svd", "8"))
    assert row["accuracy"] == pytest.approx(statistics.mean(r["accuracy"] for r in runs), abs=6e-4)


def test_two_commands_found_the_same() -> None:
    """fc1 cut and not trained: here by `decompose`, there term by term (`rank_lab`)."""
    right = read_record("rank_lab")["right"]["weights"].split()
    for k in bench.FC1_RANKS:
        for row in of(bench.Setting("fc1", "svd", str(k))):
            assert row["before"] == pytest.approx(int(right[k - 1]) / 100, abs=0.021)


@pytest.mark.parametrize(
    "setting",
    [s for s in bench.SETTINGS if s.method not in ("cp", "whitened")],
    ids=lambda s: "-".join(s),
)
def test_costs_are_those_of_the_network(setting: bench.Setting) -> None:
    made = bench.network(setting, torch.zeros(0, 1, 28, 28))
    spent = cost(made, torch.zeros(1, 1, 28, 28))._asdict()
    assert all({key: row[key] for key in spent} == spent for row in of(setting))


@pytest.mark.parametrize("size", bench.CONV_RANKS)
def test_all_methods_have_the_same_budget(size: str) -> None:
    """At most the share of each kernel, and not much less; the whole has both kernels on top."""
    whole = cost(SmallCNN.pretrained(), torch.zeros(1, 1, 28, 28))
    assert RECORD["float_cost"] == whole._asdict()
    kernels = sum(KERNELS.values())
    for method in bench.CONV_RANKS[size]:
        (parameters,) = {r["parameters"] for r in of(bench.Setting("conv", method, size))}
        left = parameters - (whole.parameters - kernels)
        assert 0.94 * kernels / SHARE[size] <= left <= kernels / SHARE[size], method
