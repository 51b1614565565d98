"""The lab's use cases, one method a tool. They know no MCP: a caller gets models back, or a `LabError`.

Every method is synchronous, thread-safe and short (it waits for disks, never for trainings). Callers with an event loop run
them in a worker thread. What a method acknowledged is durable before it returns.
"""

import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

from autoresearch_mcp.server import answers as a
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.gate.promotion import Promoter
from autoresearch_mcp.server.lab.alerting import Alerting
from autoresearch_mcp.server.lab.amending import Amending
from autoresearch_mcp.server.lab.audit import Auditing
from autoresearch_mcp.server.lab.awaited import AwaitedCases
from autoresearch_mcp.server.lab.backlog import Backlog
from autoresearch_mcp.server.lab.campaigns import Campaigns
from autoresearch_mcp.server.lab.cancelling import Cancelling
from autoresearch_mcp.server.lab.candidacies import CandidacyCases
from autoresearch_mcp.server.lab.claims import ClaimCases
from autoresearch_mcp.server.lab.core import LabCore
from autoresearch_mcp.server.lab.directions import Directions
from autoresearch_mcp.server.lab.experiments import Experiments
from autoresearch_mcp.server.lab.history import History
from autoresearch_mcp.server.lab.memories import Memories
from autoresearch_mcp.server.lab.news import NewsCases
from autoresearch_mcp.server.lab.next_steps import NextSteps
from autoresearch_mcp.server.lab.pictures import Pictures
from autoresearch_mcp.server.lab.proposing import Proposing
from autoresearch_mcp.server.lab.publishing import Publishing
from autoresearch_mcp.server.lab.reading import Reading
from autoresearch_mcp.server.lab.search_state import share_left
from autoresearch_mcp.server.lab.similar import SimilarProposals
from autoresearch_mcp.server.lab.status import LabStatus
from autoresearch_mcp.server.lab.sweeps import SweepCases
from autoresearch_mcp.server.lab.trainings import Trainings
from autoresearch_mcp.server.lab.trying import Trying
from autoresearch_mcp.server.lab.verdicts import Verdicts
from autoresearch_mcp.server.lake.base import Query
from autoresearch_mcp.server.models import Promotion
from autoresearch_mcp.server.proposals.orders import CarryOut
from autoresearch_mcp.server.settings import Settings
from autoresearch_mcp.server.settings.live import Stamp


class Lab:
    """An opened lab. Each use case is implemented in the class of its subject, and offered here under its own name.

    Args:
        root: the lab's folder.
        carry_out: drafts proposals in place of this process.
        starts_runner: whether it starts the runner where there is work: a runner, and each training, is as nice as who started it.

    Raises:
        LabError: `not_a_lab`, `newer_lab`, `bad_settings`, `read_only`, and the ledger's and the repository's own.
    """

    def __init__(self, root: Path, carry_out: CarryOut | None = None, starts_runner: bool = True) -> None:
        core = self._core = LabCore(root, carry_out, starts_runner)
        self.root = core.root
        self._promoter().recover()
        self._status = LabStatus(core.settings_file, core.state, core.ledger, core.repo)
        self._directions = Directions(core, self._status)
        similar = self._similar = SimilarProposals(core.ledger, core.embedder, self._status)

        experiments = Experiments(core, self._status)
        self.changes = experiments.changes
        self.snapshot = core.snapshot
        self.states = experiments.states
        self.states_now = experiments.states_now
        self.marked = experiments.marked
        self.get_experiment = experiments.get_experiment
        self.find = experiments.find
        self.find_commit = core.commit
        self.is_training = experiments.is_training
        self.open_of = experiments.open_of
        self.open_named = experiments.open_named
        self.printed = experiments.printed
        self.side_by_side = experiments.side_by_side
        self.read_log = experiments.read_log

        trainings = Trainings(core, self._status, experiments)
        self.launch_training = trainings.launch_training
        cancelling = Cancelling(core)
        self.cancel = cancelling.cancel

        amending = Amending(core, cancelling)
        self.withdraw = amending.withdraw
        self.amend = amending.amend
        self.pause = trainings.pause
        self.resume = trainings.resume
        self.paused_at = core.ledger.paused_at
        self.reproduce = trainings.reproduce
        self.is_reproduction = trainings.is_reproduction
        self.reproduction = trainings.reproduction

        memories = Memories(core, similar, Backlog(core, similar, self._status))
        reading = Reading(core)
        self.champion = reading.champion
        self.read_file = reading.read_file
        self.diff = reading.diff

        proposing = Proposing(core, similar, experiments, trainings, memories)
        self.propose_patch = proposing.propose_patch
        self.check_out = proposing.check_out
        self.take_in_champion = proposing.take_in_champion

        self.try_code = Trying(core).try_code

        candidacies = CandidacyCases(core, trainings)
        self.launch_until_decided = candidacies.launch_until_decided
        self.candidacies = candidacies.candidacies
        self.launched = candidacies.launched

        sweeps = self._sweeps = SweepCases(core, self._status, trainings)
        self.launch_sweep = sweeps.launch_sweep
        self.sweeps = sweeps.sweeps
        self.swept = sweeps.launched

        self.alerting = Alerting(core, lambda: self._status.status(core.wake))
        self.promote_commit = Verdicts(core, self._status, self._promoter, self.alerting).promote_commit

        history = History(core, self._status)
        self.query_experiments = history.query_experiments
        self.records = history.records
        self.import_records = history.import_records
        self.publish = Publishing(core).publish
        campaigns = Campaigns(core, self._status)
        self.overview = campaigns.overview
        self.agents = campaigns.agents
        self.leaderboard = campaigns.leaderboard
        self.tags = campaigns.tags
        self.built_on = campaigns.built_on
        self.promotions = campaigns.promotions
        self.claims = campaigns.claims
        self.decisions = campaigns.decisions
        self.last_words = campaigns.last_words
        self.awaiting_approval = campaigns.awaiting_approval
        pictures = Pictures(core, self._status, campaigns)
        self.plot_progress = pictures.plot_progress
        self.curves = pictures.curves

        self.budget = self._status.budget
        self.audit = Auditing(core, self._status).audit
        self.gate = core.gate
        self.expected_false_promotions = core.gate.expected_false_promotions

        self.wake = core.wake
        self.tokens = core.ledger.tokens
        self.tokens_version = core.ledger.tokens_version
        self.keep_trace = core.ledger.keep_trace
        self.record_change = core.ledger.record_change
        self.recorded_changes = core.ledger.recorded_changes

        news = NewsCases(core)
        self.newest_news = news.newest_news
        self.unheard = news.unheard
        self.since = news.since
        self.told_to_all = news.told_to_all
        self.cursor = news.cursor
        self.awaited = AwaitedCases(core).awaited

        self.write_memory = memories.write_memory
        self.search_memory = memories.search_memory
        self.claim_idea = ClaimCases(core, memories, similar).claim_idea

        self.next_steps = NextSteps(core, self._status, memories).steps

    @property
    def opened_log(self) -> str:
        """A hash of what this process opened the log by: it looks at these settings once, when it starts."""
        return self._core.opened_log

    @property
    def settings(self) -> Settings:
        """The settings of now."""
        return self._core.settings

    def share_left(self, author: str) -> a.ShareLeft | None:
        """Return what an agent may still use; None where lab.toml limits nobody."""
        return share_left(self._core.ledger, self._core.settings.swarm, author)

    def stamp(self) -> tuple[int, Stamp] | None:
        """Return what differs once the ledger or lab.toml changed, or None where that can't be told. Costs microseconds."""
        settings = self._core.settings_file.stamp()
        return None if settings is None else (self._core.ledger.changes(), settings)

    def warm_up_reading(self) -> None:
        """Read what agents read first, so that none of them waits for libraries. What can't be read now is told to who asks for it.

        It starts no runner, and asks no service for an embedding.
        """
        embedder = self._core.embedder
        reads: list[Callable[[], object]] = [
            self.read_file,
            partial(self._status.status, lambda has_work: False),
            partial(self.next_steps, ""),
            self.query_experiments,
            partial(self.search_memory, "words" if embedder is None or embedder.local else ""),
        ]
        for read in reads:
            with contextlib.suppress(LabError):
                read()

    def warm_up_writing(self) -> None:
        """Load what the first launches, proposals and memories need, likewise."""
        look_up = partial(self._core.view.select, "memories", Query(limit=1))
        for read in (self._status.snapshot, partial(self._similar.likeness, "an idea", ["another"]), look_up):
            with contextlib.suppress(LabError):
                read()

    def close(self) -> None:
        """Close the lab's stores."""
        self.alerting.stop()
        self._core.close()

    def _promoter(self) -> Promoter:
        """Return the gate and the champion's ref, under the settings of now."""
        core, settings = self._core, self._core.settings
        return Promoter(core.gate, settings.promotion.approval, core.state, core.ledger, core.repo)

    def status(self, steps: bool = True) -> a.StatusAnswer:
        """Return the lab at a glance. It reads the ledger and a note of how far the shared log is, so it is fast at any size.

        Args:
            steps: whether to say what to do next for nobody in particular. `next_steps` says it for a caller.
        """
        with self.snapshot():
            return self._read_status(steps)

    def _read_status(self, steps: bool) -> a.StatusAnswer:
        cursor = self.cursor()  # before all else: what happens meanwhile is told twice, never missed
        answer = self._status.status(self._core.wake)
        behind = self._core.view.warning()
        warnings = [*answer.warnings, *self._core.settings_warnings(), *([behind] if behind else [])]
        following = [*answer.next, *(self.next_steps("") if steps else [])]
        return answer.model_copy(
            update={
                "warnings": warnings,
                "next": following,
                "sweeps": self._sweeps.open_sweeps(),
                "cursor": cursor,
                "directions": self._directions.all(),
            }
        )

    def demote(self, by: str, reason: str) -> Promotion:
        """Take the last promotion back, for the lab's owner. See `Promoter.demote`.

        Args:
            by: who asks.
            reason: kept with the record.

        Raises:
            LabError: `no_promotion`, and the repository's own.
        """
        demotion = self._promoter().demote(by, reason)
        self._core.wake()
        return demotion

    def adopt(self, name: str, by: str, reason: str) -> tuple[Promotion, list[str]]:
        """Make a commit of the owner's the champion. See `Promoter.adopt`.

        Args:
            name: a branch, a tag or a commit's id.
            by: who asks.
            reason: kept with the record.

        Raises:
            LabError: `unknown_commit`, `is_champion`, `not_ahead`, those of `source.check` for what is run, and the repository's own.
        """
        core = self._core
        commit = core.repo.owners.commit(name)
        if core.settings.has_packages:
            core.repo.check(commit, core.settings.training.file)
        adoption = self._promoter().adopt(commit, by, reason, core.settings.trust)
        core.wake()
        return adoption
