"""What a method is judged by: accuracy with its uncertainty, true bytes on disk, latency."""

import json
import math
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from qtools.files import write_atomic
from qtools.modes import evaluating

_Z95 = 1.959963984540054  # 97.5 % quantile of the standard normal distribution


class Accuracy(NamedTuple):
    """Share of right answers among `n`, with its 95 % confidence interval."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.2%} (95 % interval {self.low:.2%} to {self.high:.2%}, n = {self.n})"


def wilson(right: int, n: int) -> Accuracy:
    """95 % Wilson interval: the p with ``|right/n - p| <= z sqrt(p (1 - p) / n)``, z = 1.96.

    Unlike right/n ± z·sqrt(...) it stays inside [0, 1] and is not empty at 0 or n right answers
    (Wilson 1927).
    """
    if not 0 <= right <= n or n == 0:
        raise ValueError(f"right must be between 0 and n, and n positive, got {right} of {n}")
    p, z2 = right / n, _Z95**2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    # At the ends the interval reaches 0 or 1 exactly; rounding must not keep it from there.
    low = 0.0 if right == 0 else centre - half
    high = 1.0 if right == n else centre + half
    return Accuracy(p, low, high, n)


@torch.inference_mode()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor, batch_size: int = 500) -> Accuracy:
    """Share of images whose largest logit is at their label; the model is put in eval mode for it.

    Parameters
    ----------
    images
        What the model takes, [n, ...]; for SmallCNN float32 from `data.normalise`.
    labels
        int64 [n].
    """
    if len(images) != len(labels):
        raise ValueError(f"labels must be as many as images, got {len(labels)} for {len(images)}")
    with evaluating(model):
        right = sum(
            int((model(x).argmax(1) == y).sum())
            for x, y in zip(images.split(batch_size), labels.split(batch_size), strict=True)
        )
    return wilson(right, len(labels))


class Latency(NamedTuple):
    """Seconds of one call: median and minimum over `runs`."""

    median: float
    minimum: float
    runs: int


def latency(fn: Callable[[], object], *, warmup: int = 5, runs: int = 50) -> Latency:
    """Time `runs` calls of `fn` one by one after `warmup` calls that are not counted.

    Threads, inference mode and the size of the input are the caller's business.
    """
    if runs < 1 or warmup < 0:
        raise ValueError(f"runs must be at least 1 and warmup at least 0, got {runs} and {warmup}")
    for _ in range(warmup):
        fn()
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        fn()
        seconds.append(time.perf_counter() - start)
    return Latency(statistics.median(seconds), min(seconds), runs)


def _check_bits(bits: int) -> None:
    if not isinstance(bits, int) or not 1 <= bits <= 16:
        raise ValueError(f"bits must be an integer from 1 to 16, got {bits!r}")


def pack_codes(q: Tensor, bits: int, signed: bool | None = None) -> Tensor:
    """Store integer codes densely: bit k of code i is bit ``(i * bits + k) % 8`` of its byte.

    Little-endian, least significant bit first, no padding between codes, zeros after the last one.
    Negative codes are stored in two's complement.

    Parameters
    ----------
    q
        Integers of any shape, all in [-2^(bits-1), 2^(bits-1) - 1] or all in [0, 2^bits - 1].
    bits
        1 to 16.
    signed
        Which of the two ranges is meant; None accepts both.

    Returns
    -------
    Tensor
        uint8 [ceil(q.numel() * bits / 8)].

    Examples
    --------
    >>> [f"{byte:08b}" for byte in pack_codes(torch.tensor([1, 2, 3]), 3)]
    ['11010001', '00000000']
    """
    _check_bits(bits)
    if q.is_floating_point() or q.is_complex():
        raise TypeError(f"q must hold integers, got {q.dtype}")
    codes = q.detach().cpu().flatten().to(torch.int64).numpy()
    if codes.size:
        low, high, half = int(codes.min()), int(codes.max()), 1 << (bits - 1)
        ranges = {True: (-half, half - 1), False: (0, 2 * half - 1)}
        allowed = list(ranges.values()) if signed is None else [ranges[signed]]
        if not any(a <= low and high <= b for a, b in allowed):
            raise ValueError(
                f"q must lie in {' or '.join(str(list(r)) for r in allowed)} for bits={bits}, "
                f"got [{low}, {high}]"
            )
    # uint16 of a negative code is its two's complement.
    ones = (codes.astype(np.uint16)[:, None] >> np.arange(bits, dtype=np.uint16)) & 1
    return torch.from_numpy(np.packbits(ones.astype(np.uint8).ravel(), bitorder="little"))


def unpack_codes(packed: Tensor, bits: int, numel: int, signed: bool) -> Tensor:
    """Exact inverse of `pack_codes`: int32 [numel].

    Raises
    ------
    ValueError
        If `packed` is not uint8 [ceil(numel * bits / 8)] or bits after the last code are not zero.
    """
    _check_bits(bits)
    expected = -(-numel * bits // 8)
    if packed.dtype != torch.uint8 or packed.shape != (expected,) or numel < 0:
        raise ValueError(
            f"packed must be uint8 [{expected}] for {numel} codes of {bits} bits, "
            f"got {packed.dtype} {list(packed.shape)}"
        )
    ones = np.unpackbits(packed.cpu().numpy(), bitorder="little")
    if ones[numel * bits :].any():
        raise ValueError("packed must have zeros after its last code")
    powers = 1 << np.arange(bits, dtype=np.int32)
    if signed:
        powers[-1] *= -1  # two's complement: the top bit counts negatively
    table = ones[: numel * bits].reshape(numel, bits).astype(np.int32)
    return torch.from_numpy(table @ powers)


class Packed(NamedTuple):
    """Integer codes of any shape that are to take `bits` bits each on disk."""

    codes: Tensor
    bits: int
    signed: bool = True


class Storage(NamedTuple):
    """Bytes of a file: the tensors' own, by name, and the header that names and places them."""

    tensors: dict[str, int]
    header_bytes: int

    @property
    def data_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(self.tensors.values())

    @property
    def file_bytes(self) -> int:
        """Bytes of the file."""
        return self.data_bytes + self.header_bytes


def storage(tensors: Mapping[str, Tensor | Packed]) -> Storage:
    """Count what `save` writes: packed codes at their bits, any other tensor as it is.

    ``ceil(numel * bits / 8)`` bytes for codes, ``numel * itemsize`` for scales, zero points, biases
    and the rest. Nothing is estimated: a file has exactly these bytes.
    """
    sizes = {
        name: -(-t.codes.numel() * t.bits // 8)
        if isinstance(t, Packed)
        else t.numel() * t.element_size()
        for name, t in tensors.items()
    }
    content = _serialise(tensors)
    return Storage(sizes, 8 + int.from_bytes(content[:8], "little"))


def save(tensors: Mapping[str, Tensor | Packed], path: Path) -> None:
    """Write tensors and packed codes to a safetensors file; `load` reads it back exactly."""
    write_atomic(path, _serialise(tensors))


def load(path: Path) -> dict[str, Tensor | Packed]:
    """Read what `save` wrote; codes come back as int32 in their shape."""
    with safetensors.safe_open(path, framework="pt") as file:
        layout = json.loads((file.metadata() or {}).get("packed", "{}"))
        tensors: dict[str, Tensor | Packed] = {
            name: file.get_tensor(name) for name in file.offset_keys()
        }
    for name, (shape, bits, signed) in layout.items():
        packed = tensors[name]
        assert isinstance(packed, Tensor)
        codes = unpack_codes(packed, bits, math.prod(shape), signed)
        tensors[name] = Packed(codes.reshape(shape), bits, signed)
    return tensors


def _serialise(tensors: Mapping[str, Tensor | Packed]) -> bytes:
    layout = {
        name: (list(t.codes.shape), t.bits, t.signed)
        for name, t in tensors.items()
        if isinstance(t, Packed)
    }
    plain = {
        name: pack_codes(t.codes, t.bits, t.signed)
        if isinstance(t, Packed)
        else t.detach().contiguous()
        for name, t in tensors.items()
    }
    metadata = {"packed": json.dumps(layout, separators=(",", ":"))} if layout else None
    return safetensors.torch.save(plain, metadata=metadata)
