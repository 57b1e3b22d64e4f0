"""A latent weight under four stand-ins for the derivative of sign, without a browser."""

from __future__ import annotations

import math
import random

import pytest
import torch
from torch import Tensor

from qtools.explore import SignFlip
from qtools.explore.sign_flip import BETAS, EPS, OPTIMIZERS, STEPS, draws, latent_paths, numbers
from qtools.onebit.layer import GRADIENTS, straight_through_sign

NAMES = tuple(GRADIENTS)


def first(figure: SignFlip) -> dict[str, float]:
    shown = figure.compute()
    return {name: shown[f"{name}_first"] for name in NAMES}


def columns(settings: list[tuple[float, float, float, float]]) -> list[Tensor]:
    return list(torch.tensor(settings, dtype=torch.float64).T)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", NAMES)
def test_a_step_is_autograd_and_torch_optim(name: str, optimizer: str) -> None:
    """The loss by `straight_through_sign`, 60 steps by torch's own optimizers."""
    settings = [(3.0, -1.0, 0.2, 0.5), (0.05, -0.5, 0.01, 3.0), (1.2, -3.0, 0.03, 0.0)]
    paths = latent_paths(optimizer, *columns(settings))
    for i, (start, target, rate, noise) in enumerate(settings):
        w = torch.tensor(start, dtype=torch.float64, requires_grad=True)
        steps = {
            "sgd": torch.optim.SGD([w], lr=rate),
            "adam": torch.optim.Adam([w], lr=rate, betas=BETAS, eps=EPS),
        }[optimizer]
        for k in range(60):
            assert paths[k, NAMES.index(name), i].item() == pytest.approx(w.item(), abs=1e-6)
            value = straight_through_sign(w, name)
            loss = (value - target).square() / 2 + noise * draws()[k] * value
            steps.zero_grad()
            loss.backward()
            steps.step()


def test_the_noise_is_nearly_normal_and_always_the_same() -> None:
    z = torch.tensor(draws(), dtype=torch.float64)
    assert z.shape == (STEPS,)
    assert abs(z.mean()) < 3 / math.sqrt(STEPS)
    assert z.var().item() == pytest.approx(1, abs=0.1)
    assert torch.equal(z * 256, (z * 256).round())
    after = (z[1:] * z[:-1]).mean()
    assert abs(after) < 3 / math.sqrt(STEPS)
    assert draws()[:3] == [-2.19921875, 1.2890625, 2.1015625]


def test_numbers_by_hand() -> None:
    paths = torch.full((STEPS + 1, 4), 0.5, dtype=torch.float64)
    paths[3:, 0] = -0.5
    paths[5, 0] = 0.0  # its sign is +1
    paths[9, 2] = -0.0  # and this one's
    paths[STEPS, 3] = -2.0
    shown = numbers(paths, STEPS)
    assert [shown[f"{name}_first"] for name in NAMES] == [3, math.inf, math.inf, STEPS]
    assert [shown[f"{name}_flips"] for name in NAMES] == [3, 0, 0, 1]
    assert [shown[f"{name}_w"] for name in NAMES] == [-0.5, 0.5, 0.5, -2.0]
    assert shown["tanh_d"] == pytest.approx(1 / math.cosh(0.5) ** 2)
    assert shown["released_d"] == pytest.approx(1 / math.cosh(0.5) ** 2 + 0.001)
    assert (shown["clipped_d"], shown["identity_d"]) == (1, 1)


def test_far_away_each_does_something_else() -> None:
    """Clipped never flips, tanh not in time, the released code's floor late, identity at once."""
    far = first(SignFlip())
    assert far["tanh"] == far["clipped"] == math.inf
    assert 1000 < far["released"] < STEPS
    assert far["identity"] == 11  # 5 / (0.25 * 2), and the sign of 0 is +1
    beyond = first(SignFlip(start=2.0, rate=0.1))
    assert beyond["identity"] < beyond["tanh"] == beyond["released"] < 100
    assert beyond["clipped"] == math.inf


@pytest.mark.parametrize("start", [0.01, 0.05])
def test_near_zero_all_agree_and_chatter(start: float) -> None:
    figure = SignFlip(start=start, rate=0.001, noise=3.0)
    shown = figure.compute()
    steps = {shown[f"{name}_first"] for name in NAMES}
    assert len(steps) == 1
    assert steps.pop() < 50
    flips = [shown[f"{name}_flips"] for name in NAMES]
    assert min(flips) > 50
    assert max(flips) < 1.2 * min(flips)


def test_adam_divides_the_smallness_out() -> None:
    """Far away all but the clipped identity flip, tanh first: its derivative grows on the way."""
    adam = first(SignFlip(optimizer="adam", rate=0.01))
    assert adam["tanh"] < adam["released"] < adam["identity"] < 600
    assert adam["clipped"] == math.inf


def test_without_noise_a_right_sign_stays() -> None:
    rng = random.Random(0)
    settings = [
        (10 ** rng.uniform(-3, 0.9), 1.0, 10 ** rng.uniform(-4, -0.61), 0.0) for _ in range(50)
    ]
    for optimizer in OPTIMIZERS:
        paths = latent_paths(optimizer, *columns(settings))
        assert torch.equal(paths, paths[:1].expand_as(paths))


def test_the_clipped_identity_stays_where_it_is_outside_one() -> None:
    figure = SignFlip(start=1.01, noise=8.0)
    assert set(figure.paths()[:, NAMES.index("clipped")].tolist()) == {1.01}
