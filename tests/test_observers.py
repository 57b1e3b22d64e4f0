"""Observers against torch.ao's, against naive searches, and on data that arrives awkwardly."""

from __future__ import annotations

import copy
import math
import warnings
from fractions import Fraction

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qtools import QuantSpec, choose_qparams, fake_quantize, qparams_from_tensor
from qtools.criteria import relative_entropy, squared_error
from qtools.histogram import Histogram, grid_of, magnitudes, order_statistic
from qtools.observers import (
    HistogramObserver,
    MinMaxObserver,
    MovingAverageObserver,
    Observer,
    PercentileObserver,
)

from .strategies import specs, tensors

MAKERS = {
    "minmax": MinMaxObserver,
    "average": MovingAverageObserver,
    "percentile": lambda spec: PercentileObserver(spec, 99.0, bins=64),
    "mse": lambda spec: HistogramObserver(spec, "mse", bins=64),
    "kl": lambda spec: HistogramObserver(spec, "kl", bins=64),
}
COUNTING = ("percentile", "mse", "kl")
every = pytest.mark.parametrize("name", MAKERS)
counting = pytest.mark.parametrize("name", COUNTING)


def watch(obs: Observer, *batches: torch.Tensor) -> Observer:
    for x in batches:
        assert obs(x) is x
    return obs


def normal(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed))


def same(a: Observer, b: Observer) -> bool:
    """Same state and same range, to the last bit; a buffer of first values may be in any order."""
    states = [{k: v for k, v in o.state_dict().items() if not k.endswith("values")} for o in (a, b)]
    return all(torch.equal(states[0][k], states[1][k]) for k in states[0]) and all(
        torch.equal(x, y) for x, y in zip(a.range(), b.range(), strict=True)
    )


# --- torch.ao as the oracle ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["minmax", "average"])
@pytest.mark.parametrize("axis", [None, 0, 1, 2])
@pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
@given(st.lists(tensors((torch.float32, torch.float16, torch.bfloat16)), min_size=1, max_size=5))
@settings(max_examples=25)
def test_equals_torch_bit_for_bit(kind, axis, signed, batches):
    """Ranges always; scale and zero point when asymmetric and above torch's smallest scale."""
    observers = pytest.importorskip("torch.ao.quantization.observer")
    names = {
        ("minmax", False): "MinMaxObserver",
        ("minmax", True): "PerChannelMinMaxObserver",
        ("average", False): "MovingAverageMinMaxObserver",
        ("average", True): "MovingAveragePerChannelMinMaxObserver",
    }
    batches = [b[..., :1] for b in batches]  # one number of channels
    channel = axis is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = getattr(observers, names[kind, channel])(
            dtype=torch.qint8 if signed else torch.quint8, **({"ch_axis": axis} if channel else {})
        )
        for x in batches:
            theirs(x)
        scale, zero_point = theirs.calculate_qparams()
    spec = QuantSpec(signed=signed, granularity="channel" if channel else "tensor", axis=axis or 0)
    ours = watch(MAKERS[kind](spec), *batches)
    finite = theirs.min_val.isfinite() & theirs.max_val.isfinite()  # their average may overflow
    assert torch.equal(ours.range()[0][finite], theirs.min_val[finite])
    assert torch.equal(ours.range()[1][finite], theirs.max_val[finite])
    qp = ours.qparams()
    agree = (scale > 2.0**-23) & scale.isfinite() & finite.reshape(-1)
    assert torch.equal(qp.scale.reshape(-1)[agree], scale.reshape(-1)[agree])
    assert torch.equal(qp.zero_point.reshape(-1)[agree], zero_point.reshape(-1)[agree].int())


def test_average_is_its_formula():
    """The closed form of the docstring, in exact arithmetic; the first batch outweighs others."""
    c, lows = Fraction(1, 4), [Fraction(v) for v in (-3, 1, -8, 2)]
    obs = watch(
        MovingAverageObserver(QuantSpec(), float(c)),
        *(torch.tensor([float(v), 9.0]) for v in lows),
    )
    n = len(lows)
    expected = (1 - c) ** (n - 1) * lows[0]
    expected += sum(c * (1 - c) ** (n - k) * lows[k - 1] for k in range(2, n + 1))
    assert Fraction(obs.range()[0].item()) == expected  # powers of two: no rounding
    assert obs.range()[1] == 9
    assert abs(0.99**99 - 0.37) < 5e-4
    assert 0.99**457 > 0.01 > 0.99**459


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_average_does_not_overflow_where_torch_does(granularity):
    obs = MovingAverageObserver(QuantSpec(granularity=granularity))
    x = torch.tensor([[-3e38, 3e38], [-1.0, 1.0]])
    low, high = watch(obs, x, -x.flip(1), torch.full_like(x, 3e38)).range()
    torch.testing.assert_close(low.view(-1)[0].item(), -3e38 * 0.99 + 3e36, rtol=1e-6, atol=0)
    assert high.view(-1)[0] == pytest.approx(3e38, rel=1e-6)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("kind", ["gaussian", "laplace", "student_t", "uniform", "relu", "outlier"])
@pytest.mark.parametrize("n", [1000, 100_000])
def test_squared_error_at_most_that_of_torch(kind, bits, n):
    observers = pytest.importorskip("torch.ao.quantization.observer")
    rng = np.random.default_rng(1)
    x = torch.from_numpy(
        {
            "gaussian": lambda: rng.standard_normal(n),
            "laplace": lambda: rng.laplace(size=n),
            "student_t": lambda: rng.standard_t(3, n),
            "uniform": lambda: rng.uniform(-0.7, 1.3, n),
            "relu": lambda: rng.standard_normal(n).clip(0),
            "outlier": lambda: np.append(rng.standard_normal(n - 1), 100.0),
        }[kind]()
    ).float()
    spec = QuantSpec(bits=bits, signed=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = observers.HistogramObserver(quant_min=spec.qmin, quant_max=spec.qmax)
        theirs.dst_nbins = 2**bits
        theirs(x)
        scale, zero_point = theirs.calculate_qparams()
    expected = torch.fake_quantize_per_tensor_affine(
        x, scale, zero_point.int(), spec.qmin, spec.qmax
    )
    ours = fake_quantize(x, watch(HistogramObserver(spec), x).qparams())
    assert (x - ours).square().mean() <= 1.02 * (x - expected).square().mean()


# --- Naive searches as the oracle ----------------------------------------------------------------


def bins_of(h: Histogram) -> list[tuple[int, float, float]]:
    """(count, left edge, right edge) of each bin that is not empty, cut to the range; no zeros."""
    w, counts = h.grid.width, h.counts.copy()
    counts[-h.grid.start] -= h.zeros
    edges = [((h.grid.start + i) * w, (h.grid.start + i + 1) * w) for i in range(len(h.counts))]
    return [
        (int(c), max(a, h.x_min), min(b, h.x_max))
        for c, (a, b) in zip(counts, edges, strict=True)
        if c
    ]


def naive_squared_error(h: Histogram, s: float, low: int, high: int) -> float:
    """Mean of (x - s k)² with k the code in low..high nearest to x, cell by cell, bin by bin."""
    total = 0.0
    for c, a, b in bins_of(h):
        if a == b:
            k = min(max(round(a / s), low), high)
            total += c * (a - s * k) ** 2
            continue
        cuts = [s * (k + 0.5) for k in range(low, high) if a < s * (k + 0.5) < b]
        for left, right in zip([a, *cuts], [*cuts, b], strict=True):
            k = min(max(math.floor((left + right) / 2 / s + 0.5), low), high)
            piece = ((right - s * k) ** 3 - (left - s * k) ** 3) / 3
            total += c * piece / (b - a)
    return total / int(h.counts.sum())


def naive_relative_entropy(counts: list[int], first: int, last: int, levels: int) -> float:
    """The definition of the docstring, one bin at a time."""
    inside = counts[first:last]
    p = list(inside)
    p[0] += sum(counts[:first])
    p[-1] += sum(counts[last:])
    runs: dict[int, list[int]] = {}
    for b in range(len(inside)):
        runs.setdefault(b * levels // len(inside), []).append(b)
    q = [0.0] * len(inside)
    for members in runs.values():
        filled = [b for b in members if inside[b]]
        for b in filled:
            q[b] = sum(inside[m] for m in members) / len(filled) / sum(inside)
    total = sum(counts)
    return sum(
        (v / total * math.log(v / total / q[b]) if q[b] else math.inf) for b, v in enumerate(p) if v
    )


@st.composite
def samples(draw: st.DrawFn) -> torch.Tensor:
    x = draw(tensors((torch.float32,))).reshape(-1)
    if draw(st.booleans()):
        x = x.relu()
    return x


small_specs = specs(("tensor",)).filter(lambda spec: spec.bits <= 4)


@given(samples(), small_specs)
@settings(max_examples=60)
def test_mse_equals_an_exhaustive_search(x, spec):
    """Every scale of the grid with every zero point, integrated over each cell of each bin."""
    obs = watch(HistogramObserver(spec, "mse", bins=16), x)
    h = obs.histogram()
    if h.x_min == h.x_max:
        return
    table = obs.candidates()
    n = spec.qmax - spec.qmin
    z = 0 if spec.signed else 2 ** (spec.bits - 1)
    zeros = [z] if spec.symmetric else range(spec.qmin, spec.qmax + 1)
    unit = max(h.x_max, -h.x_min) ** 2
    scales = table.x_max / (spec.qmax - z) if spec.symmetric else (table.x_max - table.x_min) / n
    for s, cost in list(zip(scales.tolist(), table.cost.tolist(), strict=True))[::3]:
        costs = [naive_squared_error(h, s, spec.qmin - k, spec.qmax - k) for k in zeros]
        assert cost == pytest.approx(min(costs), rel=1e-9, abs=1e-12 * unit)
    # The quantizer that comes out is the candidate: same scale, and a cost no other is below.
    qp = obs.qparams()
    best = table.cost.min()
    exact = naive_squared_error(
        h, qp.scale.item(), spec.qmin - int(qp.zero_point), spec.qmax - int(qp.zero_point)
    )
    if qp.scale > 1e-37:  # else the scale was held up to the smallest normal float
        assert exact == pytest.approx(best, rel=1e-3, abs=1e-9 * unit)


@given(samples(), small_specs)
@settings(max_examples=100)
def test_kl_equals_an_exhaustive_search(x, spec):
    obs = watch(HistogramObserver(spec, "kl", bins=64), x)
    h, table = obs.histogram(), obs.candidates()
    if h.x_min == h.x_max:
        return
    zero, w = -h.grid.start, h.grid.width
    counts = h.counts.tolist()
    counts[zero] -= h.zeros
    positive, negative = counts[zero:], counts[:zero][::-1]
    levels = spec.qmax - spec.qmin + 1
    if spec.symmetric:
        levels = spec.qmax - (0 if spec.signed else 2 ** (spec.bits - 1)) + 1
        size = max(len(positive), len(negative))
        pad = [side + [0] * (size - len(side)) for side in (positive, negative)]
        positive, negative = [a + b for a, b in zip(*pad, strict=True)], []
    right = max((k + 1 for k, c in enumerate(positive) if c), default=0)
    left = max((k + 1 for k, c in enumerate(negative) if c), default=0)
    bins = [*negative[:left][::-1], *positive[:right]]
    expected = {}
    for m in range(1, max(left, right) + 1):
        first, last = left - min(m, left), left + min(m, right)
        if last - first >= levels or m == max(left, right):
            expected[m] = naive_relative_entropy(bins, first, last, levels)
    assert len(expected) == len(table.cost)
    for (m, cost), found, x_min, x_max in zip(
        sorted(expected.items(), reverse=True),
        table.cost.tolist(), table.x_min.tolist(), table.x_max.tolist(), strict=True,
    ):  # fmt: skip
        assert (x_min, x_max) == (max(-m * w, min(h.x_min, 0)), min(m * w, max(h.x_max, 0)))
        assert found == pytest.approx(cost, rel=1e-9, abs=1e-12)
    assert expected[max(expected)] < math.inf


@given(samples(), specs(("tensor",)).filter(lambda spec: spec.bits <= 10))
@settings(max_examples=60)
def test_pruning_loses_nothing(x, spec):
    obs = watch(HistogramObserver(spec, "mse", bins=256), x)
    h = obs.histogram()
    if h.x_min == h.x_max:
        return
    pruned = squared_error(h, spec, prune=True)
    assert pruned.best == squared_error(h, spec).best


def test_cost_is_the_squared_error_of_the_quantizer():
    """The model (values spread over each bin) against the values themselves."""
    x = normal(100_000)
    for spec in (QuantSpec(), QuantSpec(bits=4, symmetric=True), QuantSpec(bits=2, signed=False)):
        obs = watch(HistogramObserver(spec), x, x.relu())
        y = torch.cat([x, x.relu()])
        actual = (y.double() - fake_quantize(y, obs.qparams()).double()).square().mean().item()
        assert obs.candidates().cost.min() == pytest.approx(actual, rel=0.01)


def test_exact_zeros_cost_nothing_and_move_no_threshold():
    x = normal(20_000).abs() + 1e-3
    zeros = torch.zeros(1_000_000)
    for criterion in ("mse", "kl"):
        alone = watch(HistogramObserver(QuantSpec(), criterion), x, torch.zeros(1))
        many = watch(HistogramObserver(QuantSpec(), criterion), x, zeros)
        assert alone.range() == many.range()
        assert int(many.zeros) == 1_000_000


def test_kl_refuses_a_threshold_with_an_empty_edge():
    """Values clipped to an empty bin would be infinitely surprising to Q."""
    counts = np.zeros(64, dtype=np.int64)
    counts[:20], counts[40] = 5, 1
    h = Histogram(counts, grid_of(0.0, 40.5, 64), 0.0, 40.5)
    table = relative_entropy(h, QuantSpec(bits=2))
    infinite = np.isinf(table.cost)
    assert infinite.sum() == 20  # thresholds 21 to 40
    assert (table.x_max[infinite] > 20).all()


# --- Percentiles ---------------------------------------------------------------------------------


@given(samples(), specs(("tensor",)), st.floats(50.5, 100))
def test_percentile_of_few_values_is_exact(x, spec, p):
    obs = watch(PercentileObserver(spec, p, bins=128), *x.split(7))
    exact = x.double().numpy()
    if spec.symmetric:
        high = np.percentile(abs(exact), p)
        low = -high
    else:
        low, high = np.percentile(exact, 100 - p), np.percentile(exact, p)
    for end, expected in zip(obs.range(), (low, high), strict=True):
        assert end.item() == pytest.approx(expected, rel=1e-6, abs=1e-6 * abs(exact).max())


@pytest.mark.parametrize("symmetric", [False, True])
@given(st.integers(0, 2**32 - 1), st.floats(50.5, 100), st.floats(-5, 5), st.sampled_from([1, 3]))
@settings(max_examples=50)
def test_percentile_of_many_values_is_within_one_bin(symmetric, seed, p, shift, power):
    x = normal(3000, seed) ** power + shift
    obs = watch(PercentileObserver(QuantSpec(symmetric=symmetric), p, bins=64), *x.split(500))
    h = obs.histogram()
    exact = x.double().numpy()
    magnitude = np.percentile(abs(exact), p)
    expected = (
        (-magnitude, magnitude)
        if symmetric
        else (np.percentile(exact, 100 - p), np.percentile(exact, p))
    )
    spread = max(h.x_max, 0.0) - min(h.x_min, 0.0)
    assert h.grid.width <= 2 / 62 * spread
    for end, value in zip(obs.range(), expected, strict=True):
        assert abs(end.item() - value) <= h.grid.width


@pytest.mark.parametrize("symmetric", [False, True])
def test_every_order_statistic_is_in_its_own_bin(symmetric):
    x = normal(3000)
    h = watch(PercentileObserver(QuantSpec(), bins=64), x).histogram()
    if symmetric:
        x, h = x.abs(), magnitudes(h)
    value, w = order_statistic(h), h.grid.width
    estimates = [value(i) for i in range(3000)]
    assert estimates == sorted(estimates)
    exact = np.floor(np.sort(x.double().numpy()) / w)
    assert np.array_equal(np.floor(np.array(estimates) / w), exact)


@given(st.integers(1, 300), st.integers(0, 2**32 - 1))
def test_percentile_100_is_min_max(n, seed):
    x = normal(n, seed)
    ours = watch(PercentileObserver(QuantSpec(), 100.0, bins=64), x)
    assert ours.range() == watch(MinMaxObserver(QuantSpec()), x).range()


# --- How data arrives ----------------------------------------------------------------------------


@given(samples(), st.integers(16, 100))
def test_counts_are_those_of_exact_arithmetic(x, bins):
    """Bin k holds the x with floor(x / w) = k, with floats taken as the rationals they are."""
    h = watch(PercentileObserver(QuantSpec(), bins=bins), *x.split(5)).histogram()
    w = Fraction(2) ** h.grid.exponent
    expected = [0] * bins
    for value in x.tolist():
        expected[math.floor(Fraction(value) / w) - h.grid.start] += 1
    assert h.counts.tolist() == expected
    if h.grid.exponent > -126 and (h.x_min, h.x_max) != (
        0,
        0,
    ):  # and the grid is the finest that fits
        low, high = (Fraction(v) for v in (min(h.x_min, 0.0), max(h.x_max, 0.0)))
        assert math.floor(high / w * 2) - math.floor(low / w * 2) >= bins


@pytest.mark.parametrize("name", ["minmax", *COUNTING])
@given(st.lists(tensors((torch.float32, torch.float64)), min_size=2, max_size=5), st.randoms())
@settings(max_examples=40)
def test_order_and_size_of_batches_do_not_matter(name, batches, random):
    """Ranges that grow by many doublings included: one batch may be huge, another tiny."""
    spec = QuantSpec(bits=4)
    once = watch(MAKERS[name](spec), torch.cat([b.double().reshape(-1) for b in batches]))
    shuffled = [b.double() for b in batches]
    random.shuffle(shuffled)
    assert same(once, watch(MAKERS[name](spec), *shuffled))
    rows = [row for b in shuffled for row in b.unbind(0)]
    random.shuffle(rows)
    assert same(once, watch(MAKERS[name](spec), *rows))


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("name", ["minmax", "average"])
def test_per_channel_is_per_tensor_on_each_channel(name, axis):
    batches = [normal(3 * 4 * 5, seed).view(3, 4, 5) for seed in range(3)]
    spec = QuantSpec(granularity="channel", axis=axis)
    low, high = watch(MAKERS[name](spec), *batches).range()
    for i in range(batches[0].shape[axis]):
        one = watch(MAKERS[name](QuantSpec()), *(b.select(axis, i) for b in batches)).range()
        assert one == (low[i], high[i])


@given(tensors(), specs(("tensor", "channel")))
def test_min_max_of_one_batch_is_the_tensors_own(x, spec):
    expected, qp = qparams_from_tensor(x, spec), watch(MinMaxObserver(spec), x).qparams()
    assert torch.equal(qp.scale, expected.scale)
    assert torch.equal(qp.zero_point, expected.zero_point)
    assert qp.scale.dtype == expected.scale.dtype


@every
@given(x=tensors(), spec=specs(("tensor",)).filter(lambda spec: spec.bits <= 8))
@settings(max_examples=50)
def test_any_finite_tensor_gives_parameters(name, x, spec):
    qp = watch(MAKERS[name](spec), x, x / 2).qparams()
    assert bool(fake_quantize(x, qp).isfinite().all())


@every
@pytest.mark.parametrize("value", [3.7, -1e-30, 1e30, 0.1])
@pytest.mark.parametrize("symmetric", [False, True])
def test_all_values_equal(name, value, symmetric):
    """The range is that value (widened to 0), and it comes back to within a rounding."""
    obs = watch(MAKERS[name](QuantSpec(symmetric=symmetric)), *[torch.full((50,), value)] * 3)
    x = torch.tensor(value)
    torch.testing.assert_close(fake_quantize(x, obs.qparams()), x, rtol=1e-6, atol=0)
    assert max(abs(end.item()) for end in obs.range()) == abs(x.item())


@every
def test_all_zeros_then_data(name):
    obs = watch(MAKERS[name](QuantSpec()), torch.zeros(100))
    assert [end.item() for end in obs.range()] == [0, 0]
    assert obs.qparams().scale == 1
    x = normal(1000)
    watch(obs, x)
    assert 0 < obs.qparams().scale < 1
    if name in COUNTING:
        assert int(obs.histogram().counts.sum()) == 1100
        assert obs.histogram().zeros == 100


@counting
def test_ranges_from_tiny_to_huge(name):
    """1e-30, 1 and 1e30 in turn: the grid doubles two hundred times and no count is lost."""
    x = normal(1000)
    obs = watch(MAKERS[name](QuantSpec()), x * 1e-30, x, x * 1e30)
    h = obs.histogram()
    assert int(h.counts.sum()) == 3000
    assert h.counts[-h.grid.start - 1] >= 2 * int((x < 0).sum())  # all small negatives in one bin
    assert bool(obs.qparams().scale.isfinite())
    assert same(obs, watch(MAKERS[name](QuantSpec()), x * 1e30, x * 1e-30, x))


def test_one_batch_of_outliers():
    """A hundred ordinary batches, one 1000 times larger: what each observer makes of it."""
    ordinary = [normal(1000, seed) for seed in range(100)]
    batches = [*ordinary[:50], normal(1000, 100) * 1000, *ordinary[50:]]
    largest = max(float(b.abs().max()) for b in batches)
    usual = max(float(b.abs().max()) for b in ordinary)

    def top(obs):
        return watch(obs, *batches).range()[1].item()

    spec = QuantSpec()
    assert top(MinMaxObserver(spec)) > largest / 2
    # 1 % of the outlier is left after the batch, and (0.99)^50 of that at the end.
    average = top(MovingAverageObserver(spec))
    assert 1.5 * usual < average < 0.01 * largest
    # Half of 1 % of the values are positive outliers: 99 % leaves them out, to one bin.
    percentile = PercentileObserver(spec, 99.0)
    assert top(percentile) < usual + percentile.histogram().grid.width
    assert top(PercentileObserver(spec, 99.99)) > 100 * usual
    # The squared error is ruled by the outliers, even at 4 bits: it keeps them.
    assert top(HistogramObserver(QuantSpec(bits=4))) > 100 * usual


@every
def test_empty_batches_change_nothing(name):
    obs = MAKERS[name](QuantSpec())
    assert not watch(obs, torch.empty(0)).has_data
    watch(obs, normal(10))
    state = copy.deepcopy(obs.state_dict())
    watch(obs, torch.empty(0, 3))
    assert all(torch.equal(state[k], v) for k, v in obs.state_dict().items())


@every
def test_memory_is_constant(name):
    obs = watch(MAKERS[name](QuantSpec()), normal(10))
    size = len(safetensors.torch.save(obs.state_dict()))
    for i in range(50):
        watch(obs, normal(1000, i) * 2**i)
    assert len(safetensors.torch.save(obs.state_dict())) == size


# --- A module among modules ----------------------------------------------------------------------


@every
@given(x=tensors())
@settings(max_examples=20)
def test_returns_its_input_unchanged_and_lets_gradients_pass(name, x):
    before = x.clone()
    leaf = x.requires_grad_()
    y = MAKERS[name](QuantSpec())(leaf)
    assert y is leaf
    y.sum().backward()
    assert torch.equal(leaf.grad, torch.ones_like(x))
    assert torch.equal(leaf.detach(), before)


@every
def test_nothing_observed_needs_a_gradient(name):
    obs = watch(MAKERS[name](QuantSpec()), normal(9).requires_grad_())
    assert not any(v.requires_grad for v in obs.state_dict().values())
    assert not obs.qparams().scale.requires_grad


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("seen", [0, 1, 3000])
def test_state_survives_a_file(name, dtype, seen, tmp_path):
    """Observing on after loading is observing on without."""
    obs, other = (torch.nn.Sequential(MAKERS[name](QuantSpec(bits=4))) for _ in range(2))
    if seen:
        obs(normal(seen).to(dtype))
    safetensors.torch.save_file(obs.state_dict(), tmp_path / "state")
    other.load_state_dict(safetensors.torch.load_file(tmp_path / "state"))
    assert other[0].has_data == bool(seen)
    if seen:
        assert same(obs[0], other[0])
    for model in (obs, other):
        model(normal(500, 1).to(dtype) * 5)
    assert same(obs[0], other[0])
    assert same(obs[0], copy.deepcopy(other)[0])


def test_per_channel_state_survives_a_file():
    spec = QuantSpec(granularity="channel", axis=1)
    obs, other = MinMaxObserver(spec), MinMaxObserver(spec)
    watch(obs, normal(12).view(3, 4))
    other.load_state_dict(safetensors.torch.load(safetensors.torch.save(obs.state_dict())))
    assert same(obs, other)


@counting
def test_a_state_with_other_bins_is_refused(name):
    obs = watch(MAKERS[name](QuantSpec()), normal(10))
    state = {**obs.state_dict(), "counts": torch.zeros(32, dtype=torch.int64)}
    with pytest.raises(RuntimeError, match="counts"):
        MAKERS[name](QuantSpec()).load_state_dict(state)


@every
def test_half_precision_data_and_models_keep_float32(name):
    x = normal(3000)
    for dtype in (torch.float16, torch.bfloat16):
        exact = watch(MAKERS[name](QuantSpec()), x.to(dtype).float())
        half = torch.nn.Sequential(watch(MAKERS[name](QuantSpec()), x.to(dtype)))
        assert same(exact, half[0])
        half.to(dtype)
        assert same(exact, half[0])
        assert half[0].range()[0].dtype == torch.float32


@every
def test_float64_data_make_the_range_float64(name):
    obs = watch(MAKERS[name](QuantSpec()), normal(100), normal(100).double() / 10)
    assert {end.dtype for end in obs.range()} == {torch.float64}
    assert watch(obs, normal(100) * 2).qparams().scale.dtype == torch.float64


@every
def test_moves_to_another_device(name):
    obs = watch(MAKERS[name](QuantSpec()), normal(100)).to("meta")
    assert all(v.device.type == "meta" for v in obs.state_dict().values())


@every
def test_reset_forgets_everything(name):
    x = normal(3000)
    used = watch(MAKERS[name](QuantSpec()), x.double() * 100, torch.zeros(5)).reset()
    assert not used.has_data
    assert same(watch(used, x), watch(MAKERS[name](QuantSpec()), x))


# --- What is refused -----------------------------------------------------------------------------


@every
def test_no_data_is_an_error(name):
    obs = MAKERS[name](QuantSpec())
    for ask in (obs.qparams, obs.range):
        with pytest.raises(RuntimeError, match="no data"):
            ask()
    assert "no data" in repr(obs)


@every
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused_and_leave_no_trace(name, bad):
    obs = watch(MAKERS[name](QuantSpec()), normal(10))
    state = copy.deepcopy(obs.state_dict())
    with pytest.raises(ValueError, match=r"x must be finite, got (nan|-?inf)"):
        obs(torch.tensor([0.0, bad, 1.0]))
    assert all(torch.equal(state[k], v) for k, v in obs.state_dict().items())


@every
def test_wrong_input_is_named(name):
    obs = MAKERS[name](QuantSpec())
    with pytest.raises(TypeError, match=r"x must have one of the types .* got torch.int64"):
        obs(torch.arange(3))
    with pytest.raises(TypeError, match="spec must be a QuantSpec, got int"):
        MAKERS[name](8)
    with pytest.raises(ValueError, match=r"spec must have a granularity .* got 'group'"):
        MAKERS[name](QuantSpec(granularity="group", group_size=2))


@counting
def test_per_channel_is_refused_by_name(name):
    with pytest.raises(ValueError, match=r"spec .*(Percentile|Histogram)Observer, got 'channel'"):
        MAKERS[name](QuantSpec(granularity="channel"))


def test_other_channels_than_before_are_refused():
    obs = watch(MinMaxObserver(QuantSpec(granularity="channel", axis=1)), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="x must have 3 channels along axis 1"):
        obs(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="axis must be from -1 to 0"):
        obs(torch.zeros(3))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda s: MovingAverageObserver(s, 0.0), "averaging_constant must be above 0"),
        (lambda s: MovingAverageObserver(s, 1.5), "averaging_constant .* got 1.5"),
        (lambda s: MovingAverageObserver(s, math.nan), "averaging_constant .* got nan"),
        (lambda s: PercentileObserver(s, 50.0), "percentile must be above 50 .* got 50.0"),
        (lambda s: PercentileObserver(s, 100.1), "percentile .* got 100.1"),
        (lambda s: PercentileObserver(s, bins=15), "bins must be an integer from 16 .* got 15"),
        (lambda s: HistogramObserver(s, bins=2.5), "bins must be an integer .* got 2.5"),
        (lambda s: HistogramObserver(s, bins=True), "bins must be an integer .* got True"),
        (lambda s: HistogramObserver(s, "l1"), "criterion must be one of .* got 'l1'"),
    ],
)
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make(QuantSpec())


def test_range_is_what_qparams_uses():
    obs = watch(HistogramObserver(QuantSpec(bits=4)), normal(5000))
    assert obs.qparams().scale == choose_qparams(*obs.range(), obs.spec).scale
