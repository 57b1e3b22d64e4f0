"""The picture of the home page: one matrix, stored with fewer and fewer bits."""

from __future__ import annotations

import random

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

SIZE, SEED = 8, 5
# Bits of a weight, and gigabytes that 7 billion of them take.
STEPS = ((32, "28 GB"), (8, "7 GB"), (4, "3.5 GB"), (2, "1.75 GB"), (1, "0.9 GB"))
ALT = {
    32: "Heat map of eight by eight weights, every shade different.",
    1: "The same weights with one shade left: only the signs remain.",
}


def round_weights(weights: list[float], bits: int) -> list[float]:
    """The weights as they come back from ``bits`` bits.

    32 bits are left alone, one bit is the sign times the mean magnitude, all else is affine
    quantization over the range of the weights.

    Examples
    --------
    >>> round_weights([-1.0, 0.5, 3.0], 1)
    [-1.5, 1.5, 1.5]
    """
    if bits == 32:
        return weights
    if bits == 1:
        mean = sum(map(abs, weights)) / len(weights)
        return [mean if w >= 0 else -mean for w in weights]
    scale = (max(weights) - min(weights)) / (2**bits - 1)
    zero = -round(min(weights) / scale)
    codes = [min(max(round(w / scale) + zero, 0), 2**bits - 1) for w in weights]
    return [scale * (code - zero) for code in codes]


def panel(weights: list[float], largest: float, label: str) -> str:
    """One heat map: colour is the sign, opacity the magnitude."""
    cells = []
    for index, weight in enumerate(weights):
        y, x = divmod(index, SIZE)
        strength = abs(weight) / largest
        if strength:
            kind = "plus" if weight > 0 else "minus"
            cells.append(
                f'<rect class="{kind}" x="{x}" y="{y}" width="1" height="1"'
                f' opacity="{strength:.2f}"/>'
            )
    return (
        f'<svg viewBox="0 0 {SIZE} {SIZE}" role="img" aria-label="{label}"'
        f' shape-rendering="crispEdges">{"".join(cells)}</svg>'
    )


class Steps(SphinxDirective):
    """``{bit-steps}``: the picture; the directive's text is its caption."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """Build the picture as one piece of HTML."""
        source = random.Random(SEED)
        weights = [source.gauss(0.0, 1.0) for _ in range(SIZE * SIZE)]
        largest = max(map(abs, weights))
        items = []
        for step, (bits, size) in enumerate(STEPS):
            label = ALT.get(bits, f"The same weights rounded to {2**bits} levels.")
            picture = panel(round_weights(weights, bits), largest, label)
            unit = "bit" if bits == 1 else "bits"
            items.append(
                f'<li style="--step:{step}">{picture}<b>{bits} {unit}</b><span>{size}</span></li>'
            )
        caption = " ".join(self.content)
        html = (
            f'<figure class="steps"><ol>{"".join(items)}</ol>'
            f"<figcaption>{caption}</figcaption></figure>"
        )
        return [nodes.raw("", html, format="html")]


def setup(app: Sphinx) -> None:
    """Register the directive."""
    app.add_directive("bit-steps", Steps)
