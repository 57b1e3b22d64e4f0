"""Distillation: a student learns from a teacher's outputs, not from labels alone."""

from qtools.distillation.losses import (
    attention_divergence,
    attention_loss,
    attention_transfer_loss,
    hidden_state_loss,
    hinton_loss,
    label_loss,
    onebit_loss,
    soft_cross_entropy,
    soft_divergence,
)

__all__ = [
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
