"""What ends a wait for nothing in particular, besides the caller's own trainings."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from autoresearch_mcp.server.lab.core import LabCore
from autoresearch_mcp.server.lab.titles import shorten

SOON_S = 120.0  # before a claim ends
_LOW = 0.8  # share of the budget
_IDEA = 60  # characters


@dataclass(frozen=True)
class Awaited:
    """What of a lab concerns a caller.

    Attributes:
        news: whether there is news that it has not heard. The answer of its next call tells.
        claims: those of its claims that end soon: idea, and a sentence.
        budget: what of the budget is nearly or wholly used: a key, and a sentence.
    """

    news: bool
    claims: dict[str, str]
    budget: dict[str, str]

    def since(self, first: "Awaited") -> list[str]:
        """Return what is new since a first look, in sentences."""
        new = [text for key, text in {**self.claims, **self.budget}.items() if key not in {**first.claims, **first.budget}]
        return [*(["There is news."] if self.news else []), *new]


class AwaitedCases:
    """The use case of a caller that waits for whatever concerns it."""

    def __init__(self, core: LabCore) -> None:
        self._core = core

    def awaited(self, caller: str) -> Awaited:
        """Return what concerns a caller now. It costs a few look-ups, and counts nothing as heard."""
        ledger, now = self._core.ledger, time.time()
        claims = {
            claim.idea: f"Your claim on {claim.idea} {shorten(claim.text, _IDEA)!r} ends in {claim.until - now:.0f} s: claim_idea renews it."
            for claim in ledger.claims()
            if claim.holder == caller and claim.until - now < SOON_S
        }
        return Awaited(ledger.has_news(caller), claims, dict(self._used()))

    def _used(self) -> Iterator[tuple[str, str]]:
        ledger, budget = self._core.ledger, self._core.settings.budget
        yield from used("device hours", ledger.spending()[0] / 3600, budget.device_hours)
        if budget.usd is not None:
            yield from used("USD", ledger.money()[0], budget.usd)


def used(what: str, spent: float, total: float) -> Iterator[tuple[str, str]]:
    """Yield a key that differs for a budget used to 80 % and one used up, and a sentence; nothing below 80 %."""
    share = spent / total if total else 0.0
    if share >= _LOW:
        yield f"{what} {100 if share >= 1 else 80} {total:g}", f"{share:.0%} of the budget is used: {spent:.2f} of {total:g} {what}."
