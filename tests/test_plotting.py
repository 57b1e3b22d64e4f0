"""The figure style: legible on both backgrounds, the same bytes every time."""

import io
import subprocess
import sys

import matplotlib as mpl

mpl.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest

from qtools.plotting import COLORS, WIDTH, bound_line, figure, label_line, use_style


@pytest.fixture(autouse=True)
def _restore():
    with mpl.rc_context():
        yield
    plt.close("all")


def luminance(color: str) -> float:
    """Relative luminance of WCAG 2."""
    rgb = np.array(mpl.colors.to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(a: str, b: str) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def draw() -> bytes:
    fig, ax = figure()
    (line,) = ax.plot([0, 1, 2], [0, 1, 4])
    label_line(line, "error")
    bound_line(ax, [0, 2], [2, 2], "bound $s/2$", at=0, offset=(0, 4))
    ax.set(xlabel="value", ylabel="error", title="title")
    out = io.BytesIO()
    fig.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(fig)
    return out.getvalue()


def test_text_is_legible_on_white_and_on_black():
    use_style()
    keys = [k for k in mpl.rcParams if k in ("text.color", "axes.labelcolor", "axes.titlecolor")]
    keys += ["xtick.color", "ytick.color", "axes.edgecolor"]
    for key in keys:
        assert mpl.rcParams[key] == COLORS["grey"]
    assert contrast(COLORS["grey"], "#fff") >= 4.5
    assert contrast(COLORS["grey"], "#111") >= 4.1
    # No colour reaches 4.5 on both.
    assert contrast("#fff", "#111") < 4.5**2


def test_lines_are_visible_on_white_and_on_black():
    use_style()
    cycle = mpl.rcParams["axes.prop_cycle"].by_key()["color"]
    assert len(set(cycle)) == 6
    for color in cycle:
        assert color in COLORS.values()
        assert min(contrast(color, "#fff"), contrast(color, "#111")) >= 2


def test_background_is_transparent_and_svg_has_no_date():
    use_style()
    svg = draw().decode()
    assert "<dc:date>" not in svg
    assert mpl.__version__ not in svg
    assert "fill: #ffffff" not in svg
    assert mpl.rcParams["savefig.facecolor"] == mpl.rcParams["axes.facecolor"] == "none"


def test_svg_is_the_same_every_time_and_in_every_process_with_ipython_or_without():
    use_style()
    here = draw()
    assert draw() == here
    code = (
        "import sys; sys.modules['IPython'] = None; from qtools.plotting import use_style; "
        "from tests.test_plotting import draw; use_style(); sys.stdout.buffer.write(draw())"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    assert there == here


def test_readable_at_phone_width():
    use_style()
    shrink = 350 / (WIDTH * 96)  # a page 390 pixels wide leaves 350; an inch has 96 pixels
    for key in ("font.size", "xtick.labelsize", "axes.labelsize", "legend.fontsize"):
        assert mpl.rcParams[key] * 96 / 72 * shrink >= 10


def test_figure_shapes():
    use_style()
    fig, axes = figure(2, 1, height=5, sharex=True)
    assert axes.shape == (2,)
    assert tuple(fig.get_size_inches()) == (WIDTH, 5)


def test_label_has_the_color_and_place_of_its_line():
    use_style()
    _, ax = figure()
    (line,) = ax.plot([0, 1], [2, 3])
    label_line(line, "left", at=0, offset=(-4, 0))
    (text,) = ax.texts
    assert text.get_color() == line.get_color()
    assert text.xy == (0, 2)
    assert text.get_horizontalalignment() == "right"
    bound = bound_line(ax, [0, 1], [1, 1], "bound")
    assert bound.get_linestyle() == "--"
    assert ax.texts[-1].get_text() == "bound"
    with pytest.raises(ValueError, match="line"):
        label_line(mpl.lines.Line2D([0], [0]), "loose")


def test_notebooks_get_svg_without_dates(monkeypatch):
    import IPython
    import matplotlib_inline.backend_inline as inline

    calls = []
    monkeypatch.setattr(IPython, "get_ipython", lambda: object())
    monkeypatch.setattr(inline, "set_matplotlib_formats", lambda *a, **k: calls.append((a, k)))
    use_style()
    assert calls == [(("svg",), {"metadata": {"Date": None, "Creator": None}})]
