"""What a step of training costs a OneBit student over the same student in float, both taking turns.

    python -m benchmarks.onebit_step [--write]

One thread, CharGPT's student with dropout off, the loss of eq. 9, gradients cut to length 1, AdamW:
once with OneBit layers, with the LayerNorm of eq. 3 and without it, and once with the linear layers
that they came from. In one half of the rows the teacher answers at every step, as in training; in
the other its answers are kept from before, so that the student's own step is seen. The students
take turns step by step, so that a busy machine slows all of them; beside the time on the clock
stands the processor's time for this process, which waiting for others does not lengthen.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks._runs import wants_to_write
from qtools import text
from qtools.distillation import DistillConfig, OneBit, language
from qtools.models import CharGPT
from qtools.results import write_record

RESULT = Path(__file__).parent.parent / "results" / "benchmark_onebit_step.json"
BATCHES, CONTEXT, WARM_UP = (16, 8), 256, 2
STUDENTS = ("float", "onebit", "onebit, no LayerNorm")
LOSS = OneBit()


class Kept(nn.Module):
    """A teacher that has answered already."""

    def __init__(self, teacher: nn.Module, batch: dict[str, Tensor]) -> None:
        super().__init__()
        with torch.no_grad():
            self.answer = teacher(batch["input_ids"])

    def forward(self, input_ids: Tensor, output_hidden_states: bool = True) -> Any:  # noqa: D102
        return self.answer


def student(name: str) -> nn.Module:
    if name != "float":
        return language.onebit_student(layer_norm=name == "onebit").train()
    found = copy.deepcopy(CharGPT.pretrained())
    language.without_dropout_(found)
    return found.train()


def step_of(name: str, teacher: nn.Module, batch: dict[str, Tensor]) -> Callable[[], None]:
    """Return a function that does one step."""
    model = student(name)
    config = DistillConfig(lr=0.006, betas=(0.9, 0.98))
    optimizer: torch.optim.Optimizer
    if name == "float":
        optimizer = torch.optim.AdamW(model.parameters(), 0.002, config.betas, weight_decay=0.0)
    else:
        optimizer = language.two_rates(model, config)

    def step() -> None:
        loss = LOSS(model, teacher, batch)
        (loss.total / loss.items).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def measure(size: int, teacher_answers: bool, rounds: int) -> list[dict[str, Any]]:
    """A row for each student: median and minimum seconds of a step, and how many times float's."""
    torch.manual_seed(0)
    teacher = CharGPT.pretrained().requires_grad_(False)
    windows = text.Windows(teacher.encode(text.split()[0]), CONTEXT)
    batch = windows[torch.arange(size)]
    answers = teacher if teacher_answers else Kept(teacher, batch)
    steps = {name: step_of(name, answers, batch) for name in STUDENTS}
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in STUDENTS}
    for number in range(WARM_UP + rounds):
        for name in STUDENTS:
            wall, processor = time.perf_counter(), time.process_time()
            steps[name]()
            pair = time.perf_counter() - wall, time.process_time() - processor
            if number >= WARM_UP:
                taken[name].append(pair)
    rows = []
    for name in STUDENTS:
        row: dict[str, Any] = {"student": name, "batch": size, "teacher": teacher_answers}
        for place, clock in enumerate(("wall", "processor")):
            for kind, reduce in (("median", statistics.median), ("minimum", min)):
                ours, floats = (reduce([p[place] for p in taken[n]]) for n in (name, "float"))
                row[f"{clock}_{kind}_s"] = round(ours, 4)
                row[f"{clock}_{kind}_ratio"] = round(ours / floats, 4)
        rows.append(row)
    return rows


def main() -> None:
    write = wants_to_write(__doc__, RESULT)
    torch.set_num_threads(1)
    start, rounds = time.perf_counter(), 9 if write else 3
    rows = []
    for size in BATCHES:
        for teacher_answers in (True, False):
            rows += measure(size, teacher_answers, rounds)
            for row in rows[-len(STUDENTS) :]:
                print(row, flush=True)
    largest = max(row["processor_median_ratio"] for row in rows)
    print(f"largest ratio of the processor's median times: {largest}")
    if write:
        write_record(
            RESULT,
            value=largest,
            unit="largest of the rows' median processor times of a OneBit step over a float step's",
            command="python -m benchmarks.onebit_step --write",
            seconds=round(time.perf_counter() - start, 1),
            context=CONTEXT,
            rounds=rounds,
            rows=rows,
        )


if __name__ == "__main__":
    main()
