"""A citation is a link to the work; the work must be in ``references.bib``.

``[Xu et al. 2024](https://arxiv.org/abs/2402.11295)`` is a citation, as its text ends in a year.
Its address has to match an entry's ``doi``, ``url`` or ``eprint``; its year and first author, too.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from docutils import nodes
from pybtex.database import Entry, parse_file
from pybtex.richtext import Text
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

from .numbering import warn

CITATION = re.compile(r"([^\W\d_].*?)[\s,(]+((?:18|19|20)\d\d)[a-z]?\)?", re.DOTALL)
ARXIV = re.compile(
    r"https?://(?:(?:www\.)?arxiv\.org/(?:abs|pdf|html)/|(?:dx\.)?doi\.org/10\.48550/arxiv\.)"
    r"(\d{4}\.\d{4,5})(?:v\d+)?(?:\.pdf)?/?",
    re.IGNORECASE,
)
DOI = re.compile(r"https?://(?:dx\.)?doi\.org/(10\..+)", re.IGNORECASE)


@dataclass(frozen=True)
class Work:
    """What a citation is checked against."""

    key: str
    title: str
    years: tuple[str, ...]
    first_author: str


def normalise(address: str) -> str:
    """One spelling for every address of the same work.

    Examples
    --------
    >>> normalise("https://arxiv.org/pdf/2402.11295v4")
    'arxiv:2402.11295'
    >>> normalise("https://doi.org/10.1109/ABC.1")
    'doi:10.1109/abc.1'
    """
    address = address.split("#")[0]
    if match := ARXIV.fullmatch(address):
        return f"arxiv:{match.group(1)}"
    if match := DOI.fullmatch(address):
        return f"doi:{match.group(1).lower()}"
    return re.sub(r"^https?://(www\.)?", "", address).rstrip("/")


def plain(text: str) -> str:
    """Lower-case letters without accents, for comparing names.

    Examples
    --------
    >>> plain("Nagel, Müller")
    'nagel, muller'
    """
    decomposed = unicodedata.normalize("NFKD", text)
    return "".join(c for c in decomposed if not unicodedata.combining(c)).lower()


def _work(key: str, entry: Entry) -> Work:
    people = entry.persons.get("author") or entry.persons.get("editor") or []
    name = ""
    if people:
        name = str(Text.from_latex(" ".join(people[0].prelast_names + people[0].last_names)))
    title = str(Text.from_latex(entry.fields.get("title", "")))
    years = [entry.fields.get("year", "")]
    # A work is cited by the year of its venue or, as often, of its preprint.
    if match := re.fullmatch(r"(\d\d)\d\d\.\d{4,5}", entry.fields.get("eprint", "")):
        years.append(f"20{match.group(1)}")
    return Work(key, title, tuple(dict.fromkeys(years)), name)


def read_works(paths: list[Path]) -> dict[str, Work]:
    """Works by each of their normalised addresses."""
    works: dict[str, Work] = {}
    for path in paths:
        for key, entry in parse_file(str(path)).entries.items():
            work = _work(key, entry)
            addresses = [entry.fields.get("url", "")]
            if "doi" in entry.fields:
                addresses.append("https://doi.org/" + entry.fields["doi"])
            if "eprint" in entry.fields:
                addresses.append("https://arxiv.org/abs/" + entry.fields["eprint"])
            for address in filter(None, addresses):
                works[normalise(address)] = work
    return works


class Citations(SphinxTransform):
    """Check each citation; give it the work's title as a tooltip."""

    default_priority = 530

    def apply(self, **kwargs: object) -> None:
        """Transform one page."""
        paths = [Path(self.app.confdir) / name for name in self.config.bibtex_bibfiles]
        for path in paths:
            self.env.note_dependency(str(path))
        works: dict[str, Work] | None = None
        for link in self.document.findall(nodes.reference):
            address = link.get("refuri", "")
            match = CITATION.fullmatch(" ".join(link.astext().split()))
            if not match or not address.startswith(("http://", "https://")):
                continue
            works = read_works(paths) if works is None else works
            work = works.get(normalise(address))
            if work is None:
                warn(f"cited work is not in the bibliography: {address}", "citation", link)
                continue
            authors, year = match.groups()
            if year not in work.years:
                when = " or ".join(work.years)
                warn(f"{link.astext()!r}: {work.key} is of {when}", "citation", link)
            if work.first_author and plain(work.first_author) not in plain(authors):
                warn(
                    f"{link.astext()!r}: {work.key}'s first author is {work.first_author}",
                    "citation",
                    link,
                )
            link["classes"].append("citation-link")
            link.setdefault("reftitle", work.title)


def setup(app: Sphinx) -> None:
    """Register the transform."""
    app.add_transform(Citations)
