"""The sensitivity chart without a browser: its table against the network, its numbers by hand."""

from __future__ import annotations

import itertools
import json
import random
import re
from typing import Any

import pytest
import torch
import traitlets
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import sensitivity as bench
from qtools import QuantSpec, ptq
from qtools.data import fashion_mnist, normalise
from qtools.explore import Sensitivity
from qtools.explore.sensitivity import BITS, LAYERS, RANGES, data_script, measured
from qtools.metrics import Packed, accuracy, storage, wilson
from qtools.models import SmallCNN
from qtools.ptq.simulate import FixedQParams
from qtools.ptq.weights import choose_weight_qparams
from qtools.results import read_record


def charts() -> st.SearchStrategy[Sensitivity]:
    bits = {name: st.sampled_from(BITS) for name in LAYERS}
    return st.builds(Sensitivity, weight_range=st.sampled_from(RANGES), **bits)


def count(weight_range: str, bits: tuple[int, ...]) -> int:
    """Right answers, found in the record by counting through all combinations in order."""
    numbers = read_record("sensitivity")[f"right_{weight_range}"].split()
    return int(numbers[list(itertools.product(BITS, repeat=5)).index(bits)])


def plain(weight_range: Any, bits: tuple[int, ...]) -> torch.fx.GraphModule:
    """A mixed network the ordinary way: one simulation, each layer with a quantizer of its own."""
    p = ptq.prepare(SmallCNN.pretrained(), ptq.Recipe(weight_range=weight_range))
    ptq.calibrate(p, bench.calibration_images().split(64))
    for layer, b in zip(ptq.layers(p), bits, strict=True):
        spec = QuantSpec(b, symmetric=True, granularity="channel")
        qp = choose_weight_qparams(layer.module.weight, spec, weight_range)
        layer.module.weight_quantizer = FixedQParams(qp)
    return ptq.simulate(p)


@pytest.mark.parametrize("weight_range", RANGES)
def test_stages_are_the_plain_network(weight_range: Any) -> None:
    """Logits of mixed networks, layer by layer from five of one width each, are the same."""
    rng = random.Random(0)
    x = bench.calibration_images()[:50]
    cut = [bench.stages(n) for n in bench.networks(weight_range, bench.calibration_images())]
    for _ in range(4):
        bits = tuple(rng.choice(BITS) for _ in LAYERS)
        with torch.inference_mode():
            y = x
            for i, b in enumerate(bits):
                y = cut[BITS.index(b)][i](y)
            assert torch.equal(y, plain(weight_range, bits)(x)), bits


def test_the_tree_counts_every_path() -> None:
    """Three choices, two stages that multiply and add: right where the first logit is larger."""

    def stage(k: int, i: int) -> Any:
        return (lambda x: x * (k - 1)) if i == 0 else (lambda x: x + torch.tensor([k, 1.0]))

    cut = [[stage(k, i) for i in range(2)] for k in range(3)]
    x, y = torch.randn(2500, 2, generator=torch.Generator().manual_seed(0)), torch.zeros(2500)
    right = bench.right_answers(cut, x, y.long())
    for a, b in itertools.product(range(3), repeat=2):
        logits = x * (a - 1) + torch.tensor([b, 1.0])
        assert right[a, b] == (logits.argmax(1) == 0).sum()


@pytest.mark.slow
@pytest.mark.parametrize("weight_range", RANGES)
def test_the_record_against_the_plain_network(weight_range: Any) -> None:
    """10,000 images again. Sums in another order may move a code: five answers at most."""
    rng, data = random.Random(1), fashion_mnist()
    images = normalise(data.test_images)
    # Two are enough: that mixed networks are the plain ones bit for bit is shown above.
    for bits in [(8,) * 5, tuple(rng.choice(BITS) for _ in LAYERS)]:
        found = accuracy(plain(weight_range, bits), images, data.test_labels)
        assert round(found.value * found.n) == pytest.approx(count(weight_range, bits), abs=5)


def test_bytes_are_those_of_a_file() -> None:
    for b in BITS:
        p = ptq.prepare(SmallCNN.pretrained())
        file = {}
        for layer, name in zip(ptq.layers(p), LAYERS, strict=True):
            spec = QuantSpec(b, symmetric=True, granularity="channel")
            qp = choose_weight_qparams(layer.module.weight, spec, "minmax")
            codes = torch.zeros(layer.module.weight.shape, dtype=torch.int8)
            file |= {name: Packed(codes, b), f"{name}.scale": qp.scale}
        numbers = Sensitivity(**dict.fromkeys(LAYERS, b)).compute()
        assert numbers["bytes"] == storage(file).data_bytes
        floats = sum(layer.module.weight.nbytes for layer in ptq.layers(p))
        assert numbers["smaller"] == floats / numbers["bytes"]


@given(charts())
def test_numbers_by_other_means(chart: Sensitivity) -> None:
    numbers, w = chart.compute(), chart.weight_range
    bits = tuple(getattr(chart, name) for name in LAYERS)
    right, n = count(w, bits), read_record("sensitivity")["test_images"]
    assert numbers["accuracy"] == pytest.approx(100 * right / n, rel=1e-12)
    interval = wilson(right, n)
    assert (numbers["low"], numbers["high"]) == (100 * interval.low, 100 * interval.high)
    assert numbers["low"] <= numbers["accuracy"] <= numbers["high"]
    top = count(w, (8,) * 5)
    assert numbers["lost"] == pytest.approx(100 * (top - right) / n)
    alone = []
    for i, name in enumerate(LAYERS):
        single = tuple(b if i == j else 8 for j, b in enumerate(bits))
        alone.append(100 * (top - count(w, single)) / n)
        assert numbers[f"alone_{name}"] == pytest.approx(alone[-1], abs=1e-12)
    assert numbers["predicted"] == pytest.approx(sum(alone), abs=1e-10)


@given(charts())
def test_nothing_of_its_size_is_better_than_the_best(chart: Sensitivity) -> None:
    numbers, m = chart.compute(), measured(chart.weight_range)
    assert numbers["best_bytes"] <= numbers["bytes"]
    assert numbers["best_accuracy"] >= numbers["accuracy"]
    within = m.right[m.bytes <= numbers["bytes"]]
    assert numbers["best_accuracy"] == 100 * within.max() / m.images
    as_good = (m.right == within.max()) & (m.bytes < numbers["best_bytes"])
    assert not as_good.any()


def test_what_the_chart_is_there_to_show() -> None:
    """The first layer is the most sensitive and the largest the least; losses do not add up."""
    eight = dict.fromkeys(LAYERS, 8)
    for name in LAYERS[1:]:
        first = Sensitivity(**{**eight, "conv1": 3}).compute()
        assert first["lost"] > 5 * Sensitivity(**{**eight, name: 3}).compute()["lost"]
    assert Sensitivity(**eight).compute()["predicted"] == 0
    alike = Sensitivity(**dict.fromkeys(LAYERS, 3)).compute()
    assert alike["best_accuracy"] > alike["accuracy"] + 10
    two = Sensitivity(**dict.fromkeys(LAYERS, 2)).compute()
    assert two["lost"] > 80  # barely better than a guess
    better = Sensitivity(weight_range="mse", **dict.fromkeys(LAYERS, 2)).compute()
    assert better["accuracy"] > two["accuracy"] + 20


def test_the_page_carries_the_record() -> None:
    data = json.loads(re.fullmatch(r"const DATA = (.*);\n", data_script())[1])  # type: ignore[index]
    record = read_record("sensitivity")
    assert data["inFloat"] == record["float_right"]
    assert record["simulated"] is True
    assert (tuple(record["layers"]), tuple(record["bits"])) == (LAYERS, BITS)
    assert data_script() in Sensitivity().to_html()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"conv1": 5}, "conv1"), ({"fc2": "4"}, "fc2"), ({"weight_range": "kl"}, "weight_range")],
    ids=str,
)
def test_wrong_state_is_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(traitlets.TraitError, match=words):
        Sensitivity(**wrong)
