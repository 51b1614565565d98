"""What SQL reads beyond the log's own tables: rows that are made of the ledger and the log when a statement asks for them."""

import json
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import ip_address
from typing import Any

from autoresearch_mcp.server.lab.amending import in_words
from autoresearch_mcp.server.lab.commits import Commits
from autoresearch_mcp.server.lab.core import LabCore
from autoresearch_mcp.server.lab.titles import title
from autoresearch_mcp.server.lake.base import Query
from autoresearch_mcp.server.lake.schema import cells
from autoresearch_mcp.server.lake.view import Read
from autoresearch_mcp.server.ledger.access import Change
from autoresearch_mcp.server.models import Promotion
from autoresearch_mcp.server.pace import WINDOWS

_ALL = -1  # no limit
_PAGE = 1_000
_NUMBERS = {
    "n": "n",
    "m": "m",
    "mean": "candidate_mean",
    "mean_before": "champion_mean",
    "sd": "noise",
    "gain": "gain",
    "se": "se",
    "p": "p",
}


class SqlTables:
    """The rows of `lake.sql.tables.DERIVED`. Thread-safe: it keeps nothing between calls."""

    def __init__(self, core: LabCore, commits: Commits) -> None:
        self._core = core
        self._commits = commits

    def cells(self, table: str, columns: Sequence[str]) -> Read[Iterable[tuple[Any, ...]]]:
        """Return all rows of a table as the cells of these columns, with a warning where the log can't be read whole."""
        match table:
            case "commits":
                counts = self._core.view.count("experiments", (), "commit")
                rows, warning = iter(self._commits.rows(counts.value)), counts.warning
            case "promotions":
                read = self._promotions()
                rows, warning = map(self._promotion, read.value), read.warning
            case "proposals":
                rows, warning = self._proposals(), ""
            case "curves":
                rows, warning = self._curves(), ""
            case _:
                rows, warning = (vars(each) | {"origin": _place(each)} for each in self._core.ledger.recorded_changes(limit=_ALL)), ""
        return Read((tuple(row.get(name) for name in columns) for row in rows), warning)

    def _proposals(self) -> Iterator[dict[str, Any]]:
        ledger = self._core.ledger
        measurements, withdrawn = ledger.measurements(), ledger.withdrawn()
        remarks = dict[str, list[str]]()
        for remark in ledger.remarks_after(0):
            remarks.setdefault(remark.commit, []).append(in_words(remark))
        for _, proposal in self._core.ledger.proposals_after(0, _ALL):
            kind = "measurement" if proposal.commit in measurements else "candidate"
            kind = "withdrawn" if proposal.commit in withdrawn else kind
            shown = {"title": title(proposal), "kind": kind, "sets": json.dumps(proposal.sets), "tags": tuple(proposal.tags)}
            later = {"withdrawn": int(proposal.commit in withdrawn), "remarks": " ".join(remarks.get(proposal.commit, []))}
            yield vars(proposal) | shown | later

    def _promotions(self) -> Read[list[Promotion]]:
        promotions: list[Promotion] = []
        after: tuple[Any, str] | None = None
        while True:
            page = self._core.view.select("promotions", Query(descending=False, limit=_PAGE, after=after))
            promotions += [each for each in page.value if isinstance(each, Promotion)]
            if len(page.value) < _PAGE:
                return Read(promotions, page.warning)
            after = (page.value[-1].created_at, page.value[-1].id)

    def _promotion(self, promotion: Promotion) -> dict[str, Any]:
        ledger = self._core.ledger
        proposal = ledger.proposal(ledger.proposal_of(promotion.commit))
        idea = {"idea": title(proposal), "idea_by": proposal.author, "ported_from": proposal.ported_from} if proposal else {}
        empty = {"idea": "", "idea_by": "", "ported_from": ""}
        numbers = {name: promotion.verdict.get(field) for name, field in _NUMBERS.items()}
        kind = "demotion" if promotion.is_demotion else "adoption" if promotion.is_adoption else "promotion"
        return cells("promotions", promotion) | empty | idea | numbers | {"kind": kind}

    def _curves(self) -> Iterator[dict[str, Any]]:
        for experiment, commit, windows in self._core.ledger.all_curves():
            for number, loss in enumerate(windows, 1):
                if loss is not None:
                    yield {"experiment": experiment, "commit": commit, "share": number / WINDOWS, "loss": loss}


def _place(change: Change) -> str:
    """Return from where a change was made: with what, and on this machine or another."""
    if change.way != "http":
        return change.way if change.way == "command line" else f"{change.origin} on this machine"
    client, _, address = change.origin.rpartition(" at ")
    return f"{client or 'a client'} on {'this' if _is_here(address) else 'another'} machine"


def _is_here(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False
