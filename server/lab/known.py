"""Names that the log knows, told to an agent who asked for one that it doesn't: authors, tags and ids."""

import itertools
from collections import Counter

from autoresearch_mcp.server.lake.base import LakeUnavailable, Query
from autoresearch_mcp.server.lake.view import MergedView
from autoresearch_mcp.server.models import Table
from autoresearch_mcp.server.untrusted import one_line

_MOST = 12  # names that are told


def unknown_names(view: MergedView, table: Table, author: str | None, tag: str | None) -> str:
    """Return sentences with the authors and tags that there are, for those of a query that are unknown; empty where both are known."""
    sentences = []
    if author is not None and author not in (authors := view.count(table, (), "author").value):
        sentences.append(_told("author", author, Counter(authors)))
    if tag is not None and (tags := _tags(view, table)) is not None and tag not in tags:
        sentences.append(_told("tag", tag, tags))
    return " ".join(sentences)


def _tags(view: MergedView, table: Table) -> Counter[str] | None:
    try:
        return Counter(itertools.chain.from_iterable(row[0] for row in view.cells(table, ["tags"]).value))
    except LakeUnavailable:
        return None


def newest(view: MergedView, table: Table, count: int = 3) -> str:
    """Return the ids of the newest records, for an error about one that doesn't exist; empty where there are none."""
    ids = [record.id for record in view.select(table, Query(limit=count)).value]
    return f" The newest are {', '.join(ids)}." if ids else ""


def _told(what: str, name: str, known: Counter[str]) -> str:
    names = [one_line(each, 64) for each, _ in known.most_common(_MOST)]
    more = ", ..." if len(known) > _MOST else ""
    return f"There is no {what} {one_line(name, 64)!r}; there are: {', '.join(names)}{more}." if names else f"There is no {what} yet."
