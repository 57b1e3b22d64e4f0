"""Quantized networks on disk: codes at their bits, and a checksum over everything."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, fx, nn

from qtools import metrics
from qtools.metrics import Packed
from qtools.ptq.convert import build
from qtools.ptq.dynamic import DynamicLayer
from qtools.ptq.modules import IntegerModule
from qtools.spec import QParams, QuantSpec

_CHECKSUM = "sha256"


def save(int_model: nn.Module, path: Path | str) -> metrics.Storage:
    """Write every tensor of a converted network to a safetensors file, codes at their own bits.

    Parameters
    ----------
    int_model : nn.Module
        From `convert` or `quantize_dynamic`.
    path : Path or str
        Written whole or not at all.

    Returns
    -------
    Storage
        The bytes of the file, tensor by tensor.
    """
    bits = _code_specs(int_model)
    tensors: dict[str, Tensor | Packed] = {
        name: Packed(t, bits[name].bits, bits[name].signed) if name in bits else t
        for name, t in int_model.state_dict().items()
    }
    tensors[_CHECKSUM] = _checksum(tensors)
    metrics.save(tensors, Path(path))
    return metrics.storage(tensors)


def load(model: fx.GraphModule, path: Path | str) -> fx.GraphModule:
    """Return an integer network with the tensors of a file that `save` wrote.

    Parameters
    ----------
    model : GraphModule
        A converted network, or one from `prepare` (calibrated or not) with the recipe that the
        file's had. Unchanged.
    path : Path or str

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, edited, not from `save`, or of another network; the message says
        which tensor is wrong.
    """
    path = Path(path)
    prepared = isinstance(model, fx.GraphModule) and "recipe" in model.meta
    result = build(model, _placeholder) if prepared else copy.deepcopy(model)
    tensors = _read(path)
    specs, state = _code_specs(result), result.state_dict()
    if missing := sorted(state.keys() ^ tensors.keys()):
        raise ValueError(f"{path} is of another network: {missing[0]} is in only one of the two")
    loaded: dict[str, Tensor] = {}
    for name, old in state.items():
        new = tensors[name]
        if isinstance(new, Packed) != (name in specs):
            raise ValueError(f"{path}: {name} must be {'codes' if name in specs else 'a tensor'}")
        if isinstance(new, Packed):
            spec = specs[name]
            if (new.bits, new.signed) != (spec.bits, spec.signed):
                raise ValueError(f"{path}: {name} must have {spec.bits} bits, got {new.bits}")
            new = new.codes.to(old.dtype)
        if new.shape != old.shape or new.dtype != old.dtype:
            raise ValueError(
                f"{path}: {name} must be {old.dtype} {list(old.shape)},"
                f" got {new.dtype} {list(new.shape)}"
            )
        loaded[name] = new
    try:
        result.load_state_dict(loaded)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{path} holds values no quantized network has: {error}") from error
    return result


def _read(path: Path) -> dict[str, Tensor | Packed]:
    if not path.is_file():
        raise FileNotFoundError(f"path must be a file, got {path}")
    try:
        tensors = metrics.load(path)
    except Exception as error:  # whatever a hostile header can cause
        raise ValueError(f"{path} is not a whole file from ptq.save: {error}") from error
    checksum = tensors.pop(_CHECKSUM, None)
    if not isinstance(checksum, Tensor) or not torch.equal(checksum, _checksum(tensors)):
        raise ValueError(f"{path} is damaged or was edited: its checksum does not fit its content")
    return tensors


def _checksum(tensors: Mapping[str, Tensor | Packed]) -> Tensor:
    """SHA-256 over names, types, shapes and values: uint8 [32]."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        t = tensors[name]
        kind = f"{t.bits} {t.signed}" if isinstance(t, Packed) else str(t.dtype)
        value = t.codes.to(torch.int32) if isinstance(t, Packed) else t
        digest.update(f"{name}\0{kind}\0{list(value.shape)}\0".encode())
        digest.update(
            value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        )
    return torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)


def _code_specs(model: nn.Module) -> dict[str, QuantSpec]:
    """Return the spec of every buffer that holds codes, by its name in the state dict."""
    found: dict[str, QuantSpec] = {}
    for name, module in model.named_modules():
        if isinstance(module, IntegerModule) and "weight" in module.specs:
            found[f"{name}.weight"] = module.specs["weight"]
        elif isinstance(module, DynamicLayer):
            found[f"{name}.weight"] = module.w_spec
    return found


def _placeholder(observer: nn.Module) -> QParams:
    """Parameters for a skeleton, until those of the file replace them."""
    spec = observer.spec
    assert isinstance(spec, QuantSpec)
    zero = 0 if spec.signed else 2 ** (spec.bits - 1)
    return QParams(torch.tensor(1.0), torch.tensor(zero, dtype=torch.int32), spec)
