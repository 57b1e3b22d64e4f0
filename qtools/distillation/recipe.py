"""A distillation described in a TOML file: which student, teacher, data and loss, and how."""

from __future__ import annotations

import importlib
import inspect
import math
import sys
import time
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from qtools.distillation.checkpoint import student_state
from qtools.distillation.config import DistillConfig, did_you_mean, refuse_unknown
from qtools.distillation.fit import check_fit
from qtools.distillation.history import History, Row
from qtools.distillation.loop import Distiller
from qtools.files import sha256, write_atomic
from qtools.results import code_state, write_record

#: Tables of the file and whether they must be there.
TABLES = {
    **{"student": True, "teacher": False, "data": True, "loss": True},
    **{"evaluate": False, "optimizer": False, "distill": False},
}


@dataclass(frozen=True)
class Recipe:
    """What a TOML file says, with what can be wrong in it found before the first step.

    An example::

        out = "quarter"                       # folder of the results; paths start at this file

        [student]
        make = "qtools.models:SmallCNN"       # module:callable, the rest are its arguments
        width = 0.25

        [teacher]                             # leave it out to learn from labels alone
        make = "qtools.models:SmallCNN.pretrained"

        [data]
        make = "qtools.distillation.fashion:training_images"

        [loss]
        make = "qtools.distillation:Hinton"
        temperature = 4.0

        [evaluate]                            # may be left out
        make = "qtools.distillation.fashion:held_out_accuracy"

        [optimizer]                           # may be left out: AdamW with one rate
        make = "qtools.distillation.language:two_rates"
        vectors = 0.002                       # student and config come first by themselves

        [distill]                             # settings of DistillConfig
        epochs = 5
        lr = 0.01

    A student or teacher may have ``weights``, a safetensors file to start from. The file names code
    to run, so treat it like a script: run only those you trust.
    """

    path: Path
    out: Path
    config: DistillConfig
    makers: Mapping[str, Callable[..., Any]]
    weights: Mapping[str, Path]

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """Read a TOML file.

        Raises
        ------
        ValueError
            If it is no TOML, or a table, key, name or value in it is unknown or not allowed.
        """
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
            return cls._from_table(path, table)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: {error}") from error

    @classmethod
    def _from_table(cls, path: Path, table: dict[str, Any]) -> Recipe:
        refuse_unknown(table, ["out", *TABLES], "the file")
        if not isinstance(table.get("out"), str):
            raise ValueError(f"out must name a folder, got {table.get('out')!r}")
        makers, weights = {}, {}
        for name, needed in TABLES.items():
            given = table.get(name, {})
            if not isinstance(given, dict):
                raise ValueError(f"{name} must be a table, [{name}], got {given!r}")
            if needed and not given:
                raise ValueError(f"the table [{name}] must be there")
            if not given or name == "distill":
                continue
            given = dict(given)
            if name in ("student", "teacher") and "weights" in given:
                weights[name] = path.parent / given.pop("weights")
                if not weights[name].is_file():
                    raise ValueError(f"[{name}] weights must be a file, got {weights[name]}")
            makers[name] = _maker(name, given, path.parent)
        config = DistillConfig.from_table(table.get("distill", {}))
        out = path.parent / table["out"]
        there = next(p for p in (out, *out.parents) if p.exists())
        if not there.is_dir():
            raise ValueError(f"out must be a folder, or free to become one; {there} is a file")
        return cls(path, out, config, makers, weights)

    @property
    def checkpoint(self) -> Path:
        """Where the run keeps its state."""
        return self.out / "checkpoint.safetensors"

    def run(self) -> History | None:
        """Distil, from the checkpoint if there is one, and write what came of it.

        ``student.safetensors`` are the weights, ``run.json`` is the record.

        Returns
        -------
        History or None
            None in all processes but the main one.
        """
        begin, code = time.perf_counter(), code_state()
        # What is quickly made comes first: so does what is wrong with it.
        quick = ("loss", "data", "evaluate", "teacher")
        made = {name: self.makers[name]() for name in quick if name in self.makers}
        student, teacher = self._model("student"), made.get("teacher")
        if "optimizer" in self.makers:
            made["optimizer"] = self.makers["optimizer"](student, self.config)
        if teacher is not None and "teacher" in self.weights:
            _load(teacher, self.weights["teacher"])
        check_fit(student, teacher, made["data"])
        distiller = Distiller(
            student, teacher, made["data"], self.config, made["loss"],
            folder=self.out, evaluate=made.get("evaluate"), optimizer=made.get("optimizer"),
        )  # fmt: skip
        history = distiller.run()
        if not distiller.accelerator.is_main_process:
            return None
        self._write(student, history, time.perf_counter() - begin, code)
        return history

    def student(self) -> nn.Module:
        """Return the student as the run left it, in eval mode.

        Raises
        ------
        ValueError
            If the run has not ended, or its file does not fit.
        """
        path = self.out / "student.safetensors"
        if not path.is_file():
            raise ValueError(f"{path} must be there: run qtools distill --config {self.path}")
        model = self._model("student")
        _load(model, path)
        return model.eval()

    def _model(self, name: str) -> nn.Module:
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(self.config.seed)
            model: nn.Module = self.makers[name]()
        if name in self.weights:
            _load(model, self.weights[name])
        return model

    def _write(
        self, student: nn.Module, history: History, seconds: float, code: dict[str, Any] | None
    ) -> None:
        state = {k: t.cpu().contiguous().clone() for k, t in student_state(student).items()}
        content = safetensors.torch.save(state)
        write_atomic(self.out / "student.safetensors", content)
        write_record(
            self.out / "run.json",
            value=history.steps[-1]["loss"],
            unit="loss of the last step",
            command=f"qtools distill --config {self.path}",
            seconds=round(seconds, 1),
            code=code,
            recipe=tomllib.loads(self.path.read_text(encoding="utf-8")),
            parameters=sum(p.numel() for p in student.parameters()),
            weights={"file": "student.safetensors", "sha256": sha256(content)},
            last_step=_json(history.steps[-1]),
            evaluations=[_json(row) for row in history.evaluations],
            cost=history.cost.as_json() if history.cost else None,
        )


def _maker(name: str, given: dict[str, Any], folder: Path) -> Callable[..., Any]:
    """Return a call that makes what a table describes; check it on the way.

    It takes no arguments, that of an optimizer the student and the settings.
    """
    where = given.pop("make", None)
    if not isinstance(where, str) or where.count(":") != 1:
        raise ValueError(f"[{name}] make must be 'module:callable', got {where!r}")
    function = _imported(name, where, folder)

    def make(*first: Any) -> Any:
        try:
            return function(*first, **given)
        except (TypeError, ValueError) as error:
            raise ValueError(f"[{name}] {error}") from error

    try:
        signature = inspect.signature(function)
    except ValueError:  # some built-in callables have none
        return make
    kinds = [p.kind for p in signature.parameters.values()]
    if inspect.Parameter.VAR_KEYWORD not in kinds:
        refuse_unknown(given, signature.parameters, f"[{name}]")
    try:
        signature.bind(*([None] * (2 if name == "optimizer" else 0)), **given)
    except TypeError as error:
        raise ValueError(f"[{name}] {where}: {error}") from None
    return make


def _imported(name: str, where: str, folder: Path) -> Callable[..., Any]:
    module_name, _, path = where.partition(":")
    sys.path.append(str(folder))  # modules beside the TOML file are found, after all others
    try:
        found = importlib.import_module(module_name)
        for part in path.split("."):
            found = getattr(found, part)
    except ImportError as error:
        raise ValueError(f"[{name}] make = {where!r} cannot be found: {error}") from error
    except AttributeError as error:
        hint = did_you_mean(part, dir(found))
        raise ValueError(f"[{name}] make = {where!r} cannot be found: {error}{hint}") from error
    finally:
        sys.path.pop()
    if not callable(found):
        raise ValueError(f"[{name}] make must name something to call, got {found!r}")
    return found


def _json(row: Row) -> dict[str, float | None]:
    """Return a row as JSON can hold it: what is not finite is null."""
    return {name: value if math.isfinite(value) else None for name, value in row.items()}


def _load(model: nn.Module, path: Path) -> None:
    try:
        model.load_state_dict(safetensors.torch.load_file(path))
    except (RuntimeError, safetensors.SafetensorError) as error:
        raise ValueError(f"{path} does not fit the model: {error}") from error
