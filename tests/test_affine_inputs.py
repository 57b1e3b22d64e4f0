"""What happens at the edges of the input space: each row names one defined behaviour."""

from __future__ import annotations

import pytest
import torch

from qtools import (
    QParams,
    QuantSpec,
    choose_qparams,
    dequantize,
    fake_quantize,
    qparams_from_tensor,
    quantize,
)

ALL = [
    QuantSpec(),
    QuantSpec(symmetric=True),
    QuantSpec(signed=False),
    QuantSpec(signed=False, symmetric=True),
    QuantSpec(granularity="channel"),
    QuantSpec(granularity="group", group_size=2),
]
name = str


@pytest.mark.parametrize("spec", ALL, ids=name)
def test_all_zero_tensor_has_scale_one_and_comes_back_as_zero(spec):
    x = torch.zeros(3, 4)
    qp = qparams_from_tensor(x, spec)
    assert bool((qp.scale == 1).all())
    assert torch.equal(fake_quantize(x, qp), x)


@pytest.mark.parametrize("value", [-5.0, 0.3, 7.0])
@pytest.mark.parametrize("spec", ALL, ids=name)
def test_constant_tensor_comes_back_within_a_rounding(spec, value):
    """The range is [0, value]: value sits on its edge, so only float rounding remains."""
    x = torch.full((3, 4), value)
    qp = qparams_from_tensor(x, spec)
    torch.testing.assert_close(fake_quantize(x, qp), x, rtol=2**-22, atol=0)


def test_a_channel_of_zeros_does_not_disturb_the_others():
    x = torch.tensor([[0.0, 0.0], [-1.0, 2.0]])
    qp = qparams_from_tensor(x, QuantSpec(granularity="channel"))
    assert qp.scale[0] == 1
    alone = qparams_from_tensor(x[1], QuantSpec())
    assert torch.equal(qp.scale[1], alone.scale)
    assert torch.equal(fake_quantize(x, qp)[0], x[0])


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_one_element(shape):
    x = torch.full(shape, 0.7)
    qp = qparams_from_tensor(x, QuantSpec())
    y = fake_quantize(x.requires_grad_(), qp)
    y.sum().backward()
    assert y.shape == x.shape
    torch.testing.assert_close(y, x, rtol=2**-22, atol=0)


@pytest.mark.parametrize(
    ("spec", "shape", "scales"),
    [
        (QuantSpec(), (0,), ()),
        (QuantSpec(granularity="channel"), (3, 0), (3,)),
        (QuantSpec(granularity="channel"), (0, 3), (0,)),
        (QuantSpec(granularity="group", group_size=4), (3, 0), (3, 0)),
        (QuantSpec(granularity="group", group_size=4), (0, 4), (0, 0)),
    ],
    ids=str,
)
def test_empty_tensor_has_the_range_zero_and_stays_empty(spec, shape, scales):
    x = torch.zeros(shape)
    qp = qparams_from_tensor(x, spec)
    assert qp.scale.shape == scales
    assert bool((qp.scale == 1).all())
    assert quantize(x, qp).shape == shape
    assert dequantize(quantize(x, qp), qp).shape == shape
    assert fake_quantize(x, qp).shape == shape


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("spec", ALL, ids=name)
def test_nan_and_infinity_are_refused_where_the_range_is_made(spec, bad):
    x = torch.ones(3, 4)
    x[1, 2] = bad
    with pytest.raises(ValueError, match=r"x_m(in|ax) must be finite, got (nan|inf|-inf)"):
        qparams_from_tensor(x, spec)


def test_quantize_refuses_nan_and_clips_infinity():
    qp = choose_qparams(-1.0, 1.0, QuantSpec())
    with pytest.raises(ValueError, match="x must not contain NaN"):
        quantize(torch.tensor([0.0, float("nan")]), qp)
    assert quantize(torch.tensor([float("inf"), float("-inf")]), qp).tolist() == [127, -128]


def test_fake_quantize_lets_nan_through():
    qp = choose_qparams(-1.0, 1.0, QuantSpec())
    y = fake_quantize(torch.tensor([0.0, float("nan"), float("inf")]), qp)
    assert y.isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_types(dtype):
    x = torch.randn(4, 4).to(dtype)
    qp = qparams_from_tensor(x, QuantSpec())
    kept = torch.float64 if dtype == torch.float64 else torch.float32
    assert qp.scale.dtype == kept
    assert fake_quantize(x, qp).dtype == dtype
    assert dequantize(quantize(x, qp), qp).dtype == kept


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, torch.complex64])
def test_only_real_floating_types_are_quantized(dtype):
    x, qp = torch.ones(2).to(dtype), choose_qparams(0.0, 1.0, QuantSpec())
    for call in (lambda: qparams_from_tensor(x, QuantSpec()), lambda: quantize(x, qp),
                 lambda: fake_quantize(x, qp)):  # fmt: skip
        with pytest.raises(TypeError, match="x must have one of the types"):
            call()
    with pytest.raises(TypeError, match="q must be an integer tensor"):
        dequantize(torch.ones(2), qp)


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"bits": 1}, ValueError, "bits must be an integer from 2 to 16, got 1"),
        ({"bits": 17}, ValueError, "bits must be an integer from 2 to 16, got 17"),
        ({"bits": 8.0}, ValueError, r"bits must be an integer from 2 to 16, got 8\.0"),
        ({"bits": True}, ValueError, "bits must be an integer from 2 to 16, got True"),
        ({"granularity": "row"}, ValueError, r"granularity must be one of .*got 'row'"),
        ({"axis": 1.5}, TypeError, r"axis must be an integer, got 1\.5"),
        ({"group_size": 32}, ValueError, "group_size is for granularity=.group. only, got 32"),
        ({"granularity": "group"}, ValueError, "group_size must be a positive integer .*got None"),
        ({"granularity": "group", "group_size": 0}, ValueError, "positive integer .*got 0"),
    ],
)
def test_a_wrong_spec_names_the_argument(kwargs, error, message):
    with pytest.raises(error, match=message):
        QuantSpec(**kwargs)


def test_an_axis_the_tensor_does_not_have():
    spec = QuantSpec(granularity="channel", axis=2)
    with pytest.raises(ValueError, match=r"axis must be from -2 to 1 for shape \[3, 4\], got 2"):
        qparams_from_tensor(torch.ones(3, 4), spec)
    with pytest.raises(ValueError, match="axis must be from"):
        qparams_from_tensor(torch.tensor(1.0), QuantSpec(granularity="channel"))


def test_a_group_size_that_does_not_divide():
    spec = QuantSpec(granularity="group", group_size=3)
    with pytest.raises(ValueError, match="group_size must divide the 4 elements of a channel"):
        qparams_from_tensor(torch.ones(3, 4), spec)


def test_shapes_that_do_not_fit():
    channel = qparams_from_tensor(torch.ones(3, 4), QuantSpec(granularity="channel"))
    group = qparams_from_tensor(torch.ones(3, 4), QuantSpec(granularity="group", group_size=2))
    for call in (quantize, fake_quantize):
        with pytest.raises(ValueError, match=r"x must have 3 channels along axis 0"):
            call(torch.ones(5, 4), channel)
        with pytest.raises(ValueError, match=r"x must have \[3, 2\] \[channels, groups\]"):
            call(torch.ones(3, 8), group)
    with pytest.raises(ValueError, match="x_min and x_max must have one shape"):
        choose_qparams(torch.zeros(2), torch.ones(3), QuantSpec(granularity="channel"))
    with pytest.raises(ValueError, match="must have 0 dimensions"):
        choose_qparams(torch.zeros(2), torch.ones(2), QuantSpec())


def test_a_range_that_is_upside_down():
    with pytest.raises(ValueError, match="x_min must not exceed x_max"):
        choose_qparams(1.0, -1.0, QuantSpec())


@pytest.mark.parametrize(
    ("scale", "zero_point", "error", "message"),
    [
        (torch.tensor(-1.0), 0, ValueError, "scale must be positive and finite, got -1"),
        (torch.tensor(0.0), 0, ValueError, "scale must be positive and finite, got 0"),
        (torch.tensor(float("nan")), 0, ValueError, "scale must be positive and finite, got nan"),
        (torch.tensor(1.0), 128, ValueError, "zero_point must be from -128 to 127, got 128"),
        (torch.tensor(1.0, dtype=torch.float16), 0, TypeError, "scale must be float32 or float64"),
    ],
)
def test_wrong_parameters_name_the_argument(scale, zero_point, error, message):
    with pytest.raises(error, match=message):
        QParams(scale, torch.tensor(zero_point, dtype=torch.int32), QuantSpec())


def test_zero_point_must_be_int32():
    with pytest.raises(TypeError, match="zero_point must be int32"):
        QParams(torch.tensor(1.0), torch.tensor(0), QuantSpec())
