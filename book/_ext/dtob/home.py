"""Cards of the home page: chapters that exist are links, the others plain text."""

from __future__ import annotations

from typing import Any

import yaml
from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from .numbering import chapter_of, warn

EXAMPLE = "- part: Numbers\n  chapters:\n  - [01_why_compress, Why compress, what a weight costs]"


class Parts(SphinxDirective):
    """``{parts}``: a YAML list of parts, each with ``[file, title, sentence]`` for its chapters."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """One card for each part."""
        # A chapter that appears changes this page, though not its source.
        self.env.note_reread()
        try:
            parts: list[dict[str, Any]] = yaml.safe_load("\n".join(self.content))
            cards = [self._card(part) for part in parts]
            self._check_complete(parts)
        except (yaml.YAMLError, TypeError, KeyError, ValueError) as error:
            raise self.error(f"parts need a list such as:\n{EXAMPLE}\n({error})") from error
        return [nodes.container("", *cards, classes=["parts"], is_div=True)]

    def _check_complete(self, parts: list[dict[str, Any]]) -> None:
        listed = {f"book/{chapter[0]}" for part in parts for chapter in part["chapters"]}
        for docname in sorted(self.env.found_docs - listed):
            if chapter_of(docname):
                where = self.env.doc2path(self.env.docname)
                warn(f"chapter {docname} is on no card of the home page", "parts", where)

    def _card(self, part: dict[str, Any]) -> nodes.container:
        items = [self._chapter(*chapter) for chapter in part["chapters"]]
        title = nodes.paragraph("", "", nodes.strong("", part["part"]), classes=["part-title"])
        listing = nodes.enumerated_list("", *items, classes=["part-chapters"])
        first = str(part["chapters"][0][0])[:2]
        listing["start"] = int(first)
        listing["enumtype"] = "arabic"
        children: list[nodes.Node] = [title]
        if "text" in part:
            children.append(nodes.paragraph("", part["text"], classes=["part-text"]))
        return nodes.container("", *children, listing, classes=["part"], is_div=True)

    def _chapter(self, file: str, title: str, sentence: str) -> nodes.list_item:
        docname = f"book/{file}"
        exists = docname in self.env.found_docs
        if exists:
            inner = nodes.inline("", title)
            head: nodes.Node = addnodes.pending_xref(
                "",
                inner,
                refdomain="std",
                reftype="doc",
                reftarget=f"/{docname}",
                refdoc=self.env.docname,
                refexplicit=True,
                refwarn=True,
            )
        else:
            head = nodes.inline("", title, classes=["chapter-title"])
        children = [head]
        if not exists:
            children += [nodes.Text(" "), nodes.inline("", "planned", classes=["planned"])]
        children += [nodes.Text(" "), nodes.inline("", sentence, classes=["chapter-text"])]
        paragraph = nodes.paragraph("", "", *children)
        state = "exists" if exists else "to-come"
        return nodes.list_item("", paragraph, classes=[state])


def setup(app: Sphinx) -> None:
    """Register the directive."""
    app.add_directive("parts", Parts)
