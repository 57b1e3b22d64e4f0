"""Distillation: a student learns from a teacher's outputs, not from labels alone."""

from qtools.distillation.attention import (
    attention_divergence,
    attention_loss,
    attention_transfer_loss,
)
from qtools.distillation.config import DistillConfig
from qtools.distillation.data import Collated, Examples
from qtools.distillation.history import History
from qtools.distillation.loop import Distiller
from qtools.distillation.losses import (
    hidden_state_loss,
    hinton_loss,
    label_loss,
    onebit_loss,
    soft_cross_entropy,
    soft_divergence,
)
from qtools.distillation.nonfinite import NonFiniteError
from qtools.distillation.objectives import Hinton, LabelsOnly, Objective, OneBit, Summed

__all__ = [
    "Collated",
    "DistillConfig",
    "Distiller",
    "Examples",
    "Hinton",
    "History",
    "LabelsOnly",
    "NonFiniteError",
    "Objective",
    "OneBit",
    "Summed",
    "attention_divergence",
    "attention_loss",
    "attention_transfer_loss",
    "hidden_state_loss",
    "hinton_loss",
    "label_loss",
    "onebit_loss",
    "soft_cross_entropy",
    "soft_divergence",
]
