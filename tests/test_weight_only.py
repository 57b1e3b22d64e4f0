"""Weights of a few bits: GPTQ is the exact brain surgeon in its order, AWQ never above rounding."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from qtools import text
from qtools.models import CharGPT
from qtools.pruning import gram_matrices, output_error
from qtools.weight_only import WeightOnlyLinear, awq, gptq, rtn
from qtools.weight_only.grid import _nearest

seeds = st.integers(0, 2**31)
widths = st.integers(1, 8)


def problem(seed: int, columns: int = 12, rows: int = 5) -> tuple[Tensor, Tensor]:
    """A weight, and H of correlated inputs of which some are much larger than others."""
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    mix = torch.randn(columns, columns, generator=generator, dtype=torch.float64)
    size = torch.exp(1.5 * torch.randn(columns, generator=generator, dtype=torch.float64))
    x = torch.randn(4 * columns, columns, generator=generator, dtype=torch.float64) @ mix * size
    return w, x.T @ x / len(x)


# Independent of the package: numpy, a loop, one inverse for each column.


def a_grid(w: np.ndarray, bits: int, symmetric: bool) -> tuple[np.ndarray, np.ndarray]:
    """Scale (the float16 that is not below) and zero point of each row."""
    if bits == 1:
        return np.abs(w).mean(1).astype(np.float16).astype(float), np.zeros(len(w))
    low, high, top = np.minimum(w.min(1), 0), np.maximum(w.max(1), 0), 2**bits - 1
    middle = 2 ** (bits - 1)
    exact = np.maximum(-low, high) / (top - middle) if symmetric else (high - low) / top
    exact[exact == 0] = 1
    scale = exact.astype(np.float16)
    scale = np.where(scale < exact, np.nextafter(scale, np.float16(np.inf)), scale).astype(float)
    zero = np.full(len(w), middle) if symmetric else np.clip(np.round(-low / scale), 0, top)
    return scale, zero


def to_levels(w: np.ndarray, grid: tuple[np.ndarray, np.ndarray], bits: int) -> np.ndarray:
    scale, zero = grid
    if bits == 1:
        return np.where(w < 0, -scale, scale)
    return scale * (np.clip(np.round(w / scale) + zero, 0, 2**bits - 1) - zero)


def brain_surgeon(
    w: np.ndarray, h: np.ndarray, bits: int, group: int, symmetric: bool, order: list[int]
) -> np.ndarray:
    """OBQ in a given order: after each weight, the least-squares answer of those not yet fixed."""
    w, grids, left = w.copy(), {}, list(order)
    for j in order:
        if j // group not in grids:
            columns = slice(j // group * group, (j // group + 1) * group)
            grids[j // group] = a_grid(w[:, columns], bits, symmetric)
        inverse = np.linalg.inv(h[np.ix_(left, left)])
        q = to_levels(w[:, j], grids[j // group], bits)
        w[:, left] -= np.outer((w[:, j] - q) / inverse[0, 0], inverse[0])
        w[:, j] = q
        left.remove(j)
    return w


@given(st.lists(st.floats(0, 65504), min_size=1, max_size=20), st.floats(-1e-12, 1e-12))
@example([0.0, 2**-24, 2**-25, 65504.0], 0.0)
def test_scales_of_one_bit_are_rounded_once(values, off):
    """To the nearest float16 as numpy has it, also beside the middle of two."""
    x = np.array(values)
    low = x.astype(np.float16)
    middle = (low.astype(float) + np.nextafter(low, np.float16(0)).astype(float)) / 2
    x = np.concatenate([x, middle, np.abs(middle * (1 + off))])
    found = _nearest(torch.from_numpy(x))
    np.testing.assert_array_equal(found.numpy(), x.astype(np.float16))


@settings(max_examples=80)
@given(
    seed=seeds, bits=widths, group=st.sampled_from([None, 1, 3, 4, 6]), symmetric=st.booleans(),
    act_order=st.booleans(), block=st.sampled_from([1, 3, 5, 8, 128]),
)  # fmt: skip
@example(seed=32000, bits=1, group=1, symmetric=False, act_order=True, block=1)
def test_gptq_is_the_exact_brain_surgeon_in_its_order(
    seed, bits, group, symmetric, act_order, block
):
    w, h = problem(seed)
    found = gptq(w, h, bits, group, symmetric, act_order=act_order, block_size=block)
    damped = h + 0.01 * h.diagonal().mean() * torch.eye(12, dtype=torch.float64)
    order = h.diagonal().argsort(descending=True).tolist() if act_order else list(range(12))
    expected = brain_surgeon(w.numpy(), damped.numpy(), bits, group or 12, symmetric, order)
    np.testing.assert_array_equal(found.dequantize().numpy(), expected.astype(np.float32))


@settings(max_examples=60)
@given(seed=seeds, bits=widths, group=st.sampled_from([None, 1, 2, 6]), symmetric=st.booleans())
def test_rounding_gives_the_nearest_level(seed, bits, group, symmetric):
    w, _ = problem(seed)
    w[0] *= 1e-9  # below what float16 has
    w[1], w[2] = w[1].abs() + 1, 0
    found = rtn(w, bits, group, symmetric)
    parts = np.split(w.numpy(), 12 // (group or 12), axis=1)
    expected = [to_levels(p.T, a_grid(p, bits, symmetric), bits).T for p in parts]
    hat = found.dequantize()
    np.testing.assert_array_equal(hat.numpy(), np.concatenate(expected, 1).astype(np.float32))
    if bits > 1:
        step = found.scale.double().repeat_interleave(found.group_size, 1)
        assert bool(((w - hat.double()).abs() <= step / 2 * (1 + 1e-12)).all())
    assert bool((hat[2] == 0).all())


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("group", [8, 32])
def test_rounding_agrees_with_torchao(bits, group):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ao = pytest.importorskip("torchao.quantization.quant_primitives")
    w = torch.randn(16, 32, generator=torch.Generator().manual_seed(bits))
    found, limits = rtn(w, bits, group), (0, 2**bits - 1)
    assert found.zero_point is not None
    scale, _ = ao.choose_qparams_affine(
        w, ao.MappingType.ASYMMETRIC, (1, group), torch.uint8, *limits
    )
    scale = scale.view_as(found.scale)
    assert bool((found.scale >= scale * (1 - 1e-6)).all())
    torch.testing.assert_close(found.scale.float(), scale, rtol=2**-10, atol=0)
    theirs = ao.quantize_affine(
        w, (1, group), found.scale.float(), found.zero_point.int(), torch.uint8, *limits
    )
    assert torch.equal(found.codes, theirs)


@settings(max_examples=30)
@given(seed=seeds, bits=widths, group=st.sampled_from([None, 3]), symmetric=st.booleans(),
       power=st.integers(-20, 12))  # fmt: skip
def test_awq_is_never_above_rounding(seed, bits, group, symmetric, power):
    w, h = problem(seed)
    w = w * 2.0**power
    h[3], h[:, 3] = 0, 0  # an input that is always 0
    found = awq(w, h, bits, group, symmetric)
    error = output_error(w, rtn(w, bits, group, symmetric).dequantize(), h)
    assert output_error(w, found.dequantize(), h) <= error


def test_awq_protects_the_weights_that_meet_large_inputs():
    torch.manual_seed(0)
    w, size = torch.randn(64, 32), torch.ones(32, dtype=torch.float64)
    size[5] = 30
    h = torch.diag(size.square())
    found, plain = awq(w, h, 3), rtn(w, 3)
    assert found.input_scale is not None
    assert found.input_scale.argmin() == 5
    assert output_error(w, found.dequantize(), h) < 0.5 * output_error(w, plain.dequantize(), h)
    x = torch.randn(10, 32)
    y = WeightOnlyLinear.from_weight(found)(x)
    torch.testing.assert_close(y, x @ found.dequantize().T, rtol=1e-5, atol=1e-5)
    assert torch.equal(awq(w, h, 3, alphas=(0,)).dequantize(), plain.dequantize())


def test_gptq_can_be_worse_than_rounding():
    """The last weight is at the end of the grid: what the first sends there is clipped."""
    w = torch.tensor([[2.7, 1.2, 2.1, 3.0]], dtype=torch.float64)
    x = torch.tensor(
        [[2, 0, 0, -2], [0, 0, -1, 2], [2, -1, 2, -2],
         [1, 1, -1, 0], [-2, -2, 0, 2], [2, -2, -1, 2]], dtype=torch.float64,
    )  # fmt: skip
    h = x.T @ x / 6
    nearest, made_up = rtn(w, 2), gptq(w, h, 2, act_order=False, damping=0)
    assert nearest.dequantize().tolist() == [[3, 1, 2, 3]]
    assert made_up.dequantize().tolist() == [[3, 2, 3, 3]]
    assert output_error(w, made_up.dequantize(), h) > 6 * output_error(w, nearest.dequantize(), h)


def test_a_dead_column_is_rounded_and_moves_nothing():
    w, h = problem(1)
    h[4], h[:, 4] = 0, 0
    live = torch.arange(12) != 4
    # The damping is a share of the mean diagonal: with a dead column less of it.
    found, small = (
        gptq(w, h, 3, 1),
        gptq(w[:, live], h[live][:, live], 3, 1, damping=0.01 * 11 / 12),
    )
    assert torch.equal(found.dequantize()[:, live], small.dequantize())
    assert torch.equal(found.dequantize()[:, 4], rtn(w, 3, 1).dequantize()[:, 4])


def test_gptq_takes_fewer_rows_than_columns():
    w, _ = problem(2)
    x = torch.randn(3, 12, dtype=torch.float64)
    h = x.T @ x / 3
    errors = [output_error(w, q.dequantize(), h) for q in (gptq(w, h, 3), rtn(w, 3))]
    assert errors[0] < 0.1 * errors[1]


@pytest.fixture(scope="module")
def teacher():
    model = CharGPT.pretrained()
    windows = text.Windows(model.encode(text.split()[0]), model.context)
    torch.manual_seed(0)
    names = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and n != "lm_head"]
    batch = windows[torch.randperm(len(windows))[:12]]["input_ids"]
    return model, gram_matrices(model, [batch], names)


@pytest.mark.parametrize(("bits", "act_order"), [(4, False), (2, True)])
def test_gptq_is_below_rounding_on_every_layer_of_the_teacher(teacher, bits, act_order):
    model, grams = teacher
    assert len(grams) == 30
    for name, gram in grams.items():
        w, h = model.get_submodule(name).weight.detach(), gram.matrix
        nearest, found = rtn(w, bits), gptq(w, h, bits, act_order=act_order)
        assert torch.equal(found.scale, nearest.scale)  # one grid for both
        assert torch.equal(found.zero_point, nearest.zero_point)
        error = output_error(w, nearest.dequantize(), h)
        assert output_error(w, found.dequantize(), h) < 0.7 * error, name


def bad(w: Tensor, value: float) -> Tensor:
    w = w.clone()
    w[0, 0] = value
    return w


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda w, h: rtn(w, 0), "bits must be an int from 1 to 8, got 0"),
        (lambda w, h: rtn(w, 9), "bits must be an int from 1 to 8, got 9"),
        (lambda w, h: rtn(w, True), "bits must be an int from 1 to 8, got True"),
        (lambda w, h: rtn(w, 4, 5), "group_size must be an int that divides the 12 columns, got 5"),
        (lambda w, h: rtn(w, 4, 0), "group_size must be .* got 0"),
        (lambda w, h: rtn(w[0], 4), "weight must be a floating-point matrix"),
        (lambda w, h: rtn(w.int(), 4), r"weight must be a floating-point matrix, got torch\.int32"),
        (lambda w, h: rtn(bad(w, float("nan")), 4), "weight must be finite"),
        (lambda w, h: rtn(bad(w, 1e9), 4), "scales of at most 65504.* got 6.6"),
        (lambda w, h: gptq(w, h[:3, :3], 4), r"hessian must have the shape \[12, 12\]"),
        (lambda w, h: gptq(w, h * torch.nan, 4), "hessian must be finite"),
        (lambda w, h: gptq(w, -h, 4), "hessian must be positive definite once damped"),
        (lambda w, h: gptq(w, h, 4, damping=-1.0), "damping must not be negative, got -1"),
        (lambda w, h: gptq(w, h, 4, block_size=0), "block_size must be at least 1, got 0"),
        (lambda w, h: awq(w, h[:3, :3], 4), r"hessian must have the shape \[12, 12\]"),
        (lambda w, h: awq(w, h * torch.nan, 4), "hessian must be finite"),
        (lambda w, h: awq(w, h, 4, alphas=(0.5,)), "alphas must be from 0 to 1 and have 0"),
    ],
)  # fmt: skip
def test_what_is_refused(call, named):
    with pytest.raises(ValueError, match=named):
        call(*problem(0))
