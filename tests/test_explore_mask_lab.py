"""The mask lab without a browser: its numbers by other means, its record against the network."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest
import torch
import traitlets
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import mask_lab as bench
from qtools.explore import MaskLab
from qtools.explore.mask_lab import MASKS, SCORES, block, data_script
from qtools.results import read_record

LABS = st.builds(
    MaskLab,
    mask=st.sampled_from(MASKS),
    sparsity=st.integers(0, 95),
    score=st.sampled_from(SCORES),
    compensate=st.booleans(),
)


def loops(lab: MaskLab) -> np.ndarray:
    """The mask by plain loops over lists of the weights that go together."""
    weight, gram = (t.numpy() for t in block())
    squares = weight**2 * (gram.diagonal() if lab.score == "wanda" else 1)
    rows, columns = weight.shape
    places = [(i, j) for i in range(rows) for j in range(columns)]
    share = lab.sparsity / 100
    keys: dict[str, Any] = {
        "single": lambda i, j: (i, j),
        "row": lambda i, j: i,
        "column": lambda i, j: j,
        "block": lambda i, j: (i // 4, j // 4),
    }
    mask = np.ones(weight.shape, dtype=bool)
    if lab.mask == "n_m":
        kept = max(1, round(4 * (1 - share)))
        for i in range(rows):
            for j in range(0, columns, 4):
                for k in sorted(range(4), key=lambda k: squares[i, j + k])[: 4 - kept]:
                    mask[i, j + k] = False
        return mask
    groups: dict[Any, list[tuple[int, int]]] = {}
    for i, j in places:
        groups.setdefault(keys[lab.mask](i, j), []).append((i, j))
    order = sorted(groups.values(), key=lambda g: sum(squares[p] for p in g))
    for group in order[: round(share * len(order))]:
        for p in group:
            mask[p] = False
    return mask


@settings(max_examples=40)
@given(LABS)
def test_numbers_by_other_means(lab: MaskLab) -> None:
    numbers, mask = lab.compute(), loops(lab)
    weight, gram = (t.numpy() for t in block())
    assert numbers["kept"] == mask.sum()
    assert numbers["norm"] == pytest.approx(100 * (weight[mask] ** 2).sum() / (weight**2).sum())
    # Outputs of inputs with this very Gram matrix: its Cholesky factor, transposed.
    x = np.linalg.cholesky(gram).T
    whole = ((x @ weight.T) ** 2).sum()
    plain = ((x @ (weight * ~mask).T) ** 2).sum()
    left = 0.0
    for w, kept in zip(weight, mask, strict=True):
        left += (x @ w) @ (x @ w)
        if kept.any():
            best, *_ = np.linalg.lstsq(x[:, kept], x @ w, rcond=None)
            left += ((x @ w - x[:, kept] @ best) ** 2).sum() - (x @ w) @ (x @ w)
    assert numbers["plain"] == pytest.approx(100 * plain / whole, rel=1e-9, abs=1e-9)
    assert numbers["compensated"] == pytest.approx(100 * left / whole, rel=1e-7, abs=1e-9)
    chosen = numbers["compensated" if lab.compensate else "plain"]
    assert numbers[f"error_{lab.mask}"] == chosen


@given(LABS)
@settings(max_examples=20)
def test_compensation_never_hurts_and_rows_have_none(lab: MaskLab) -> None:
    numbers = lab.compute()
    assert numbers["compensated"] <= numbers["plain"] * (1 + 1e-12) + 1e-12
    if lab.mask == "row":  # nothing is left in a dropped row, nothing is missing in a kept one
        assert numbers["compensated"] == pytest.approx(numbers["plain"], rel=1e-9)


def test_bytes_by_hand() -> None:
    half = MaskLab(mask="n_m", sparsity=50).compute()
    assert half["kept"] == 576
    assert half["dense"] == 24 * 48 * 4
    assert half["bitmap"] == 576 * 4 + 24 * 48 / 8
    assert half["own"] == 576 * 4 + 576 * 2 / 8
    assert half["products"] == 24 * 48
    rows = MaskLab(mask="row", sparsity=50).compute()
    assert rows["own"] == rows["dense"] / 2
    assert rows["products"] == 12 * 48
    assert MaskLab(mask="block", sparsity=50).compute()["own"] == 576 * 4 + 9


def test_what_the_lab_is_there_to_show() -> None:
    """Finer masks lose less at the same sparsity; those that a processor gains from lose most."""
    numbers = MaskLab(sparsity=50).compute()
    fine, medium = numbers["error_single"], numbers["error_n_m"]
    assert 2 * fine < medium
    assert all(2 * medium < numbers[f"error_{kind}"] for kind in ("block", "column", "row"))
    assert numbers["compensated"] < 0.6 * numbers["plain"]
    wanda = MaskLab(sparsity=50, score="wanda").compute()
    assert wanda["norm"] < numbers["norm"]
    assert wanda["plain"] < numbers["plain"]


def test_the_record_is_the_network() -> None:
    weight, gram = bench.block()
    ours, ours_gram = block()
    assert (ours - weight).abs().max() <= weight.abs().max() / 2**14
    assert (ours_gram - gram).abs().max() <= gram.abs().max() * 1e-4
    assert torch.equal(ours_gram, ours_gram.T)
    assert torch.linalg.cond(ours_gram).item() == pytest.approx(
        read_record("mask_lab")["value"], 1e-3
    )


def test_the_page_carries_the_record() -> None:
    data = json.loads(re.fullmatch(r"const DATA = (.*);\n", data_script())[1])  # type: ignore[index]
    assert set(data) == {"weight", "weightBits", "gram", "gramBits"}
    assert data_script() in MaskLab().to_html()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"mask": "diagonal"}, "mask"),
        ({"sparsity": 96}, "sparsity"),
        ({"score": "taylor"}, "score"),
    ],
    ids=str,
)
def test_wrong_state_is_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(traitlets.TraitError, match=words):
        MaskLab(**wrong)
