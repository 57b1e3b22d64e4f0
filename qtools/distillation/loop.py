"""The training loop of distillation, on Accelerate: one process on a CPU up to many GPUs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import nn
from tqdm.auto import tqdm

from qtools.distillation import checkpoint
from qtools.distillation.config import DistillConfig
from qtools.distillation.cost import Meter
from qtools.distillation.data import Drawing, Examples, Order, parts, seed_step
from qtools.distillation.devices import accelerator, surroundings
from qtools.distillation.history import History, Table
from qtools.distillation.nonfinite import NonFiniteError, save_batch
from qtools.distillation.objectives import Objective, Sums, description

#: From the student, in eval mode, to what it measured, by name.
Evaluation = Callable[[nn.Module], Mapping[str, float]]


class Distiller:
    """Train a student on what its teacher says, or on labels alone, in one and the same loop.

    The loss of a step is its sum over the items of the whole batch, over parts and processes,
    divided once by their number (Σ L / Σ n, not a mean of means). So neither the number of parts
    nor that of processes changes what is learned, for networks whose items do not see each other
    (BatchNorm does look across a batch) and draw nothing by chance (dropout does).

    With a folder the state goes to ``checkpoint.safetensors`` there, and what was measured to
    ``steps.csv`` and ``evaluations.csv``. `run` goes on from a checkpoint that is there, and ends
    at the same weights, bit for bit, as if it had never stopped: with the same threads,
    instruction set, torch and number of processes.

    Parameters
    ----------
    student : nn.Module
        Trained in place, on the device; every parameter that requires a gradient must get one.
    teacher : nn.Module or None
        Left in eval mode, frozen, on the device. It shares no parameter with the student.
    data : Examples
        ``data[index]`` is a batch; `torch.utils.data.TensorDataset(x, labels)` is such data, and
        `Collated` makes it of any map-style dataset.
    config : DistillConfig
    loss : Objective
        `Hinton`, `OneBit`, `LabelsOnly` or a callable like them.
    folder : Path, optional
        One that all processes see.
    evaluate : callable, optional
        As often as the config says and after the last step; in the main process.
    optimizer : Optimizer, optional
        Over the student's parameters, its rates the peaks of the schedule. Without it, AdamW.
    progress : bool
        Show a progress bar.

    Raises
    ------
    ValueError
        If there are fewer examples than a batch, or fewer in a batch than parts; if student and
        teacher share parameters; if the precision or kind of processes is not supported.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | None,
        data: Examples,
        config: DistillConfig,
        loss: Objective,
        *,
        folder: Path | str | None = None,
        evaluate: Evaluation | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        progress: bool = True,
    ) -> None:
        self.student, self.teacher, self.data = student, teacher, data
        self.config, self.loss, self.evaluate = config, loss, evaluate
        self.folder = None if folder is None else Path(folder)
        self.progress = progress
        self.accelerator = accelerator(config)
        if isinstance(data, (tuple, list)):
            raise TypeError("data must be like torch.utils.data.TensorDataset, got a sequence")
        self.order = Order(len(data), config.batch_size, config.seed)
        self.steps = config.epochs * self.order.steps
        processes = self.accelerator.num_processes
        self._parts_each = -(-config.accumulation // processes)
        if config.batch_size < (shares := processes * self._parts_each):
            raise ValueError(f"batch_size must be at least {shares}, one for each part")
        if teacher is not None:
            shared = {id(p) for p in student.parameters()} & {id(p) for p in teacher.parameters()}
            if shared:
                raise ValueError("student and teacher must not share parameters")
            teacher.to(self.accelerator.device).eval().requires_grad_(False)
        student.to(self.accelerator.device)
        self._weights = [p for p in student.parameters() if p.requires_grad]
        self.optimizer = optimizer or torch.optim.AdamW(
            self._weights, config.lr, config.betas, weight_decay=config.weight_decay
        )
        for group in self.optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])

    def run(self) -> History:
        """Train to the end, from the beginning or from the folder's checkpoint.

        Raises
        ------
        NonFiniteError
            If a loss or gradient is NaN or infinite; the batch is in the folder.
        ValueError
            If the checkpoint is damaged or of another run.
        """
        done = self._resume()
        with self._ready(done) as (a, student, log):
            for step in range(done, self.steps):
                self._begin(step)
                batches, sums = self._batches(step), Sums()
                for i, batch in enumerate(batches, 1):
                    # Processes add up their gradients at the last part only.
                    with nullcontext() if i == len(batches) else a.no_sync(student):
                        with a.autocast():
                            on_device = send_to_device(batch, a.device)
                            loss = self.loss(student, self.teacher, on_device)
                        a.backward(loss.total)
                    sums.add(loss)
                mean = sums.mean(a)
                norm = self._finish_gradient(mean["items"])
                if not self._is_finite(mean["loss"], norm):
                    raise self._stop(step, {**mean, "norm": norm}, batches)
                self._update()
                log(step + 1, {**mean, "norm": norm})
                self._evaluate(step + 1)
                self._save(step + 1)
            cost = self._meter.cost(a)
        return History(self._steps.rows, self._evaluations.rows, cost)

    # ---- before the first step, after the last

    @contextmanager
    def _ready(self, done: int) -> Iterator[tuple[Any, ...]]:
        """Hand over what the loop needs; leave everything as it was, the student in eval mode."""
        a, first = self.accelerator, self.accelerator.is_main_process
        folder = self.folder if first else None
        self._steps = Table(folder and folder / "steps.csv", done)
        self._evaluations = Table(folder and folder / "evaluations.csv", done)
        self._meter = Meter(a.device)
        student = a.prepare(self.student.train())
        show = self.progress and first
        try:
            with (
                surroundings(self.config, a.device),
                tqdm(
                    total=self.steps, initial=done, unit="step", disable=not show, mininterval=0.5
                ) as bar,
            ):
                yield a, student, self._logger(bar)
        finally:
            self._steps.close()
            self._evaluations.close()
            a.unwrap_model(student, keep_fp32_wrapper=False)
            self.accelerator = accelerator(self.config)  # without the models of this run
            self.optimizer.zero_grad()
            self.student.eval()

    def _resume(self) -> int:
        """Take up the folder's checkpoint if there is one; return the number of steps done."""
        path, scaler = self._checkpoint, self.accelerator.scaler
        if path is None or not path.exists():
            return 0
        state = checkpoint.load(path, self._identity)
        checkpoint.load_student(self.student, state.student, path)
        checkpoint.load_optimizer(self.optimizer, state.optimizer)
        if scaler is not None:
            scaler.load_state_dict(state.scaler)
        return state.step

    # ---- a step

    def _begin(self, step: int) -> None:
        """Set what a step starts from: the clock and the learning rates."""
        self._meter.begin()
        share = self.config.share(step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * share

    def _batches(self, step: int) -> list[Any]:
        """Set chance for a step; return this process's parts of its batch."""
        a, data, index = self.accelerator, self.data, self.order.batch(step)
        seed = self.config.seed
        if not isinstance(data, Drawing):
            seed_step(seed, step, a.process_index, a.device)
            return [data[part] for part in self._parts(index)]
        seed_step(seed, step, 0, a.device)  # whoever takes which example, all draw the same
        drawn = data.draw(index)
        if a.process_index:
            seed_step(seed, step, a.process_index, a.device)
        return [data.at(part) for part in self._parts(drawn)]

    def _parts(self, whole: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return each of this process's parts of what belongs to the examples of a step."""
        a = self.accelerator
        return parts(whole, a.process_index, a.num_processes, self._parts_each)

    def _finish_gradient(self, items: float) -> float:
        """Divide the summed gradient by the number of items, shorten it; return its norm before."""
        a = self.accelerator
        if a.scaler is not None:
            a.scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in self._weights if p.grad is not None]
        # Between processes torch takes the mean of gradients, not their sum: hence their number.
        torch._foreach_mul_(gradients, a.num_processes / items if items else math.nan)
        longest = self.config.max_norm or math.inf
        return nn.utils.clip_grad_norm_(self._weights, longest).item()

    def _update(self) -> None:
        # Accelerate's own wrapper of an optimizer searches for packages at every step.
        if (scaler := self.accelerator.scaler) is None:
            self.optimizer.step()
        else:
            scaler.step(self.optimizer)
            scaler.update()
        self.optimizer.zero_grad()

    def _is_finite(self, loss: float, norm: float) -> bool:
        # A gradient in fp16 may overflow: its scaler then skips the step and scales less.
        return math.isfinite(loss) and (math.isfinite(norm) or self.accelerator.scaler is not None)

    def _stop(self, step: int, values: dict[str, float], batches: list[Any]) -> NonFiniteError:
        """Save this process's part of the batch; return the error that says so."""
        path = None
        if self.folder is not None:
            process = self.accelerator.process_index
            path = self.folder / f"nonfinite-{step + 1}-{process}.safetensors"
            save_batch(path, batches, self._parts(self.order.batch(step)))
        return NonFiniteError(step + 1, values, path)

    # ---- what is due after a step

    def _logger(self, bar: Any) -> Callable[[int, dict[str, float]], None]:
        """Return a function that moves the bar and writes a row of what was measured."""

        def log(step: int, values: dict[str, float]) -> None:
            bar.update()
            seconds = round(self._meter.end(values["items"]), 6)
            if self._due(step, self.config.log_every):
                rate = self.optimizer.param_groups[0]["lr"]
                self._steps.add({"step": step, **values, "rate": rate, "seconds": seconds})
                bar.set_postfix_str(f"loss={values['loss']:.4g}", refresh=False)

        return log

    def _evaluate(self, step: int) -> None:
        if self.evaluate is not None and self._due(step, self.config.evaluate_every):
            if self.accelerator.is_main_process:
                self.student.eval()
                with torch.no_grad():
                    self._evaluations.add({"step": step, **self.evaluate(self.student)})
                self.student.train()
            self.accelerator.wait_for_everyone()

    def _save(self, step: int) -> None:
        path, scaler = self._checkpoint, self.accelerator.scaler
        if path is not None and self._due(step, self.config.checkpoint_every):
            if self.accelerator.is_main_process:
                state = checkpoint.Checkpoint(
                    step,
                    checkpoint.student_state(self.student),
                    checkpoint.optimizer_state(self.optimizer),
                    {} if scaler is None else scaler.state_dict(),
                )
                checkpoint.save(path, state, self._identity)
            self.accelerator.wait_for_everyone()

    def _due(self, step: int, every: int) -> bool:
        return step == self.steps or (every > 0 and step % every == 0)

    @property
    def _checkpoint(self) -> Path | None:
        return None if self.folder is None else self.folder / "checkpoint.safetensors"

    @cached_property
    def _identity(self) -> dict[str, Any]:
        """What must be the same for a run to go on, JSON types only."""
        groups = [
            {k: repr(v) for k, v in group.items() if k not in ("params", "lr")}
            for group in self.optimizer.param_groups
        ]
        return {
            "config": self.config.deciding(),
            "precision": self.accelerator.mixed_precision,
            "processes": self.accelerator.num_processes,
            "examples": len(self.data),
            "loss": description(self.loss),
            "optimizer": {"type": type(self.optimizer).__name__, "groups": groups},
            "teacher": None if self.teacher is None else checkpoint.fingerprint(self.teacher),
        }
