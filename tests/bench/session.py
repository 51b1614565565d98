"""How many characters an agent reads in 50 calls: of the session in docs/session.md, beside what live agents read before answers were short."""

from pathlib import Path

import anyio

from tests import session

CALLS = 50
BEFORE = 595_000 / 576 * CALLS  # two agents in one lab for 45 minutes, in November 2026


def measure(scratch: Path) -> list[tuple[str, str, str, str, str]]:
    """Return the row."""
    played = anyio.run(session.recorded, scratch / "session", 0.05)
    ours = played.characters / played.calls * CALLS
    return [("characters read in 50 calls", f"{ours:,.0f}", f"{BEFORE:,.0f} before", f"{ours / BEFORE:.2f}", "")]
