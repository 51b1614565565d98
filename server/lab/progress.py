"""A campaign as data: which experiments are compared, which stand apart, who was champion when. The picture draws it."""

import itertools
import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from autoresearch_mcp.server.answers import Summary
from autoresearch_mcp.server.goal import WORDS, Goal, best
from autoresearch_mcp.server.lab.intervals import Interval, band, candidates
from autoresearch_mcp.server.ledger.results import Row
from autoresearch_mcp.server.models import ExperimentState, Promotion
from autoresearch_mcp.server.untrusted import fence
from autoresearch_mcp.trainer.records import METRIC

_MOST = 1e6  # of what is a number that can be drawn
MOST_UNDECIDED = 8  # whose intervals are shown, the newest


class Foreign(NamedTuple):
    """An experiment of another lab that shares the log, or that `import` brought."""

    id: str
    commit: str
    state: ExperimentState
    val_bpb: float | None
    reported_bpb: float | None
    created_at: float
    finished_at: float | None

    @property
    def ended_at(self) -> float:
        """When it ended, in Unix seconds."""
        return self.finished_at or self.created_at

    @property
    def metric(self) -> float | None:
        """The metric that it ended with, as `Experiment.metric`."""
        return (self.reported_bpb if self.val_bpb is None else self.val_bpb) if self.state == "finished" else None


@dataclass(frozen=True)
class Campaign:
    """What to know of a campaign besides its experiments.

    Attributes:
        promotions: the lab's own.
        title: the lab's name.
        champion: the champion now, with the mean of its replicates that count.
        conditions: under which metrics are compared now; empty where none was measured yet.
        reported: the name of the printed metric, where the lab goes by that.
        measured: the name of the metric that the lab measures itself.
        goal: which way the metric is better.
        reference: the kind of device whose results are compared.
        noise: standard deviation between replicates of one commit; None where it isn't known.
        undecided: commits that the gate has not decided on.
    """

    promotions: Sequence[Promotion]
    title: str
    champion: Summary
    conditions: str
    reported: str = ""
    measured: str = METRIC
    goal: Goal = "min"
    reference: str = "cpu"
    noise: float | None = None
    undecided: Collection[str] = ()


@dataclass(frozen=True)
class Champion:
    """A commit that the research branch pointed to, from experiment number `start` on.

    Attributes:
        commit: its full id.
        start: the number of the experiment that ended last before it.
        level: the mean by which the gate knew it.
        hypothesis: why it was tried.
        comparable: whether it was measured under the conditions of now.
        band: where its mean is known to lie, after each replicate that was trained since it became champion.
    """

    commit: str
    start: int
    level: float
    hypothesis: str
    comparable: bool
    band: tuple[Interval, ...] = ()

    def known(self) -> float:
        """Return its mean as it is known best: over its fresh replicates, else what the gate promoted it with."""
        return self.band[-1].mean if self.band else self.level


@dataclass(frozen=True)
class Progress:
    """A campaign as points; experiments are numbered from 1 in the order in which they ended.

    Attributes:
        total: all experiments.
        verified: number, val_bpb and commit of what is compared.
        unverified: number and value of what finished with a printed metric only.
        printed: number, value and commit of those of them that are compared, where the lab goes by a printed metric.
        elsewhere: number and value of what was measured under other conditions: on a scale of its own.
        imported: number and value of what another lab measured, which `import` brought or the shared log has; no value where it did not finish.
        screened: what was measured on another kind of device than the reference.
        failed: what ended without a metric.
        cancelled: what was cancelled.
        stopped: what was stopped early as hopeless.
        reported: the name of the printed metric, where the lab goes by that. The champions are then those that it chose.
        measured: the name of the metric that the lab measures itself.
        goal: which way the metric is better.
        states: experiments by state.
        champions: the baseline and every commit that the champion moved to, in order.
        promotions: how many of those moves were the gate's: the owner's, forward or back, are none.
        undecided: where the mean of each candidate lies that the gate has not decided on.
    """

    total: int
    verified: list[tuple[int, float, str]]
    unverified: list[tuple[int, float]]
    printed: list[tuple[int, float, str]]
    elsewhere: list[tuple[int, float]]
    imported: list[tuple[int, float | None]]
    screened: list[int]
    failed: list[int]
    cancelled: list[int]
    stopped: list[int]
    reported: str
    measured: str
    goal: Goal
    states: dict[str, int]
    champions: list[Champion]
    promotions: int
    undecided: dict[str, Interval]

    @property
    def compared(self) -> list[tuple[int, float, str]]:
        """Number, metric and commit of what is compared, the first to end first."""
        return self.printed if self.reported else self.verified


class Course:
    """A campaign as it goes on: experiments are added as they end, and what they come to is told at any time.

    Args:
        conditions: under which metrics are compared; empty where none was measured yet.
        reference: the kind of device whose results are compared.
        reported: the name of the printed metric, where the lab goes by that.
    """

    def __init__(self, conditions: str, reference: str, reported: str) -> None:
        self._conditions, self._reference, self._reported = conditions, reference, reported
        self._times: list[float] = []  # of all ends, in order
        self._states: Counter[str] = Counter()
        self._verified: list[tuple[int, float, str]] = []
        self._unverified: list[tuple[int, float]] = []
        self._printed: list[tuple[int, float, str]] = []
        self._elsewhere: list[tuple[int, float]] = []
        self._imported: list[tuple[int, float | None]] = []
        self._apart: dict[str, list[int]] = {"screened": [], "failed": [], "cancelled": [], "stopped_early": []}
        # Of the lab's own, by commit: its first number and hypothesis, whether it was measured under these conditions, what is compared.
        self._first: dict[str, tuple[int, str]] = {}
        self._measured: dict[str, bool] = {}
        self._runs: dict[str, list[tuple[int, float, str]]] = {}

    def add(self, rows: Sequence[Row]) -> None:
        """Add experiments that ended after all that were added before, the first to end first."""
        # A year has hundreds of thousands: what is looked up for each is named here once.
        first, measured, runs, apart = self._first, self._measured, self._runs, self._apart
        conditions, reference, is_reported = self._conditions, self._reference, bool(self._reported)
        begun = len(self._times) + 1
        self._times += [row[-1] for row in rows]
        self._states.update([row[5] for row in rows])
        for number, (_, _, commit, own_conditions, device, state, verified, reported, _, hypothesis, _, _, _, _) in enumerate(rows, begun):
            if commit not in first:
                first[commit] = number, hypothesis
            value = reported if verified is None else verified
            is_comparable = not conditions or own_conditions == conditions
            if state != "finished":
                apart[state if state in apart else "failed"].append(number)
                continue
            is_number = value is not None and -math.inf < value < math.inf
            if is_number and (is_comparable or commit not in measured):
                measured[commit] = is_comparable
            if device != reference:
                apart["screened"].append(number)
            elif value is None or not -_MOST < value < _MOST:
                apart["failed"].append(number)
            elif (verified is None) != is_reported:
                self._unverified.append((number, value))  # of another kind than the lab's metric
            elif not is_comparable:
                self._elsewhere.append((number, value))
            else:
                point = number, value, commit
                if verified is None:
                    self._unverified.append((number, value))
                    self._printed.append(point)
                else:
                    self._verified.append(point)
                if commit in runs:
                    runs[commit].append(point)
                else:
                    runs[commit] = [point]

    def take_back(self, rows: Sequence[Row]) -> None:
        """Forget the last rows, to add them again in another order."""
        first_number = len(self._times) - len(rows) + 1
        del self._times[first_number - 1 :]
        self._states.subtract([row[5] for row in rows])
        self._states += Counter()  # without those of which none is left
        for points in (self._verified, self._unverified, self._printed, self._elsewhere, self._imported):
            while points and points[-1][0] >= first_number:
                points.pop()
        for numbers in self._apart.values():
            while numbers and numbers[-1] >= first_number:
                numbers.pop()
        for commit in {row[2] for row in rows}:
            if self._first[commit][0] >= first_number:
                del self._first[commit]
            runs = self._runs.get(commit, [])
            while runs and runs[-1][0] >= first_number:
                runs.pop()
            if not runs:
                self._runs.pop(commit, None)

    def add_among(self, experiments: Iterable[Row | Foreign]) -> None:
        """Add as `add` does, with those of other labs among them."""
        for _, together in itertools.groupby(experiments, lambda e: isinstance(e, Foreign)):
            run = [*together]
            self.add([e for e in run if not isinstance(e, Foreign)])
            for e in run:
                if isinstance(e, Foreign):
                    self._times.append(e.ended_at)
                    self._states[e.state] += 1
                    self._imported.append((len(self._times), finite(e.metric)))

    def progress(self, campaign: Campaign) -> Progress:
        """Return how the campaign stands.

        Args:
            campaign: what to know of it besides its experiments.
        """
        progress = Progress(
            total=len(self._times),
            verified=[*self._verified],
            unverified=[*self._unverified],
            printed=[*self._printed],
            elsewhere=[*self._elsewhere],
            imported=[*self._imported],
            screened=[*self._apart["screened"]],
            failed=[*self._apart["failed"]],
            cancelled=[*self._apart["cancelled"]],
            stopped=[*self._apart["stopped_early"]],
            reported=self._reported,
            measured=campaign.measured,
            goal=campaign.goal,
            states=dict(self._states),
            champions=self._champions(campaign),
            promotions=sum(not (each.is_demotion or each.is_adoption) for each in campaign.promotions),
            undecided={},
        )
        if campaign.noise is not None:
            progress.champions[:] = self._with_bands(progress.champions, campaign.noise)
            undecided = {commit: [run[:2] for run in runs] for commit in campaign.undecided if (runs := self._runs.get(commit))}
            progress.undecided.update(candidates(undecided, campaign.noise))
        return progress

    def _champions(self, campaign: Campaign) -> list[Champion]:
        """Return the baseline and every promoted commit whose mean the gate knew, in order. Reported and verified ones are never mixed."""
        kind = "reported" if self._reported else "verified"
        promotions = [p for p in campaign.promotions if p.verdict.get("metric", "verified") == kind]
        promotions.sort(key=lambda p: (p.created_at, p.id))

        def champion(commit: str, start: int, level: Any, hypothesis: str) -> list[Champion]:
            value = finite(level if level is not None or commit != campaign.champion.commit else campaign.champion.mean)
            comparable = self._measured.get(commit, True)  # one that wasn't measured was measured as a commit with the same code
            return [Champion(commit, start, value, hypothesis, comparable)] if value is not None else []

        def first(commit: str) -> tuple[int, str]:
            return self._first.get(commit, (1, ""))

        if not promotions:
            commit = campaign.champion.commit
            return champion(commit, first(commit)[0], None, "baseline")
        baseline = promotions[0].previous
        champions = champion(baseline, first(baseline)[0], promotions[0].verdict.get("champion_mean"), "baseline")
        for promotion in promotions:
            start = max(bisect_right(self._times, promotion.created_at), 1)
            commit = promotion.commit
            champions += champion(commit, start, promotion.verdict.get("candidate_mean"), first(commit)[1])
        return champions

    def _with_bands(self, champions: Sequence[Champion], noise: float) -> list[Champion]:
        """Return the champions with what is known of each from the replicates that ended while it was champion."""
        ends = [champion.start for champion in champions[1:]] + [math.inf]
        banded = []
        for first, (champion, end) in enumerate(zip(champions, ends)):
            start = 0 if first == 0 else champion.start  # what won a commit the crown was lucky, so it says nothing of it
            own = [(number, value) for number, value, _ in self._runs.get(champion.commit, ()) if start < number <= end]
            fewest = 1 if first == 0 else 2  # a promoted one has the gate's mean until then
            banded.append(replace(champion, band=tuple(band(own, noise, fewest))))
        return banded


def in_order(e: Row | Foreign) -> tuple[float, str]:
    """Return by what experiments are ordered: when they ended."""
    return (e.ended_at, e.id) if isinstance(e, Foreign) else (e[-1], e[1])


def finite(value: Any) -> float | None:
    """Return the value if it is a number that can be drawn, else None."""
    return float(value) if isinstance(value, int | float) and abs(value) < _MOST else None


def headline(progress: Progress) -> str:
    """Say in one line how far the campaign came."""
    parts = []
    if progress.champions:
        champion, baseline = progress.champions[-1], progress.champions[0]
        level, first = champion.known(), baseline.known()
        parts.append(f"champion {champion.commit[:7]} at {level:.4f}{' reported' if progress.reported else ''}")
        if champion is not baseline and baseline.comparable and first > 0:
            parts.append(f"{(level / first - 1) * 100:+.2f}% from the baseline's {first:.4f}".replace("-", "−"))
    parts.append(_count(progress.total, "experiment") if progress.total else "no experiments yet")
    if progress.promotions:
        parts.append(_count(progress.promotions, "promotion"))
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
    if progress.compared:
        number, value, commit = best(progress.compared, progress.goal, key=lambda point: point[1])
        lines.append(
            f"Best single run: {value:.4f} by {commit[:12]} (number {number}). One run can be luck: promote_commit judges over several."
        )
    if progress.champions and (known := progress.champions[-1].band):
        lines.append(
            f"The champion's mean is {known[-1].mean:.4f} ± {known[-1].half:.4f} (95 %, from {known[-1].n} replicates since its promotion)."
        )
    if progress.undecided:
        shown = [
            f"{commit[:12]} {at.mean:.4f} ± {at.half:.4f} (n={at.n})" for commit, at in list(progress.undecided.items())[-MOST_UNDECIDED:]
        ]
        lines.append(f"Undecided, with 95 % intervals: {', '.join(shown)}.")
    if progress.elsewhere:
        lines.append(f"{_count(len(progress.elsewhere), 'run')} under other conditions (budget, data or fixed files): drawn apart.")
    if progress.screened:
        lines.append(f"{_count(len(progress.screened), 'run')} on other kinds of device: marked at the edge, compared with nothing here.")
    if progress.imported:
        lines.append(f"{_count(len(progress.imported), 'experiment')} of other labs, imported or in the shared log: drawn apart.")
    if progress.reported:
        lines.append(
            f"The metric is {progress.reported}, as the training code prints it of itself: reported, verified by nobody; {WORDS[progress.goal]}."
        )
    elif progress.measured != METRIC:
        lines.append(f"The metric is {progress.measured}, measured by the lab; {WORDS[progress.goal]}.")
    if progress.champions:
        rows = [
            f"after experiment {c.start}: {c.known():.4f}  {c.commit[:12]}  {'' if c.comparable else '(under other conditions) '}"
            + short(c.hypothesis, 160)
            for c in progress.champions[-40:]
        ]
        lines.append(fence("\n".join(rows), "champions in order, with their hypotheses"))
    return "\n".join(lines)


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
