"""What pytest does not collect as doctests here."""

from importlib.util import find_spec

# Triton has wheels for Linux only; the module is imported nowhere else without it.
collect_ignore = [] if find_spec("triton") else ["qtools/kernels/gpu_kernels.py"]
