"""The scoreboard is made of the records, and of nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtools.results import read_record, results_dir
from qtools.scoreboard import FAMILIES, MODELS, SOURCES, Row, absent, beats, board, front, rivals
from qtools.scoreboard.sources import MEASURED

ROWS = board()
NETWORKS = read_record(MEASURED)["networks"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of results/ to take records from."""
    return Path(shutil.copytree(results_dir(), tmp_path / "results"))


def test_every_record_has_rows() -> None:
    assert absent(ROWS) == []
    assert {row.model for row in ROWS} == set(MODELS)
    assert {row.family for row in ROWS} == set(FAMILIES)
    for row in ROWS:
        assert row.bytes > 0
        assert row.seeds > 1 or row.deviation == 0
        assert row.bits <= 32
        assert row.real or row.family == "pruning"


@pytest.mark.parametrize("record", [source.record for source in SOURCES])
def test_without_its_record_a_row_is_gone_and_missed(record: str, folder: Path) -> None:
    (folder / f"{record}.json").unlink()
    left = board(folder)
    assert absent(left) == [record]  # what `test_every_record_has_rows` demands is refused
    others = [row for row in ROWS if row.record != record]
    assert {row[:9] for row in left} == {row[:9] for row in others}
    assert len(left) == len(others) < len(ROWS)


def test_without_the_sizes_no_row_has_an_invented_one(folder: Path) -> None:
    (folder / f"{MEASURED}.json").unlink()
    left = board(folder)
    assert {"ptq_smallcnn", "pruning_smallcnn", "low_rank_smallcnn"} <= set(absent(left))
    assert {row.ms for row in left} == {None}


def test_a_row_says_what_its_record_says(folder: Path) -> None:
    path = folder / "qat_smallcnn.json"
    record = json.loads(path.read_text())
    line = record["summary"][0]
    line |= {"accuracy": 12.345, "deviation": 6.789, "seeds": 2}
    path.write_text(json.dumps(record))
    changed = set(board(folder)) - set(ROWS)
    assert [(r.quality, r.deviation, r.seeds, r.loss) for r in changed] == [
        (12.345, 6.789, 2, 87.655)
    ]


def test_what_two_commands_measured_is_equal() -> None:
    """Bytes of the same network in the file of another record."""
    size = {name: network["bytes"] for name, network in NETWORKS.items()}
    assert size["float"] == read_record("smallcnn")["storage"]["file_bytes"]
    assert size["W8 channel"] == read_record("benchmark_int8_cnn")["file_bytes"]["integer"]
    assert size["CharGPT"] == read_record("chargpt")["file_bytes"]
    assert size["CharGPT onebit"] == read_record("chargpt_onebit")["found"]["bytes"]
    for line in read_record("weight_only")["summary"]:
        if line["method"] in ("rtn", "gptq"):
            assert size[f"CharGPT W{line['bits']} {line['group_size'] or 'row'}"] == line["bytes"]
    for line in read_record("low_rank_smallcnn")["summary"][:-1]:
        # The record counts the tensors, the file has a header.
        header = size[f"{line['layers']} {line['method']} {line['size']}"] - line["nbytes"]
        assert 1000 < header < 4000


def a_row(size: float, quality: float, model: str = "CharGPT") -> Row:
    base = ROWS[0]._replace(model=model, bytes=size, quality=quality)
    return base


points = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), max_size=12)


@given(points)
def test_front_is_what_none_beats(pairs: list[tuple[int, int]]) -> None:
    """Few values, so that many are equal."""
    rows = [a_row(*pair)._replace(method=str(i)) for i, pair in enumerate(pairs)]
    by_pairs = [r for r in rows if not any(beats(other, r) for other in rows)]
    found = front(rows)
    assert sorted(found) == sorted(by_pairs)
    assert [r.bytes for r in found] == sorted(r.bytes for r in found)
    for r in rows:
        assert bool(rivals(r, rows)) == (r not in found)


def test_more_right_answers_are_better() -> None:
    good, bad = a_row(1, 93.0, "SmallCNN"), a_row(1, 92.0, "SmallCNN")
    assert front([good, bad]) == [good]
    assert beats(good, bad)


def test_models_are_not_compared() -> None:
    with pytest.raises(ValueError, match="one model"):
        front([a_row(1, 1), a_row(1, 93, "SmallCNN")])
    with pytest.raises(ValueError, match="one model"):
        beats(a_row(1, 1), a_row(1, 93, "SmallCNN"))
