"""Files the pages need, so that no page asks another host for anything.

MathJax comes from the package ``sphinx-mathjax-offline``. Of its 24 MB one file is used: TeX
input, SVG output (glyphs are paths, no font files, so it also works from ``file://``) and hidden
MathML for screen readers.
"""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

COMPONENT = "tex-svg-full.js"
NOTICE = (
    "MathJax 3 (https://www.mathjax.org), Apache License 2.0, "
    "from the Python package sphinx-mathjax-offline.\n"
)
INDEX = """<!DOCTYPE html>
<html lang="{language}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="0; url={page}">
<title>{title}</title>
<link rel="icon" href="_static/favicon.svg" type="image/svg+xml">
</head>
<body>
<main><h1>{title}</h1><p><a href="{page}">Open the book</a></p></main>
</body>
</html>
"""
# What MathJax does: numbers are typed by hand, nothing is loaded later, no menu (its settings would
# ask for files that are not here).
MATHJAX = {
    "tex": {"tags": "none", "inlineMath": [["\\(", "\\)"]], "displayMath": [["\\[", "\\]"]]},
    "svg": {"fontCache": "local"},
    "options": {
        "enableMenu": False,
        "processHtmlClass": "tex2jax_process|mathjax_process|math|output_area",
    },
}


def mathjax_file() -> Path:
    """Path of the MathJax component in the installed package.

    Raises
    ------
    ExtensionError
        If the package is missing or has no such file.
    """
    spec = importlib.util.find_spec("sphinx-mathjax-offline")
    if spec is None or spec.origin is None:
        raise ExtensionError("dtob: install book/requirements.txt (sphinx-mathjax-offline missing)")
    path = Path(spec.origin).parent / "static" / "mathjax" / COMPONENT
    if not path.is_file():
        raise ExtensionError(f"dtob: sphinx-mathjax-offline has no {COMPONENT}")
    return path


def configure(app: Sphinx, config: object) -> None:
    """Point Sphinx at the local MathJax."""
    app.config.mathjax_path = f"mathjax/{COMPONENT}"
    app.config.mathjax3_config = MATHJAX
    app.config.mathjax_options = {"defer": "defer"}


def copy_mathjax(app: Sphinx) -> None:
    """Copy MathJax before the pages are written: Sphinx hashes the file for their links."""
    if app.builder.format != "html":
        return
    folder = Path(app.outdir) / "_static" / "mathjax"
    folder.mkdir(parents=True, exist_ok=True)
    source, target = mathjax_file(), folder / COMPONENT
    if not target.exists() or target.stat().st_size != source.stat().st_size:
        shutil.copyfile(source, target)
    (folder / "NOTICE.txt").write_text(NOTICE, encoding="utf-8")


def write_index(app: Sphinx, exception: Exception | None) -> None:
    """Write ``index.html``; Jupyter Book's own redirect forgets the folder of the first page."""
    if exception is not None or app.builder.format != "html" or app.config.root_doc == "index":
        return
    page = app.builder.get_target_uri(app.config.root_doc)
    text = INDEX.format(
        language=app.config.language or "en", page=page, title=app.config.html_title
    )
    (Path(app.outdir) / "index.html").write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> None:
    """Register the handlers."""
    app.setup_extension("sphinx.ext.mathjax")
    # After myst_parser, which sets its own MathJax options.
    app.connect("config-inited", configure, priority=900)
    app.connect("builder-inited", copy_mathjax)
    app.connect("build-finished", write_index)
