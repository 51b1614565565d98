"""The lab at a glance: champion, noise, leaderboard, budget, and advice. It reads the ledger only, so it is fast at any size."""

import itertools
import math
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from autoresearch_mcp.server import answers as a
from autoresearch_mcp.server import runs
from autoresearch_mcp.server.editable import Editable
from autoresearch_mcp.server.gate.drift import Drift
from autoresearch_mcp.server.gate.evidence import Uncounted, counted, for_display, metrics
from autoresearch_mcp.server.gate.judge import rules_of
from autoresearch_mcp.server.gate.leaderboard import Leader, Ranking, known_noise, leaders
from autoresearch_mcp.server.gate.noise import pool, sums_of_squares
from autoresearch_mcp.server.gate.rule import Noise
from autoresearch_mcp.server.gate.spread import mean, sd
from autoresearch_mcp.server.gate.standings import BEST, Standings
from autoresearch_mcp.server.keeping import keep
from autoresearch_mcp.server.lab.defence import Defences, same
from autoresearch_mcp.server.lab.forecast import Forecast, Forecaster
from autoresearch_mcp.server.lab.limits import limits_in_words
from autoresearch_mcp.server.lab.lineage import Lineage, standing_in_words
from autoresearch_mcp.server.lab.masking import mask_paths
from autoresearch_mcp.server.lab.open_launches import open_launches
from autoresearch_mcp.server.lab.preflight import confined, preflight_error
from autoresearch_mcp.server.lab.search_state import search_state
from autoresearch_mcp.server.ledger import Ledger
from autoresearch_mcp.server.ledger.counting import Counting
from autoresearch_mcp.server.ledger.standings import Standing
from autoresearch_mcp.server.models import ACTIVE_STATES, Experiment, Metric, Score, Verdict
from autoresearch_mcp.server.pace import Paces
from autoresearch_mcp.server.proposals import growth
from autoresearch_mcp.server.proposals.repo import Repo
from autoresearch_mcp.server.runner import health, start
from autoresearch_mcp.server.settings import LaunchSettings, PromotionSection, Settings, SettingsFile

LEADERS = 5  # of the leaderboard in a status
_KEPT = 64  # commits whose metric is known
QUEUED = 20  # that are listed, the oldest
AGENTS = 20  # whose spending is listed, the largest first
_UNCONFINED = {
    "allow": "Trainings are not confined on this machine (that takes Linux with Landlock): their code could read the validation text. Their "
    'results are marked `unsandboxed` and count at the gate, because lab.toml says [promotion] unsandboxed = "allow".',
    "refuse": "Trainings are not confined on this machine (that takes Linux with Landlock), and results without a sandbox do not count at the "
    'gate: nothing trained here can be promoted unless the lab\'s owner sets [promotion] unsandboxed = "allow" in lab.toml.',
}
_TRUST: dict[Metric, str] = {
    "verified": "verified: measured by the scorer",
    "reported": "reported: printed by the training code itself and verified by nobody",
}
_REPORTED_COUNTS = {
    "allow": 'The metric is what the training code prints of itself. It counts at the gate, because lab.toml says [promotion] reported = "allow".',
    "refuse": "The metric is what the training code prints of itself, and the gate does not count that: nothing can be promoted unless the lab's "
    'owner sets [promotion] reported = "allow" in lab.toml.',
}
MAX_REPLICATES = 16  # of one launch
LATE_S = 60.0  # a record that is not in the shared log by then is worth a warning


@dataclass(frozen=True)
class Snapshot:
    """The part of the status that only a change of the ledger or of the champion can change."""

    key: tuple[Any, ...]
    leaders: list[a.Leader]
    ranked: list[Leader]  # the same and more
    lineage: Lineage
    conditions: str  # under which metrics are compared
    likely: dict[str, tuple[float, float]]  # gain on the champion, and the chance that there is one, by commit: the best first
    noise: float | None
    noise_nu: int
    drift: Drift | None
    launched: list[a.OpenLaunch]
    false_promotions: float
    open: list[Experiment]
    champion: a.Summary
    champion_needs: int  # replicates of the champion, before a candidate that is trained now can be compared with it
    uncounted: Uncounted
    counts: dict[str, int]
    recent: list[a.ExperimentLine]
    spending: tuple[float, float]  # device seconds spent, and reserved
    seconds_by_author: dict[str, float]
    typical_s: float | None  # of a training, from start to end
    promotions: int
    search: a.SearchState
    unflushed: int
    waiting_since: float | None
    launches: list[tuple[LaunchSettings, int]]


class LabStatus:
    """Reads in the ledger how a lab's champion, experiments and budget stand.

    Args:
        file: knows the settings of now.
        state: the lab's state folder.
        ledger: what is happening.
        repo: knows the champion.
    """

    def __init__(self, file: SettingsFile, state: Path, ledger: Ledger, repo: Repo) -> None:
        self._file = file
        self._state = state
        self._ledger = ledger
        self._repo = repo
        self._paces = Paces(state, ledger, repo.champion)
        self._standings = Standings(ledger, lambda: for_display(self._settings.promotion))
        self._defences = Defences()
        self._summaries: dict[tuple[object, ...], tuple[Sequence[Score], a.Summary]] = {}  # and which replicates each is of
        self._forecaster = Forecaster(ledger, repo.champion)
        self._conditions: tuple[object, str] = (None, "")  # what they depend on, and they
        self._lineage: tuple[object, Lineage] | None = None  # likewise
        self._snapshot: Snapshot | None = None
        self._reading = threading.Lock()

    @property
    def _settings(self) -> Settings:
        return self._file.current()

    def status(self, wake: Callable[[bool], bool]) -> a.StatusAnswer:
        """Return all of `get_status` but what the lake knows, and of what to do next only the runner's troubles.

        Args:
            wake: starts a runner if there is work and none is alive; returns whether one is.
        """
        settings = self._settings  # each access looks at the file
        now = self._current(settings)
        open_ = now.open
        runner = wake(bool(open_ or now.unflushed))
        budget = self._budget(settings, *now.spending)
        ahead = self.forecast(open_)
        troubles, news = health.tell(self._state) if runner else ([], [])
        return a.StatusAnswer(
            lab=settings.lab.name,
            metric=f"{settings.metric.title}, {_TRUST[settings.trust]}; {settings.metric.direction}",
            champion=now.champion,
            noise_sd=now.noise,
            noise_nu=now.noise_nu,
            drift=math.floor(100 * now.drift.chart) / 100 if now.drift else None,
            steps_sd=round(now.drift.steps_sd, 4) if now.drift and now.drift.steps_sd is not None else None,
            expected_false_promotions=round(now.false_promotions, 4),
            counts=now.counts,
            running=[self.line(e, ahead) for e in open_ if e.state in ACTIVE_STATES],
            queued=[self.line(e, ahead) for e in itertools.islice((e for e in open_ if e.state == "queued"), QUEUED)],
            open=now.launched,
            recent=now.recent,
            leaderboard=now.leaders,
            search=now.search,
            budget=budget,
            training=_training_cost(settings, now.typical_s, budget, ahead.empty_s if open_ else None),
            cost_by_author=now.seconds_by_author,
            promotions=now.promotions,
            unflushed=now.unflushed,
            runner=runner,
            warnings=[*self._warnings(settings, now), *troubles, *start.failed_starts(self._state)],
            next=news,
        )

    def _current(self, settings: Settings) -> "Snapshot":
        """Return what the ledger says now. It is read again only after a change, because every agent asks for the status all the time."""
        # The counter is read before the rows: a change in between is read again next time, never missed.
        champion, reference, rules = self._repo.champion(), settings.reference, settings.promotion
        key = (self._ledger.changes(), champion, reference, rules)
        if self._snapshot is not None and self._snapshot.key == key:
            return self._snapshot
        with self._reading:  # one reads for all who ask meanwhile
            key = (self._ledger.changes(), champion, reference, rules)
            if self._snapshot is None or self._snapshot.key != key:
                self._snapshot = self._read(settings, key)
            return self._snapshot

    def _read(self, settings: Settings, key: tuple[int, str, str, PromotionSection]) -> "Snapshot":
        _, champion, reference, rules = key
        lineage, scores, conditions = self.lineage(), self._ledger.scores(champion), self.conditions()
        newest = self._standings.newest(reference) or conditions  # what a candidate that is trained now is measured under
        defence = self._defences.of(champion, scores, reference, rules, conditions, newest)
        ranking, decided = self._ranking(champion, defence.fresh, conditions, settings)
        likely = {commit: (shrunk.gain, shrunk.better) for commit, shrunk in ranking.likely.items()}
        noise_nu, squares = self._standings.spreads(conditions, ())(None)
        noise = math.sqrt(squares / noise_nu) if noise_nu else None
        return Snapshot(
            key=key,
            search=search_state(self._ledger, likely, decided, noise),
            leaders=[leader_line(each, decided.get(each.standing.commit), lineage) for each in ranking.leaders[:LEADERS]],
            ranked=ranking.leaders,
            lineage=lineage,
            conditions=conditions,
            likely=likely,
            noise=noise,
            noise_nu=noise_nu,
            drift=defence.drift,
            launched=open_launches(self._ledger),
            false_promotions=self._ledger.levels_spent(),
            open=self._ledger.open_experiments(),
            champion=self.summary(champion, conditions),
            champion_needs=defence.needs,
            uncounted=defence.uncounted,
            counts=self._ledger.counts(),
            recent=[ended_line(row, self._state.parent) for row in self._ledger.recent(5)],
            spending=self._ledger.spending(),
            seconds_by_author=self._ledger.seconds_by_author(AGENTS),
            typical_s=self._forecaster.typical_s(settings),
            promotions=self._ledger.promotion_count(),
            unflushed=self._ledger.unflushed(),
            waiting_since=self._ledger.waiting_since(),
            launches=self._ledger.open_launches(),
        )

    def _ranking(self, champion: str, fresh: list[float], conditions: str, settings: Settings) -> tuple[Ranking, dict[str, Verdict]]:
        """Return how the commits stand, and what the gate said last of them."""
        charges = dict[str, float]()
        if not settings.is_script:
            added = self._ledger.larger_than(growth.FREE)
            theirs = added.get(self._ledger.proposal_of(champion), 0)
            charges = {commit: growth.charge(ours, theirs, settings.training.limits.base) for commit, ours in added.items()}
        rules, withdrawn = rules_of(settings.promotion), self._ledger.withdrawn()
        apart = withdrawn | {champion}
        noise = known_noise(fresh, self._standings.spreads(conditions, apart))
        beside = (self._standings.best if noise is None else self._standings.crowd)(conditions, rules.goal, apart)
        own = self._standings.of(conditions, [champion]).values() if champion not in withdrawn else ()
        crowd = [*beside, *own]
        verdicts = self._ledger.decisions(champion, conditions, [each.commit for each in crowd])
        return leaders(crowd, champion, fresh, verdicts, BEST, rules, noise, charges), verdicts

    def lineage(self) -> Lineage:
        """Return what the champion was built on, and what is built on it: kept until the champion moves."""
        key = champion, _ = self._repo.champion(), self._ledger.champion_moves()
        if self._lineage is None or self._lineage[0] != key:
            self._lineage = key, Lineage(self._ledger, champion)
        return self._lineage[1]

    def likely_gains(self) -> dict[str, float]:
        """Return the likely gain of each measured commit on the champion, the best first; none before the noise is known."""
        return {commit: gain for commit, (gain, _) in self.snapshot().likely.items()}

    def promising(self, chance: float) -> list[str]:
        """Return the commits that are better than the champion with at least this chance, the best first."""
        return [commit for commit, (_, better) in self.snapshot().likely.items() if better >= chance]

    def forecast(self, open_: Sequence[Experiment]) -> Forecast:
        """Return when each of these, which are all that is open, will have ended."""
        return self._forecaster.forecast(self._settings, open_)

    def line(self, e: Experiment, ahead: Forecast | None = None) -> a.ExperimentLine:
        """Return an experiment in one line; while it runs, with how far it is and how its loss compares with the champion's.

        Args:
            e: the experiment.
            ahead: when it will have ended.
        """
        line = self._line(e)
        if ahead is None or e.terminal:
            return line
        left = ahead.seconds.get(e.id)
        return line.model_copy(update={"position": ahead.positions.get(e.id), "done_in_s": round(left) if left is not None else None})

    def _line(self, e: Experiment) -> a.ExperimentLine:
        if e.state not in ACTIVE_STATES:
            return a.ExperimentLine.of(e)
        training, directory = self._settings.training, runs.locate(self._state, e)
        pace, weights_mb, most = self._paces.of(e), runs.read_weights_mb(directory), training.limits.checkpoint_mb
        words = [str(pace)] if pace else []
        if weights_mb is not None and weights_mb > most and not self._settings.is_script:
            words.append(f"its model holds {weights_mb:.0f} MB as it is, and at most {most} MB can be submitted")
        return a.ExperimentLine.of(e, runs.read_share(directory, training.budget_s), "; ".join(words) or None)

    def noise(self, conditions: str) -> float | None:
        """Return the standard deviation of the metric between replicates of one commit, pooled over all commits under these conditions."""
        return self._standings.noise(conditions)

    def standings(self, conditions: str, commits: Collection[str] | None = None) -> dict[str, Standing]:
        """Return every commit with a replicate that counts under these conditions, or those of some commits that have one."""
        return self._standings.all(conditions) if commits is None else self._standings.of(conditions, commits)

    def pooled_noise(self, conditions: str) -> Noise | None:
        """Return the noise as the gate pools it, with its degrees of freedom; None where no commit has two replicates. Imports scipy."""
        champion = self._repo.champion()
        fresh = self.counting(champion, conditions)
        others = self._standings.spreads(conditions, [self._ledger.proposal_of(champion)])
        return pool(sums_of_squares(metrics(fresh)), others)

    def snapshot(self) -> Snapshot:
        """Return what the ledger says now, read again only after a change."""
        return self._current(self._settings)

    def budget_of(self, now: Snapshot) -> a.Budget:
        """Return the budget as it is in a snapshot."""
        return self._budget(self._settings, *now.spending)

    def budget(self) -> a.Budget:
        """Return what the lab may spend, has spent, and has reserved."""
        return self._budget(self._settings, *self._ledger.spending())

    def _budget(self, settings: Settings, spent: float, reserved: float) -> a.Budget:
        total = settings.budget.device_hours * 3600
        left = max(0.0, total - spent - reserved)
        return a.Budget(
            total_s=total, spent_s=round(spent, 1), reserved_s=round(reserved, 1), left_s=round(left, 1), usd=self._money(settings)
        )

    def _money(self, settings: Settings) -> a.Money | None:
        if not settings.rents:
            return None
        spent, reserved, last_hour, by_agent = self._ledger.money()
        total = settings.budget.usd
        return a.Money(
            total=total,
            spent=round(spent, 4),
            running=round(sum(map(self.accrued_usd, self._ledger.open_experiments(*ACTIVE_STATES))), 4),
            reserved=round(reserved, 4),
            left=round(max(0.0, total - spent - reserved), 4),
            last_hour=round(last_hour, 4),
            by_agent={agent: round(usd, 4) for agent, usd in list(by_agent.items())[:AGENTS]},
        )

    def accrued_usd(self, e: Experiment) -> float:
        """Return what the running attempt costs so far: elapsed time x rate."""
        if e.state not in ("running", "scoring") or e.started_at is None:
            return 0.0
        return min(time.time() - e.started_at, e.reserved_s) * self._settings.usd_per_s(e.device)

    def conditions(self) -> str:
        """Return the conditions under which the champion was measured last on the reference kind of device.

        Results under others can't be compared with it.
        """
        key = _, champion, reference = self._ledger.changes(), self._repo.champion(), self._settings.reference
        known, conditions = self._conditions
        if known != key:
            measured = [each.conditions for each in self._ledger.scores(champion) if each.state == "finished" and each.device == reference]
            conditions = measured[-1] if measured else self._ledger.conditions_of(champion, reference)
            self._conditions = key, conditions
        return conditions

    def gain(self, metric: float, base: float) -> float:
        """Return by how much one metric is better than another; negative where it is worse."""
        return rules_of(self._settings.promotion).gain(metric, base)

    def summary(self, commit: str, conditions: str) -> a.Summary:
        """Return the metric of a commit over those of its replicates that count under these conditions."""
        scores = self._ledger.scores(commit)
        key = commit, conditions, commit == self._repo.champion(), Counting.of(for_display(self._settings.promotion))
        known = self._summaries.get(key)
        if known is None or not same(known[0], scores):
            values = metrics(counts := self._counting(commit, scores, conditions))
            reported = any(score.val_bpb is None for score in counts)
            average = mean(values) if values else None
            known = scores, a.Summary(commit=commit, n=len(values), mean=average, sd=sd(values), reported=reported or None)
        keep(self._summaries, key, known, _KEPT)
        return known[1]

    def counting(self, commit: str, conditions: str) -> list[Score]:
        """Return the replicates of a commit that count; of the champion, as at the gate, those that the lab launched, once there are any."""
        return self._counting(commit, self._ledger.scores(commit), conditions)

    def _counting(self, commit: str, replicates: Sequence[Score], conditions: str) -> list[Score]:
        scores = counted(replicates, for_display(self._settings.promotion), conditions)
        fresh = [score for score in scores if score.by_lab] if commit == self._repo.champion() else []
        return fresh or scores

    def _warnings(self, settings: Settings, now: "Snapshot") -> list[str]:
        warnings = []
        since = now.waiting_since
        if since is not None and time.time() - since > LATE_S:
            warnings.append(
                f"The shared log is behind by {now.unflushed} records, the oldest of {(time.time() - since) / 60:.0f} min ago. "
                f"They are safe here and count in every answer; .autoresearch/runner.log says why they were not taken."
            )
        if (paused := self._ledger.paused_at()) is not None:
            when = datetime.fromtimestamp(paused, UTC)
            warnings.append(f"The lab's owner paused the lab at {when:%Y-%m-%d %H:%M} UTC. What is queued starts once they resume it.")
        if settings.compute.backend == "local" and not confined():
            warnings.append(_UNCONFINED[settings.promotion.unsandboxed])
        if settings.trust == "reported":
            warnings.append(_REPORTED_COUNTS[settings.promotion.reported])
            warnings += filter(None, [settings.metric.doubt()])
        if why := preflight_error(settings, self._state, folders=False):
            warnings.append(why)
        for launch, count in now.launches:
            if changed := settings.changed_since(launch):
                which = "1 experiment was launched: it keeps" if count == 1 else f"{count} experiments were launched: they keep"
                warnings.append(
                    f"lab.toml has changed ({', '.join(changed)}) since {which} the settings of then. Cancel and launch again to use the new ones."
                )
        if now.drift and now.drift.warning:
            warnings.append(now.drift.warning)
        runs = Editable([*settings.training.editable, *settings.training.files])
        champion, owners = now.champion.commit, self._repo.owners
        return [*warnings, *owners.ahead(champion, runs), *owners.unmatched(champion, settings.training.files), *self._repo.behind()]


def leader_line(leader: Leader, verdict: Verdict | None, lineage: Lineage) -> a.Leader:
    """Return a commit's place as a row of the leaderboard."""
    standing, shrunk = leader.standing, leader.shrunk
    gain, se = (shrunk.gain, (shrunk.high - shrunk.low) / 4) if shrunk else (None, None)
    return a.Leader(
        commit=standing.commit,
        n=standing.n,
        mean=standing.mean,
        sd=standing.sd,
        reported=standing.reported or None,
        gain=shrunk.gain if shrunk else None,
        gain_low=shrunk.low if shrunk else None,
        gain_high=shrunk.high if shrunk else None,
        p_better=shrunk.better if shrunk else None,
        mark=leader.mark,
        why=standing_in_words(standing.commit, standing.n, gain, se, verdict, lineage),
    )


def _training_cost(settings: Settings, typical_s: float | None, budget: a.Budget, queue_s: float | None) -> a.TrainingCost:
    """Return what a training takes here, and how many more fit into the budget when each costs what is typical."""
    reserves_s = settings.longest_s()
    left = int(budget.left_s // (typical_s or reserves_s)) if budget.left_s >= reserves_s else 0
    return a.TrainingCost(
        typical_s=typical_s,
        reserves_s=reserves_s,
        slots=settings.slots,
        left=left,
        limits=limits_in_words(settings),
        queue_s=None if queue_s is None else round(queue_s),
    )


def ended_line(row: dict[str, Any], root: Path) -> a.ExperimentLine:
    """Return a thin row of the ledger as a line, without paths of the lab in `root`."""
    names = ("id", "commit", "state", "val_bpb", "reported_bpb", "seed", "device", "author", "hypothesis", "failure")
    failure = mask_paths(row["failure"], root) if row["failure"] else None
    return a.ExperimentLine(**{name: row[name] for name in names} | {"failure": failure})
