"""``<details><summary>Proof</summary>`` ... ``</details>`` around Markdown becomes one element.

Markdown parsers see two unrelated pieces of HTML. Joined, they can be styled, opened for print and
checked: a fold that is not closed would swallow the rest of the page.
"""

from __future__ import annotations

import re

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.util.docutils import SphinxTranslator

from .numbering import warn

OPEN = re.compile(r"<details(\s+open)?\s*>\s*<summary>(.*?)</summary>\s*", re.DOTALL)
# The sign that ends a proof. Typed, it serves readers of the notebook; the book draws its own.
END_OF_PROOF = re.compile(r"\s*(?:□|∎|■|◻)\s*$")
CLOSE = re.compile(r"</details>\s*")


class fold(nodes.General, nodes.Element):
    """A fold; attributes ``summary`` (HTML) and ``open``."""


def _html(node: nodes.Node) -> str | None:
    """Text of a raw HTML block of the page itself, else None (outputs are left alone)."""
    if not isinstance(node, nodes.raw) or "html" not in node.get("format", ""):
        return None
    parent = node.parent
    while parent is not None:
        if "output" in parent.get("classes", []) or "cell_output" in parent.get("classes", []):
            return None
        parent = parent.parent
    return node.astext().strip()


class Folds(SphinxTransform):
    """Pair opening and closing tags that are siblings, innermost first."""

    default_priority = 400

    def apply(self, **kwargs: object) -> None:
        """Transform one page."""
        parents = {id(raw.parent): raw.parent for raw in self.document.findall(nodes.raw)}
        for parent in parents.values():
            self._pair(parent)
        for raw in self.document.findall(nodes.raw):
            text = _html(raw) or ""
            opened, closed = text.count("<details"), text.count("</details")
            if opened > closed:
                warn(
                    "a fold needs '<details><summary>...</summary>', a blank line, Markdown without"
                    " headings, a blank line, '</details>'; this one is not closed",
                    "fold",
                    raw,
                )
            elif closed > opened:
                warn("'</details>' closes no fold", "fold", raw)

    def _pair(self, parent: nodes.Element) -> None:
        stack: list[tuple[int, re.Match[str]]] = []
        position = 0
        while position < len(parent.children):
            text = _html(parent.children[position])
            if text is not None and (match := OPEN.fullmatch(text)):
                stack.append((position, match))
            elif text is not None and CLOSE.fullmatch(text) and stack:
                start, match = stack.pop()
                parent[start : position + 1] = [self._fold(parent, start, position, match)]
                position = start
            position += 1

    def _fold(self, parent: nodes.Element, start: int, end: int, match: re.Match[str]) -> fold:
        summary = match.group(2).strip()
        word = re.sub(r"<[^>]*>", "", summary).strip().split()
        kind = re.sub(r"[^a-z]", "", word[0].lower()) if word else ""
        if not kind:
            warn("a fold needs a summary", "fold", parent.children[start])
        new = fold(summary=summary, open=bool(match.group(1)), classes=["fold", f"fold-{kind}"])
        new.source, new.line = parent.children[start].source, parent.children[start].line
        new += parent.children[start + 1 : end]
        if kind == "proof":
            self._drop_end_sign(new)
        return new

    def _drop_end_sign(self, proof: fold) -> None:
        texts = [t for t in proof.findall(nodes.Text) if t.astext().strip()]
        if texts and END_OF_PROOF.search(texts[-1].astext()):
            last = texts[-1]
            last.parent.replace(last, nodes.Text(END_OF_PROOF.sub("", last.astext())))


def visit_fold(self: SphinxTranslator, node: fold) -> None:
    """Open the fold."""
    opened = {"open": "open"} if node["open"] else {}
    self.body.append(self.starttag(node, "details", "", **opened))
    self.body.append(f'<summary>{node["summary"]}</summary>\n<div class="fold-body">\n')


def depart_fold(self: SphinxTranslator, node: fold) -> None:
    """Close the fold."""
    self.body.append("</div>\n</details>\n")


def setup(app: Sphinx) -> None:
    """Register the node and the transform."""
    app.add_node(fold, html=(visit_fold, depart_fold))
    app.add_transform(Folds)
