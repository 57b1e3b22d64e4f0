"""A safetensors file with a checksum over all of it, read with nothing taken on trust."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from qtools.files import write_atomic

#: Version of the layout, in every file.
FORMAT = 1

#: safetensors' names of the types that a file may have.
TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in TYPES.items()}

#: What a file is of where nothing else is said: the one entry of the header's metadata, JSON text.
KIND = "onebit"
_NO_DIGEST = "0" * 64
_DIGEST_FIELD = '\\"sha256\\":\\"'  # as it stands in the header, JSON inside JSON
_LARGEST_HEADER = 2**24  # bytes: some 100,000 tensors


class Entry(NamedTuple):
    """A tensor that a header announces: its type, shape and bytes [start, end) of the data."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int


class Header(NamedTuple):
    """What a file says of itself, checked against its size but not yet against its checksum."""

    entries: dict[str, Entry]
    metadata: dict[str, Any]
    raw: bytes
    data_bytes: int

    @property
    def bytes(self) -> int:
        """Bytes before the first tensor."""
        return 8 + len(self.raw)


def write(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, Any], path: Path, kind: str = KIND
) -> None:
    """Write a file whole or not at all; the same content gives the same bytes.

    The SHA-256 is that of the whole file with 64 zeros in the place of the digest: no bit of it
    can change unnoticed.

    Raises
    ------
    ValueError
        If a tensor has the name ``__metadata__``, or there are too many for a header of 16 MB.
    TypeError
        If a tensor's type is none of safetensors' that `TYPES` lists, or it is not dense.
    """
    for name, tensor in tensors.items():
        if name == "__metadata__":
            raise ValueError("tensors must not have the name '__metadata__', safetensors uses it")
        if tensor.dtype not in _NAMES or tensor.layout != torch.strided or tensor.is_meta:
            raise TypeError(
                f"{name} must be dense with values, of a type in {', '.join(TYPES)}; "
                f"got {tensor.dtype}, {tensor.layout}, on {tensor.device}"
            )
    # Large items first, as safetensors does: every tensor is aligned to its own.
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    described = {"version": FORMAT, "sha256": _NO_DIGEST, **metadata}
    header: dict[str, Any] = {"__metadata__": {kind: json.dumps(described, separators=(",", ":"))}}
    start = 0
    for name in order:
        end = start + tensors[name].nbytes
        header[name] = {
            "dtype": _NAMES[tensors[name].dtype],
            "shape": list(tensors[name].shape),
            "data_offsets": [start, end],
        }
        start = end
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    if len(raw) > _LARGEST_HEADER:
        raise ValueError(f"tensors must need a header of at most {_LARGEST_HEADER} bytes, "
                         f"got {len(raw)}")  # fmt: skip
    parts: list[Any] = [
        len(raw).to_bytes(8, "little"),
        raw,
        *(_bytes(tensors[name]) for name in order),
    ]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    parts[1] = raw.replace(
        (_DIGEST_FIELD + _NO_DIGEST).encode(), (_DIGEST_FIELD + digest.hexdigest()).encode(), 1
    )
    write_atomic(path, b"".join(parts))


def read_header(path: Path, largest: int = _LARGEST_HEADER, kind: str = KIND) -> Header:
    """Read what stands before the tensors.

    Parameters
    ----------
    path : Path
    largest : int
        Bytes of header at most.
    kind : str
        What `write` was told.

    Raises
    ------
    FileNotFoundError, ValueError
        See `read`, which also looks at the tensors and the checksum.
    """
    with _open(path) as file:
        return _header(file, path, largest, kind)


def read(
    path: Path,
    check: Callable[[Header], None],
    largest: int = _LARGEST_HEADER,
    kind: str = KIND,
) -> tuple[Header, dict[str, Tensor]]:
    """Read a file that `write` wrote; its tensors share one memory, that of the file.

    Memory for the header is taken once its length is known to be in the file and below `largest`,
    memory for the tensors once the header is consistent with itself and with the file's size and
    `check` has agreed to it.

    Parameters
    ----------
    path : Path
    check : function
        Of the header; raises ValueError to refuse.
    largest : int
        Bytes of header at most.
    kind : str
        What `write` was told.

    Raises
    ------
    FileNotFoundError
        If path is no regular file.
    ValueError
        If the file is not one that `write` wrote, whole and unchanged; the message says why.
    """
    with _open(path) as file:
        header = _header(file, path, largest, kind)
        check(header)
        data = bytearray(header.data_bytes)
        if file.readinto(data) != len(data) or file.read(1):  # type: ignore[attr-defined]
            raise ValueError(f"{path} changed while it was read")
    digest = str(header.metadata["sha256"])
    field = (_DIGEST_FIELD + digest).encode()
    blank = header.raw.replace(field, (_DIGEST_FIELD + _NO_DIGEST).encode(), 1)
    actual = hashlib.sha256(len(blank).to_bytes(8, "little") + blank)
    actual.update(data)
    if actual.hexdigest() != digest:
        raise ValueError(f"{path} is damaged or was edited: its checksum does not fit its content")
    return header, {name: _tensor(data, entry) for name, entry in header.entries.items()}


def _open(path: Path) -> BinaryIO:
    # A pipe or a device would keep us waiting, or never end.
    if not path.is_file():
        raise FileNotFoundError(f"path must be a file, got {path}")
    return path.open("rb")


def _header(file: BinaryIO, path: Path, largest: int, kind: str) -> Header:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > size - 8:
        raise ValueError(f"{path} is too short for its header, or is no safetensors file")
    if length > largest:
        raise ValueError(f"{path} has a header of {length} bytes, at most {largest} are expected")
    raw = file.read(length)
    try:
        header = _json(raw.decode())
        extra = header.pop("__metadata__")
        if type(extra) is not dict or extra.keys() != {kind} or type(extra[kind]) is not str:
            raise ValueError(f"its metadata is not that of {kind}.save")
        metadata = _json(extra[kind])
        if type(metadata.get("version")) is not int or metadata["version"] != FORMAT:
            raise ValueError(
                f"its format version is {_short(metadata.get('version'))}, "
                f"this package reads {FORMAT}"
            )
        digest = metadata.get("sha256")
        if type(digest) is not str or len(digest) != 64 or set(digest) - set("0123456789abcdef"):
            raise ValueError("it has no checksum")
        entries = {name: _entry(name, value) for name, value in header.items()}
        place = 0
        for name, entry in sorted(entries.items(), key=lambda item: item[1][2:]):
            if entry.start != place:
                raise ValueError(f"{_short(name)} starts at {entry.start}, not at {place}")
            place = entry.end
        if place != size - 8 - length:
            raise ValueError(f"it holds {size - 8 - length} bytes of tensors, announced {place}")
    except (ValueError, KeyError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ValueError(f"{path} is not a whole file from {kind}.save: {reason}") from error
    return Header(entries, metadata, raw, place)


def _json(text: str) -> dict[str, Any]:
    """Parse an object, strictly: no name twice, no NaN."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise ValueError("its header has a name twice")
        return result

    value = json.loads(text, object_pairs_hook=once, parse_constant=refuse)
    if type(value) is not dict:
        raise ValueError("its header is no JSON object")
    return value


def _entry(name: str, value: Any) -> Entry:
    if type(value) is not dict or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{_short(name)} must have a dtype, a shape and data_offsets")
    kind, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if type(kind) is not str or kind not in TYPES:
        raise ValueError(f"{_short(name)} has an unknown type, {_short(kind)}")
    if not (_naturals(shape) and _naturals(offsets)) or len(offsets) != 2 or len(shape) > 64:
        raise ValueError(f"{_short(name)} has a shape or offsets that are no natural numbers")
    start, end = offsets
    dtype = TYPES[kind]
    if start % dtype.itemsize:
        raise ValueError(f"{_short(name)} starts at {start}, in the middle of an item")
    if end - start != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{_short(name)} has {end - start} bytes, which its shape does not have")
    return Entry(dtype, tuple(shape), start, end)


def _naturals(values: Any) -> bool:
    # Up to 2^63, so that no product of a few of them takes time.
    return type(values) is list and all(type(v) is int and 0 <= v < 2**63 for v in values)


def _short(value: object) -> str:
    text = repr(value) if type(value) is str else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _bytes(tensor: Tensor) -> Any:
    flat = tensor.detach().cpu().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def _tensor(data: bytearray, entry: Entry) -> Tensor:
    if entry.start == entry.end:  # frombuffer refuses nothing at all
        return torch.empty(entry.shape, dtype=entry.dtype)
    count = (entry.end - entry.start) // entry.dtype.itemsize
    flat = torch.frombuffer(data, dtype=entry.dtype, count=count, offset=entry.start)
    return flat.reshape(entry.shape)


def shared(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
    """Pairs (name, earlier name) of tensors that are the same memory seen the same way."""
    seen: dict[Any, str] = {}
    for name, tensor in tensors.items():
        key = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride(), tensor.device)
        if tensor.numel() and seen.setdefault(key, name) != name:
            yield name, seen[key]
