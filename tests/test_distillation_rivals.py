"""Students that OneBit is compared with: their layers against other code, their packed forms."""

import copy
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from qtools import evaluation, weight_only
from qtools.affine import fake_quantize
from qtools.distillation import DistillConfig, Distiller, OneBit, language, rivals
from qtools.distillation.written import Sequences
from qtools.models import CharGPT
from qtools.onebit import OneBitLinear, PackedOneBitLinear
from qtools.onebit.bitnet import BitNetLinear, TernaryLinear
from qtools.weight_only import WeightOnlyLinear

MAKERS = {
    "bitnet": rivals.bitnet_student,
    "ternary": lambda: rivals.bitnet_student(ternary=True),
    "two bits": rivals.qat_student,
    "three bits": lambda: rivals.qat_student(bits=3),
    "onebit": lambda: language.onebit_student(layer_norm=False),
}


@pytest.fixture(scope="module")
def text() -> torch.Tensor:
    return CharGPT.pretrained().encode("Call me Ishmael. Some years ago, never mind how long")[None]


@cache
def made(name: str) -> nn.Module:
    return MAKERS[name]()


def copied(name: str) -> nn.Module:
    """A student of one's own, not made anew: choosing ranges and factors takes a second."""
    return copy.deepcopy(made(name))


@pytest.fixture(params=MAKERS)
def student(request) -> nn.Module:
    return copied(request.param).eval()


# ---- the layers


def test_bitnet_layer_is_equation_2_in_float64():
    torch.manual_seed(0)
    layer, x = BitNetLinear(37, 11), torch.randn(3, 5, 37)
    w = layer.weight.detach().double()
    centred = w - w.mean()
    assert centred.abs().min() > 1e-6  # no sign depends on rounding
    eta, signs = centred.abs().mean(), torch.where(centred < 0, -1.0, 1.0).double()
    normal = (x.double() - x.double().mean(-1, keepdim=True)) / torch.sqrt(
        x.double().var(-1, correction=0, keepdim=True) + 1e-5
    )
    expected = eta * normal @ signs.T + layer.bias.double()
    # Sums of 37 products of about η each, in float32.
    assert (layer(x) - expected).abs().max() <= 37 * 2**-23 * eta * normal.abs().sum(-1).max()


def test_ternary_weight_is_that_of_transformers():
    bitnet = pytest.importorskip("transformers.integrations.bitnet")
    torch.manual_seed(1)
    layer = TernaryLinear(64, 48)
    theirs = bitnet.WeightQuant.apply(layer.weight.detach().clone())
    ours, gamma = layer.quantized(), layer.weight.detach().abs().mean()
    # They bound γ from below where the paper adds 1e-5: at a rounding edge that may decide.
    edge = ((layer.weight.detach() / gamma).abs() - 0.5).abs() < 1e-3
    assert edge.float().mean() < 0.01
    assert torch.allclose(ours[~edge], theirs[~edge], rtol=1e-6)
    assert set(layer.levels()[0].unique().tolist()) == {-1.0, 0.0, 1.0}


@pytest.mark.parametrize("kind", [BitNetLinear, TernaryLinear])
def test_gradient_passes_through_to_the_latent_weight(kind):
    torch.manual_seed(2)
    layer, x = kind(6, 4), torch.randn(5, 6)
    (layer(x) * torch.arange(20.0).view(5, 4)).sum().backward()
    normal = F.layer_norm(x, (6,))
    expected = torch.arange(20.0).view(5, 4).T @ normal
    assert torch.allclose(layer.weight.grad, expected, rtol=1e-5)


@pytest.mark.parametrize("kind", [BitNetLinear, TernaryLinear])
def test_a_matrix_of_zeros_gives_zeros(kind):
    layer = kind(8, 3, bias=False)
    nn.init.zeros_(layer.weight)
    assert torch.equal(layer(torch.randn(2, 8)), torch.zeros(2, 3))


# ---- students


def test_students_share_nothing_and_the_teacher_stays(text):
    teacher = CharGPT.pretrained()
    before = copy.deepcopy(teacher.state_dict())
    for make in MAKERS.values():
        student = make()
        assert all(isinstance(m, nn.Dropout) is False or m.p == 0 for m in student.modules())
        latent = language.latent_weights(student)
        assert len(latent) == 30
        assert all(p.requires_grad for p in latent)
        assert not {p.data_ptr() for p in student.parameters()} & {
            p.data_ptr() for p in teacher.parameters()
        }
    assert all(torch.equal(before[k], v) for k, v in teacher.state_dict().items())


def test_two_rates_takes_all_of_them(student):
    groups = language.two_rates(student, DistillConfig(lr=0.006), 0.001).param_groups
    assert [len(groups[0]["params"]), groups[0]["lr"], groups[1]["lr"]] == [30, 0.006, 0.001]
    assert sum(len(g["params"]) for g in groups) == len(list(student.parameters()))


def test_two_bits_start_at_the_least_squared_error_of_each_row():
    student, teacher = made("two bits"), CharGPT.pretrained()
    layer = student.blocks[0].up
    (quantizer,) = layer.parametrizations.weight
    w, qp = teacher.blocks[0].up.weight.detach(), quantizer.qparams()
    error = (w - layer.weight).square().sum()
    assert torch.equal(layer.weight, fake_quantize(w, qp))
    assert error < 0.75 * (w - weight_only.rtn(w, 2).dequantize()).square().sum()


@torch.no_grad()
def test_packed_students_say_the_same(student, text):
    expected = student(text).logits
    rivals.pack_(student)
    packed = [m for m in student.modules() if isinstance(m, (WeightOnlyLinear, PackedOneBitLinear))]
    assert len(packed) == 30
    # Scales in float16: half a unit in the 11th bit, through five blocks.
    assert (student(text).logits - expected).abs().max() <= 2**-10 * expected.abs().max()


@pytest.mark.parametrize(
    ("name", "most"), [("bitnet", 1.2), ("ternary", 2.2), ("two bits", 2.2), ("onebit", 1.2)]
)
def test_packed_students_have_the_size_they_say(name, most, tmp_path):
    student = copied(name)
    rivals.pack_(student)
    layers = [m for m in student.modules() if isinstance(m, (WeightOnlyLinear, PackedOneBitLinear))]
    weights = sum(m.in_features * m.out_features for m in layers)
    assert 8 * sum(m.weight_bytes for m in layers) / weights < most
    float16 = CharGPT.pretrained()
    assert evaluation.file_bytes(student) < evaluation.file_bytes(float16) / (16 / most / 1.5)


def test_a_step_of_the_loop_moves_every_latent_weight(student):
    before = [p.detach().clone() for p in language.latent_weights(student)]
    torch.manual_seed(0)
    data = Sequences(torch.randint(0, 60, (2, 16)))
    config = DistillConfig(epochs=1, batch_size=2, lr=0.01, device="cpu", warmup=0)
    Distiller(student, CharGPT.pretrained(), data, config, OneBit(), progress=False).run()
    after = language.latent_weights(student)
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_nothing_to_pack_and_no_linear_layer():
    with pytest.raises(ValueError, match="must have OneBitLinear layers"):
        rivals.pack_(CharGPT.pretrained())
    with pytest.raises(ValueError, match="skip must name modules of the model, got 'none'"):
        rivals.qat_student(skip=["none"])


# ---- starts of a OneBit student


def test_copied_start_keeps_signs_and_has_one_scale_a_matrix():
    teacher, student = CharGPT.pretrained(), language.onebit_student(init="copied")
    w, layer = teacher.blocks[2].down.weight.detach(), student.blocks[2].down
    assert torch.equal(layer.weight, w)
    assert layer.g.unique().numel() == layer.h.unique().numel() == 1
    assert (layer.g[0] * layer.h[0]).item() == pytest.approx(w.abs().mean().item(), rel=1e-6)


def test_random_start_has_nothing_of_the_teachers_signs():
    torch.manual_seed(0)
    teacher, student = CharGPT.pretrained(), language.onebit_student(init="random")
    equal = n = 0
    for ours, theirs in zip(student.modules(), teacher.modules(), strict=True):
        if isinstance(ours, OneBitLinear):
            equal += int((ours.weight.sign() == theirs.weight.sign()).sum())
            n += theirs.weight.numel()
            scale = (ours.g[0] * ours.h[0]).item()
            assert scale == pytest.approx(ours.weight.abs().mean().item(), rel=1e-6)
    assert abs(equal / n - 0.5) < 4 * 0.5 / n**0.5  # four standard errors


def test_unknown_start():
    with pytest.raises(ValueError, match="init must be one of svid, copied, random, got 'zero'"):
        language.onebit_student(init="zero")
