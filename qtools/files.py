"""Two things every stored file goes through: its SHA-256 and an atomic write."""

import hashlib
import os
import secrets
from pathlib import Path


def sha256(content: bytes) -> str:
    """SHA-256 of `content` in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def write_atomic(path: Path, content: bytes) -> None:
    """Write `content` so that `path` holds all of it or what it held before, never a part.

    The bytes go to a temporary file in the same folder, which then takes the name of `path`.
    Several processes may do so at once: the last one wins. The folder is made if missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # content before name, also across a power cut
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
