"""Runs over seeds: an interrupted command does none of them twice."""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from benchmarks._runs import collected, deviation, in_turns, is_of, resumable


class Setting(NamedTuple):
    method: str
    share: float


ORDER = [(Setting(method, 0.8), seed) for seed in range(2) for method in ("a", "b")]


def test_finished_runs_are_not_done_again(tmp_path: Path) -> None:
    kept, done = tmp_path / "kept.json", []

    def run(setting: Setting, seed: int) -> dict[str, Any]:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append((setting, seed))
        return {**setting._asdict(), "seed": seed, "number": len(done)}

    with pytest.raises(KeyboardInterrupt):
        list(resumable(ORDER, kept, run))
    assert done == ORDER[:3]
    done.clear()
    rows = list(resumable(ORDER, kept, run))
    assert done == ORDER[3:]
    assert [row["number"] for row in rows] == [1, 2, 3, 1]
    assert all(is_of(r, s) and r["seed"] == n for r, (s, n) in zip(rows, ORDER, strict=True))


def numbered(setting: Setting, seed: int) -> dict[str, Any]:
    return {**setting._asdict(), "seed": seed, "process": os.getpid()}


def test_workers_do_each_run_once_and_rows_keep_their_order(tmp_path: Path) -> None:
    kept = tmp_path / "kept.json"
    own = numbered(*ORDER[1])
    kept.write_text(json.dumps([own]))
    rows = list(resumable(ORDER, kept, numbered, workers=2))
    assert all(is_of(r, s) and r["seed"] == n for r, (s, n) in zip(rows, ORDER, strict=True))
    assert [row["process"] == os.getpid() for row in rows] == [False, True, False, False]
    assert len(json.loads(kept.read_text())) == len(ORDER)


def test_a_run_is_of_the_setting_with_all_its_values() -> None:
    row = {"method": "a", "share": 0.8, "seed": 0}
    assert is_of(row, Setting("a", 0.8))
    assert not is_of(row, Setting("b", 0.8))
    assert not is_of(row, Setting("a", 0.5))


def test_deviation_of_one_run_is_nothing() -> None:
    assert deviation([3.0]) == 0
    assert deviation([1.0, 2.0, 3.0]) == 1


def test_runs_are_shown_as_they_come(capsys):
    def rows():
        for a in (1, 2):
            yield {"a": a, "long": "x" * 99}
            assert capsys.readouterr().out == f"a is {a}\n"

    found = collected(rows(), lambda row: f"a is {row['a']}")
    assert [row["a"] for row in found] == [1, 2]


def test_calls_take_turns_and_the_first_are_not_counted():
    order: list[str] = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    found = in_turns(calls, runs=3, warmup=2)
    assert order == ["a", "b"] * 5
    assert all(0 < taken.minimum <= taken.median and taken.runs == 3 for taken in found.values())
