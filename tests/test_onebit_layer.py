"""The OneBit layer is equation 3; its gradients are as stated; convert_ spares what it must."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from qtools.onebit import (
    OneBitLinear,
    PackedOneBitLinear,
    convert_,
    pack_,
    sign,
    straight_through_sign,
    svid,
)

SLOPES = {
    "tanh": lambda w: 1 / torch.cosh(w) ** 2,
    "released": lambda w: 0.001 + 1 / torch.cosh(w) ** 2,
    "clipped": lambda w: ((w >= -1) & (w <= 1)).double(),
    "identity": lambda w: torch.ones_like(w),
}


def layer_of(seed, n_in, n_out, **kwargs):
    torch.manual_seed(seed)
    layer = OneBitLinear(n_in, n_out, dtype=torch.float64, **kwargs)
    with torch.no_grad():
        layer.g.normal_()
        layer.h.normal_()
    return layer


@settings(max_examples=50)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_in=st.integers(1, 20),
    n_out=st.integers(1, 20),
    bias=st.booleans(),
    layer_norm=st.booleans(),
    batch=st.sampled_from([(), (3,), (2, 3), (0,), (2, 1, 2)]),
)
def test_layer_is_equation_3_number_by_number(seed, n_in, n_out, bias, layer_norm, batch):
    layer = layer_of(seed, n_in, n_out, bias=bias, layer_norm=layer_norm, eps=0.01)
    x = torch.randn(*batch, n_in, dtype=torch.float64)
    layer.requires_grad_(False)
    y = layer(x)
    assert y.shape == (*batch, n_out)
    for row, result in zip(x.reshape(-1, n_in), y.reshape(-1, n_out), strict=True):
        z = [
            sum(
                float(row[j] * layer.g[j]) * (-1 if layer.weight[i, j] < 0 else 1)
                for j in range(n_in)
            )
            * float(layer.h[i])
            for i in range(n_out)
        ]
        if layer_norm:
            mean = sum(z) / n_out
            variance = sum((v - mean) ** 2 for v in z) / n_out
            z = [(v - mean) / (variance + 0.01) ** 0.5 for v in z]
        if bias:
            z = [v + float(b) for v, b in zip(z, layer.bias, strict=True)]
        torch.testing.assert_close(
            result, torch.tensor(z, dtype=torch.float64), rtol=1e-9, atol=1e-9
        )


def test_sign_of_zero_is_plus_one_whatever_its_sign_bit():
    w = torch.tensor([-1e-45, -0.0, 0.0, 1e-45, -2.0, 3.0])
    assert sign(w).tolist() == [-1, 1, 1, 1, -1, 1]
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        assert sign(torch.tensor([0.0, -1.0], dtype=dtype)).dtype == dtype


@given(
    seed=st.integers(0, 2**32 - 1),
    gradient=st.sampled_from(sorted(SLOPES)),
    scale=st.sampled_from([0.01, 1.0, 3.0]),
)
def test_gradients_of_sign_are_those_of_the_table(seed, gradient, scale):
    g = torch.Generator().manual_seed(seed)
    w = (scale * torch.randn(4, 5, generator=g, dtype=torch.float64)).requires_grad_()
    out = torch.randn(4, 5, generator=g, dtype=torch.float64)
    y = straight_through_sign(w, gradient)
    assert torch.equal(y, sign(w))
    (grad,) = torch.autograd.grad(y, w, out)
    torch.testing.assert_close(grad, out * SLOPES[gradient](w.detach()), rtol=1e-12, atol=1e-12)


def test_clipped_gradient_includes_both_ends():
    w = torch.tensor([-1.0, 1.0, -1.0000001, 1.0000001], requires_grad=True)
    straight_through_sign(w, "clipped").sum().backward()
    assert w.grad.tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize("layer_norm", [True, False])
def test_gradients_to_input_vectors_and_bias_are_exact(layer_norm):
    layer = layer_of(1, 5, 4, layer_norm=layer_norm)
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)

    def outputs(x, g, h, bias):
        state = {"g": g, "h": h, "bias": bias, "weight": layer.weight.detach()}
        return torch.func.functional_call(layer, state, (x,))

    assert torch.autograd.gradcheck(outputs, (x, layer.g, layer.h, layer.bias))


@pytest.mark.parametrize("gradient", sorted(SLOPES))
def test_gradient_to_the_latent_weight_goes_through_g_and_h(gradient):
    layer = layer_of(2, 6, 3, layer_norm=False, bias=False, gradient=gradient)
    x, out = torch.randn(7, 6, dtype=torch.float64), torch.randn(7, 3, dtype=torch.float64)
    layer(x).backward(out)
    expected = (out * layer.h).T @ (x * layer.g) * SLOPES[gradient](layer.weight.detach())
    torch.testing.assert_close(layer.weight.grad, expected.detach())


def test_torch_func_takes_the_layer():
    layer = layer_of(3, 6, 3)
    x = torch.randn(7, 6, dtype=torch.float64)
    torch.testing.assert_close(torch.func.vmap(layer)(x), layer(x))

    def loss(parameters, x):
        return torch.func.functional_call(layer, parameters, (x,)).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(dict(layer.named_parameters()), x)
    layer(x).square().sum().backward()
    for name, parameter in layer.named_parameters():
        torch.testing.assert_close(each[name].sum(0), parameter.grad)


@pytest.mark.parametrize("shape", [(2, 1), (2, 7), (), (0,)], ids=str)
@pytest.mark.parametrize("n_in", [1, 6])
@pytest.mark.parametrize("packed", [True, False], ids=["packed", "latent"])
def test_an_input_that_would_spread_over_the_columns_is_refused(shape, n_in, packed):
    layer = OneBitLinear(n_in, 3)
    layer = PackedOneBitLinear.from_layer(layer) if packed else layer
    if shape == (2, n_in):
        return
    with pytest.raises(ValueError, match=rf"x must have the shape \[\.\.\., {n_in}\], got"):
        layer(torch.ones(shape))


def test_new_layer_has_one_scale_split_evenly():
    layer = OneBitLinear(64, 32)
    scale = layer.weight.abs().mean()
    torch.testing.assert_close(layer.g[:, None] * layer.h, scale.expand(64, 32))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_features": 0}, "in_features must be an int of at least 1, got 0"),
        ({"out_features": 2.0}, "out_features must be an int"),
        ({"gradient": "sigmoid"}, "gradient must be one of tanh, released, clipped, identity"),
        ({"eps": 0.0}, "eps must be a positive float"),
    ],
)
def test_layer_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        OneBitLinear(**{"in_features": 2, "out_features": 2, **arguments})


# Conversion


class Tied(nn.Module):
    """An embedding, two blocks, and a head with the embedding's weight."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 6)) for _ in "ab")
        self.lm_head = nn.Linear(6, 11, bias=False)
        self.lm_head.weight = self.embed.weight

    def forward(self, x):
        x = self.embed(x)
        for block in self.blocks:
            x = x + block(x)
        return self.lm_head(x)


@given(seed=st.integers(0, 2**32 - 1), n_in=st.integers(1, 30), n_out=st.integers(1, 30))
def test_converted_layer_errs_at_most_as_proposition_1_says(seed, n_in, n_out):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(n_in, n_out, dtype=torch.float64))
    w, bias = model[0].weight.detach().clone(), model[0].bias.detach().clone()
    x = torch.randn(5, n_in, dtype=torch.float64)
    before = model(x)
    report = convert_(model, layer_norm=False)
    layer = model[0]
    assert not layer.reconstruct().requires_grad
    error = w - layer.reconstruct()
    bound = torch.linalg.matrix_norm(x, 2) * error.norm()
    assert (model(x) - before).norm() <= bound * (1 + 1e-9) + 1e-12
    sv = svid(w)
    assert torch.equal(layer.g.detach(), sv.b)
    assert torch.equal(layer.h.detach(), sv.a)
    assert torch.equal(layer.weight.detach(), w)
    assert torch.equal(layer.bias.detach(), bias)
    assert report.converted[0].error == pytest.approx(float(error.norm() / w.norm()), abs=1e-7)


def test_starts_of_the_latent_weights():
    model = nn.Sequential(nn.Linear(9, 7))
    with torch.no_grad():
        model[0].weight[0, :3] = torch.tensor([0.0, -0.0, -5.0])
    released = copy.deepcopy(model)
    convert_(model)
    convert_(released, start="sign", gradient="released")
    assert torch.equal(released[0].weight, 0.01 * sign(model[0].weight))
    assert released[0].weight[0, :3].tolist() == pytest.approx([0.01, 0.01, -0.01])
    assert released[0].gradient == "released"
    assert torch.equal(released[0].g, model[0].g)
    x = torch.randn(4, 9)
    assert torch.equal(model(x), released(x))  # the starts differ in what they learn, not yet


def test_the_head_is_kept_and_ties_survive():
    model = Tied()
    report = convert_(model)
    assert [c.names for c in report.converted] == [
        ("blocks.0.0",), ("blocks.0.1",), ("blocks.1.0",), ("blocks.1.1",)
    ]  # fmt: skip
    assert report.kept == {"lm_head": "skip has 'lm_head'"}
    assert report.weights == 4 * 48
    assert "blocks.0.0: 6 to 8, relative error" in str(report)
    assert model.lm_head.weight is model.embed.weight
    model(torch.arange(5)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    again = convert_(model)  # nothing is left to convert
    assert again.converted == ()


def test_a_tie_with_something_that_stays_is_refused():
    model = Tied()
    state = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="lm_head shares its weight with embed, which stays"):
        convert_(model, skip=())
    assert not any(isinstance(m, OneBitLinear) for m in model.modules())
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_layers_that_share_a_weight_go_on_sharing_it():
    for start in ("weights", "sign"):
        model = nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 5))
        model[2].weight = model[0].weight
        convert_(model, start=start)
        assert model[0].weight is model[2].weight
        assert model[0].g is not model[2].g
        pack_(model)
        assert model[0].bits is model[2].bits


def test_a_module_under_two_names_stays_one():
    shared = nn.Linear(4, 4)
    model = nn.ModuleDict({"a": shared, "b": nn.Sequential(shared)})
    report = convert_(model)
    assert report.converted[0].names == ("a", "b.0")
    assert model["a"] is model["b"][0]
    pack_(model)
    assert model["a"] is model["b"][0]
    assert isinstance(model["a"], PackedOneBitLinear)


def test_a_module_skipped_under_one_name_is_kept_under_all():
    shared = nn.Linear(4, 4)
    model = nn.ModuleDict({"a": shared, "b": nn.Sequential(shared), "c": nn.Linear(4, 4)})
    report = convert_(model, skip=("b",))
    assert report.kept == {"a": "skip has 'b'", "b.0": "skip has 'b'"}
    assert [layer.names for layer in report.converted] == [("c",)]
    assert model["a"] is model["b"][0] is shared


def test_skip_takes_whole_parts_of_names():
    model = nn.Module()
    model.layers = nn.ModuleList(nn.Sequential(nn.Linear(2, 2)) for _ in range(11))
    kept = convert_(model, skip=("layers.1",)).kept
    assert list(kept) == ["layers.1.0"]
    with pytest.raises(ValueError, match="skip must name modules of the model, got 'head'"):
        convert_(model, skip=("head",))
    with pytest.raises(TypeError, match="skip must be a sequence of names, got the string 'head'"):
        convert_(model, skip="head")


def test_mode_type_and_frozen_weights_carry_over():
    model = nn.Sequential(nn.Linear(3, 4).bfloat16()).eval()
    model.requires_grad_(False)
    convert_(model)
    assert not model[0].training
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert not any(p.requires_grad for p in model.parameters())


def test_converting_draws_no_random_numbers():
    model = Tied()
    state = torch.get_rng_state()
    convert_(model)
    assert torch.equal(state, torch.get_rng_state())


class Special(nn.Linear):
    pass


HOOKS = ("forward_hook", "forward_pre_hook", "full_backward_hook", "full_backward_pre_hook")


def with_hook(kind=HOOKS[0], layer=None):
    layer = layer or nn.Linear(2, 2)
    getattr(layer, f"register_{kind}")(lambda *_: None)
    return layer


def of_nan():
    layer = nn.Linear(2, 2)
    nn.init.constant_(layer.weight, float("nan"))
    return layer


@pytest.mark.parametrize("kind", HOOKS)
def test_layers_with_hooks_are_neither_converted_nor_packed(kind):
    with pytest.raises(ValueError, match=r"^0 must have no hooks, they would be lost; name it"):
        convert_(nn.Sequential(with_hook(kind)))
    model = nn.Sequential(with_hook(kind, OneBitLinear(2, 2)))
    with pytest.raises(ValueError, match=r"^0 must have no hooks, they would be lost"):
        pack_(model)


@pytest.mark.parametrize(
    ("module", "error", "message"),
    [
        (Special(2, 2), TypeError, r"^1: Special is a subclass of Linear.*skip=\('1',\)"),
        (nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)), TypeError, "^1: .*subclass"),
        (nn.MultiheadAttention(2, 1), TypeError, r"^1\.out_proj: "),
        (nn.TransformerEncoderLayer(2, 1, 4), TypeError, r"^1\..*(subclass|reads the weight)"),
        (of_nan(), ValueError, "^1: weight must"),
        (nn.Linear(2, 2, device="meta"), ValueError, "^1 must have values"),
    ],
)
def test_what_cannot_be_converted_is_refused_by_name(module, error, message):
    model = nn.Sequential(nn.Linear(2, 2), module)
    with pytest.raises(error, match=message):
        convert_(model)
    assert type(model[0]) is nn.Linear
    convert_(model, skip=("1",))
    assert type(model[0]) is OneBitLinear


def test_the_layers_of_a_fast_path_are_refused():
    model = nn.Sequential(nn.TransformerEncoderLayer(4, 1, 8))
    with pytest.raises(TypeError, match=r"0\.linear1: TransformerEncoderLayer reads the weight"):
        convert_(model, skip=("self_attn",))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start": "zero"}, "start must be one of weights, sign, got 'zero'"),
        ({"gradient": "x"}, "gradient must be one of"),
        ({"eps": -1.0}, "eps must be"),
    ],
)
def test_convert_refuses_unknown_choices(arguments, message):
    with pytest.raises(ValueError, match=message):
        convert_(nn.Sequential(nn.Linear(2, 2)), **arguments)


def test_a_single_layer_is_refused():
    with pytest.raises(ValueError, match=r"put it into an nn\.Sequential"):
        convert_(nn.Linear(2, 2))


def test_g_and_h_of_the_largest_weights_fit_their_type():
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        model = nn.Sequential(nn.Linear(300, 1).to(dtype))
        nn.init.constant_(model[0].weight, torch.finfo(dtype).max)
        convert_(model)  # they are square roots of that, about
        assert model[0].g.isfinite().all()
        assert model[0].h.isfinite().all()


class Conv1D(nn.Module):
    """Like transformers' own: ``y = x W + b``."""

    __module__ = "transformers.pytorch_utils"

    def __init__(self, nf, nx):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(nx, nf))
        self.bias = nn.Parameter(torch.randn(nf))

    def forward(self, x):
        return x @ self.weight + self.bias


def test_conv1d_is_a_linear_layer_transposed():
    model = nn.Sequential(Conv1D(5, 3))
    linear = nn.Sequential(nn.Linear(3, 5))
    with torch.no_grad():
        linear[0].weight.copy_(model[0].weight.T)
        linear[0].bias.copy_(model[0].bias)
    convert_(model)
    convert_(linear)
    x = torch.randn(2, 3)
    assert torch.equal(model(x), linear(x))
    tied = nn.Sequential(Conv1D(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    with pytest.raises(ValueError, match="0 shares its weight with 1"):
        convert_(tied)


def test_a_student_learns():
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8))
    x = torch.randn(256, 16)
    target = F.layer_norm(teacher(x), (8,)).detach()
    student = copy.deepcopy(teacher)
    convert_(student)
    optimizer = torch.optim.Adam(student.parameters(), lr=0.01)
    losses = []
    for _ in range(60):
        loss = F.mse_loss(student(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
