"""What a forked kernel finds imported: a kernel's own modules, and those of the setup cell."""

import ipykernel.ipkernel
import ipykernel.kernelapp  # noqa: F401
import torch

from qtools import plotting  # noqa: F401

# The first call imports a good deal of torch; the state is as before.
torch.use_deterministic_algorithms(True)
torch.use_deterministic_algorithms(False)
