"""NumPy-style docstrings as Markdown."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass, field

HEADER = re.compile(r"^([A-Z][A-Za-z ]+)\n-{3,}[ \t]*$", re.MULTILINE)
ENTRY_SECTIONS = {
    "Parameters",
    "Other Parameters",
    "Attributes",
    "Returns",
    "Yields",
    "Raises",
    "Warns",
}
# What must reach the Markdown parser as it is: code and mathematics.
PROTECTED = re.compile(r"(``.+?``|`[^`]+`|\$[^$\n]+\$)", re.DOTALL)


@dataclass
class Section:
    """One part of a docstring; ``entries`` holds (name, type, Markdown text)."""

    title: str
    text: str = ""
    entries: list[tuple[str, str, str]] = field(default_factory=list)


def split_docstring(text: str) -> list[Section]:
    r"""Sections of a docstring, its opening text first (without a title).

    Examples
    --------
    >>> [s.title for s in split_docstring("Add.\n\nRaises\n------\nValueError\n    If not.")]
    ['', 'Raises']
    """
    pieces = HEADER.split(textwrap.dedent(text).strip() + "\n")
    sections = [Section("", to_markdown(pieces[0]))]
    for title, body in zip(pieces[1::2], pieces[2::2], strict=True):
        if title in ENTRY_SECTIONS:
            sections.append(Section(title, entries=_entries(title, body)))
        else:
            sections.append(Section(title, to_markdown(body)))
    return sections


def _entries(title: str, body: str) -> list[tuple[str, str, str]]:
    """Unindented lines open an entry; what is indented below explains it."""
    entries: list[tuple[str, str, str]] = []
    head, below = "", ""
    for line in [*body.strip("\n").splitlines(), "end"]:
        if line.strip() and not line[0].isspace():
            if head:
                name, _, kind = (part.strip() for part in head.partition(" : "))
                entries.append((name, kind, to_markdown(textwrap.dedent(below))))
            head, below = line, ""
        else:
            below += line + "\n"
    return entries


def to_markdown(text: str) -> str:
    """Markdown for docstring text: doctests become code, stray ``*`` and ``<`` are escaped."""
    blocks: list[str] = []
    for block in re.split(r"\n[ \t]*\n", text.strip("\n")):
        if block.lstrip().startswith(">>>"):
            blocks.append("```python\n" + textwrap.dedent(block) + "\n```")
        elif block.strip() and all(li.startswith("    ") for li in block.splitlines()):
            blocks.append("```text\n" + textwrap.dedent(block) + "\n```")
        else:
            blocks.append(_escape(block))
    return "\n\n".join(blocks)


def _escape(block: str) -> str:
    parts = PROTECTED.split(block)
    for index in range(0, len(parts), 2):
        part = re.sub(r":math:$", "", parts[index])
        part = re.sub(r"(?<!\*)\*(?!\*)", r"\\*", part)
        part = re.sub(r"::(?=\s*$)", ":", part)
        parts[index] = part.replace("<", "\\<").replace("[", "\\[").replace("]", "\\]")
    return "".join(parts)
