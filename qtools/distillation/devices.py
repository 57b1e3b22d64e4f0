"""Where and how a run computes: device, processes, precision, threads, determinism."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, parse_flag_from_env

from qtools.distillation.config import DistillConfig
from qtools.distillation.data import generators_kept

# A whole copy of the student in every process. What splits one up keeps its state elsewhere.
_REFUSED = (
    *(DistributedType.FSDP, DistributedType.DEEPSPEED),
    *(DistributedType.MEGATRON_LM, DistributedType.XLA),
)


def accelerator(config: DistillConfig) -> Accelerator:
    """Return the Accelerator for a configuration: all processes that were started, the device.

    Raises
    ------
    ValueError
        If the device does not have the precision, this process has an Accelerator of another one
        already, or the processes are started in a way that splits the student up.
    """
    cpu = config.device == "cpu"
    precision = config.precision
    if precision == "auto":
        precision = "no" if cpu or parse_flag_from_env("ACCELERATE_USE_CPU") else _best()
    made = Accelerator(mixed_precision=precision, cpu=cpu)
    if made.distributed_type in _REFUSED:
        raise ValueError(
            "processes must each hold the whole student (Accelerate's MULTI_CPU or MULTI_GPU), "
            f"got {made.distributed_type}"
        )
    return made


def _best() -> str:
    if not torch.cuda.is_available():
        return "no"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


@contextmanager
def surroundings(config: DistillConfig, device: torch.device) -> Iterator[None]:
    """Deterministic algorithms, the number of threads; all as it was again afterwards."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    fill = memory.fill_uninitialized_memory
    threads = torch.get_num_threads()
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is random without
    # Some operations on a GPU have no deterministic version: then a warning says so.
    torch.use_deterministic_algorithms(True, warn_only=device.type != "cpu")
    # Filling new memory with NaN finds errors, changes no result, and takes 7 % of a step.
    memory.fill_uninitialized_memory = False
    if config.threads:
        torch.set_num_threads(config.threads)
    try:
        with generators_kept(device):
            yield
    finally:
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        memory.fill_uninitialized_memory = fill
        torch.set_num_threads(threads)
