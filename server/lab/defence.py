"""The champion's side of a comparison, as the status tells it: read from its replicates, and again only when those change."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass

from autoresearch_mcp.server.gate.boundary import M_CAP, M_MIN
from autoresearch_mcp.server.gate.drift import Drift
from autoresearch_mcp.server.gate.evidence import Uncounted, counted, for_display, in_order_of_launch, metrics, uncounted
from autoresearch_mcp.server.models import Score
from autoresearch_mcp.server.settings import PromotionSection


@dataclass(frozen=True)
class Defence:
    """What the champion's replicates say.

    Attributes:
        fresh: metrics of the newest that the lab launched and that count: as many as the gate compares with.
        drift: how steady they are.
        needs: how many more it takes before a candidate that is trained now can be compared.
        uncounted: what finished and doesn't count.
    """

    fresh: list[float]
    drift: Drift | None
    needs: int
    uncounted: Uncounted


class Defences:
    """Knows the last one. Thread-safe: what it keeps is replaced whole."""

    def __init__(self) -> None:
        self._known: tuple[object, Sequence[Score], Defence] | None = None

    def of(self, champion: str, scores: Sequence[Score], reference: str, rules: PromotionSection, conditions: str, newest: str) -> Defence:
        """Return what a champion's replicates say.

        Args:
            champion: its commit.
            scores: all its replicates.
            reference: the kind of device whose results are compared.
            rules: of the lab.
            conditions: under which metrics are compared now.
            newest: under which a candidate that is trained now is measured.
        """
        known, key = self._known, (champion, reference, rules, conditions, newest)
        if known is not None and known[0] == key and same(known[1], scores):
            return known[2]
        replicates = [score for score in scores if score.device == reference]
        own = in_order_of_launch(score for score in replicates if score.by_lab)
        fresh = counted(own, for_display(rules), conditions)
        defence = Defence(
            fresh=metrics(fresh)[-M_CAP:],
            drift=Drift.of(fresh),
            needs=M_MIN - len(counted(own, rules, newest)),
            uncounted=uncounted(replicates, for_display(rules), newest),
        )
        self._known = key, scores, defence
        return defence


def same(one: Sequence[Score], other: Sequence[Score]) -> bool:
    """Return whether these are the very same replicates, as the ledger keeps them in memory."""
    return len(one) == len(other) and all(map(operator.is_, one, other))
