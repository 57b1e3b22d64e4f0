r"""Displayed equations are emitted as they were typed.

Sphinx wraps a display of several lines in ``split``, where ``\tag`` is an error. Here the text goes
to MathJax unwrapped. Tags are numbers written by hand, ``\tag{3.2}``; equation 3.2 has the id
``eq-3-2``.
"""

from __future__ import annotations

import re

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

from .numbering import claim_number, register_anchor, warn

TAG = re.compile(r"\\tag\*?\s*\{([^{}]*)\}")
NUMBER = re.compile(r"([0-9]+|[A-Z])\.([0-9]+)([a-z]?)")
ENVIRONMENT = re.compile(r"\\(begin|end)\s*\{([^{}]*)\}")
# Numbered environments that make a display of their own: an error inside $$ ... $$.
OWN_DISPLAY = {
    "align",
    "align*",
    "gather",
    "gather*",
    "equation",
    "equation*",
    "multline",
    "eqnarray",
}


def outside_environments(text: str) -> str:
    r"""The part of a display that stands in no ``\begin...\end``.

    Examples
    --------
    >>> outside_environments(r"a = \begin{aligned} b \\ c \end{aligned} + d")
    'a =  + d'
    """
    depth, end, kept = 0, 0, []
    for match in ENVIRONMENT.finditer(text):
        if match.group(1) == "begin":
            if depth == 0:
                kept.append(text[end : match.start()])
            depth += 1
        else:
            depth -= 1
            end = match.end()
    kept.append(text[end:])
    return "".join(kept)


def display(text: str) -> str:
    r"""The text MathJax gets for one ``$$`` display.

    Lines broken with ``\\`` outside any environment are aligned; the tag stays outside, since
    ``\tag`` is an error inside.
    """
    text = "\n".join(line for line in text.strip().splitlines() if line.strip())
    if r"\\" in outside_environments(text):
        tags = "".join(match.group(0) for match in TAG.finditer(text))
        text = "\\begin{aligned}\n" + TAG.sub("", text).strip() + "\n\\end{aligned}" + tags
    return "\\[" + text + "\\]"


class Equations(SphinxTransform):
    """Unwrap displays and register their tags."""

    default_priority = 510

    def apply(self, **kwargs: object) -> None:
        """Transform one page."""
        for node in self.document.findall(nodes.math_block):
            text = node.astext()
            tags = [match.group(1).strip() for match in TAG.finditer(text)]
            if not node.get("nowrap"):
                self._check(node, text, tags)
                node["nowrap"] = True
                node.children = []
                node += nodes.Text(display(text))
            else:
                # An environment such as align, typed without $$. MathJax finds it by itself;
                # without the class MyST would add a number of its own.
                node["classes"] = [name for name in node["classes"] if name != "amsmath"]
                node["number"] = None
            for tag in tags:
                self._register(node, tag)

    def _check(self, node: nodes.math_block, text: str, tags: list[str]) -> None:
        if len(tags) > 1:
            warn("one display takes one \\tag; use an align environment without $$", "tag", node)
        for match in ENVIRONMENT.finditer(text):
            if match.group(1) == "begin" and match.group(2) in OWN_DISPLAY:
                warn(
                    f"{match.group(2)!r} is an error inside $$; write 'aligned', or no $$",
                    "tag",
                    node,
                )
        if TAG.search(text) and not TAG.search(outside_environments(text)):
            warn("\\tag inside an environment is an error; put it after \\end", "tag", node)

    def _register(self, node: nodes.math_block, tag: str) -> None:
        match = NUMBER.fullmatch(tag)
        if not match:
            warn(f"tag {tag!r} should read like 3.2", "tag", node)
            return
        prefix, number, letter = match.groups()
        anchor = f"eq-{prefix}-{number}{letter}".lower()
        if claim_number(self.env, f"equation ({tag})", prefix, anchor, node):
            register_anchor(self.env, node, anchor, f"({tag})")


def setup(app: Sphinx) -> None:
    """Register the transform."""
    app.add_transform(Equations)
