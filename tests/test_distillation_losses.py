"""Distillation losses: closed forms, gradients, masks, what a mean is a mean of."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from qtools.distillation import losses
from qtools.distillation.attention import (
    attention_divergence,
    attention_loss,
    attention_transfer_loss,
)
from qtools.distillation.losses import (
    hidden_state_loss,
    hinton_loss,
    label_loss,
    onebit_loss,
    soft_cross_entropy,
    soft_divergence,
)


def normal(*shape: int, seed: int = 0, scale: float = 1.0, grad: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    t = scale * torch.randn(*shape, generator=generator, dtype=torch.float64)
    return t.requires_grad_(grad)


def rows(*shape: int, seed: int) -> Tensor:
    return normal(*shape, seed=seed).softmax(-1)


def gradient(loss: Tensor, of: Tensor) -> Tensor:
    return torch.autograd.grad(loss, of)[0]


# ---- values against formulas written out


@given(st.integers(2, 12), st.integers(1, 5), st.floats(0.3, 30), st.integers(0, 10**6))
def test_soft_targets_in_closed_form(classes, n, temperature, seed):
    z, v = normal(n, classes, seed=seed, grad=True), normal(n, classes, seed=seed + 1, scale=3)
    q, p = (z / temperature).softmax(-1), (v / temperature).softmax(-1)
    cross = soft_cross_entropy(z, v, temperature)
    torch.testing.assert_close(cross, -(p * q.log()).sum() / n)
    torch.testing.assert_close(gradient(cross, z), (q - p).detach() / (n * temperature))

    entropy = -(p * p.log()).sum() / n
    divergence = soft_divergence(z, v, temperature)
    torch.testing.assert_close(divergence, temperature**2 * (cross - entropy), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(gradient(divergence, z), temperature * (q - p).detach() / n)
    assert divergence >= -1e-12


def test_divergence_of_equal_logits_is_zero_and_cross_entropy_the_entropy():
    z = normal(4, 10)
    assert soft_divergence(z, z, 3.0) == pytest.approx(0, abs=1e-12)
    entropy = torch.distributions.Categorical(logits=z).entropy().mean()
    torch.testing.assert_close(soft_cross_entropy(z, z), entropy)


@pytest.mark.parametrize("classes", [3, 10])
def test_t_squared_keeps_the_gradient(classes):
    """T² KL tends to matching logits; without T² the gradient falls as 1/T²."""
    z, v = normal(3, classes, grad=True), normal(3, classes, seed=1)
    with torch.no_grad():
        z -= z.mean(-1, keepdim=True)
        v -= v.mean(-1, keepdim=True)
    limit = gradient(0.5 * (z - v).square().mean(-1).sum() / 3, z)
    sizes, errors = [], []
    for temperature in (10.0, 100.0, 1000.0):
        g = gradient(soft_divergence(z, v, temperature), z)
        errors.append(float((g - limit).norm() / limit.norm()))
        sizes.append(float(gradient(soft_cross_entropy(z, v, temperature), z).norm()))
    assert errors[0] < 0.2
    assert errors[1] == pytest.approx(errors[0] / 10, rel=0.3)
    assert errors[2] < 1e-2 * errors[0] * 1.3
    assert sizes[1] / sizes[2] == pytest.approx(100, rel=0.02)


def test_hinton_is_the_two_losses_weighed():
    z, v = normal(6, 10), normal(6, 10, seed=1)
    y = torch.arange(6)
    soft = 16 * F.kl_div((z / 4).log_softmax(-1), (v / 4).softmax(-1), reduction="batchmean")
    hard = F.cross_entropy(z, y)
    torch.testing.assert_close(hinton_loss(z, v, 4.0, y, alpha=0.7), 0.7 * soft + 0.3 * hard)
    torch.testing.assert_close(hinton_loss(z, v, 4.0), soft)
    torch.testing.assert_close(hinton_loss(z, v, 4.0, y, alpha=0.0), hard)
    torch.testing.assert_close(hinton_loss(z, v, 4.0, y, alpha=1.0), soft)


def test_hinton_leaves_out_unlabelled_items_on_both_sides():
    z, v, y = normal(6, 10), normal(6, 10, seed=1), torch.arange(6)
    y[[1, 4]] = -100
    keep = y >= 0
    expected = hinton_loss(z[keep], v[keep], 2.0, y[keep])
    torch.testing.assert_close(hinton_loss(z, v, 2.0, y), expected)


@given(st.integers(1, 4), st.integers(1, 5), st.integers(2, 9), st.integers(0, 10**6))
def test_hidden_states_in_closed_form(layers, n, width, seed):
    s = [normal(2, n, width, seed=seed + j, scale=10.0**j) for j in range(layers)]
    t = [normal(2, n, width, seed=seed + 50 + j) for j in range(layers)]
    cosines = sum(F.cosine_similarity(a, b, dim=-1) for a, b in zip(s, t, strict=True))
    torch.testing.assert_close(hidden_state_loss(s, t), (2 * layers - 2 * cosines).mean())
    longer = [3 * a for a in s]
    torch.testing.assert_close(hidden_state_loss(longer, t), hidden_state_loss(s, t))
    assert hidden_state_loss(s, [2 * a for a in s]) == pytest.approx(0, abs=1e-12)
    opposite = hidden_state_loss(s, [-a for a in s])
    torch.testing.assert_close(opposite, torch.tensor(4.0 * layers, dtype=torch.float64))


def test_zero_states_have_finite_gradients():
    s = torch.zeros(2, 3, requires_grad=True)
    loss = hidden_state_loss([s], [torch.ones(2, 3)])
    assert loss.item() == pytest.approx(1)
    assert gradient(loss, s).isfinite().all()


def test_onebit_is_cross_entropy_plus_alpha_times_states():
    z, v = normal(2, 3, 7), normal(2, 3, 7, seed=1)
    s, t = [normal(2, 3, 4, seed=2)], [normal(2, 3, 4, seed=3)]
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    for alpha in (0.0, 1.0, 10.0):
        expected = soft_cross_entropy(z, v, mask=mask) + alpha * hidden_state_loss(s, t, mask)
        torch.testing.assert_close(onebit_loss(z, v, s, t, alpha, mask), expected)


def test_batchmean_would_count_sequences():
    """The released code's reduction, and how far it is from a mean over tokens."""
    z, v = normal(2, 50, 7), normal(2, 50, 7, seed=1)
    batchmean = F.kl_div(z.log_softmax(-1), v.softmax(-1), reduction="batchmean")
    torch.testing.assert_close(batchmean, 50 * soft_divergence(z, v))


def test_attention_losses_in_closed_form():
    s = [rows(2, 3, 4, 4, seed=j) for j in range(2)]
    t = [rows(2, 3, 4, 4, seed=9 + j) for j in range(2)]
    squared, divergence = torch.zeros(2, 4).double(), torch.zeros(2, 4).double()
    for a, b in zip(s, t, strict=True):
        for i in range(2):
            for head in range(3):
                for query in range(4):
                    p, q = b[i, head, query], a[i, head, query]
                    squared[i, query] += (p - q).square().sum() / 3
                    divergence[i, query] += (p * (p / q).log()).sum() / 3
    torch.testing.assert_close(attention_loss(s, t), squared.mean())
    torch.testing.assert_close(attention_divergence(s, t), divergence.mean())
    mask = torch.tensor([[1, 0, 1, 1], [0, 0, 0, 1]])
    torch.testing.assert_close(attention_loss(s, t, mask), squared[mask.bool()].mean())
    total = attention_divergence(s, t, mask, "sum")
    torch.testing.assert_close(total, divergence[mask.bool()].sum())


def test_attention_divergence_survives_keys_that_are_ruled_out():
    """Causal maps have exact zeros: 0 log 0 counts 0, and nothing becomes NaN."""
    causal = torch.full((5, 5), -torch.inf).triu(1)
    scores = torch.randn(1, 2, 5, 5, requires_grad=True)
    teacher = (torch.randn(1, 2, 5, 5) + causal).softmax(-1)
    loss = attention_divergence([(scores + causal).softmax(-1)], [teacher])
    assert loss.isfinite()
    assert gradient(loss, scores).isfinite().all()
    narrower = torch.tensor([[[[1.0, 0.0]]]], requires_grad=True)
    loss = attention_divergence([narrower], [torch.tensor([[[[0.5, 0.5]]]])])
    assert 10 < loss < 100
    assert gradient(loss, narrower).isfinite().all()


def test_attention_transfer_sums_channels_away():
    s, t = normal(2, 3, 4, 4), normal(2, 8, 4, 4, seed=1)
    q_s, q_t = (f.square().sum(1).flatten(1) for f in (s, t))
    expected = (q_s / q_s.norm(dim=1, keepdim=True) - q_t / q_t.norm(dim=1, keepdim=True)).square()
    torch.testing.assert_close(attention_transfer_loss([s], [t]), expected.sum() / 2)
    torch.testing.assert_close(attention_transfer_loss([s], [t], "sum"), expected.sum())


# ---- gradients, every loss, every reduction

MASK = torch.tensor([[True, False, True], [True, True, False]])
LABELS = torch.tensor([[0, 1, -100], [2, 1, 0]])
GRADIENTS = {
    "cross": lambda x, r: soft_cross_entropy(x, normal(2, 3, 4, seed=1), 2.0, MASK, r),
    "divergence": lambda x, r: soft_divergence(x, normal(2, 3, 4, seed=1), 2.0, MASK, r),
    "hinton": lambda x, r: hinton_loss(x, normal(2, 3, 4, seed=1), 3.0, LABELS, 0.6, MASK, r),
    "labels": lambda x, r: label_loss(x, LABELS, MASK, r),
    "states": lambda x, r: hidden_state_loss([x, x**2], [normal(2, 3, 4)] * 2, MASK, r),
    "onebit": lambda x, r: onebit_loss(x, normal(2, 3, 4), [x], [normal(2, 3, 4)], 2.0, MASK, r),
    "maps": lambda x, r: attention_loss(
        [x.softmax(-1)[:, None]], [rows(2, 1, 3, 4, seed=1)], MASK, r
    ),
    "map divergence": lambda x, r: attention_divergence(
        [x.softmax(-1)[:, None]], [rows(2, 1, 3, 4, seed=1)], MASK, r
    ),
    "transfer": lambda x, r: attention_transfer_loss([x[..., None]], [normal(2, 5, 4, 1)], r),
}


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_numerically(name, reduction):
    x = normal(2, 3, 4, seed=7, grad=True)
    assert torch.autograd.gradcheck(lambda x: GRADIENTS[name](x, reduction), x)


@pytest.mark.parametrize("name", [n for n in GRADIENTS if n != "transfer"])
def test_masked_items_count_for_nothing(name):
    """Whatever stands there, value and gradient stay, and the mean is the sum over the count."""
    count = 3 if name in ("hinton", "labels") else 4
    keep = MASK & (LABELS >= 0) if count == 3 else MASK
    x = normal(2, 3, 4, seed=7)
    other = torch.where(keep[..., None], x, 5 + normal(2, 3, 4, seed=8)).requires_grad_()
    torch.testing.assert_close(GRADIENTS[name](x, "sum"), GRADIENTS[name](other, "sum"))
    torch.testing.assert_close(GRADIENTS[name](x, "sum") / count, GRADIENTS[name](x, "mean"))
    assert (gradient(GRADIENTS[name](other, "sum"), other)[~keep] == 0).all()


def test_no_gradient_reaches_the_teacher():
    teacher = normal(2, 3, 4, grad=True)
    student = normal(2, 3, 4, seed=1, grad=True)
    maps = [teacher.softmax(-1)[:, None]]
    total = (
        hinton_loss(student, teacher, 2.0, LABELS)
        + onebit_loss(student, teacher, [student], [teacher])
        + attention_loss([student.softmax(-1)[:, None]], maps)
        + attention_divergence([student.softmax(-1)[:, None]], maps)
    )
    total.backward()
    assert teacher.grad is None
    assert student.grad is not None


@given(st.lists(st.integers(0, 4), min_size=2, max_size=4), st.integers(0, 10**6))
def test_a_mean_of_means_is_wrong_and_sums_are_right(lengths, seed):
    """Parts of different length: sums over parts, divided once, are the mean over the whole."""
    lengths = [4, *lengths]
    z, v = normal(len(lengths), 4, 5, seed=seed), normal(len(lengths), 4, 5, seed=seed + 1)
    mask = torch.arange(4) < torch.tensor(lengths)[:, None]
    sums = [
        soft_divergence(z[i : i + 1], v[i : i + 1], 2.0, mask[i : i + 1], "sum")
        for i in range(len(lengths))
    ]
    whole = soft_divergence(z, v, 2.0, mask)
    torch.testing.assert_close(sum(sums) / sum(lengths), whole)


# ---- types and edges


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    z, v = normal(4, 10).to(dtype), normal(4, 10, seed=1).to(dtype)
    loss = hinton_loss(z, v, 4.0, torch.arange(4))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, hinton_loss(z.float(), v.float(), 4.0, torch.arange(4)))
    assert hidden_state_loss([z], [v]).dtype == torch.float32
    assert attention_loss([z[None, None]], [v[None, None]]).dtype == torch.float32


def test_a_teacher_that_rules_classes_out():
    v = torch.tensor([[0.0, -math.inf, 1.0]])
    z = torch.zeros(1, 3, requires_grad=True)
    for loss in (soft_divergence(z, v, 2.0), soft_cross_entropy(z, v)):
        assert loss.isfinite()
        assert gradient(loss, z).isfinite().all()


def test_the_mean_over_nothing_is_nan():
    z = normal(2, 3)
    assert soft_cross_entropy(z, z, mask=torch.zeros(2)).isnan()
    assert soft_cross_entropy(z, z, mask=torch.zeros(2), reduction="sum") == 0


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: hinton_loss(normal(2, 3), normal(2, 4)), r"teacher_logits .*\[2, 3\].*\[2, 4\]"),
        (lambda: soft_cross_entropy(normal(2, 3), normal(3)), "teacher_logits"),
        (lambda: hinton_loss(normal(2, 3), normal(2, 3), 0.0), "temperature must be positive"),
        (lambda: hinton_loss(normal(2, 3), normal(2, 3), math.nan), "temperature"),
        (lambda: hinton_loss(normal(2, 3), normal(2, 3), alpha=1.1), "alpha must be between"),
        (lambda: hinton_loss(normal(2, 3), normal(2, 3), labels=torch.tensor([0])), "labels"),
        (lambda: label_loss(normal(2, 3), torch.zeros(2, 1).long()), r"labels .*\[2\].*\[2, 1\]"),
        (lambda: label_loss(normal(2, 3), torch.zeros(2).long(), torch.ones(3)), "mask must"),
        (lambda: soft_cross_entropy(normal(2, 3), normal(2, 3), mask=torch.ones(2, 3)), "mask"),
        (lambda: soft_cross_entropy(normal(2, 3), normal(2, 3), reduction="none"), "reduction"),
        (lambda: hidden_state_loss([], []), "at least one, got 0 and 0"),
        (lambda: hidden_state_loss([normal(2, 3)], [normal(2, 3)] * 2), "got 1 and 2"),
        (lambda: hidden_state_loss([normal(2, 3)], [normal(2, 4)]), r"layer 0 .*2, 4"),
        (lambda: attention_loss([normal(1, 1, 2, 3)], [normal(1, 2, 2, 3)]), "layer 0"),
    ],
)  # fmt: skip
def test_refusals(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_ignored_is_torchs():
    assert torch.nn.CrossEntropyLoss().ignore_index == losses.IGNORED
