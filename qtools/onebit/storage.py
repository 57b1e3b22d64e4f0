"""Bits counted honestly: of a formula, of a family of models, of a file."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from qtools.kernels.bits import row_bytes
from qtools.onebit import container


def bits_per_weight(out_features: int, in_features: int, of_original: bool = False) -> float:
    """``(m n + 16 (m + n)) / (m n + m + n)``, or by ``m n`` alone: one bit a sign, 16 for g and h.

    The paper divides by all numbers stored, g and h among them (Xu et al. 2024, for 4096 × 4096:
    1.0073). By the weights that there were before, which is what a ratio of sizes needs, it is a
    little more (1.0078). Padding of rows is not in it; `report` has it.

    Parameters
    ----------
    out_features, in_features : int
    of_original : bool
        Divide by ``m n``.

    Examples
    --------
    >>> f"{bits_per_weight(4096, 4096):.4f} {bits_per_weight(4096, 4096, of_original=True):.4f}"
    '1.0073 1.0078'
    """
    matrix, vectors = out_features * in_features, out_features + in_features
    return (matrix + 16 * vectors) / (matrix if of_original else matrix + vectors)


class Llama(NamedTuple):
    """Published shapes of a LLaMA model (Touvron et al. 2023, table 2 and the released weights)."""

    width: int
    hidden: int
    layers: int
    vocabulary: int = 32000

    @property
    def matrices(self) -> list[tuple[int, int]]:
        """(out, in) of one block's: queries, keys, values, output; gate, up, down."""
        w, h = self.width, self.hidden
        return [(w, w)] * 4 + [(h, w), (h, w), (w, h)]

    @property
    def embedding_bytes(self) -> int:
        """Embedding and head at 16 bits, which stay so."""
        return 2 * 2 * self.vocabulary * self.width

    @property
    def norm_bytes(self) -> int:
        """Two RMSNorms a block and one at the end, at 16 bits."""
        return 2 * (2 * self.layers + 1) * self.width

    @property
    def float16_bytes(self) -> int:
        """Everything at 16 bits."""
        block = sum(2 * m * n for m, n in self.matrices)
        return self.embedding_bytes + self.norm_bytes + self.layers * block

    @property
    def sign_bytes(self) -> int:
        """One bit a weight; every width here is a multiple of 64, so there is no padding."""
        return self.layers * sum(m * n for m, n in self.matrices) // 8

    @property
    def vector_bytes(self) -> int:
        """Vectors g and h of every matrix at 16 bits."""
        return self.layers * sum(2 * (m + n) for m, n in self.matrices)

    @property
    def onebit_bytes(self) -> int:
        """What Table 3 of Xu et al. 2024 gives, in units of 10⁹."""
        return self.embedding_bytes + self.norm_bytes + self.sign_bytes + self.vector_bytes


LLAMA = {
    "7B": Llama(4096, 11008, 32),
    "13B": Llama(5120, 13824, 40),
    "30B": Llama(6656, 17920, 60),
    "65B": Llama(8192, 22016, 80),
}


class Report(NamedTuple):
    """What the bytes of a file from `save` are.

    Attributes
    ----------
    layers : int
        Packed OneBit layers, each stored one once.
    weights : int
        Their signs.
    sign_bytes, padding_bytes, vector_bytes, bias_bytes : int
        Theirs: signs to whole bytes, rows filled up to 64-bit words, g and h, biases.
    latent_bytes : int
        Everything of OneBit layers that are not packed.
    other_bytes : int
        Every other tensor: embeddings, norms, the head.
    header_bytes : int
        Before the first tensor.
    """

    layers: int
    weights: int
    sign_bytes: int
    padding_bytes: int
    vector_bytes: int
    bias_bytes: int
    latent_bytes: int
    other_bytes: int
    header_bytes: int

    @property
    def file_bytes(self) -> int:
        """Bytes of the file."""
        return sum(self[2:])

    @property
    def bits_per_weight(self) -> float:
        """``8 (signs + padding + g and h) / weights`` of the packed layers; NaN without any."""
        stored = self.sign_bytes + self.padding_bytes + self.vector_bytes
        return 8 * stored / self.weights if self.weights else float("nan")

    @property
    def file_bits_per_weight(self) -> float:
        """``8 file_bytes / weights``: with all that did not become bits; NaN without weights."""
        return 8 * self.file_bytes / self.weights if self.weights else float("nan")

    def __str__(self) -> str:
        kinds = [
            ("signs", self.sign_bytes), ("padding of rows", self.padding_bytes),
            ("g and h", self.vector_bytes), ("biases of OneBit layers", self.bias_bytes),
            ("latent, not packed", self.latent_bytes), ("other tensors", self.other_bytes),
            ("header", self.header_bytes), ("file", self.file_bytes),
        ]  # fmt: skip
        lines = [
            f"{self.layers} packed layers, {self.weights} weights, "
            f"{self.bits_per_weight:.4f} bits per weight "
            f"({self.file_bits_per_weight:.4f} with everything in the file)"
        ]
        lines += [
            f"{name:<24}{size:>14,} bytes {size / self.file_bytes:>7.2%}" for name, size in kinds
        ]
        return "\n".join(lines)


class LayerShape(NamedTuple):
    """A OneBit layer of a file: kind is "packed" or "latent"."""

    kind: str
    in_features: int
    out_features: int


def layers(path: Path | str) -> dict[str, LayerShape]:
    """Names and shapes of the OneBit layers of a file from `save`, from its header alone.

    Raises
    ------
    FileNotFoundError, ValueError
        As `report`.
    """
    return _layers(container.read_header(Path(path)), path)


def _layers(header: container.Header, path: Path | str) -> dict[str, LayerShape]:
    described = header.metadata.get("layers")
    if type(described) is not dict:
        raise ValueError(f"{path} has no list of layers")
    for name, value in described.items():
        if (
            type(value) is not list
            or [type(v) for v in value[:3]] != [str, int, int]
            or value[0] not in ("packed", "latent")
            or min(value[1:3]) < 1
        ):
            raise ValueError(f"{path} describes {name[:80]} in another way than onebit.save")
    return {name: LayerShape(*value[:3]) for name, value in described.items()}


def report(path: Path | str) -> Report:
    """Count the bytes of a file from `save` by what they are for, from its header alone.

    Raises
    ------
    FileNotFoundError
        If path is no regular file.
    ValueError
        If its header is not one that `save` writes. The checksum is not looked at.
    """
    header = container.read_header(Path(path))
    described = _layers(header, path)
    bytes_of = dict.fromkeys(("signs", "padding", "vectors", "biases", "latent", "other"), 0)
    packed = weights = 0
    for name, entry in header.entries.items():
        holder, _, leaf = name.rpartition(".")
        size, layer = entry.end - entry.start, described.get(holder)
        if layer is None:
            bytes_of["other"] += size
        elif layer.kind == "latent":
            bytes_of["latent"] += size
        elif leaf == "bits":
            rows, columns = layer.out_features, layer.in_features
            if entry.shape != (rows, row_bytes(columns)) or entry.dtype.itemsize != 1:
                raise ValueError(f"{path}: {name} must have {rows} rows of {columns} columns")
            signs = rows * -(-columns // 8)
            packed, weights = packed + 1, weights + rows * columns
            bytes_of["signs"] += signs
            bytes_of["padding"] += size - signs
        else:
            bytes_of["biases" if leaf == "bias" else "vectors"] += size
    return Report(
        packed, weights, bytes_of["signs"], bytes_of["padding"], bytes_of["vectors"],
        bytes_of["biases"], bytes_of["latent"], bytes_of["other"], header.bytes,
    )  # fmt: skip
