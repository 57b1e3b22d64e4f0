"""qtools: quantization and model compression in PyTorch, one file an idea."""

__version__ = "0.1.0"
