"""Blockquotes that open with a bold label become boxes.

``> **Proposition 12.1 (OneBit layer).** ...`` gets the id ``proposition-12-1``, so that
``[Proposition 12.1](12_rank_one_and_svid.ipynb#proposition-12-1)`` is a link. Any other bold label
(``> **What you will be able to do.**``) gives a plain box.
"""

from __future__ import annotations

import re

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.util.docutils import SphinxTranslator

from .numbering import claim_number, inline_children, register_anchor, warn

KINDS = ("Definition", "Lemma", "Proposition", "Theorem", "Corollary", "Remark", "Example")
_KIND = "|".join(KINDS)
LABEL = re.compile(rf"({_KIND}) ([0-9]+|[A-Z])\.([0-9]+)(?: \((.+)\))?\.", re.DOTALL)
LOOKS_LIKE = re.compile(rf"({_KIND})\b")
IN_TEXT = re.compile(rf"({_KIND}) ([0-9]+|[A-Z])\.([0-9]+)")
ANCHOR = re.compile(rf"({_KIND.lower()})-([0-9]+|[a-z])-([0-9]+)")
OBJECTIVES = "what you will be able to do"


class box(nodes.General, nodes.Element):
    """A box; attribute ``label`` names a statement and is empty for a plain box."""


def _label(quote: nodes.block_quote) -> nodes.strong | None:
    """The bold text that opens a blockquote, if there is one."""
    first = quote[0] if len(quote) else None
    shown = inline_children(first) if isinstance(first, nodes.paragraph) else []
    return shown[0] if shown and isinstance(shown[0], nodes.strong) else None


def _split_labelled(parent: nodes.Element) -> None:
    """Let each bold label of a plain box open its own paragraph."""
    for paragraph in [child for child in parent if isinstance(child, nodes.paragraph)]:
        pieces: list[list[nodes.Node]] = [[]]
        for child in inline_children(paragraph):
            opens = isinstance(child, nodes.strong) and child.astext().endswith(".")
            if opens and pieces[-1]:
                pieces.append([])
            pieces[-1].append(child)
        if len(pieces) > 1:
            new = [nodes.paragraph("", "", *piece) for piece in pieces]
            for node in new:
                node.source, node.line = paragraph.source, paragraph.line
            paragraph.replace_self(new)


class StatementBoxes(SphinxTransform):
    """Turn labelled blockquotes into boxes; check their numbers."""

    # Before ResolveAnchorIds of MyST (879), which looks up the ids registered here.
    default_priority = 500

    def apply(self, **kwargs: object) -> None:
        """Transform one page."""
        for quote in list(self.document.findall(nodes.block_quote)):
            strong = _label(quote)
            if strong is None:
                continue
            text = " ".join(strong.astext().split())
            match = LABEL.fullmatch(text)
            if match:
                self._statement(quote, strong, match)
            elif LOOKS_LIKE.match(text):
                warn(
                    f"label {text!r} should read 'Kind N.M (name).' or 'Kind N.M.' in bold",
                    "label",
                    quote,
                )
            elif text.endswith("."):
                kind = "objectives" if text.lower().startswith(OBJECTIVES) else "note"
                strong["classes"].append("box-label")
                new = self._replace(quote, "", ["box", f"box-{kind}"])
                _split_labelled(new)
        self._check_link_texts()

    def _replace(self, quote: nodes.block_quote, label: str, classes: list[str]) -> box:
        new = box(label=label, classes=classes)
        new.source, new.line = quote.source, quote.line
        new.document = self.document
        new += quote.children
        quote.replace_self(new)
        return new

    def _statement(
        self, quote: nodes.block_quote, strong: nodes.strong, match: re.Match[str]
    ) -> None:
        kind, prefix, number, _name = match.groups()
        label = f"{kind} {prefix}.{number}"
        anchor = f"{kind}-{prefix}-{number}".lower()
        strong["classes"].append("box-label")
        new = self._replace(quote, label, ["box", "statement", f"statement-{kind.lower()}"])
        if claim_number(self.env, label, prefix, anchor, new):
            register_anchor(self.env, new, anchor, label)

    def _check_link_texts(self) -> None:
        """A link that says Proposition 2.1 must lead to Proposition 2.1."""
        for link in self.document.findall(nodes.Element):
            if isinstance(link, pending_xref):
                target = link.get("reftargetid") or link.get("reftarget") or ""
            elif isinstance(link, nodes.reference) and link.get("id_link"):
                target = link.get("refuri", "")[1:]
            else:
                continue
            text = IN_TEXT.fullmatch(" ".join(link.astext().split()))
            anchor = ANCHOR.fullmatch(target)
            if text and anchor and "-".join(text.groups()).lower() != target:
                warn(f"link text {text.group(0)!r} leads to {target!r}", "link", link)


def visit_box(self: SphinxTranslator, node: box) -> None:
    """Open the box."""
    self.body.append(self.starttag(node, "div", ""))


def depart_box(self: SphinxTranslator, node: box) -> None:
    """Close the box, after a link to itself."""
    if node["ids"]:
        self.body.append(
            f'<a class="headerlink box-link" href="#{node["ids"][0]}"'
            f' aria-label="Link to {node["label"]}">#</a>'
        )
    self.body.append("</div>\n")


def setup(app: Sphinx) -> None:
    """Register the node and the transform."""
    app.add_node(box, html=(visit_box, depart_box))
    app.add_transform(StatementBoxes)
