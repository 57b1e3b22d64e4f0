"""``{terms}``: a glossary in two languages, one line for each term.

A line reads ``English | 中文 | meaning`` or, with a fourth part, ``... | chapters``. Lines stand in
alphabetical order and no term comes twice. Who searches for a term in either language is led here
first.
"""

from __future__ import annotations

import re

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from .numbering import warn


def anchor(term: str) -> str:
    """Id of a term.

    Examples
    --------
    >>> anchor("Fake quantization (QAT)")
    'term-fake-quantization-qat'
    """
    return "term-" + re.sub(r"[^a-z0-9]+", "-", term.lower()).strip("-")


class Terms(SphinxDirective):
    """A definition list; the Chinese term is marked as Chinese for screen readers."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """Build the list and check its order."""
        listing = nodes.definition_list(classes=["terms"])
        previous = ""
        for line in filter(str.strip, self.content):
            parts = [part.strip() for part in line.split("|")]
            if len(parts) not in (3, 4) or not all(parts):
                raise self.error(
                    f"a term needs 'English | 中文 | meaning | chapters', got {line!r}"
                )
            if parts[0].lower() <= previous:
                warn(f"term {parts[0]!r} should stand before {previous!r}", "terms", listing)
            previous = parts[0].lower()
            listing += self._term(*parts)
        return [listing]

    def _term(
        self, english: str, chinese: str, meaning: str, chapters: str = ""
    ) -> nodes.definition_list_item:
        place = anchor(english)
        term = nodes.term("", english + " ", ids=[place])
        # Entries of the index outrank headings in Sphinx's search.
        entries = [("single", name, place, "main", None) for name in (english, chinese)]
        term += addnodes.index(entries=entries)
        term += nodes.raw("", f'<span lang="zh-Hans">{chinese}</span>', format="html")
        text, _ = self.state.inline_text(meaning, self.lineno)
        paragraph = nodes.paragraph("", "", *text)
        if chapters:
            paragraph += nodes.inline("", f" Chapter {chapters}.", classes=["term-chapter"])
        return nodes.definition_list_item("", term, nodes.definition("", paragraph))


def setup(app: Sphinx) -> None:
    """Register the directive."""
    app.add_directive("terms", Terms)
