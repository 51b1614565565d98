"""What each view of the page shows, read through the lab's use cases. Every function blocks for a moment: run it in a thread."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast, get_args

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.lab.query import ExperimentQuery
from autoresearch_mcp.server.lab.titles import beginning, title
from autoresearch_mcp.server.ledger.ideas import DIRECTION
from autoresearch_mcp.server.models import ACTIVE_STATES, MemoryKind, Proposal, Verdict
from autoresearch_mcp.server.page.diffs import diff_lines, plain
from autoresearch_mcp.server.roles import Identity, Role

Context = dict[str, Any]
FILTERS = ("author", "tag", "device")
_SHOWN = 200  # rows of a list
_LEADERS = 25


@dataclass(frozen=True)
class Asked:
    """A request for a view.

    Attributes:
        lab: what is looked at.
        visitor: who looks.
        query: the part of the address after `?`.
        name: the part of the path that names an experiment or a commit.
    """

    lab: Lab
    visitor: Identity
    query: Mapping[str, str]
    name: str = ""


def campaign(asked: Asked) -> Context:
    """Show the campaign: its chart, what runs, what waits, and the leaderboard."""
    status = asked.lab.status(steps=False)
    overview = asked.lab.overview()  # afterwards, so that it knows every commit in the status
    return {
        "status": status,
        "leaderboard": asked.lab.leaderboard(_LEADERS),
        "titles": overview.name,
        "choices": {"author": overview.authors[:_SHOWN], "device": overview.devices[:_SHOWN], "tag": asked.lab.tags()[:_SHOWN]},
        "filters": {name: asked.query.get(name, "") for name in FILTERS},
        "waiting": _approvals(asked),
    }


def experiment(asked: Asked) -> Context:
    """Show one experiment: its metric, curve, diff, log, failure, cost, provenance, and how to reproduce it."""
    lab = asked.lab
    answer = lab.get_experiment(asked.name)
    assert answer.experiment is not None
    line = answer.experiment
    proposal = lab.overview().proposal(line.commit)
    log = "" if line.state == "queued" else plain(lab.read_log(line.id, lines=60))
    return {
        "answer": answer,
        "line": line,
        "running": line.state in ACTIVE_STATES,
        "log": log,
        "diff": _diff(lab, proposal.commit if proposal else line.commit),
        "provenance": [pair for name, value in answer.details.items() for pair in _flat(name, value)][:60],
        "proposal": proposal,
        "title": title(proposal) if proposal else beginning(line.hypothesis) or line.id,
        "open": line.state in (*ACTIVE_STATES, "queued"),
    }


def commit(asked: Asked) -> Context:
    """Show one commit: what it changes, what came of it, and what was built on it."""
    lab = asked.lab
    overview = lab.overview()
    sha = lab.find_commit(asked.name)
    proposal = overview.proposal(sha)
    query = ExperimentQuery(
        commit=sha, columns=["id", "state", "val_bpb", "reported_bpb", "seed", "device", "author", "finished_at"], limit=50
    )
    against, verdict = lab.champion(), lab.decisions([sha]).get(sha)
    if verdict is None:  # it was not compared with this champion
        against, verdict = lab.last_words([sha]).get(sha, ("", None))
    return {
        "sha": sha,
        "proposal": proposal,
        "title": overview.name(sha),
        "verdict": verdict,
        "against": "" if against == lab.champion() else against,
        "experiments": lab.query_experiments(query).rows,
        "children": lab.built_on(sha, _SHOWN),
        "diff": _diff(lab, proposal.commit) if proposal else [],
        "is_champion": sha == lab.champion(),
    }


def proposals(asked: Asked) -> Context:
    """Show all proposals, each below the commit that it was built on."""
    overview = asked.lab.overview()
    words, every = asked.query.get("q", "").lower(), list(overview.proposals)
    if words:
        texts = ((each.commit, f"{each.hypothesis} {each.author} {' '.join(each.tags)}".lower()) for each in overview.proposals.values())
        every = [sha for sha, text in texts if words in text]
    newest = [overview.proposals[sha] for sha in every[-_SHOWN:]]
    aliases = overview.aliases
    metrics: dict[str, list[float]] = {each.commit: [] for each in newest}
    for _, value, sha in overview.progress.compared:
        if (first := aliases.get(sha, sha)) in metrics:
            metrics[first].append(value)
    return {
        "q": asked.query.get("q", ""),
        "total": len(every),
        "rows": [
            {"depth": min(depth, 8), "proposal": each, "title": title(each), "metrics": metrics[each.commit]}
            for depth, each in _tree(newest)
        ],
        "decisions": {sha: verdict for sha, (_, verdict) in asked.lab.last_words(metrics).items()} | asked.lab.decisions(metrics),
        "champion": overview.first_of(asked.lab.champion()),
        "was_champion": overview.was_champion,
    }


def memories(asked: Asked) -> Context:
    """Show what was learned, ideas, who works on what, and the directions of the search."""
    lab, kind = asked.lab, asked.query.get("kind", "")
    wanted = cast(MemoryKind, kind) if kind in get_args(MemoryKind) else None
    found = lab.search_memory(asked.query.get("q", "")[:500], kind=wanted, limit=50)
    directions = lab.search_memory("", kind="idea", tag=DIRECTION, limit=50)
    return {
        "q": asked.query.get("q", ""),
        "kind": kind,
        "kinds": get_args(MemoryKind),
        "memories": found.memories,
        "note": found.note,
        "claims": lab.claims(),
        "directions": directions.memories,
    }


def agents(asked: Asked) -> Context:
    """Show who does what, and what it costs."""
    shares = asked.lab.agents()
    days = sorted({day for share in shares.values() for day in share.by_day})[-14:]
    per_day = [(day, sum(share.by_day.get(day, 0.0) for share in shares.values())) for day in days]
    return {
        "budget": asked.lab.budget(),
        "agents": list(shares.items())[:_SHOWN],
        "days": per_day,
        "most": max([seconds for _, seconds in per_day], default=0.0),
    }


def promotions(asked: Asked) -> Context:
    """Show every promotion with its numbers, and what waits for a person's yes or no."""
    overview = asked.lab.overview()
    return {
        "promotions": list(reversed(asked.lab.promotions())),
        "heading": overview.heading,
        "waiting": _approvals(asked),
        "expected": asked.lab.expected_false_promotions(),
    }


def health(asked: Asked) -> Context:
    """Show whether the lab is well, and who changed what."""
    return {"status": asked.lab.status(), "changes": asked.lab.recorded_changes(limit=50)}


VIEWS: dict[str, Callable[[Asked], Context]] = {
    "campaign": campaign,
    "proposals": proposals,
    "memories": memories,
    "agents": agents,
    "promotions": promotions,
    "health": health,
    "experiment": experiment,
    "commit": commit,
}
ADDRESSES = {
    "campaign": "/",
    "proposals": "/proposals",
    "memories": "/memories",
    "agents": "/agents",
    "promotions": "/promotions",
    "health": "/health",
}


def common(asked: Asked) -> Context:
    """Return what every view shows around itself."""
    return {
        "lab_name": asked.lab.settings.lab.name,
        "visitor": asked.visitor,
        "is_owner": rules(asked.visitor),
        "may_cancel": may_cancel(asked.visitor),
        "addresses": ADDRESSES,
        "now": time.time(),
    }


def _approvals(asked: Asked) -> list[tuple[str, str, Verdict]]:
    waiting = asked.lab.awaiting_approval()
    if not waiting:
        return []
    name = asked.lab.overview().name
    return [(sha, name(sha), verdict) for sha, verdict in waiting.items()]


def _diff(lab: Lab, sha: str) -> list[Any]:
    try:
        return diff_lines(plain(lab.diff(sha)))
    except LabError:  # the commit of an imported record
        return []


def _tree(every: list[Proposal]) -> Iterator[tuple[int, Proposal]]:
    """Yield proposals below those that they are built on, the newest branch first, each with its depth."""
    below: dict[str, list[Proposal]] = {}
    known = {each.commit for each in every}
    for each in every:
        below.setdefault(each.base if each.base in known else "", []).append(each)
    stack = [(0, each) for each in below.get("", [])]
    while stack:
        depth, each = stack.pop()
        yield depth, each
        stack += [(depth + 1, child) for child in below.get(each.commit, [])]


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(f"{name}.{key}", item)
    else:
        yield name, value


def rules(visitor: Identity) -> bool:
    """Return whether the visitor may approve and refuse: the owner, who proved it with a token."""
    return visitor.role is Role.OWNER


def may_cancel(visitor: Identity) -> bool:
    """Return whether the visitor may cancel what anybody launched."""
    return visitor.role is not None and visitor.role.covers(Role.ORCHESTRATOR)
