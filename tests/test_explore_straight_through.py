"""A latent weight on a staircase, without a browser: its steps, and where it settles."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from qtools.explore import StraightThrough
from qtools.explore.straight_through import GRADIENTS, LATELY, STEPS


def figures(**fixed: st.SearchStrategy) -> st.SearchStrategy[StraightThrough]:
    drawn = {
        "gradient": st.sampled_from(GRADIENTS),
        "bits": st.integers(2, 5),
        "target": st.floats(-8, 8),
        "rate": st.floats(0.01, 1),
        "start": st.floats(-10, 10),
        "steps": st.integers(0, STEPS),
    }
    return st.builds(StraightThrough, **(drawn | fixed))


@given(figures())
def test_numbers_by_hand(figure: StraightThrough) -> None:
    low, high = -(2 ** (figure.bits - 1)), 2 ** (figure.bits - 1) - 1
    w, values, slope = figure.start, [], 0.0
    for step in range(figure.steps + 1):
        code = round(w)
        values.append(min(high, max(low, code)))
        passes = {"true": False, "unmasked": True, "masked": low <= code <= high}
        slope = (values[-1] - figure.target) if passes[figure.gradient] else 0.0
        if step < figure.steps:
            w -= figure.rate * slope
    lately = values[:-1][-LATELY:] or values
    assert figure.compute() == {
        "latent": w,
        "value": values[-1],
        "loss": (values[-1] - figure.target) ** 2 / 2,
        "slope": slope,
        "flips": sum(a != b for a, b in pairwise(values)),
        "mean": sum(lately) / len(lately),
    }


@given(figures(gradient=st.just("true")))
def test_the_true_gradient_moves_nothing(figure: StraightThrough) -> None:
    numbers = figure.compute()
    assert numbers["latent"] == figure.start
    assert numbers["flips"] == numbers["slope"] == 0


@given(figures(gradient=st.just("unmasked")))
def test_the_mean_of_the_rounded_weight_is_the_target_but_for_the_way_made(
    figure: StraightThrough,
) -> None:
    """``mean ŵ - t = (w_first - w_last) / (η n)`` over any n steps: the steps add up."""
    assume(figure.steps > 0)
    rows = figure.trajectory()
    n = min(LATELY, figure.steps)
    way = (rows[-1 - n][0] - rows[-1][0]) / (figure.rate * n)
    assert figure.compute()["mean"] - figure.target == pytest.approx(way, abs=1e-9)


@given(target=st.floats(-1.99, 0.99), rate=st.floats(0.1, 1))
def test_between_two_levels_it_oscillates_and_its_mean_is_the_target(
    target: float, rate: float
) -> None:
    """The duty cycle: the upper level has the share t - floor(t) of the time, to one step in n."""
    share = target - math.floor(target)
    assume(0.05 < share < 0.95)
    figure = StraightThrough(target=target, rate=rate, start=target, steps=STEPS)
    numbers = figure.compute()
    assert abs(numbers["mean"] - target) <= 1 / LATELY + 1e-9
    upper = sum(v == math.ceil(target) for _, v, _ in figure.trajectory()[-1 - LATELY : -1])
    assert upper / LATELY == pytest.approx(share, abs=1 / LATELY + 1e-9)
    edge = math.floor(target) + 0.5
    assert abs(numbers["latent"] - edge) <= rate  # within a step of the edge


@pytest.mark.parametrize("start", [-9.0, 3.0])
def test_the_mask_holds_what_is_outside(start: float) -> None:
    stuck = StraightThrough(gradient="masked", start=start, target=0.0, steps=STEPS).compute()
    assert stuck["latent"] == start
    assert stuck["loss"] > 0
    back = StraightThrough(gradient="unmasked", start=start, target=0.0, steps=STEPS).compute()
    assert back["value"] == back["loss"] == 0
