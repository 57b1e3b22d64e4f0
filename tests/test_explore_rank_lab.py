"""The rank explorable without a browser: its record against the network, its numbers by hand."""

from __future__ import annotations

import base64
import json
import re
from functools import cache
from typing import Any

import pytest
import torch
import traitlets
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import rank_lab as bench
from qtools.data import fashion_mnist, normalise
from qtools.decomposition import LowRank, LowRankLinear, best_rank_k, whitened_rank_k
from qtools.explore import RankLab
from qtools.explore.rank_lab import (
    SUBJECTS,
    data_script,
    picture,
    rounded,
    shape,
    singular_values,
)
from qtools.metrics import accuracy
from qtools.models import SmallCNN
from qtools.results import read_record


def matrix(subject: str) -> torch.Tensor:
    weight = SmallCNN.pretrained().fc1.weight.detach()
    return (weight if subject == "layer" else picture()).double()


@cache
def every_term(subject: str) -> LowRank:
    w = matrix(subject)
    return best_rank_k(w, min(w.shape))


def labs() -> st.SearchStrategy[RankLab]:
    return st.builds(RankLab, subject=st.sampled_from(SUBJECTS), rank=st.integers(1, 128))


@pytest.mark.parametrize("subject", SUBJECTS)
def test_singular_values_are_the_matrix(subject: str) -> None:
    expected = torch.linalg.svdvals(matrix(subject))
    found = torch.tensor(singular_values(subject), dtype=torch.float64)
    assert torch.allclose(found, expected, rtol=1e-8, atol=1e-6)


def test_the_random_matrix_has_the_layers_norm() -> None:
    record = read_record("rank_lab")
    layer, random = (
        torch.tensor(record[name], dtype=torch.float64).norm().item()
        for name in ("singular_values", "random_singular_values")
    )
    assert layer == pytest.approx(random, rel=1e-7)


def test_the_picture_is_of_the_data() -> None:
    images = fashion_mnist().test_images
    assert torch.equal(picture(), bench.picture(images))
    assert torch.equal(picture()[28:56, 56:84], images[11])


@given(labs())
def test_numbers_by_other_means(lab: RankLab) -> None:
    numbers, w = lab.compute(), matrix(lab.subject)
    m, n = shape(lab.subject)
    k = min(lab.rank, m, n)
    left, right = every_term(lab.subject)
    near = LowRank(left[:, :k], right[:k])
    error = 100 * (w - near.reconstruct()).norm() / w.norm()
    assert numbers["error"] == pytest.approx(error.item(), rel=1e-6, abs=1e-6)
    assert numbers["energy"] == pytest.approx(100 - numbers["error"] ** 2 / 100, abs=1e-9)
    assert numbers["factor_bytes"] == near.nbytes / 2  # float64 here
    assert numbers["full_bytes"] == w.nbytes / 2
    assert (numbers["ratio"] < 1) == (k <= numbers["break_even"])
    if lab.subject == "layer":
        record = read_record("rank_lab")
        for name in ("weights", "outputs"):
            assert numbers[name] * record["test_images"] / 100 == pytest.approx(
                int(record["right"][name].split()[k - 1])
            )


@pytest.mark.parametrize("whitened", [False, True], ids=["weights", "outputs"])
def test_right_answers_of_one_pass_are_those_of_the_layer(whitened: bool) -> None:
    """Growing the sum term by term, and a network with the low-rank layer, on 300 images."""
    data = fashion_mnist()
    x, y = normalise(data.test_images[:300]), data.test_labels[:300]
    weight, seen = matrix("layer"), bench.features(x)
    gram = seen.double().T @ seen.double() / len(seen) if whitened else None
    all_terms = best_rank_k(weight, 128) if gram is None else whitened_rank_k(weight, 128, gram)
    counts = bench.right_answers(all_terms, seen, y)
    for k in (3, 9, 40):
        model = SmallCNN.pretrained()
        model.fc1 = LowRankLinear.from_linear(model.fc1, k, gram)  # type: ignore[assignment]
        assert abs(counts[k - 1] - 300 * accuracy(model, x, y).value) <= 1  # a tie may turn


@pytest.mark.slow
def test_the_record_against_the_network() -> None:
    """10,000 images again. Sums in another order may turn a tie: two answers at most."""
    data, record = fashion_mnist(), read_record("rank_lab")
    images = normalise(data.test_images)
    for k in (8, 128):
        model = SmallCNN.pretrained()
        model.fc1 = LowRankLinear.from_linear(model.fc1, k)  # type: ignore[assignment]
        right = 10_000 * accuracy(model, images, data.test_labels).value
        assert abs(int(record["right"]["weights"].split()[k - 1]) - right) <= 2


def test_what_the_figure_is_there_to_show() -> None:
    """A large error in the weights costs few answers; a random matrix has no small rank."""
    sixteen, record = RankLab(rank=16).compute(), read_record("rank_lab")
    assert sixteen["error"] > 50
    assert sixteen["weights"] > record["full_right"] / 100 - 2
    assert sixteen["ratio"] < 0.2
    random = torch.tensor(record["random_singular_values"], dtype=torch.float64).square()
    assert random[16:].sum() / random.sum() > 0.7 > (sixteen["error"] / 100) ** 2 + 0.3
    assert RankLab(subject="picture", rank=16).compute()["error"] < 20


def test_above_its_own_rank_the_picture_stays() -> None:
    most, more = (RankLab(subject="picture", rank=k).compute() for k in (84, 128))
    assert most == more
    assert most["error"] == 0
    assert most["ratio"] == 1.75


def test_the_page_carries_the_record() -> None:
    data = json.loads(re.fullmatch(r"const DATA = (.*);\n", data_script())[1])  # type: ignore[index]
    record = read_record("rank_lab")
    assert data["layer"] == rounded(record["singular_values"])
    assert base64.b64decode(data["picture"]) == picture().numpy().tobytes()
    assert record["simulated"] is False
    assert data_script() in RankLab().to_html()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"rank": 0}, "rank"), ({"rank": 129}, "rank"), ({"rank": 2.5}, "rank"),
     ({"subject": "song"}, "subject")],
    ids=str,
)  # fmt: skip
def test_wrong_state_is_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(traitlets.TraitError, match=words):
        RankLab(**wrong)
