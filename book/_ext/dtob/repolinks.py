"""Links to files of the repository that are no pages of the book.

``[the exercise](exercises/release/scale/scale.ipynb)`` works on GitHub and in Jupyter as it is. In
the built book it leads to the repository, or to Colab if the file is a notebook. The repository's
address comes from ``_config.yml`` and stands nowhere else.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.transforms import SphinxTransform

from .numbering import warn

COLAB = "https://colab.research.google.com/github"


def repository_address(config: Config, path: str) -> str:
    """Address of a file in the repository; a notebook opens in Colab."""
    options: dict[str, Any] = config.html_theme_options
    base = str(options["repository_url"]).rstrip("/")
    branch = options.get("repository_branch", "main")
    if path.endswith(".ipynb") and base.startswith("https://github.com/"):
        base = base.replace("https://github.com", COLAB)
    return f"{base}/blob/{branch}/{path}"


class RepositoryLinks(SphinxTransform):
    """Replace links to files outside the book."""

    # Before Sphinx collects downloads, while the page is read.
    default_priority = 540

    def apply(self, **kwargs: object) -> None:
        """Transform one page."""
        for link in list(self.document.findall(addnodes.pending_xref)):
            target = link.get("reftarget", "")
            if link.get("refdomain") == "doc" and target not in self.env.found_docs:
                self._replace(link, self._page_source(target))
        for link in list(self.document.findall(addnodes.download_reference)):
            _, absolute = self.env.relfn2path(link["reftarget"], self.env.docname)
            self._replace(link, Path(absolute))

    def _page_source(self, docname: str) -> Path:
        root = Path(self.env.srcdir)
        for suffix in self.config.source_suffix:
            if (root / (docname + suffix)).is_file():
                return root / (docname + suffix)
        return root / docname

    def _replace(self, link: nodes.Element, path: Path) -> None:
        root = Path(os.path.normpath(self.env.srcdir))
        # Not resolved: a link inside the repository may point outside, but its name counts.
        path = Path(os.path.normpath(path))
        if not path.exists() or not path.is_relative_to(root):
            warn(f"link to a file that is not in the repository: {path.name}", "file", link)
            return
        relative = path.relative_to(root).as_posix()
        address = repository_address(self.config, relative)
        inner = link[0].children if len(link) else [nodes.Text(relative)]
        new = nodes.reference("", "", *[c.deepcopy() for c in inner], refuri=address)
        new.source, new.line = link.source, link.line
        new["classes"].append("repository-link")
        link.replace_self(new)


def setup(app: Sphinx) -> None:
    """Register the transform."""
    app.add_transform(RepositoryLinks)
