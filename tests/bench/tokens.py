"""How long a server takes to refuse a token, by what is wrong with it: what differs there, somebody could learn from.

A token is looked for by its hash, in a table of hashes, and the owner's is compared in constant time; so nothing of it can be guessed
letter by letter. This measures whether that shows.
"""

import asyncio
import contextlib
import statistics
import time
from pathlib import Path

from autoresearch_mcp.server.commands.init import create_lab
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.ledger import Ledger
from autoresearch_mcp.server.mcp.front import Guests
from autoresearch_mcp.server.paths import LabPaths
from autoresearch_mcp.server.roles import Role

TRIES = 4_000  # of each kind, interleaved
OWNERS = "correct-horse-battery-staple-0123456789-abcdef"
Row = tuple[str, str, str, str, str]


def measure(scratch: Path) -> list[Row]:
    """Return the rows."""
    root = scratch / "tokens"
    create_lab(root, profile="tiny")
    with contextlib.closing(Lab(root)) as lab, contextlib.closing(Ledger(LabPaths(root).state / "ledger.sqlite")) as ledger:
        valid = ledger.add_token("ada", Role.WORKER, None)
        kinds = {
            "wrong": f"armcp_{'x' * (len(valid) - 6)}",
            "a valid one without its end": valid[:-1],
            "a valid one with another end": f"{valid[:-1]}{'a' if valid[-1] != 'a' else 'b'}",
            "a valid one and a newline": f"{valid}\n",
            "expired": ledger.add_token("late", Role.OWNER, time.time() - 1),
            "revoked": ledger.add_token("gone", Role.OWNER, None),
            "the owner's without its end": OWNERS[:-1],
            "the owner's with another start": f"x{OWNERS[1:]}",
        }
        ledger.revoke_token("gone")
        took = asyncio.run(_refusals(Guests(lab, OWNERS), kinds))
    yardstick = statistics.median(took["wrong"])
    return [
        (f"refusing a token: {kind}", f"{1e6 * statistics.median(times):.1f} µs", "", f"{statistics.median(times) / yardstick:.2f}", "1")
        for kind, times in took.items()
    ]


async def _refusals(guests: Guests, kinds: dict[str, str]) -> dict[str, list[float]]:
    took: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(TRIES):
        for kind, token in kinds.items():
            began = time.perf_counter()
            known = await guests.identify(token)
            took[kind].append(time.perf_counter() - began)
            assert known is None, kind
    return took


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        for row in measure(Path(scratch)):
            print(*(cell for cell in row if cell), sep=" | ")
