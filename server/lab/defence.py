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

    def of(self, replicates: Sequence[Score], rules: PromotionSection, conditions: str, newest: str) -> Defence:
        """Return what a champion's replicates say.

        Args:
            replicates: all of them on the reference kind of device.
            rules: of the lab.
            conditions: under which metrics are compared now.
            newest: under which a candidate that is trained now is measured.
        """
        known, key = self._known, (rules, conditions, newest)
        if known is not None and known[0] == key and len(known[1]) == len(replicates) and all(map(operator.is_, known[1], replicates)):
            return known[2]
        own = in_order_of_launch(score for score in replicates if score.by_lab)
        fresh = counted(own, for_display(rules), conditions)
        defence = Defence(
            fresh=metrics(fresh)[-M_CAP:],
            drift=Drift.of(fresh),
            needs=M_MIN - len(counted(own, rules, newest)),
            uncounted=uncounted(replicates, for_display(rules), newest),
        )
        self._known = key, replicates, defence
        return defence
