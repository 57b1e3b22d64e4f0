"""BitsChart: bits against loss, every way to quantize CharGPT's weights that was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import traitlets

from qtools.explore._base import Explorable, module_text, state_trait
from qtools.results import read_record, results_dir

METHODS = ("rtn", "gptq", "awq")
BITS = (1, 2, 3, 4)
GROUPS = (None, 64)

#: The record of the model that chapter 14 trains; its point is drawn where the record is there.
TRAINED = "chargpt_onebit"


class Point(NamedTuple):
    """A measured network.

    Attributes
    ----------
    method, bits, group_size
        How its weights were quantized.
    bits_per_weight : float
        Of the quantized matrices, with their scales, zero points and padding.
    bytes : float
        Of the whole file; this and the other numbers are means over the ``seeds``.
    nats, perplexity : float
        Of a character of the held-out text.
    deviation : float
        Of the nats over the seeds, 0 for one.
    """

    method: str
    bits: int
    group_size: int | None
    bits_per_weight: float
    bytes: float
    nats: float
    perplexity: float
    deviation: float
    seeds: int

    def size(self, by: Literal["bits", "bytes"]) -> float:
        """Return the size that the horizontal axis shows."""
        return self.bits_per_weight if by == "bits" else self.bytes

    def beats(self, other: Point, by: Literal["bits", "bytes"]) -> bool:
        """``size <= size'`` and ``nats <= nats'``, one of them strictly: the other is dominated."""
        mine, theirs = (self.size(by), self.nats), (other.size(by), other.nats)
        return mine[0] <= theirs[0] and mine[1] <= theirs[1] and mine != theirs


class BitsChart(Explorable):
    """Choose one of the 24 networks of ``python -m benchmarks.weight_only``; see what it costs.

    A network is dominated if another is at most as large and at most as lossy, and not equal in
    both. Those that are not make the frontier. The distilled 1-bit network of chapter 14 stands
    beside it: it was trained, the 24 were not.

    Parameters
    ----------
    record : mapping, optional
        What the command wrote, by default ``results/weight_only.json``.
    trained : mapping, optional
        What ``python -m benchmarks.onebit_long`` wrote. Without ``record``, by default
        ``results/chargpt_onebit.json`` if it is there.
    method : {"rtn", "gptq", "awq", "onebit"}
        Round to nearest, GPTQ, AWQ; or the trained network, whatever ``bits`` and ``group_size``.
    bits : {1, 2, 3, 4}
    group_size : {None, 64}
        Columns that share a scale: all of a row, or 64.
    size : {"bits", "bytes"}
        What the horizontal axis shows, and what "smaller" means.
    loss : {"nats", "perplexity"}
        What the vertical axis shows.

    Raises
    ------
    ValueError
        If the record lacks one of the 24.
    """

    script = "bits_chart.js"
    moves = (
        "Choose a method, its bits and its groups, and see the bits a weight, the bytes of the"
        " file, the loss beside the teacher's, and which others are both smaller and better."
    )

    method = state_trait(traitlets.Enum((*METHODS, "onebit"), "rtn"))
    bits = state_trait(traitlets.Enum(BITS, 2))
    group_size = state_trait(traitlets.Enum(GROUPS, None))
    size = state_trait(traitlets.Enum(("bits", "bytes"), "bits"))
    loss = state_trait(traitlets.Enum(("nats", "perplexity"), "nats"))

    def __init__(
        self,
        record: Mapping[str, Any] | None = None,
        trained: Mapping[str, Any] | None = None,
        **state: Any,
    ) -> None:
        if record is None:
            record = read_record("weight_only")
            if trained is None and (results_dir() / f"{TRAINED}.json").exists():
                trained = read_record(TRAINED)
        self._points = points(record)
        self._teacher = record["teacher"]
        self._trained = None if trained is None else trained_point(trained["found"])
        # Of the instance, for the record's sake. AnyWidget makes it the trait that is sent.
        self._esm = self._data_script() + module_text(self.script)
        super().__init__(**state)

    @traitlets.validate("method")
    def _measured(self, proposal: Any) -> str:
        method: str = proposal["value"]
        if method == "onebit" and self._trained is None:
            raise traitlets.TraitError(
                f"method must be one of {METHODS} without results/{TRAINED}.json, got 'onebit'"
            )
        return method

    def chosen(self) -> Point:
        """Return the network that the state names."""
        if self.method == "onebit":
            assert self._trained is not None  # validated
            return self._trained
        key = (self.method, self.bits, self.group_size)
        return next(p for p in self._points if p[:3] == key)

    def frontier(self) -> list[Point]:
        """Return those of the 24 that no other of them dominates, the smallest first."""
        kept = [p for p in self._points if not any(q.beats(p, self.size) for q in self._points)]
        return sorted(kept, key=lambda p: p.size(self.size))

    def compute(self) -> dict[str, float]:
        """Return the numbers shown.

        Returns
        -------
        dict
            ``bits_per_weight``, ``bytes``, ``nats``, ``perplexity`` and ``deviation`` of the
            chosen network; ``smaller``, how many times smaller its file is than the teacher's;
            ``excess``, its nats above the teacher's; ``times``, its perplexity over the teacher's;
            ``dominated``, how many of the 24 dominate it; ``rival_bits``, ``rival_bytes`` and
            ``rival_nats`` of the smallest of these, or its own. If there is the trained network,
            its ``trained_bits``, ``trained_bytes`` and ``trained_nats``.
        """
        p, by = self.chosen(), self.size
        rivals = [q for q in self._points if q.beats(p, by)]
        named = {"rival": min(rivals or [p], key=lambda q: (q.size(by), q.nats))}
        if self._trained is not None:
            named["trained"] = self._trained
        numbers = {
            "bits_per_weight": p.bits_per_weight,
            "bytes": p.bytes,
            "nats": p.nats,
            "perplexity": p.perplexity,
            "deviation": p.deviation,
            "smaller": self._teacher["bytes"] / p.bytes,
            "excess": p.nats - self._teacher["nats_per_char"],
            "times": p.perplexity / self._teacher["perplexity"],
            "dominated": len(rivals),
        }
        for name, q in named.items():
            numbers |= {f"{name}_bits": q.bits_per_weight, f"{name}_bytes": q.bytes}
            numbers[f"{name}_nats"] = q.nats
        return numbers

    def _data_script(self) -> str:
        """Return the measurements as one line of JavaScript."""
        names = ("bytes", "nats_per_char", "perplexity", "bits_per_weight")
        trained = [] if self._trained is None else [self._trained]
        data = {
            "names": Point._fields,
            "points": [*self._points, *trained],
            "teacher": {name: self._teacher[name] for name in names},
        }
        return f"const DATA = {json.dumps(data, separators=(',', ':'))};\n"


def points(record: Mapping[str, Any]) -> list[Point]:
    """Return the 24 networks of a record, by bits, groups and method."""
    found = {(row["method"], row["bits"], row["group_size"]): row for row in record["summary"]}
    keys = [(method, bits, group) for bits in BITS for group in GROUPS for method in METHODS]
    missing = [key for key in keys if key not in found]
    if missing:
        raise ValueError(f"record must have a row of each method, bits and groups, lacks {missing}")
    return [Point(*(found[key][name] for name in Point._fields)) for key in keys]


def trained_point(found: Mapping[str, Any]) -> Point:
    """Return the distilled 1-bit network, of which there is one."""
    size = found["bits_per_weight"], found["bytes"]
    return Point("onebit", 1, None, *size, found["nats_per_char"], found["perplexity"], 0.0, 1)
