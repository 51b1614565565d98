"""Whether the search gets anywhere, in numbers, and what is left of one agent's share. docs/swarm.md defines the states."""

from collections.abc import Mapping

from autoresearch_mcp.server import answers as a
from autoresearch_mcp.server.gate.spread import mean
from autoresearch_mcp.server.ledger import Ledger
from autoresearch_mcp.server.models import Verdict
from autoresearch_mcp.server.settings import SwarmSection

RECENT, FEWEST = 20, 10  # trainings whose failures are counted, and ideas: the last so many; trainings from so many on
MOST_FAILED = 0.5  # from which share on the search thrashes
PATIENCE = 30  # commits without a promotion, from which on it is stalled or dry
WORTH = 0.5  # standard deviations of the noise: a likely gain below that is hardly worth the trainings


def search_state(
    ledger: Ledger, likely: Mapping[str, tuple[float, float]], verdicts: Mapping[str, Verdict], noise: float | None
) -> a.SearchState:
    """Return how the search stands since the last promotion.

    Args:
        ledger: of the lab.
        likely: the likely gain of each measured commit, and the chance that there is one.
        verdicts: what the gate said last, by commit.
        noise: standard deviation between replicates; None while it is not known.
    """
    promotions = ledger.promotions()
    moved_at = promotions[-1].created_at if promotions else 0.0
    since = ledger.trained_since(moved_at)
    failures = ledger.recent_failures(RECENT)
    failed = sum(failures) / len(failures) if failures else 0.0
    open_ = [gain for commit, (gain, _) in likely.items() if not _is_decided(verdicts.get(commit))]
    best = max([0.0, *open_])
    if len(failures) >= FEWEST and failed >= MOST_FAILED:
        state: a.SearchStateName = "thrashing"
    elif since.commits < PATIENCE:
        state = "searching"
    else:
        state = "dry" if best < WORTH * (noise or 0.0) else "stalled"
    return a.SearchState(
        state=state,
        trainings=since.trainings,
        commits=since.commits,
        device_hours=round(since.device_s / 3600, 2),
        failed=round(failed, 2),
        gain_left=best if likely else None,
        novelty=round(mean(novelties), 2) if (novelties := ledger.novelties(RECENT)) else None,
        decisive=round(min(1.0, ledger.decided_since(moved_at) / since.trainings), 2) if since.trainings else None,
        repetitions=ledger.repetitions() or None,
    )


def _is_decided(verdict: Verdict | None) -> bool:
    return verdict is not None and not verdict.promote and (verdict.final or verdict.code == "futile")


def share_left(ledger: Ledger, swarm: SwarmSection, author: str) -> a.ShareLeft | None:
    """Return what an agent may still use; None where lab.toml limits nobody."""
    if not (swarm.device_hours or swarm.usd or swarm.queued):
        return None
    used = ledger.use(author)
    return a.ShareLeft(
        device_s=round(max(0.0, swarm.device_hours * 3600 - used.device_s)) if swarm.device_hours else None,
        usd=round(max(0.0, swarm.usd - used.usd), 2) if swarm.usd else None,
        queued=max(0, swarm.queued - used.queued) if swarm.queued else None,
    )
