"""Sphinx extension of the book *Down to One Bit*.

A chapter is plain Markdown, so that it reads well in Colab, Jupyter and on GitHub. This extension
gives the built pages their finish (statement boxes, folds, numbered equations, captions) and checks
what plain Markdown cannot: numbers, links between statements, citations. Every complaint is a
Sphinx warning, and the book is built with warnings as errors.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

from . import (
    api,
    assets,
    captions,
    citations,
    equations,
    folds,
    glossary,
    home,
    outputs,
    picture,
    references,
    repolinks,
    statements,
)
from .numbering import merge_numbers, purge_numbers

__all__ = ["setup"]


def source_version() -> int:
    """Checksum of this extension: cached pages are thrown away when it changes."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return zlib.crc32(b"".join(file.read_bytes() for file in files))


def setup(app: Sphinx) -> dict[str, Any]:
    """Register all parts with Sphinx."""
    for part in (
        statements,
        folds,
        equations,
        captions,
        citations,
        references,
        outputs,
        repolinks,
        glossary,
        home,
        picture,
        api,
        assets,
    ):
        part.setup(app)
    app.connect("env-purge-doc", purge_numbers)
    app.connect("env-merge-info", merge_numbers)
    return {
        "version": "1",
        "env_version": source_version(),
        "parallel_read_safe": True,
        "parallel_write_safe": True,
    }
