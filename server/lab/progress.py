"""A campaign as data: which experiments are compared, which stand apart, who was champion when. The picture draws it."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from autoresearch_mcp.server.answers import Summary
from autoresearch_mcp.server.models import IMPORTED, Experiment, Promotion
from autoresearch_mcp.server.untrusted import fence


@dataclass(frozen=True)
class Campaign:
    """What a picture is drawn from.

    Attributes:
        experiments: all of the lab's log, imported ones included.
        promotions: the lab's own.
        title: the lab's name.
        champion: the champion now, with the mean of its replicates that count.
        conditions: under which metrics are compared now; empty where none was measured yet.
        reported: the name of the printed metric, where the lab goes by that.
        reference: the kind of device whose results are compared.
    """

    experiments: Sequence[Experiment]
    promotions: Sequence[Promotion]
    title: str
    champion: Summary
    conditions: str
    reported: str = ""
    reference: str = "cpu"


@dataclass(frozen=True)
class Champion:
    """A commit that the research branch pointed to, from experiment number `start` on.

    Attributes:
        commit: its full id.
        start: the number of the experiment that ended last before it.
        level: the mean by which the gate knew it.
        hypothesis: why it was tried.
        comparable: whether it was measured under the conditions of now.
    """

    commit: str
    start: int
    level: float
    hypothesis: str
    comparable: bool


@dataclass(frozen=True)
class Progress:
    """A campaign as points; experiments are numbered from 1 in the order in which they ended.

    Attributes:
        total: all experiments.
        verified: number, val_bpb and commit of what is compared.
        unverified: number and value of what finished with a printed metric only.
        elsewhere: number and value of what was measured under other conditions: on a scale of its own.
        imported: number and value of what another lab measured; no value where it did not finish.
        screened: what was measured on another kind of device than the reference.
        failed: what ended without a metric.
        cancelled: what was cancelled.
        reported: the name of the printed metric, where the lab goes by that. The champions are then those that it chose.
        states: experiments by state.
        champions: the baseline and every promoted commit, in order.
    """

    total: int
    verified: list[tuple[int, float, str]]
    unverified: list[tuple[int, float]]
    elsewhere: list[tuple[int, float]]
    imported: list[tuple[int, float | None]]
    screened: list[int]
    failed: list[int]
    cancelled: list[int]
    reported: str
    states: dict[str, int]
    champions: list[Champion]

    @classmethod
    def of(cls, campaign: Campaign) -> "Progress":
        """Sort a campaign's experiments into what is compared and what stands apart."""
        ended = sorted((e for e in campaign.experiments if e.terminal), key=lambda e: (_ended_at(e), e.id))
        progress = cls(
            total=len(ended),
            verified=[],
            unverified=[],
            elsewhere=[],
            imported=[],
            screened=[],
            failed=[],
            cancelled=[],
            reported=campaign.reported,
            states=dict(Counter(str(e.state) for e in ended)),
            champions=_champions(ended, campaign),
        )
        for number, e in enumerate(ended, 1):
            progress._place(number, e, campaign)
        return progress

    def _place(self, number: int, e: Experiment, campaign: Campaign) -> None:
        value = finite(e.metric)
        if IMPORTED in e.tags:
            self.imported.append((number, value))
        elif e.state == "finished" and e.device != campaign.reference:
            self.screened.append(number)
        elif value is None:
            (self.cancelled if e.state == "cancelled" else self.failed).append(number)
        elif (e.val_bpb is None) != bool(campaign.reported):
            self.unverified.append((number, value))  # of another kind than the lab's metric
        elif campaign.conditions not in ("", e.conditions):
            self.elsewhere.append((number, value))
        elif e.val_bpb is None:
            self.unverified.append((number, value))
        else:
            self.verified.append((number, value, e.commit))


def _champions(ended: Sequence[Experiment], campaign: Campaign) -> list[Champion]:
    """Return the baseline and every promoted commit whose mean the gate knew, in order. Reported and verified ones are never mixed."""
    own = [(number, e) for number, e in enumerate(ended, 1) if IMPORTED not in e.tags]
    measured = {(e.commit, campaign.conditions in ("", e.conditions)) for _, e in own if e.metric is not None}
    first: dict[str, int] = {}
    hypotheses: dict[str, str] = {}
    for number, e in own:
        first.setdefault(e.commit, number)
        hypotheses.setdefault(e.commit, e.hypothesis)
    kind = "reported" if campaign.reported else "verified"
    promotions = [p for p in campaign.promotions if p.verdict.get("metric", "verified") == kind]
    promotions.sort(key=lambda p: (p.created_at, p.id))

    def champion(commit: str, start: int, level: Any, hypothesis: str) -> list[Champion]:
        value = finite(level if level is not None or commit != campaign.champion.commit else campaign.champion.mean)
        comparable = (commit, True) in measured or (commit, False) not in measured  # neither: measured as a commit with the same code
        return [Champion(commit, start, value, hypothesis, comparable)] if value is not None else []

    if not promotions:
        commit = campaign.champion.commit
        return champion(commit, first.get(commit, 1), None, "baseline")
    baseline = promotions[0].previous
    champions = champion(baseline, first.get(baseline, 1), promotions[0].verdict.get("champion_mean"), "baseline")
    for promotion in promotions:
        start = max(sum(_ended_at(e) <= promotion.created_at for e in ended), 1)
        commit = promotion.commit
        champions += champion(commit, start, promotion.verdict.get("candidate_mean"), hypotheses.get(commit, ""))
    return champions


def _ended_at(e: Experiment) -> float:
    return e.finished_at or e.created_at


def finite(value: Any) -> float | None:
    """Return the value if it is a number that can be drawn, else None."""
    return float(value) if isinstance(value, int | float) and abs(value) < 1e6 else None


def headline(progress: Progress) -> str:
    """Say in one line how far the campaign came."""
    parts = []
    if progress.champions:
        champion, baseline = progress.champions[-1], progress.champions[0]
        parts.append(f"champion {champion.commit[:7]} at {champion.level:.4f}{' reported' if progress.reported else ''}")
        if champion is not baseline and baseline.comparable and baseline.level > 0:
            parts.append(f"{(champion.level / baseline.level - 1) * 100:+.2f}% from the baseline's {baseline.level:.4f}".replace("-", "−"))
    parts.append(_count(progress.total, "experiment") if progress.total else "no experiments yet")
    if promotions := max(len(progress.champions) - 1, 0):
        parts.append(_count(promotions, "promotion"))
    if progress.failed:
        parts.append(f"{len(progress.failed)} failed")
    return "  ·  ".join(parts)


def in_words(progress: Progress, title: str, short: Callable[[str, int], str]) -> str:
    """Say what the picture shows, for readers without eyes.

    Args:
        progress: what it shows.
        title: the lab's name.
        short: cuts a text that an agent wrote to a number of characters, and cleans it.
    """
    lines = [f"Progress of {short(title, 70)}: {headline(progress)}."]
    if progress.states:
        lines.append("Ended: " + ", ".join(f"{n} {state.replace('_', ' ')}" for state, n in sorted(progress.states.items())) + ".")
    if progress.verified:
        number, value, commit = min(progress.verified, key=lambda point: point[1])
        lines.append(
            f"Best single run: {value:.4f} by {commit[:12]} (number {number}). One run can be luck: promote_commit judges over several."
        )
    if progress.elsewhere:
        lines.append(f"{_count(len(progress.elsewhere), 'run')} under other conditions (budget, data or fixed files): drawn apart.")
    if progress.screened:
        lines.append(f"{_count(len(progress.screened), 'run')} on other kinds of device: marked at the edge, compared with nothing here.")
    if progress.imported:
        lines.append(f"{_count(len(progress.imported), 'experiment')} imported: another lab measured them, so they are drawn apart.")
    if progress.reported:
        lines.append(f"The metric is {progress.reported}, as the training code prints it of itself: reported, verified by nobody.")
    if progress.champions:
        rows = [
            f"after experiment {c.start}: {c.level:.4f}  {c.commit[:12]}  {'' if c.comparable else '(under other conditions) '}"
            + short(c.hypothesis, 160)
            for c in progress.champions[-40:]
        ]
        lines.append(fence("\n".join(rows), "champions in order, with their hypotheses"))
    return "\n".join(lines)


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
