"""Numbers written by hand: they must match the chapter, and no two may be equal."""

from __future__ import annotations

import re
from collections.abc import Iterable

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

LOGGER = logging.getLogger(__name__)

CHAPTER_FILE = re.compile(r"(?:^|/)(\d{2})_[^/]*$")


def warn(message: str, subtype: str, location: nodes.Node | str) -> None:
    """Warn with the type ``dtob.<subtype>``; the book's build turns it into an error."""
    LOGGER.warning(f"{message} [dtob.{subtype}]", type="dtob", subtype=subtype, location=location)


def chapter_of(docname: str) -> str | None:
    """Chapter number of a page, from its file name; None for an appendix.

    Examples
    --------
    >>> chapter_of("book/02_affine_quantization")
    '2'
    >>> chapter_of("book/notation") is None
    True
    """
    match = CHAPTER_FILE.search(docname)
    return str(int(match.group(1))) if match else None


def _table(env: BuildEnvironment) -> dict[str, str]:
    """Page of each taken name, such as ``proposition-2-1``; kept in the pickled environment."""
    if not hasattr(env, "dtob_numbers"):
        env.dtob_numbers = {}  # type: ignore[attr-defined]
    table: dict[str, str] = env.dtob_numbers  # type: ignore[attr-defined]
    return table


def claim_number(
    env: BuildEnvironment, label: str, prefix: str, identifier: str, location: nodes.Node
) -> bool:
    """Take a number for the current page.

    Parameters
    ----------
    env : BuildEnvironment
        The environment of the page being read.
    label : str
        What the reader sees, such as ``Proposition 2.1``.
    prefix : str
        The part before the point: a chapter's number, or a letter in an appendix.
    identifier : str
        Unique name, used as the element's id.
    location : nodes.Node
        Node the warning points at.

    Returns
    -------
    bool
        Whether the number was free.
    """
    chapter = chapter_of(env.docname)
    if chapter is None and prefix.isdigit():
        warn(
            f"{label} stands outside a chapter; appendices number with a letter",
            "number",
            location,
        )
    elif chapter is not None and prefix != chapter:
        warn(f"{label} stands in chapter {chapter}", "number", location)
    table = _table(env)
    if identifier in table:
        warn(f"duplicate number: {label} is already in {table[identifier]}", "number", location)
        return False
    table[identifier] = env.docname
    return True


def register_anchor(env: BuildEnvironment, node: nodes.Element, anchor: str, title: str) -> None:
    """Give ``node`` the id ``anchor`` and let MyST resolve links such as ``page.ipynb#anchor``."""
    node["ids"] = [anchor, *[i for i in node["ids"] if i != anchor]]
    entry = (node.line or 0, anchor, title)
    env.metadata[env.docname].setdefault("myst_slugs", {})[anchor] = entry
    document = node.document
    assert document is not None
    document.ids[anchor] = node
    if not hasattr(document, "myst_slugs"):
        document.myst_slugs = {}
    document.myst_slugs[anchor] = entry


def purge_numbers(app: Sphinx, env: BuildEnvironment, docname: str) -> None:
    """Forget the numbers of a page that will be read again."""
    table = _table(env)
    for key in [key for key, page in table.items() if page == docname]:
        del table[key]


def merge_numbers(
    app: Sphinx, env: BuildEnvironment, docnames: Iterable[str], other: BuildEnvironment
) -> None:
    """Collect the numbers that a parallel reader found."""
    table = _table(env)
    for key, page in _table(other).items():
        if page in set(docnames):
            if key in table and table[key] != page:
                warn(f"duplicate number: {key} is in {table[key]} and {page}", "number", page)
            table[key] = page


def inline_children(paragraph: nodes.Element) -> list[nodes.Node]:
    """Children that show; the Markdown parser puts an empty text before bold or emphasis."""
    return [child for child in paragraph.children if child.astext() or child.children]
