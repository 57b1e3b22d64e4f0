"""``*Figure 2.1. What to see.*``, a paragraph of its own, is a caption with id ``figure-2-1``."""

from __future__ import annotations

import re

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

from .numbering import claim_number, inline_children, register_anchor, warn

CAPTION = re.compile(r"(Figure|Table) ([0-9]+|[A-Z])\.([0-9]+)\. \S")
LOOKS_LIKE = re.compile(r"(Figure|Table) [0-9]")


class Captions(SphinxTransform):
    """Mark captions and check their numbers."""

    default_priority = 520

    def apply(self, **kwargs: object) -> None:
        """Transform one page."""
        for paragraph in self.document.findall(nodes.paragraph):
            shown = inline_children(paragraph)
            if len(shown) != 1 or not isinstance(shown[0], nodes.emphasis):
                continue
            text = " ".join(shown[0].astext().split())
            match = CAPTION.match(text)
            if not match:
                if LOOKS_LIKE.match(text):
                    warn(
                        f"caption {text[:40]!r} should open 'Figure N.M. Text'",
                        "caption",
                        paragraph,
                    )
                continue
            kind, prefix, number = match.groups()
            label = f"{kind} {prefix}.{number}"
            anchor = f"{kind}-{prefix}-{number}".lower()
            paragraph["classes"].append("figure-caption")
            if claim_number(self.env, label, prefix, anchor, paragraph):
                register_anchor(self.env, paragraph, anchor, label)


def setup(app: Sphinx) -> None:
    """Register the transform."""
    app.add_transform(Captions)
