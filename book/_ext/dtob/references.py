"""How the bibliography looks: authors, title, where and when, then one link for each address."""

from __future__ import annotations

from typing import Any

import pybtex.plugin
from pybtex.database import Entry
from pybtex.richtext import Text
from pybtex.style.formatting import toplevel
from pybtex.style.formatting.unsrt import Style as Unsorted
from pybtex.style.formatting.unsrt import dashify
from pybtex.style.template import (
    field,
    first_of,
    href,
    join,
    node,
    optional,
    sentence,
    tag,
    words,
)
from sphinx.application import Sphinx

# Longer author lists are cut after the first SHOWN names.
MOST_AUTHORS, SHOWN = 8, 6
TYPES = ("article", "inproceedings", "incollection", "book", "misc", "techreport", "unpublished")


@node
def people(children: Any, context: dict[str, Any], role: str) -> Text:
    """Names of a role, shortened to "... et al." when there are many."""
    persons = context["entry"].persons[role]
    style = context["style"]
    shown = persons if len(persons) <= MOST_AUTHORS else persons[:SHOWN]
    names = [
        style.format_name(person, style.abbreviate_names).format_data(context) for person in shown
    ]
    if len(shown) < len(persons):
        return Text(Text(", ").join(names), ", et al.")
    if len(names) > 1:
        names = [Text(", ").join(names[:-1]), names[-1]]
    return Text(" and ").join(names)


class BookStyle(Unsorted):
    """One template for every type of entry, sorted by author, year, title."""

    default_sorting_style = "author_year_title"

    def template(self, entry: Entry) -> Any:
        """Template of any entry."""
        where = first_of[
            optional[tag("em")[field("journal")]],
            optional[join["In ", tag("em")[field("booktitle")]]],
            optional[field("publisher")],
            optional[field("howpublished")],
        ]
        volume = optional[field("volume"), optional["(", field("number"), ")"]]
        pages = optional["pages ", field("pages", apply_func=dashify)]
        return toplevel[
            sentence[people("author")],
            sentence[tag("strong")[field("title")]],
            sentence[where, join[volume], join[pages], field("year")],
            optional[sentence[field("note")]],
            sentence[self.links(entry)],
        ]

    def links(self, entry: Entry) -> Any:
        """One link for each address of the work."""
        parts = []
        if "doi" in entry.fields:
            doi = entry.fields["doi"]
            parts.append(href("https://doi.org/" + doi)[f"doi:{doi}"])
        if "eprint" in entry.fields:
            eprint = entry.fields["eprint"]
            parts.append(href("https://arxiv.org/abs/" + eprint)[f"arXiv:{eprint}"])
        if "url" in entry.fields:
            url = entry.fields["url"]
            parts.append(href(url)[url.split("://")[-1]])
        return words(sep=", ")[tuple(parts)] if parts else words[""]


for _type in TYPES:
    setattr(BookStyle, f"get_{_type}_template", BookStyle.template)


def setup(app: Sphinx) -> None:
    """Register the style under the name that ``_config.yml`` gives."""
    pybtex.plugin.register_plugin("pybtex.style.formatting", "dtob", BookStyle)
