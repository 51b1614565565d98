"""Launches until decided that go on, as the status lists them."""

from autoresearch_mcp.server import answers as a
from autoresearch_mcp.server.ledger import Ledger

LISTED = 8  # as many as take turns


def open_launches(ledger: Ledger) -> list[a.OpenLaunch]:
    """Return the first open launches until decided, in the order in which they take turns.

    Raises:
        LabError: the ledger's.
    """
    training = ledger.open_trainings()
    return [
        a.OpenLaunch(
            id=each.id,
            commit=each.commit[:12],
            author=each.author,
            n=each.replicates - len(training.get(each.id, ())),
            verdict=each.verdict,
            position=position,
        )
        for position, each in enumerate(ledger.open_candidacies(limit=LISTED), 1)
    ]
