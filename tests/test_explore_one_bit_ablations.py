"""The ablations without a browser: numbers against the record, names, what a page carries."""

from __future__ import annotations

import copy
import json
import math
import re
import statistics
from typing import Any

import pytest
import traitlets
from hypothesis import given, settings
from hypothesis import strategies as st

from qtools.explore import OneBitAblations
from qtools.explore.one_bit_ablations import (
    CHARACTERS,
    FIELDS,
    POINTS,
    base_of,
    data,
    name,
    pack,
    scatter,
    short,
    thin,
    unpack,
)
from qtools.results import read_record
from tests.ablation_records import SmallAblations, record

RECORD = record()
KEYS = SmallAblations()._data["keys"]


def runs_of(row: dict[str, Any], among: dict[str, Any] = RECORD) -> list[dict[str, Any]]:
    own = [run for run in among["runs"] if all(run[f] == row[f] for f in FIELDS)]
    return sorted(own, key=lambda run: run["seed"])


def read(row: dict[str, Any], at: int) -> tuple[int, float]:
    """By a loop over the curve as the page has it."""
    curve = runs_of(row)[0]["curve"]
    step, loss = next((s, v) for s, v in zip(*thin(curve), strict=True))
    for s, v in zip(*thin(curve), strict=True):
        if s <= at:
            step, loss = s, v
    return step, loss


@settings(max_examples=40)
@given(st.sampled_from(range(len(KEYS))), st.sampled_from(range(len(KEYS))), st.integers(1, 200))
def test_numbers_are_those_of_the_record(i: int, j: int, at: int) -> None:
    numbers = SmallAblations(run=KEYS[i], pinned=KEYS[j], at=at).compute()
    row, other = RECORD["summary"][i], RECORD["summary"][j]
    for key in ("nats", "deviation", "seeds", "perplexity", "bytes", "bits_per_weight"):
        assert numbers[key] == row[key], key
    assert numbers["top1"] == pytest.approx(100 * row["top1"])
    assert numbers["difference"] == pytest.approx(row["nats"] - other["nats"])
    assert numbers["gap"] == pytest.approx(row["nats"] - RECORD["teacher"]["nats_per_char"])
    ordered = sorted(r["nats"] for r in RECORD["summary"])
    assert numbers["rank"] == 1 + ordered.index(row["nats"])
    nats = [run["nats"] for run in runs_of(row)]
    assert (numbers["low"], numbers["high"]) == (min(nats), max(nats))
    assert numbers["low"] <= numbers["nats"] <= numbers["high"] + 1e-12
    for prefix, setting in (("", row), ("pinned_", other)):
        step, loss = read(setting, at)
        assert numbers[f"{prefix}step"] == step
        assert numbers[f"{prefix}loss"] == pytest.approx(loss, abs=0.0005001)


def test_chance_between_seeds() -> None:
    """The pooled deviation is that of the residuals, with a degree of freedom lost a setting."""
    groups = [[run["nats"] for run in runs_of(row)] for row in RECORD["summary"]]
    residuals = [x - statistics.mean(group) for group in groups for x in group]
    freedom = sum(len(group) - 1 for group in groups)
    s = math.sqrt(sum(x * x for x in residuals) / freedom)
    assert SmallAblations()._data["scatter"] == pytest.approx(s)
    numbers = SmallAblations(run=KEYS[1]).compute()
    seeds = [len(groups[k]) for k in (0, 1)]
    assert sorted(seeds) == [1, 3]
    assert numbers["doubt"] == pytest.approx(2 * math.sqrt(s**2 / 3 + s**2))
    assert scatter([(0.0, 1), (0.0, 1)]) == 0.0


def test_settings_have_names() -> None:
    base = RECORD["summary"][0]
    assert name(base, base) == "base"
    other = base | {"start": "random", "layer_norm": True, "alpha": 0.0, "steps": 5}
    assert name(other, base) == "start=random, layer_norm=yes, alpha=0, steps=5"
    assert len(set(KEYS)) == len(RECORD["summary"])
    assert "start=copied, layer=two bits" in KEYS


def test_the_base_is_what_most_differ_from_or_the_first() -> None:
    rows = [{f: row[f] for f in FIELDS} for row in RECORD["summary"]]
    assert base_of(rows[::-1]) == rows[0]
    assert base_of(rows[3:]) == rows[3]


def test_thin_curves_keep_their_mean() -> None:
    curve = [[float(t), 3 - t / 100] for t in range(1, 121)]
    steps, losses = thin(curve)
    assert len(steps) == POINTS
    assert statistics.mean(losses) == pytest.approx(statistics.mean(v for _, v in curve))
    assert thin(curve[:POINTS]) == (list(range(1, POINTS + 1)), [v for _, v in curve[:POINTS]])


@given(st.lists(st.floats(0, 65.5), min_size=1, max_size=20))
def test_packed_losses_are_right_to_half_a_thousandth(losses: list[float]) -> None:
    back = unpack(pack(losses))
    assert max(abs(a - b) for a, b in zip(back, losses, strict=True)) <= 0.0005 + 1e-12


def test_long_samples_end_between_words() -> None:
    assert short("a\n b") == "a b"
    text = short("whale " * 100)
    assert len(text) <= CHARACTERS + 2
    assert text.endswith("whale …")


def test_a_page_carries_every_setting_and_is_small() -> None:
    widget = SmallAblations()
    html = widget.to_html()
    assert len(html.encode()) <= 60_000
    found = re.search(r"const DATA = (.*);\n", widget._esm)
    assert found
    carried = json.loads(found[1])
    assert carried == data(RECORD)
    fields = dict(carried["fields"])
    for row, setting, sample in zip(
        RECORD["summary"], carried["settings"], carried["samples"], strict=True
    ):
        values = {f: fields[f][k] for f, k in zip(FIELDS, setting, strict=True)}
        assert values == {f: row[f] for f in FIELDS}
        assert runs_of(row)[0]["sample"].replace("\n", "").startswith(sample[:5])
    assert html == SmallAblations().to_html()
    assert eval(repr(widget)).state() == widget.state()


@pytest.mark.parametrize("rows", [1, 5, 13])
def test_a_record_that_is_not_finished(rows: int) -> None:
    part = RECORD | {"summary": RECORD["summary"][-rows:]}
    widget = OneBitAblations(part)
    assert widget.compute()["settings"] == rows
    assert widget.compute()["difference"] == 0


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"run": "no LayerNorm"}, "run must be one of .*, got 'no LayerNorm'"),
        ({"pinned": "layer_norm=yes, steps=60"}, "pinned must be one of"),
        ({"at": 0}, "at"),
        ({"at": 241}, r"at must be a step from 1 to \d+, got 241"),
    ],
    ids=str,
)
def test_wrong_state_is_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(traitlets.TraitError, match=words):
        SmallAblations(**wrong)
    widget = SmallAblations()
    with pytest.raises(traitlets.TraitError, match=words):
        widget.set_state(wrong)
    assert widget.state() == SmallAblations().state()


def test_wrong_records_are_refused() -> None:
    twice = RECORD | {"summary": RECORD["summary"] + RECORD["summary"][:1]}
    empty = copy.deepcopy(RECORD)
    empty["runs"][0]["curve"] = []
    for wrong, words in (
        ({}, "record must have teacher, summary and runs"),
        ([], "record must have teacher, summary and runs"),
        (RECORD | {"summary": []}, "record must have a row in summary"),
        (twice, r"each setting once in summary, got \['base'\] again"),
        (RECORD | {"runs": []}, "record must have runs with curves of each setting, not of 'base'"),
        (empty, "record must have runs with curves"),
    ):
        with pytest.raises(ValueError, match=words):
            OneBitAblations(wrong)


def test_the_book_s_record() -> None:
    found = read_record("onebit_chargpt")
    widget = OneBitAblations()
    assert widget.compute()["settings"] == len(found["summary"])
    assert len(widget.to_html().encode()) <= 60_000
    for row in found["summary"]:
        assert len(runs_of(row, found)) == row["seeds"]
