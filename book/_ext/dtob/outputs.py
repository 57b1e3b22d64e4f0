"""Figures in cell outputs: SVG goes into the page itself; every figure needs a text alternative.

An SVG behind ``<img>`` cannot see the page's colours. Inlined, its text and axes follow the theme.
"""

from __future__ import annotations

import html
import re
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform

from .numbering import warn

ROOT = re.compile(r"<svg\b([^>]*)>(.*)</svg>", re.DOTALL)
# The style element holds line joins for `*`, which in a page would mean every element; book.css has
# the same rule for figures only.
DROPPED = re.compile(
    r"<metadata>.*?</metadata>|<style[^>]*>\*\{[^}]*\}</style>|<!--.*?-->|<title>.*?</title>",
    re.DOTALL,
)
IDS = re.compile(r'\bid="([^"]+)"')
# Where an id stands, and what refers to it: href="#a", url(#a).
NAMES = re.compile(r'(\bid="|#)([^")]+)(?=[")])')
SIZE = re.compile(r'\b(width|height)="[0-9.]+(?:pt|px)?"')
# Colours of `qtools.plotting` (a test holds the two equal). A stored figure has to read on white
# and on black; in the book the page knows which it is. Grey text becomes the page's own text
# colour, and the others become variables, which book.css brightens on dark pages.
COLOURS = {
    "#767676": "currentColor",
    "#0072b2": "var(--fig-blue, #0072b2)",
    "#d55e00": "var(--fig-vermillion, #d55e00)",
    "#009e73": "var(--fig-green, #009e73)",
    "#cc79a7": "var(--fig-purple, #cc79a7)",
    "#e69f00": "var(--fig-orange, #e69f00)",
    "#56b4e9": "var(--fig-sky, #56b4e9)",
}
COLOUR = re.compile("|".join(rf"{c}\b" for c in COLOURS), re.IGNORECASE)


def inline_svg(svg: str, alt: str, prefix: str) -> str:
    """An ``<svg>`` element to stand in a page.

    Parameters
    ----------
    svg : str
        A whole SVG file.
    alt : str
        Text alternative.
    prefix : str
        Put before every id, since two figures of one page may not share any.

    Raises
    ------
    ValueError
        If there is no ``<svg>`` element.
    """
    match = ROOT.search(svg)
    if match is None:
        raise ValueError(f"svg must hold an <svg> element, got {svg[:40]!r}")
    attributes, body = match.groups()
    body = DROPPED.sub("", body)
    ids = set(IDS.findall(body))
    body = NAMES.sub(lambda m: m[1] + (prefix if m[2] in ids else "") + m[2], body)
    body = COLOUR.sub(lambda m: COLOURS[m.group(0).lower()], body)
    view = re.search(r'viewBox="([^"]+)"', attributes)
    size = "".join(f" {m.group(0)}" for m in SIZE.finditer(attributes))
    box = f' viewBox="{view.group(1)}"' if view else ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        f' class="book-figure" role="img" aria-label="{html.escape(alt)}"{size}{box}>{body}</svg>'
    )


def _in_output(node: nodes.Node) -> bool:
    parent = node.parent
    while parent is not None:
        if "cell_output" in parent.get("classes", []):
            return True
        parent = parent.parent
    return False


class Outputs(SphinxPostTransform):
    """Inline SVG figures; demand text alternatives."""

    # After myst_nb has chosen one format of each output (4).
    default_priority = 20
    formats = ("html",)

    def run(self, **kwargs: object) -> None:
        """Transform one page."""
        count = 0
        for image in list(self.document.findall(nodes.image)):
            if not _in_output(image):
                continue
            count += 1
            alt = image.get("alt", "").strip()
            if not alt:
                warn(
                    "figure without text alternative: set mystnb.image.alt in the cell's metadata",
                    "alt",
                    image,
                )
            path = Path(self.env.srcdir) / image["uri"]
            if path.suffix == ".svg" and path.is_file():
                text = inline_svg(path.read_text(encoding="utf-8"), alt, f"f{count}-")
                image.replace_self(nodes.raw("", text, format="html"))


def setup(app: Sphinx) -> None:
    """Register the transform."""
    app.add_post_transform(Outputs)
