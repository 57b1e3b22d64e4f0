"""Pruning: which weights to drop, how the others make up for it, and what it saves."""

from qtools.pruning.apply import apply_masks, bake_masks, sparsity_of
from qtools.pruning.channels import ChannelGroup, channel_groups
from qtools.pruning.compensation import compensate, obs_prune, obs_update, output_error
from qtools.pruning.gram import Gram, gram_matrices
from qtools.pruning.masks import (
    block_mask,
    column_mask,
    global_masks,
    n_m_mask,
    row_mask,
    unstructured_mask,
)
from qtools.pruning.schedule import cubic_sparsity
from qtools.pruning.scores import magnitude, taylor, wanda
from qtools.pruning.sparsegpt import sparse_gpt
from qtools.pruning.storage import CSR, Bitmap, bitmap_pays, csr_pays
from qtools.pruning.structured import prune_channels, prune_to_macs

__all__ = [
    "CSR",
    "Bitmap",
    "ChannelGroup",
    "Gram",
    "apply_masks",
    "bake_masks",
    "bitmap_pays",
    "block_mask",
    "channel_groups",
    "column_mask",
    "compensate",
    "csr_pays",
    "cubic_sparsity",
    "global_masks",
    "gram_matrices",
    "magnitude",
    "n_m_mask",
    "obs_prune",
    "obs_update",
    "output_error",
    "prune_channels",
    "prune_to_macs",
    "row_mask",
    "sparse_gpt",
    "sparsity_of",
    "taylor",
    "unstructured_mask",
    "wanda",
]
