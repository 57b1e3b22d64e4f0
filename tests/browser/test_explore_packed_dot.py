"""The packed dot product in a page with no kernel and no network: numbers, hands, looks.

The checks that every explorable has to pass are in test_explore.py.
The random settings are drawn from the seed in QTOOLS_SEED (0 if unset).
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from qtools.explore import PackedDot
from qtools.explore.packed_dot import COLUMNS, START, STEPS
from tests.browser import test_explore as every
from tests.browser.conftest import overflow
from tests.browser.hands import outside, pull

SETTINGS = 60

show = every.show  # the fixture
Show = every.Show


def random_setting(rng: random.Random) -> dict[str, Any]:
    anywhere = rng.random() < 0.5
    return {
        "way": rng.choice(list(STEPS)),
        "bits": rng.choice([0, 2**COLUMNS - 1, rng.randrange(2**COLUMNS)]),
        "step": rng.randint(0, COLUMNS + 1),
        "rows": rng.choice([1, rng.randint(1, 4096)]),
        **{
            f"x{j}": rng.uniform(-4, 4) if anywhere else rng.randint(-8, 8) / 2
            for j in range(COLUMNS)
        },
    }


def test_numbers_equal_qtools(show: Show) -> None:
    rng = random.Random(every.SEED)
    settings = [PackedDot().state(), *(random_setting(rng) for _ in range(SETTINGS))]
    found = every.set_and_read(show(PackedDot()), settings)
    for setting, numbers in zip(settings, found, strict=True):
        expected = PackedDot(**setting).compute()
        assert numbers.keys() == expected.keys()
        assert numbers == pytest.approx(expected, rel=1e-12, abs=1e-12), setting


def test_steps_bits_and_activations_by_hand(show: Show) -> None:
    page = show(PackedDot())

    def now() -> str:
        return page.locator("p.pd-now").inner_text()

    step = page.get_by_role("button", name="Step ▶")
    step.click()
    assert now() == "Bit 0 is 1: flip the sign of 1.5, add −1.5, take the next bit."
    assert (every.shown(page, "sum"), every.shown(page, "operations")) == (-1.5, 3)
    key = page.get_by_role("switch", name="bit 0", exact=True)
    key.click()
    assert now() == "Bit 0 is 0: keep the sign, add 1.5, take the next bit."
    assert key.get_attribute("aria-checked") == "false"
    key.press("Space")
    page.get_by_role("button", name="Look up").click()
    assert now() == "The low four bits are entry 13: look it up, add −5.0, shift to the next four."
    page.get_by_role("button", name="Mask a sum").click()
    page.get_by_role("button", name="To the end").click()
    assert every.state(page, "step") == [COLUMNS + 1]
    result = every.shown(page, "result")
    assert every.shown(page, "sum") == result
    total = sum(START)
    assert now().startswith(f"Σx − 2 · {(total - result) / 2:.1f} = ".replace("-", "−"))
    # The last step of this way is beyond the others' end: back from there is one before it.
    page.get_by_role("button", name="Flip signs").click()
    page.get_by_role("button", name="Back").click()
    assert every.state(page, "step") == [COLUMNS - 1]
    page.get_by_role("button", name="Start again").click()
    assert every.state(page, "step") == [0]
    for name, keys, value in (
        ("x3", ["ArrowUp"], 1.5),
        ("x3", ["End", "ArrowRight"], 4),
        ("x15", ["Home"], -4),
        ("rows", ["End"], 4096),
        ("rows", ["ArrowLeft"], 2048),
        ("step", ["ArrowRight", "ArrowRight"], 2),
    ):
        every.press(page, name, *keys)
        assert every.state(page, name) == [value]


def test_a_finger_pulls_an_activation(show: Show) -> None:
    """Up and down, the direction in which a page scrolls."""
    page = show(PackedDot(), width=390, has_touch=True, is_mobile=True)
    pull(page, every.control(page, "x9").locator("rect.qx-hit"), (0, -12), (0, -34))
    page.wait_for_function("document.querySelector('.qtools-explorable').qtoolsModel.get('x9') > 3")


@pytest.mark.parametrize("width", [1000, 390, 340])
def test_words_stay_inside(width: int, show: Show) -> None:
    page = show(PackedDot(), width=width)
    for value in (-4.0, 4.0):
        for way in STEPS:
            setting = {f"x{j}": value for j in range(COLUMNS)}
            every.set_and_read(page, [{"way": way, "step": 17, "bits": 43690, **setting}])
            assert outside(page) == []
            assert overflow(page) <= 0
