"""Where things are, and the one place that knows the repository's address: ``_config.yml``."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
DISTRIBUTION = "down-to-one-bit"
_OWNER_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,38})/[A-Za-z0-9._-]{1,100}")
_TEXT_SUFFIXES = {
    ".cff", ".cfg", ".css", ".html", ".ipynb", ".js", ".md", ".py", ".svg", ".toml", ".txt",
    ".yml", ".yaml", ".bib", "",
}  # fmt: skip


def address(root: Path = ROOT) -> str:
    """Return ``repository.url`` of ``_config.yml``, without a slash at its end.

    Raises
    ------
    ValueError
        If the file has no such address, or one that is not ``https://github.com/owner/name``.
    """
    config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))
    url = str(config.get("repository", {}).get("url", "")).rstrip("/")
    owner_name = url.removeprefix("https://github.com/")
    if owner_name == url or not _OWNER_NAME.fullmatch(owner_name):
        raise ValueError(
            f"_config.yml: repository.url is {url!r}; it must be https://github.com/owner/name"
        )
    return url


def owner_name(root: Path = ROOT) -> str:
    """Return the address as ``owner/name``."""
    return address(root).removeprefix("https://github.com/")


def version(root: Path = ROOT) -> str:
    """Return the version that ``pyproject.toml`` states."""
    text = (root / "pyproject.toml").read_text(encoding="utf-8")
    return str(tomllib.loads(text)["project"]["version"])


def pages_url(repository: str) -> str:
    """Return where GitHub Pages shows ``repository`` (``owner/name``)."""
    owner, name = repository.split("/")
    site = f"{owner.lower()}.github.io"
    return f"https://{site}/" if name.lower() == site else f"https://{site}/{name}/"


def chapters(root: Path = ROOT) -> list[Path]:
    """Return the chapters' notebooks in order."""
    return sorted((root / "book").glob("[0-9][0-9]_*.ipynb"))


def exercise_sources(root: Path = ROOT) -> list[Path]:
    """Return the one source of every exercise notebook."""
    return sorted((root / "book/exercises/source").glob("*/*.ipynb"))


def exercise_releases(root: Path = ROOT) -> list[Path]:
    """Return the generated exercise notebooks that students open."""
    return sorted((root / "book/exercises/release").glob("*/*.ipynb"))


def all_notebooks(root: Path = ROOT) -> list[Path]:
    """Return every notebook of the book: chapters, exercise sources, exercise releases."""
    return [*chapters(root), *exercise_sources(root), *exercise_releases(root)]


def text_files(root: Path = ROOT) -> list[Path]:
    """Return the text files git tracks or would track, so that no copy of the address is missed."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    paths = (root / name for name in sorted(set(listed.split("\0"))) if name)
    return [path for path in paths if path.is_file() and path.suffix in _TEXT_SUFFIXES]


def publish_to(repository: str, root: Path = ROOT) -> list[Path]:
    """Make ``repository`` the book's home: rewrite the address wherever it shows.

    Parameters
    ----------
    repository
        ``owner/name`` on GitHub.
    root
        The working tree to rewrite.

    Returns
    -------
    list of Path
        The files that changed. A second call changes none.

    Raises
    ------
    ValueError
        If ``repository`` is not of the form ``owner/name``.
    """
    if not _OWNER_NAME.fullmatch(repository):
        raise ValueError(f"REPO is {repository!r}; it must be owner/name, as in octocat/my-book")
    old = owner_name(root)
    # The page's address first: "github.io/name" has no owner that the second pattern could find.
    patterns = [
        (re.compile(re.escape(pages_url(old).rstrip("/")) + r"(?![\w.-])"),
         pages_url(repository).rstrip("/")),
        (re.compile(r"(?<=github\.com/)" + re.escape(old) + r"(?![\w-])"), repository),
        (re.compile(r"(?<=/github/)" + re.escape(old) + r"(?![\w-])"), repository),
    ]  # fmt: skip
    changed = []
    for path in text_files(root):
        before = path.read_text(encoding="utf-8")
        after = before
        for pattern, replacement in patterns:
            after = pattern.sub(replacement, after)
        if after != before:
            path.write_text(after, encoding="utf-8")
            changed.append(path)
    return changed
