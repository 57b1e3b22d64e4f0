"""The explorables without a browser: what they carry, what they accept, what they compute."""

from __future__ import annotations

import fnmatch
import gzip
import html.parser
import json
import math
import re
import tomllib
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
import traitlets
from hypothesis import given
from hypothesis import strategies as st

from qtools import QuantSpec, choose_qparams, fake_quantize
from qtools.error import error_bound
from qtools.explore import (
    BitsChart,
    Budget,
    ErrorLab,
    Explorable,
    FixedPoint,
    MaskLab,
    NumberLines,
    ObserverLab,
    OneBitAblations,
    OneBitWriter,
    PackedDot,
    RankLab,
    RankOne,
    Scoreboard,
    Sensitivity,
    SignFlip,
    StraightThrough,
    SVIDLab,
    Temperature,
)
from qtools.explore._base import escape_script, state_trait
from qtools.fixed_point import FixedPointMultiplier, multiply

KINDS: tuple[type[Explorable], ...] = (
    BitsChart,
    Budget,
    NumberLines,
    ErrorLab,
    FixedPoint,
    MaskLab,
    ObserverLab,
    OneBitAblations,
    OneBitWriter,
    PackedDot,
    RankLab,
    RankOne,
    Scoreboard,
    Sensitivity,
    SignFlip,
    StraightThrough,
    SVIDLab,
    Temperature,
)
ROOT = Path(__file__).parents[1]
VIEW = "application/vnd.jupyter.widget-view+json"
SVG = "http://www.w3.org/2000/svg"  # the name of a namespace; nothing is fetched from it


class Parts(html.parser.HTMLParser):
    """The state, the visible text and the scripts of an explorable, as a browser sees them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.state: dict[str, Any] = {}
        self.scripts: list[str] = []
        self.text = ""
        self.inside = ""
        self.attributes: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [name for name, _ in attrs]
        self.inside = tag
        if tag == "script":
            self.scripts.append("")
        if "data-state" in dict(attrs):
            self.state = json.loads(dict(attrs)["data-state"] or "")

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            self.scripts[-1] += data
        else:
            self.text += data


@pytest.mark.parametrize("kind", KINDS)
def test_asks_for_nothing_from_anywhere(kind: type[Explorable]) -> None:
    text = kind().to_html().replace(SVG, "")
    assert not re.search(r"https?:|//\w+\.|@import|\bfetch\(|XMLHttpRequest|WebSocket", text)
    assert not re.search(r"\b(src|href)\s*=", text)
    assert set(re.findall(r"url\((.)", text)) <= {"#"}


@pytest.mark.parametrize("kind", KINDS)
def test_is_one_module_with_no_imports(kind: type[Explorable]) -> None:
    module = kind()._esm
    assert not re.search(r"^\s*import\b|\bimport\s*\(|\brequire\s*\(", module, flags=re.MULTILINE)
    assert re.findall(r"^export .*", module, flags=re.MULTILINE) == ["export default explorable;"]
    assert Parts(kind().to_html()).scripts[0].count(escape_script(module)) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_is_small(kind: type[Explorable]) -> None:
    fragment = kind().to_html().encode()
    # Two tables of 3125 counts of two bytes, in base64; six pictures of 784 half bytes; a
    # picture of 9408 bytes, in base64, and counts and singular values in decimal.
    tables = {Sensitivity: (17_000, 12_000), RankLab: (17_000, 10_000), Temperature: (3_200, 2_000)}
    tables[OneBitAblations] = (32_000, 14_000)  # 40 curves of 60 points, 26 texts
    tables[BitsChart] = (1_600, 800)  # 25 networks, nine numbers each
    tables[Scoreboard] = (26_000, 8_000)  # nearly 200 networks, fourteen entries each
    tables[MaskLab] = (6_500, 5_500)  # 1152 weights and half of a Gram matrix, two bytes each
    tables[OneBitWriter] = (527_000, 390_000)  # a language model of 383 kB, in base64
    table, packed = tables.get(kind, (0, 0))
    assert len(fragment) <= 28_000 + table
    assert len(gzip.compress(fragment)) <= 10_000 + packed


@pytest.mark.parametrize("kind", KINDS)
def test_is_the_same_every_time(kind: type[Explorable]) -> None:
    first, second = kind(), kind()
    assert first.to_html() == second.to_html()
    assert repr(first) == repr(second)
    assert re.match(rf"{kind.__name__}\(\w+=.*\)$", repr(first))
    data, _ = first._repr_mimebundle_()
    again, _ = second._repr_mimebundle_()
    assert data["text/html"] == again["text/html"]
    assert data["text/plain"] == again["text/plain"]
    assert "id" not in Parts(first.to_html()).attributes


@pytest.mark.parametrize("kind", KINDS)
def test_carries_the_live_view_and_the_page(kind: type[Explorable]) -> None:
    widget = kind()
    data, _ = widget._repr_mimebundle_()
    assert data[VIEW]["model_id"] == widget.model_id
    parts = Parts(data["text/html"])
    assert parts.state == widget.state()
    assert len(parts.scripts) == 1
    assert kind.moves in parts.text
    assert "Open this chapter in the built book or run the cell." in parts.text


def test_package_data_holds_every_script_and_style() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["qtools.explore"]
    folder = ROOT / "qtools" / "explore"
    shipped = [p for p in folder.iterdir() if p.is_file() and p.suffix != ".py"]
    assert {p.name for p in shipped} >= {"_common.js", "_common.css", "_page.js", "budget.js"}
    for path in shipped:
        assert any(fnmatch.fnmatch(path.name, pattern) for pattern in patterns), path.name


class Quoting(Explorable):
    script = "budget.js"
    moves = 'Type <b> & "quotes".'
    words = state_trait(traitlets.Unicode(""))


@given(st.text(alphabet=st.sampled_from("</>&\"'!-\\ abscript\u2028é"), max_size=30))
def test_any_state_survives_the_page(words: str) -> None:
    parts = Parts(Quoting(words=words).to_html())
    assert parts.state == {"words": words}
    assert len(parts.scripts) == 1
    assert Quoting.moves in parts.text


def test_any_string_survives_a_script_element() -> None:
    words = "</script><!-- <script> </SCRIPT> a < b </p>"
    module = escape_script(f'const words = "{words}";')
    parts = Parts(f'<script type="module">{module}</script><p>after</p>')
    assert parts.scripts == [module]
    assert parts.text == "after"
    # What JavaScript reads: a backslash before an ordinary character stands for that character.
    assert module.replace("\\", "") == f'const words = "{words}";'


@pytest.mark.parametrize("kind", KINDS)
def test_state_goes_both_ways(kind: type[Explorable]) -> None:
    """As ipywidgets does it: the whole state out, a change from the browser in."""
    widget = kind()
    sent = widget.get_state()
    assert {name: sent[name] for name in widget.state()} == widget.state()
    assert sent["_esm"] == kind()._esm
    before = widget.compute()
    # Bits alone change nothing before the first step of a weight inside the range.
    changes = {
        StraightThrough: ("start", 0.5),
        MaskLab: ("sparsity", 7),
        BitsChart: ("bits", 3),
        OneBitAblations: ("at", 7),
        OneBitWriter: ("share", 7.0),
        RankLab: ("rank", 7),
        RankOne: ("a1", 2.5),
        SVIDLab: ("rows", 0.25),
        Scoreboard: ("bits", 4),
        Sensitivity: ("fc2", 2),
        SignFlip: ("start", 0.5),
        Temperature: ("image", 2),
    }
    name, value = changes.get(kind, ("bits", 7))
    widget.set_state({name: value})
    assert widget.state()[name] == value
    assert widget.compute() != before
    copy = kind(**widget.state())
    assert copy.state() == widget.state()
    assert copy.compute() == widget.compute()
    assert Parts(copy.to_html()).state == widget.state()


def test_a_range_moves_as_a_whole() -> None:
    widget = NumberLines(x_min=-1.0, x_max=1.0)
    widget.set_state({"x_min": 2.0, "x_max": 3.0})  # x_min alone would be above x_max
    assert widget.qparams().scale.item() == 3.0 / 15


@pytest.mark.parametrize(
    ("kind", "wrong", "words"),
    [
        (Budget, {"parameters": 10.0}, "parameters"),
        (Budget, {"parameters": math.nan}, "parameters must be a finite number"),
        (Budget, {"bits": 0}, "bits"),
        (Budget, {"bits": 33}, "bits"),
        (Budget, {"bits": 4.5}, "bits"),
        (Budget, {"group_size": -1}, "group_size"),
        (Budget, {"bandwidth": math.inf}, "bandwidth"),
        (Budget, {"memory": 0.0}, "memory"),
        (Budget, {"memory": "16 GB"}, "memory"),
        (NumberLines, {"x": 4.5}, "x"),
        (NumberLines, {"x": math.nan}, "x must be a finite number from -4.0 to 4.0"),
        (NumberLines, {"x_min": 3.5}, "x_min must not be above x_max"),
        (NumberLines, {"x_min": 1.0, "x_max": 0.0}, "x_min must not be above x_max"),
        (NumberLines, {"bits": 1}, "bits"),
        (NumberLines, {"bits": 9}, "bits"),
        (NumberLines, {"signed": "yes"}, "signed"),
        (ErrorLab, {"distribution": "cauchy"}, "distribution"),
        (ErrorLab, {"clip": 0.2}, "clip"),
        (ErrorLab, {"clip": -math.inf}, "clip"),
        (ErrorLab, {"bits": 16}, "bits"),
        (FixedPoint, {"factor": 0.0}, "factor"),
        (FixedPoint, {"factor": math.nan}, "factor must be a finite number"),
        (FixedPoint, {"bits": 3}, "bits"),
        (FixedPoint, {"bits": 32}, "bits"),
        (FixedPoint, {"acc": 2**31}, "acc"),
        (FixedPoint, {"acc": 0.5}, "acc"),
    ],
    ids=str,
)
def test_wrong_state_is_refused(kind: type[Explorable], wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(traitlets.TraitError, match=words):
        kind(**wrong)
    widget = kind()
    with pytest.raises(traitlets.TraitError, match=words):
        widget.set_state(wrong)
    assert widget.state() == kind().state()


def test_a_base_without_compute_says_so() -> None:
    with pytest.raises(NotImplementedError, match="Quoting"):
        Quoting().compute()


@given(
    parameters=st.floats(1e5, 1e12),
    bits=st.integers(1, 32),
    group_size=st.integers(0, 65536),
    bandwidth=st.floats(1, 1e4),
    memory=st.floats(0.1, 1e4),
)
def test_budget_against_exact_fractions(**state: Any) -> None:
    numbers = Budget(**state).compute()
    weights, group = Fraction(state["parameters"]), state["group_size"]
    size = weights * state["bits"] / 8 + (2 * math.ceil(weights / group) if group else 0)
    exact = {
        "bytes": size,
        "bits_per_weight": size * 8 / weights,
        "versus_fp32": weights * 4 / size,
        "versus_fp16": weights * 2 / size,
        "tokens_per_second": Fraction(state["bandwidth"]) * 10**9 / size,
        "share": size / (Fraction(state["memory"]) * 10**9),
    }
    for name, value in exact.items():
        assert numbers[name] == pytest.approx(float(value), rel=1e-12), name
    assert numbers["fits"] == (numbers["share"] <= 1) or numbers["share"] == pytest.approx(1)


def test_budget_by_hand() -> None:
    numbers = Budget(parameters=7e9, bits=4, group_size=64, bandwidth=90.0, memory=4.0).compute()
    assert numbers["bits_per_weight"] == 4.25  # 16 bits shared by 64 weights
    assert numbers["bytes"] == 3.71875e9
    assert numbers["fits"] == 1
    assert Budget(parameters=7e9, bits=5, memory=4.0).compute()["fits"] == 0


@st.composite
def lines(draw: st.DrawFn) -> NumberLines:
    low, high = sorted(draw(st.tuples(st.floats(-4, 4), st.floats(-4, 4))))
    flags = {name: draw(st.booleans()) for name in ("signed", "symmetric", "narrow_range")}
    bits, x = draw(st.integers(2, 8)), draw(st.floats(-4, 4))
    return NumberLines(x_min=low, x_max=high, x=x, bits=bits, **flags)


@given(lines())
def test_number_lines_shows_what_qtools_does(widget: NumberLines) -> None:
    numbers = widget.compute()
    spec = QuantSpec(
        bits=widget.bits,
        signed=widget.signed,
        symmetric=widget.symmetric,
        narrow_range=widget.narrow_range,
    )
    x, low, high = (
        torch.tensor(v, dtype=torch.float64) for v in (widget.x, widget.x_min, widget.x_max)
    )
    qp = choose_qparams(low, high, spec)
    assert numbers["scale"] == qp.scale.item()
    assert numbers["zero_point"] == qp.zero_point.item()
    assert (numbers["qmin"], numbers["qmax"]) == (spec.qmin, spec.qmax)
    assert numbers["x_hat"] == fake_quantize(x, qp).item()
    assert numbers["x_hat"] == numbers["scale"] * (numbers["code"] - numbers["zero_point"])
    # Proposition 3.1, with the slack of float64 that error_bound states.
    assert numbers["error"] <= error_bound(x, qp).item()
    assert numbers["bound"] <= error_bound(x, qp).item()
    if numbers["clipped"]:
        assert numbers["code"] in (spec.qmin, spec.qmax)
        assert numbers["error"] == pytest.approx(numbers["bound"], rel=1e-12)
        assert numbers["bound"] >= numbers["scale"] / 2 * (1 - 1e-12)


def test_number_lines_by_hand() -> None:
    inside = NumberLines(x_min=-1.5, x_max=3.0, x=1.0, bits=4).compute()
    assert (inside["scale"], inside["zero_point"], inside["code"]) == (0.3, -3, 0)
    assert inside["error"] == pytest.approx(0.1)
    assert (inside["bound"], inside["clipped"]) == (0.15, 0)
    outside = NumberLines(x_min=-1.5, x_max=3.0, x=3.5, bits=4).compute()
    assert (outside["code"], outside["clipped"]) == (7, 1)
    assert outside["error"] == outside["bound"] == pytest.approx(0.5)
    # Past the edge by less than half a step: not clipped, and the error is the distance.
    near = NumberLines(x_min=-1.5, x_max=3.0, x=3.1, bits=4).compute()
    assert (near["code"], near["clipped"]) == (7, 0)
    assert near["error"] == near["bound"] == pytest.approx(0.1)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("clip", [0.5, 2.0, 4.0])
def test_error_lab_against_a_million_numbers(clip: float, bits: int) -> None:
    numbers = ErrorLab(distribution="gaussian", bits=bits, clip=clip).compute()
    x = torch.randn(1_000_000, dtype=torch.float64, generator=torch.Generator().manual_seed(bits))
    spec = QuantSpec(bits=bits, symmetric=True, narrow_range=True)
    square = (x - fake_quantize(x, choose_qparams(-clip, clip, spec))).square()
    inside = x.abs() <= clip
    for name, part in (("total", square), ("rounding", square * inside)):
        error = 6 * (part.std() / len(x) ** 0.5).item()  # six standard errors of the mean
        assert numbers[name] == pytest.approx(part.mean().item(), abs=error), name
    assert numbers["total"] == numbers["rounding"] + numbers["clipping"]
    assert numbers["sqnr"] == pytest.approx(-10 * math.log10(numbers["total"]))
    assert numbers["model"] == pytest.approx(numbers["step"] ** 2 / 12)


@given(
    st.sampled_from(["gaussian", "laplace", "student_t", "uniform"]),
    st.integers(2, 8),
    st.floats(0.3, 40),
)
def test_no_clip_is_better_than_the_best(distribution: str, bits: int, clip: float) -> None:
    numbers = ErrorLab(distribution=distribution, bits=bits, clip=clip).compute()
    assert numbers["best_total"] <= numbers["total"] * (1 + 1e-12)
    assert numbers["best_sqnr"] >= numbers["sqnr"] - 1e-10
    assert 0.3 < numbers["best_clip"] < 40


@pytest.mark.parametrize("bits", range(2, 9))
def test_best_clip_of_uniform_data_is_known(bits: int) -> None:
    """``2Q + 1`` cells of one width over ``[-√3, √3]``: the last level sits half a cell inside."""
    largest = 2 ** (bits - 1) - 1
    best = ErrorLab(distribution="uniform", bits=bits).compute()
    assert best["best_clip"] == pytest.approx(math.sqrt(3) * 2 * largest / (2 * largest + 1))
    cell = 2 * math.sqrt(3) / (2 * largest + 1)
    assert best["best_total"] == pytest.approx(cell**2 / 12)


@given(
    st.floats(2**-16, 1),
    st.integers(4, 31),
    st.integers(-(2**31), 2**31 - 1) | st.integers(-99, 99),
)
def test_fixed_point_against_exact_fractions(factor: float, bits: int, acc: int) -> None:
    numbers = FixedPoint(factor=factor, bits=bits, acc=acc).compute()
    half, true = Fraction(1, 2), Fraction(factor) * acc
    stored = Fraction(int(numbers["mantissa"]), 2 ** int(numbers["shift"]))
    assert 2 ** (bits - 1) <= numbers["mantissa"] < 2**bits
    assert Fraction(numbers["stored"]) == stored
    assert abs(stored - Fraction(factor)) <= Fraction(factor) / 2**bits  # Proposition 4.4
    for name, value in (("result", stored * acc), ("exact", true)):
        whole = math.floor(abs(value) + half)
        assert numbers[name] == (whole if value >= 0 else -whole), name
    assert numbers["floor"] == math.floor(stored * acc)
    assert numbers["differs"] == (numbers["result"] != numbers["exact"])
    if numbers["differs"]:  # Proposition 4.5
        assert abs(true - math.floor(true) - half) <= abs(true) / 2**bits
    assert abs(numbers["twice"] - numbers["result"]) <= 1


@given(st.floats(2**-16, 1), st.integers(-(2**31), 2**31 - 1))
def test_fixed_point_of_31_bits_is_qtools(factor: float, acc: int) -> None:
    widget = FixedPoint(factor=factor, bits=31, acc=acc)
    ours = FixedPointMultiplier.from_real(torch.tensor(factor, dtype=torch.float64))
    numbers = widget.compute()
    assert (numbers["mantissa"], numbers["shift"]) == (ours.mantissa.item(), ours.shift.item())
    assert numbers["result"] == multiply(torch.tensor(acc), ours).item()


def test_fixed_point_by_hand() -> None:
    numbers = FixedPoint(factor=0.3, bits=31, acc=8).compute()  # 2.4, but 4.8 rounds to 5 first
    assert (numbers["result"], numbers["twice"], numbers["floor"]) == (2, 3, 2)
    numbers = FixedPoint(factor=0.5, bits=31, acc=-25).compute()
    assert (numbers["result"], numbers["exact"], numbers["floor"]) == (-13, -13, -13)
    carried = FixedPoint(factor=0.999, bits=4, acc=100).compute()  # 15.98 rounds up to 16
    assert (carried["mantissa"], carried["shift"], carried["result"]) == (8, 3, 100)


def stored_explorables() -> list[Any]:
    found = []
    for path in sorted((ROOT / "book").glob("[0-9][0-9]_*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            for output in cell.get("outputs", []):
                text = "".join(output.get("data", {}).get("text/html", ""))
                name = re.match(r'<div class="qtools-explorable" data-explorable="(\w+)"', text)
                if name:
                    found.append(pytest.param(name[1], text, id=f"{path.stem}-{name[1]}"))
    return found


@pytest.mark.parametrize(("name", "text"), stored_explorables())
def test_notebooks_store_the_explorable_of_today(name: str, text: str) -> None:
    """The built book shows what is stored, so an old module there would go untested."""
    kind = {k.__name__: k for k in KINDS}[name]
    assert text == kind(**Parts(text).state).to_html(), "stored output is old: run `make execute`"
