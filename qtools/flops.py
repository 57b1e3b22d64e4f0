"""How many multiplications a network does."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from qtools.modes import evaluating


def macs(model: nn.Module, *inputs: object) -> int:
    """``out · in · kh · kw · positions`` for a convolution, ``rows · out · in`` for a linear layer.

    One multiplication with its addition counts once, half of what PyTorch's FlopCounterMode
    reports. Matrix products, convolutions and attention count, wherever the forward calls them;
    what is done once per activation (BatchNorm, ReLU, pooling, biases) does not. Inputs of n
    images give n times the count of one.

    Parameters
    ----------
    model : nn.Module
        Called once, in eval mode and without gradients; then as it was.
    *inputs
        The arguments of the call.

    Examples
    --------
    >>> macs(nn.Linear(3, 5), torch.zeros(2, 3))
    30
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        # Fused attention is not counted on every device; its matrix products are.
        counter = FlopCounterMode(display=False)
        with evaluating(model), sdpa_kernel(SDPBackend.MATH), counter:
            model(*inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return counter.get_total_flops() // 2
