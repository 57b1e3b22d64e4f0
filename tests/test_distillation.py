"""The distillation loop: what it computes, what it leaves alone, what it writes, how it stops."""

from __future__ import annotations

import copy
import csv
import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import TensorDataset

from qtools.distillation import (
    Collated,
    DistillConfig,
    Distiller,
    Hinton,
    LabelsOnly,
    NonFiniteError,
    OneBit,
    Summed,
    onebit_loss,
)
from qtools.distillation.data import Order, parts
from tests.distillation_runs import (
    Tokens,
    classifier,
    everything_by_chance,
    language_model,
    points,
    same,
    with_state,
)

CONFIG = DistillConfig(epochs=3, batch_size=8, lr=0.05)


def distiller(student, teacher, data, config, loss, **settings) -> Distiller:
    return Distiller(student, teacher, data, config, loss, progress=False, **settings)


# ---- what it computes


def test_it_is_the_loop_one_would_write_by_hand():
    """Teacher's and labels' loss, clipping, AdamW, the schedule: step by step, to rounding."""
    student, teacher, data = classifier(), classifier(32, 9), points()
    ours = copy.deepcopy(student)
    config = replace(CONFIG, max_norm=0.1, betas=(0.8, 0.95), weight_decay=0.3)
    history = distiller(ours, teacher, data, config, Hinton(3.0, 0.8)).run()
    assert min(row["norm"] for row in history.steps) > 0.1, "every gradient is shortened"

    optimizer = torch.optim.AdamW(student.parameters(), betas=(0.8, 0.95), weight_decay=0.3)
    order = Order(40, 8, CONFIG.seed)
    for step in range(15):
        x, y = data[order.batch(step)]
        z, v = student(x), teacher(x)
        soft = F.kl_div((z / 3).log_softmax(-1), (v / 3).softmax(-1), reduction="sum") * 9
        loss = 0.8 * soft + 0.2 * F.cross_entropy(z, y, reduction="sum")
        optimizer.zero_grad()
        loss.backward()
        for p in student.parameters():
            p.grad *= 1 / 8
        norm = nn.utils.clip_grad_norm_(student.parameters(), 0.1)
        rising = 2  # a tenth of 15 steps, rounded
        share = (step + 1) / rising if step < rising else (
            0.5 * (1 + math.cos(math.pi * (step - rising) / (15 - rising)))
        )  # fmt: skip
        optimizer.param_groups[0]["lr"] = 0.05 * share
        optimizer.step()
        row = history.steps[step]
        assert row["step"] == step + 1
        assert row["loss"] == pytest.approx(loss.item() / 8, rel=1e-5)
        assert row["soft"] == pytest.approx(soft.item() / 8, rel=1e-5)
        assert row["norm"] == pytest.approx(norm.item(), rel=1e-5)
        assert row["rate"] == 0.05 * share
        assert row["items"] == 8
    for ours_p, theirs in zip(ours.parameters(), student.parameters(), strict=True):
        torch.testing.assert_close(ours_p, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("accumulation", [2, 3, 5])
def test_parts_one_after_another_are_one_batch(accumulation):
    """Unequal parts with unequal numbers of tokens: the same to rounding, here that of float64.

    (In float32 rounding is 1e-7 of a gradient; where Adam divides a tiny gradient by itself it can
    turn a whole step around. In float64 only the mathematics is left.)
    """
    histories, students = [], []
    for k in (1, accumulation):
        students.append(language_model(1))
        config = DistillConfig(epochs=4, batch_size=6, accumulation=k, lr=0.01)
        run = distiller(students[-1], language_model(), Tokens(), config, OneBit())
        histories.append(run.run().steps)
    for one, many in zip(*histories, strict=True):
        for name in ("loss", "logits", "states", "items", "norm"):
            assert one[name] == pytest.approx(many[name], rel=1e-10), name
    for one, many in zip(*(s.parameters() for s in students), strict=True):
        torch.testing.assert_close(one, many, rtol=1e-8, atol=1e-10)
    assert len({row["items"] for row in histories[0]}) > 1


def test_a_mean_of_means_would_show():
    """The test above has teeth: dividing part by part gives another loss on this data."""
    data, student, teacher = Tokens(), language_model(1), language_model()
    index = Order(20, 6, 0).batch(0)
    means, total, items = [], 0.0, 0
    for share in parts(index, 0, 1, 3):
        loss = OneBit()(student, teacher, data[share])
        means.append((loss.total / loss.items).item())
        total, items = total + loss.total.item(), items + int(loss.items)
    assert abs(sum(means) / 3 - total / items) > 1e-3 * total / items


def test_it_learns_from_the_teacher_and_from_labels():
    for teacher, loss in ((classifier(32, 9), Hinton()), (None, LabelsOnly())):
        student = classifier()
        config = DistillConfig(epochs=60, batch_size=20, lr=0.05, max_norm=0.0)
        history = distiller(student, teacher, points(), config, loss).run()
        assert history.steps[-1]["loss"] < history.steps[0]["loss"] / 2
        assert set(history.steps[0]) >= {"step", "loss", "items", "norm", "rate", "seconds"}
        assert not student.training


def test_the_baseline_is_cross_entropy():
    student = classifier()
    batch = points()[torch.arange(8)]
    summed = LabelsOnly()(student, None, batch)
    expected = F.cross_entropy(student(batch[0]), batch[1])
    torch.testing.assert_close(summed.total / summed.items, expected)


def test_onebit_takes_all_layers_and_not_the_embedding():
    student, teacher, batch = language_model(1), language_model(), Tokens()[torch.arange(5)]
    summed = OneBit(alpha=2.0)(student, teacher, batch)
    s, t = (model(**batch, output_hidden_states=True) for model in (student, teacher))
    states = s.hidden_states[1:], t.hidden_states[1:]
    mask = batch["attention_mask"]
    expected = onebit_loss(s.logits, t.logits, *states, alpha=2.0, mask=mask)
    assert len(states[0]) == 2
    assert summed.items == mask.sum()
    torch.testing.assert_close(summed.total / summed.items, expected)
    batch["attention_mask"] = torch.ones_like(mask)
    assert OneBit()(student, teacher, batch).items == mask.numel()


def test_objectives_take_mappings_and_ignore_labels_of_minus_100():
    model = language_model()
    batch = Tokens()[torch.arange(4)]
    batch["labels"] = torch.where(batch["attention_mask"].bool(), batch["input_ids"], -100)
    summed = Hinton()(model, language_model(1), batch)
    assert summed.items == batch["attention_mask"].sum()
    assert LabelsOnly()(model, None, batch).items == summed.items


# ---- what it leaves alone


def test_the_teacher_does_not_change():
    """Frozen and in eval mode: parameters, and BatchNorm's statistics too."""
    teacher = with_state(3).train()
    before = copy.deepcopy(teacher)
    seen = []

    def loss(student: nn.Module, teacher: nn.Module | None, batch: object) -> Summed:
        assert teacher is not None
        seen.append((student.training, *(m.training for m in teacher.modules())))
        return Hinton()(student, teacher, batch)

    config = replace(CONFIG, batch_size=20, evaluate_every=2)
    distiller(with_state(), teacher, points(), config, loss, evaluate=lambda m: {}).run()
    assert same(teacher, before)
    assert seen == [(True, *[False] * 6)] * 6
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())


def test_a_teacher_in_training_mode_would_change():
    teacher = with_state(3).train()
    before = copy.deepcopy(teacher)
    teacher(torch.randn(8, 6))
    assert not same(teacher, before)


def test_settings_and_generators_are_put_back():
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    assert not torch.are_deterministic_algorithms_enabled()
    everything_by_chance(None, config=replace(CONFIG, epochs=1, threads=2)).run()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    assert random.getstate() == before[2]
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.get_num_threads() == 1


def test_evaluation_changes_nothing():
    """Whatever an evaluation draws by chance, and in whatever mode it leaves the student."""

    def evaluate(student: nn.Module) -> dict[str, float]:
        assert not student.training
        assert not torch.is_grad_enabled()
        student.train()
        return {"drawn": torch.rand(()).item()}

    with_it, without = with_state(), with_state()
    config = replace(CONFIG, evaluate_every=4)
    run = everything_by_chance(None, with_it, config=config, evaluate=evaluate)
    history = run.run()
    everything_by_chance(None, without, config=CONFIG).run()
    assert same(with_it, without)
    assert [row["step"] for row in history.evaluations] == [4, 8, 9]


def test_two_students_learn_independently_of_what_ran_before():
    a, b = with_state(), with_state()
    everything_by_chance(None, a).run()
    torch.rand(3)
    everything_by_chance(None, b).run()
    assert same(a, b)
    other = with_state()
    everything_by_chance(None, other, config=replace(CONFIG, seed=1)).run()
    assert not same(a, other)


def test_parameters_that_need_no_gradient_stay():
    student = classifier()
    student[0].requires_grad_(False)
    before = copy.deepcopy(student)
    distiller(student, None, points(), CONFIG, LabelsOnly()).run()
    assert same(student[0], before[0])
    assert not same(student[2], before[2])


def test_an_optimizer_of_ones_own_with_rates_of_its_own():
    student = classifier()
    before = copy.deepcopy(student)
    groups = [{"params": student[0].parameters(), "lr": 0.0}, {"params": student[2].parameters()}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    config = replace(CONFIG, warmup=0.0)
    run = distiller(student, None, points(), config, LabelsOnly(), optimizer=optimizer)
    run.run()
    assert same(student[0], before[0])
    assert not same(student[2], before[2])
    assert 0 < optimizer.param_groups[1]["lr"] < 0.01  # the end of the cosine


# ---- data: every example once an epoch, the same batch for any number of processes


@given(
    st.integers(1, 60), st.integers(1, 60), st.integers(1, 4), st.integers(1, 3),
    st.integers(0, 2**40),
)  # fmt: skip
def test_an_epoch_is_a_permutation_and_shares_are_the_batch(n, size, processes, k, seed):
    if size > n or size < processes * k:
        return
    order = Order(n, size, seed)
    for epoch in range(2):
        steps = range(epoch * order.steps, (epoch + 1) * order.steps)
        batches = [order.batch(step) for step in steps]
        seen = torch.cat(batches)
        assert len(seen) == n - n % size == len(seen.unique())
        shares = [parts(batches[0], p, processes, k) for p in range(processes)]
        assert torch.equal(torch.cat([s for share in shares for s in share]), batches[0])
        lengths = {len(s) for share in shares for s in share}
        assert min(lengths) >= 1
        assert max(lengths) - min(lengths) <= 1 + (k > 1)
    assert torch.equal(Order(n, size, seed).batch(order.steps), order.batch(order.steps))


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = [Order(50, 50, seed).batch(epoch) for seed in range(3) for epoch in range(3)]
    assert len({tuple(order.tolist()) for order in orders}) == 9


def test_any_dataset_can_be_collated():
    data = [{"x": torch.full((2,), float(i)), "labels": i} for i in range(6)]
    batch = Collated(data)[torch.tensor([4, 1])]
    assert batch["x"].tolist() == [[4.0, 4.0], [1.0, 1.0]]
    assert batch["labels"].tolist() == [4, 1]
    assert len(Collated(data)) == 6


# ---- precision


def test_bf16_computes_in_bf16_and_keeps_weights_in_float32():
    from accelerate.state import AcceleratorState

    student, seen = classifier(), []
    student[0].register_forward_hook(lambda m, x, y: seen.append(y.dtype))
    AcceleratorState._reset_state()  # Accelerate has one precision a process
    try:
        config = replace(CONFIG, precision="bf16")
        history = distiller(student, classifier(32, 9), points(), config, Hinton()).run()
    finally:
        AcceleratorState._reset_state()
    assert set(seen) == {torch.bfloat16}
    assert {p.dtype for p in student.parameters()} == {torch.float32}
    assert history.steps[-1]["loss"] < history.steps[0]["loss"]
    student(points()[:2][0])
    assert seen[-1] == torch.float32, "the student must be as it was, without autocast"


def test_on_a_cpu_there_is_no_mixed_precision_unless_asked_for():
    assert distiller(classifier(), None, points(), CONFIG, LabelsOnly()).accelerator.scaler is None
    run = distiller(classifier(), None, points(), CONFIG, LabelsOnly())
    assert run.accelerator.mixed_precision == "no"
    with pytest.raises(ValueError, match="fp16"):
        distiller(classifier(), None, points(), replace(CONFIG, precision="fp16"), LabelsOnly())


# ---- what it writes


def test_csv_holds_what_run_returns(tmp_path):
    config = replace(CONFIG, log_every=4, evaluate_every=7)
    run = distiller(
        classifier(), classifier(32, 9), points(), config, Hinton(),
        folder=tmp_path / "new", evaluate=lambda m: {"weight": m[0].weight[0, 0].item()},
    )  # fmt: skip
    history = run.run()
    assert [row["step"] for row in history.steps] == [4, 8, 12, 15]
    assert [row["step"] for row in history.evaluations] == [7, 14, 15]
    for name, rows in (("steps", history.steps), ("evaluations", history.evaluations)):
        with (tmp_path / "new" / f"{name}.csv").open() as file:
            read = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
        assert read == rows
    assert {p.name for p in (tmp_path / "new").iterdir()} == {
        *("steps.csv", "evaluations.csv", "checkpoint.safetensors")
    }


def test_evaluations_must_have_the_same_names(tmp_path):
    names = iter("ab")
    run = distiller(
        classifier(), None, points(), replace(CONFIG, evaluate_every=1), LabelsOnly(),
        evaluate=lambda m: {next(names): 0.0},
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"must have the names \['step', 'a'\]"):
        run.run()


# ---- how it stops


def poisoned(step: int) -> TensorDataset:
    """Points of which one, in the batch of that step, is NaN."""
    x, y = (t.clone() for t in points().tensors)
    x[Order(40, 8, 0).batch(step)[5]] = math.nan
    return TensorDataset(x, y)


@pytest.mark.parametrize("accumulation", [1, 3])
def test_a_loss_that_is_not_finite_stops_the_run_and_saves_the_batch(tmp_path, accumulation):
    data, student = poisoned(3), classifier()
    config = replace(CONFIG, accumulation=accumulation, epochs=1, checkpoint_every=1)
    run = distiller(student, classifier(32, 9), data, config, Hinton(), folder=tmp_path)
    with pytest.raises(NonFiniteError, match=r"step 4: .*loss nan.*the batch is in .*4-0") as stop:
        run.run()
    error = stop.value
    assert error.step == 4
    saved = load_file(error.path)
    assert set(saved) == {f"{i}.{key}" for i in range(accumulation) for key in ("0", "1", "index")}
    index = torch.cat([saved[f"{i}.index"] for i in range(accumulation)])
    x = torch.cat([saved[f"{i}.0"] for i in range(accumulation)])
    assert torch.equal(index, Order(40, 8, 0).batch(3))
    assert torch.equal(x.isnan(), data.tensors[0][index].isnan())
    stopped = load_file(tmp_path / "checkpoint.safetensors")
    for name, p in student.state_dict().items():
        assert torch.equal(p, stopped[f"student.{name}"]), "the weights before the step stay"


def test_a_gradient_that_is_not_finite_stops_it_too():
    def loss(student: nn.Module, teacher: nn.Module | None, batch: object) -> Summed:
        found = LabelsOnly()(student, teacher, batch)
        root = next(student.parameters()).sum().sqrt()
        return found._replace(total=found.total + root)

    student = classifier()
    with torch.no_grad():
        next(student.parameters()).zero_()  # the root has an infinite slope at 0
    with pytest.raises(NonFiniteError, match=r"norm (nan|inf)\); give a folder") as stop:
        distiller(student, None, points(), CONFIG, loss).run()
    assert stop.value.step == 1
    assert stop.value.path is None
    assert all(p.grad is None for p in student.parameters())


def test_a_batch_in_which_nothing_counts_stops_it():
    data = TensorDataset(torch.randn(8, 6), torch.full((8,), -100))
    with pytest.raises(NonFiniteError, match="loss nan, items 0"):
        distiller(classifier(), None, data, CONFIG, LabelsOnly()).run()


# ---- what it refuses


@pytest.mark.parametrize(
    ("settings", "kind", "says"),
    [
        ({"epochs": 0}, ValueError, "epochs must be at least 1, got 0"),
        ({"accumulation": 0}, ValueError, "accumulation must be at least 1"),
        ({"lr": -1.0}, ValueError, "lr must be finite and not negative"),
        ({"lr": math.nan}, ValueError, "lr must be finite"),
        ({"lr": "fast"}, TypeError, "lr must be a number, got 'fast'"),
        ({"epochs": 1.5}, TypeError, "epochs must be an integer, got 1.5"),
        ({"epochs": True}, TypeError, "epochs"),
        ({"warmup": 1.5}, ValueError, "warmup must be between 0 and 1"),
        ({"betas": [0.9]}, ValueError, "betas"),
        ({"betas": [0.9, 1.0]}, ValueError, "betas"),
        ({"betas": 0.9}, TypeError, "betas must be a pair of numbers, got 0.9"),
        ({"precision": "int8"}, ValueError, "precision must be one of .*got 'int8'"),
        ({"device": "tpu"}, ValueError, "device must be one of"),
        ({"seed": -1}, ValueError, "seed"),
    ],
)
def test_config_refuses(settings, kind, says):
    with pytest.raises(kind, match=says):
        DistillConfig(**settings)


@given(st.integers(1, 200), st.floats(0, 1))
def test_the_rate_rises_in_a_line_and_falls_in_a_cosine(steps, warmup):
    config = DistillConfig(warmup=warmup)
    shares = [config.share(step, steps) for step in range(steps)]
    rising = round(warmup * steps)
    assert all(0 < s <= 1 for s in shares)
    assert shares[:rising] == [(i + 1) / rising for i in range(rising)]
    falling = shares[rising:]
    assert falling == sorted(falling, reverse=True)
    assert not falling or falling[0] == 1


def test_it_refuses_what_cannot_work():
    student = classifier()
    with pytest.raises(ValueError, match="at least batch_size = 8 examples, got 7"):
        distiller(student, None, points(7), CONFIG, LabelsOnly())
    with pytest.raises(ValueError, match="batch_size must be at least 9"):
        distiller(student, None, points(), replace(CONFIG, accumulation=9), LabelsOnly())
    with pytest.raises(ValueError, match="must not share parameters"):
        distiller(student, nn.Sequential(student), points(), CONFIG, Hinton())
    with pytest.raises(TypeError, match="TensorDataset"):
        distiller(student, None, points().tensors, CONFIG, LabelsOnly())
    with pytest.raises(ValueError, match="Hinton needs a teacher"):
        distiller(student, None, points(), CONFIG, Hinton()).run()
    with pytest.raises(TypeError, match="mappings with input_ids"):
        distiller(student, classifier(), points(), CONFIG, OneBit()).run()
    with pytest.raises(TypeError, match="pair"):
        distiller(student, None, TensorDataset(torch.randn(9, 6)), CONFIG, LabelsOnly()).run()
    with pytest.raises(TypeError, match="logits"):
        distiller(nn.LSTM(6, 5), None, points(), CONFIG, LabelsOnly()).run()
    with pytest.raises(ValueError, match="temperature"):
        Hinton(temperature=0)
    with pytest.raises(ValueError, match="alpha"):
        Hinton(alpha=2)
