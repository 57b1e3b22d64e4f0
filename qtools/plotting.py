"""One style for every figure: legible on white and on black, on paper and on a phone."""

import sys
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

#: Okabe and Ito's palette, readable with every common kind of colour blindness, plus the grey of
#: text. Black (unseen on dark pages) and yellow (unseen on white) stay out of the line cycle.
COLORS = {
    "blue": "#0072B2",
    "vermillion": "#D55E00",
    "green": "#009E73",
    "purple": "#CC79A7",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "yellow": "#F0E442",
    "black": "#000000",
    # Contrast 4.5 on white and 4.2 on #111. No colour reaches 4.5 on both: the two contrasts of any
    # colour multiply to that of white on #111, 18.9.
    "grey": "#767676",
}

# A page shows a figure at most 100 % wide. 5.2 inches are 500 CSS pixels; on a phone 390 wide they
# shrink to about 350, and 12 pt (16 pixels) text to 11 pixels, still readable.
WIDTH = 5.2

_STYLE: dict[Any, Any] = {
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.facecolor": "none",
    "legend.framealpha": 0.0,
    "text.color": COLORS["grey"],
    "axes.labelcolor": COLORS["grey"],
    "axes.edgecolor": COLORS["grey"],
    "axes.titlecolor": COLORS["grey"],
    "xtick.color": COLORS["grey"],
    "ytick.color": COLORS["grey"],
    "grid.color": COLORS["grey"],
    "grid.alpha": 0.25,
    "axes.grid": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(
        color=[COLORS[c] for c in ("blue", "vermillion", "green", "purple", "orange", "sky")]
    ),
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same shapes on every machine
    "font.size": 12.0,
    "axes.titlesize": 12.0,
    "axes.labelsize": 12.0,
    "xtick.labelsize": 11.0,
    "ytick.labelsize": 11.0,
    "legend.fontsize": 11.0,
    "lines.linewidth": 2.0,
    "figure.figsize": (WIDTH, 3.2),
    "svg.fonttype": "path",
    "svg.hashsalt": "down-to-one-bit",  # otherwise ids differ from run to run
}


def use_style() -> None:
    """Set the book's matplotlib style; in a notebook also make figures SVG, free of dates."""
    mpl.rcParams.update(_STYLE)
    ipython = sys.modules.get("IPython")
    if ipython is not None and ipython.get_ipython() is not None:
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("svg", metadata={"Date": None, "Creator": None})


def figure(
    rows: int = 1, cols: int = 1, *, height: float = 3.2, **subplots: Any
) -> tuple[Figure, Any]:
    """Figure of the book's width and `height` inches with `rows` × `cols` axes.

    Returns what ``plt.subplots`` returns; further keywords go to it.
    """
    return plt.subplots(rows, cols, figsize=(WIDTH, height), layout="constrained", **subplots)


def label_line(
    line: Line2D, text: str, *, at: int = -1, offset: tuple[float, float] = (4.0, 0.0)
) -> None:
    """Write `text` in the line's colour beside its point number `at`, instead of a legend.

    `offset` is in points; text left of its point (negative first entry) is right-aligned.
    """
    if not isinstance(line.axes, Axes):
        raise ValueError("line must be drawn on axes before it is labelled")
    x, y = np.asarray(line.get_xdata())[at], np.asarray(line.get_ydata())[at]
    line.axes.annotate(
        text,
        (x, y),
        xytext=offset,
        textcoords="offset points",
        color=line.get_color(),
        fontweight="bold",
        ha="left" if offset[0] > 0 else "right" if offset[0] < 0 else "center",
        va="bottom" if offset[1] > 0 else "top" if offset[1] < 0 else "center",
        annotation_clip=False,
    )


def bound_line(ax: Axes, x: Any, y: Any, text: str, **label: Any) -> Line2D:
    """Draw a theoretical bound, dashed grey, labelled directly (see `label_line`)."""
    (line,) = ax.plot(x, y, color=COLORS["grey"], linestyle="--", linewidth=1.5)
    label_line(line, text, **label)
    return line
