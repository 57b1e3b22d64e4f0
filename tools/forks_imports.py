"""What a forked process finds imported: what others wrote, nothing of this repository."""

import gc

import hypothesis
import ipykernel.ipkernel
import ipykernel.kernelapp
import matplotlib.pyplot
import pytest
import torch

__all__ = ["hypothesis", "ipykernel", "matplotlib", "pytest", "torch"]

# As a kernel that imports matplotlib itself would have it: figures go into the notebook.
matplotlib.rcParams["backend"] = "module://matplotlib_inline.backend_inline"

# The first call imports a good deal of torch; the state is as before.
torch.use_deterministic_algorithms(True)
torch.use_deterministic_algorithms(False)

gc.freeze()  # what is here stays: no process that is forked needs to look through it again
