"""Sphinx extension of the book *Down to One Bit*.

A chapter is plain Markdown, so that it reads well in Colab, Jupyter and on GitHub. This extension
gives the built pages their finish (statement boxes, folds, numbered equations, captions) and checks
what plain Markdown cannot: numbers, links between statements, citations. Every complaint is a
Sphinx warning, and the book is built with warnings as errors.
"""

from __future__ import annotations

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

# Raise this when a change in the extension has to throw away cached pages.
ENV_VERSION = 1


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
        "env_version": ENV_VERSION,
        "parallel_read_safe": True,
        "parallel_write_safe": True,
    }
