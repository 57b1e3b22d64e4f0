"""The bits chart without a browser: dominance by other means, on drawn records."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from typing import Any

import pytest
import traitlets
from hypothesis import given
from hypothesis import strategies as st

from qtools.explore.bits_chart import BITS, GROUPS, METHODS, BitsChart, Point
from qtools.results import read_record
from tests.bits_charts import TEACHER, record, trained

#: With losses of one step in 0.02 many are equal: ties must not dominate each other.
records = st.builds(record, st.integers(0, 10_000), st.sampled_from((1e-4, 0.02)))
states = st.fixed_dictionaries(
    {
        "method": st.sampled_from(METHODS),
        "bits": st.sampled_from(BITS),
        "group_size": st.sampled_from(GROUPS),
        "size": st.sampled_from(("bits", "bytes")),
    }
)


def row_of(table: dict[str, Any], state: dict[str, Any]) -> dict[str, Any]:
    (row,) = (
        row
        for row in table["summary"]
        if all(row[name] == state[name] for name in ("method", "bits", "group_size"))
    )
    return row


@given(records, states)
def test_numbers_by_other_means(table: dict[str, Any], state: dict[str, Any]) -> None:
    numbers, row = BitsChart(table, **state).compute(), row_of(table, state)
    for name in ("bits_per_weight", "bytes", "nats", "perplexity", "deviation"):
        assert numbers[name] == row[name]
    assert numbers["excess"] == row["nats"] - TEACHER["nats_per_char"]
    assert numbers["times"] == pytest.approx(math.exp(numbers["excess"]), abs=1e-4)
    assert numbers["smaller"] * row["bytes"] == pytest.approx(TEACHER["bytes"])


@given(records, states)
def test_dominated_by_what_is_no_larger_and_better(
    table: dict[str, Any], state: dict[str, Any]
) -> None:
    """Counted over pairs of rows: neither number greater, and not both equal."""
    chart, row = BitsChart(table, **state), row_of(table, state)
    name = {"bits": "bits_per_weight", "bytes": "bytes"}[chart.size]
    better = [
        r
        for r in table["summary"]
        if r["method"] in METHODS
        and (r[name] <= row[name] and r["nats"] <= row["nats"])
        and (r[name], r["nats"]) != (row[name], row["nats"])
    ]
    numbers = chart.compute()
    assert numbers["dominated"] == len(better)
    rival = min(better or [row], key=lambda r: (r[name], r["nats"]))
    key = {"bits": "bits_per_weight", "bytes": "bytes", "nats": "nats"}
    assert {k: numbers[f"rival_{k}"] for k in key} == {k: rival[n] for k, n in key.items()}
    assert (chart.chosen() in chart.frontier()) == (not better)


@given(records, st.sampled_from(("bits", "bytes")))
def test_the_frontier_falls(table: dict[str, Any], size: Any) -> None:
    """From one to the next more bytes and fewer nats, or equal in both; it ends at the least."""
    chart = BitsChart(table, size=size)
    front = [(p.size(size), p.nats) for p in chart.frontier()]
    for a, b in pairwise(front):
        assert a == b or (a[0] < b[0] and a[1] > b[1])
    rows = [r for r in table["summary"] if r["method"] in METHODS]
    assert front[-1][1] == min(r["nats"] for r in rows)
    assert not any(p.beats(p, size) for p in chart.frontier())


@given(records, states)
def test_the_rival_is_on_the_frontier(table: dict[str, Any], state: dict[str, Any]) -> None:
    chart = BitsChart(table, **state)
    rival = chart.compute()["rival_nats"], chart.compute()["rival_bytes"]
    assert rival in [(p.nats, p.bytes) for p in chart.frontier()]


def test_the_trained_network_stands_beside_the_others() -> None:
    without, beside = BitsChart(record()), BitsChart(record(), trained())
    assert beside.frontier() == without.frontier()
    numbers = beside.compute()
    assert numbers["dominated"] == without.compute()["dominated"]
    assert numbers.keys() - without.compute().keys() == {
        "trained_bits",
        "trained_bytes",
        "trained_nats",
    }
    beside.method = "onebit"
    found = trained()["found"]
    for name in ("bits_per_weight", "bytes", "perplexity"):
        assert beside.compute()[name] == found[name]
    assert beside.compute()["nats"] == found["nats_per_char"]
    assert beside.compute()["dominated"] == 0
    loser = BitsChart(record(), trained(5.0), method="onebit")
    assert loser.compute()["dominated"] == 3  # those of 1 bit with a scale per row are smaller


@pytest.mark.parametrize("beside", [None, trained()], ids=["alone", "with the trained one"])
def test_the_page_carries_the_record(beside: Any) -> None:
    chart = BitsChart(record(), beside)
    first = chart._esm.splitlines()[0]
    data = json.loads(first.removeprefix("const DATA = ").removesuffix(";"))
    assert data["names"] == list(Point._fields)
    assert len(data["points"]) == 24 + (beside is not None)
    for values in data["points"][:24]:
        point = dict(zip(data["names"], values, strict=True))
        row = row_of(record(), point)
        assert point == {name: row[name] for name in point}
    assert data["teacher"] == {k: v for k, v in TEACHER.items() if k != "top1"}
    assert chart._esm in chart.to_html()


def test_charts_of_two_records_do_not_mix() -> None:
    first, second = BitsChart(record(1)), BitsChart(record(2))
    assert first._esm != second._esm
    assert first.get_state()["_esm"] == BitsChart(record(1))._esm


def test_what_the_chart_is_there_to_show() -> None:
    """At 2 bits GPTQ loses least, by far; at 1 bit nothing is of use."""
    table = read_record("weight_only")
    nats = {
        (method, bits): BitsChart(table, method=method, bits=bits).compute()["nats"]
        for method in METHODS
        for bits in BITS
    }
    teacher = table["teacher"]["nats_per_char"]
    assert nats["gptq", 2] - teacher < 0.3 * (nats["rtn", 2] - teacher)
    assert min(nats[method, 1] for method in METHODS) > nats["rtn", 2] + 0.5
    assert BitsChart(table, method="rtn", bits=2).compute()["dominated"] > 0
    assert BitsChart(table, method="gptq", bits=2).compute()["dominated"] == 0


def test_a_record_that_lacks_a_row_is_refused() -> None:
    table = record()
    table["summary"] = [r for r in table["summary"] if (r["method"], r["bits"]) != ("awq", 3)]
    with pytest.raises(ValueError, match=r"record must have .* lacks \[\('awq', 3, None\), "):
        BitsChart(table)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"method": "qat"}, "method"),
        ({"method": "onebit"}, r"method must be .* without results/chargpt_onebit\.json"),
        ({"bits": 5}, "bits"),
        ({"bits": "2"}, "bits"),
        ({"group_size": 32}, "group_size"),
        ({"size": "kB"}, "size"),
        ({"loss": "top1"}, "loss"),
    ],
    ids=str,
)
def test_wrong_state_is_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(traitlets.TraitError, match=words):
        BitsChart(record(), **wrong)
    chart = BitsChart(record())
    with pytest.raises(traitlets.TraitError, match=words):
        chart.set_state(wrong)
    assert chart.state() == BitsChart(record()).state()
