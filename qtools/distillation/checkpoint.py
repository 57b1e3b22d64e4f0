"""The state of a run on disk: one safetensors file, JSON in its header, a checksum over both."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

FORMAT = 1


class Checkpoint(NamedTuple):
    """What a run needs to go on.

    The number of finished steps stands for the place in the data, the learning rate and all
    generators of chance: they are functions of it (`qtools.distillation.data`).

    Attributes
    ----------
    step : int
        Steps done.
    student, optimizer : dict
        Tensors by name; those of the optimizer are ``<parameter's number>.<key>``.
    scaler : dict
        The state of fp16's loss scaling, empty without it.
    """

    step: int
    student: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    scaler: dict[str, Any]


def save(path: Path, checkpoint: Checkpoint, identity: Mapping[str, Any]) -> None:
    """Write the state so that `path` holds all of it or what it held before, never a part.

    Parameters
    ----------
    path : Path
        The folder is made if missing.
    checkpoint : Checkpoint
        Read from any device.
    identity : mapping
        JSON types; `load` refuses the file for a run with another one.
    """
    groups = {"student": checkpoint.student, "optimizer": checkpoint.optimizer}
    tensors = {
        f"{group}.{name}": t.detach().to("cpu", copy=True).contiguous()  # tied weights: twice
        for group, named in groups.items()
        for name, t in named.items()
    }
    state = {
        "format": FORMAT,
        "step": checkpoint.step,
        "scaler": checkpoint.scaler,
        "identity": identity,
    }
    text = json.dumps(state)
    header = {"state": text, "sha256": _checksum(tensors, text)}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")  # of a killed run: written over
    save_file(tensors, temporary, header)
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())  # content before name, also across a power cut
    os.replace(temporary, path)


def load(path: Path, identity: Mapping[str, Any]) -> Checkpoint:
    """Read a state that `save` wrote for the run with this identity.

    Raises
    ------
    ValueError
        If the file is cut short, damaged, edited, no checkpoint, or of another run; the message
        says which setting differs.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or cut short ({error}): delete it") from error
    if not header.keys() >= {"state", "sha256"}:
        raise ValueError(f"{path} is not a checkpoint of qtools.distillation")
    if _checksum(tensors, header["state"]) != header["sha256"]:
        raise ValueError(
            f"{path} is damaged or was edited: its checksum does not fit its content; delete it"
        )
    state = json.loads(header["state"])
    if state["format"] != FORMAT:
        raise ValueError(f"{path} must have format {FORMAT}, got {state['format']}")
    if state["identity"] != json.loads(json.dumps(identity)):
        difference = _difference(state["identity"], identity)
        raise ValueError(
            f"{path} is of another run: {difference}; delete it or go on with its settings"
        )
    return Checkpoint(
        state["step"], _group(tensors, "student."), _group(tensors, "optimizer."), state["scaler"]
    )


def student_state(student: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers of a student by name.

    Raises
    ------
    TypeError
        If its state has something that is no tensor, which safetensors cannot hold.
    """
    state = student.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"the student's state must be tensors, got {name}: {type(value)}")
    return dict(state)


def load_student(student: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Put tensors of a checkpoint into the student, after a look at names, types and shapes."""
    ours = student_state(student)
    if odd := sorted(ours.keys() ^ tensors.keys()):
        raise ValueError(f"{path} is of another student: {odd[0]} is in only one of the two")
    for name, t in ours.items():
        if (t.shape, t.dtype) != (tensors[name].shape, tensors[name].dtype):
            raise ValueError(
                f"{path} is of another student: {name} must be {t.dtype} {list(t.shape)}, "
                f"got {tensors[name].dtype} {list(tensors[name].shape)}"
            )
    student.load_state_dict(tensors)


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the tensors of every parameter's state.

    Groups are left out: they are settings, and their rate follows from the step.

    Raises
    ------
    TypeError
        If a state has something that is no tensor.
    """
    found: dict[str, Tensor] = {}
    for number, state in optimizer.state_dict()["state"].items():
        for key, value in state.items():
            if isinstance(value, Tensor):
                found[f"{number}.{key}"] = value
            elif value is not None:
                raise TypeError(f"the optimizer's state must be tensors, got {key}: {value!r}")
    return found


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put the state of a checkpoint into an optimizer of its kind, over the same parameters."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, t in tensors.items():
        number, _, key = name.partition(".")
        state.setdefault(int(number), {})[key] = t
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def fingerprint(model: nn.Module) -> str:
    """Tell models apart at little cost: hash names, types, shapes and the start of each tensor."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name}\0".encode())
        if isinstance(value, Tensor):
            _update(digest, "", value, value.detach().flatten()[:16])
    return digest.hexdigest()[:16]


def _checksum(tensors: Mapping[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        _update(digest, name, tensors[name], tensors[name])
    return digest.hexdigest()


def _update(digest: Any, name: str, t: Tensor, content: Tensor) -> None:
    digest.update(f"{name}\0{t.dtype}\0{list(t.shape)}\0".encode())
    digest.update(content.cpu().contiguous().flatten().view(torch.uint8).numpy().data)


def _group(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}


def _difference(theirs: Mapping[str, Any], ours: Mapping[str, Any], prefix: str = "") -> str:
    """Say the first thing in which two identities differ."""
    for key in sorted(theirs.keys() | ours.keys()):
        there, here = theirs.get(key), ours.get(key)
        if isinstance(there, Mapping) and isinstance(here, Mapping):
            if inner := _difference(there, here, f"{prefix}{key}."):
                return inner
        elif there != here:
            return f"{prefix}{key} is {there!r} there and {here!r} here"
    return ""
