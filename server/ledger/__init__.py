"""The ledger: what IS happening in a lab, in one SQLite file. ACID across processes, fsynced before a call returns.

Promises
- Whatever a method wrote is on disk when it returns (WAL, synchronous=FULL), or nothing of it is.
- Any number of servers and one runner use it at once; a writer waits up to 30 s for the others.
- State changes are guarded: an experiment moves only from the states that the caller names, and ends once.
- An experiment keeps the settings of its launch until it ends: what was reserved is what runs.
- A terminal experiment, a memory or a promotion leaves the outbox only through `settle`, after it was read back from the lake.
- Every start is written down in order, with what ran beside it. A candidacy never has two open experiments.
- A claim on an idea is one agent's, until its time is up, its holder releases it, or the gate has decided on what tries it.
- `proposals`, `promotions` and the thin `ended` rows stay for good: the gate, the budget and the status read them without the lake.
- Sums over the `ended` rows are written together with each of them (see `tallying`), so a reader costs about the same after a year.

Who writes: servers insert proposals, claims, experiments, candidacies, memories, promotions and cancel requests; only the runner moves
experiments that have left the queue, queues what the lab itself wants trained, and settles the outbox.
"""

from pathlib import Path

from autoresearch_mcp.server.ledger.access import Access
from autoresearch_mcp.server.ledger.alerts import Alerts
from autoresearch_mcp.server.ledger.budget import Budget
from autoresearch_mcp.server.ledger.candidacies import Candidacies
from autoresearch_mcp.server.ledger.claims import Claims
from autoresearch_mcp.server.ledger.curves import Curves
from autoresearch_mcp.server.ledger.database import Database
from autoresearch_mcp.server.ledger.decisions import Decisions
from autoresearch_mcp.server.ledger.evidence import Evidence
from autoresearch_mcp.server.ledger.experiments import OpenExperiments
from autoresearch_mcp.server.ledger.ideas import Ideas
from autoresearch_mcp.server.ledger.looks import Looks
from autoresearch_mcp.server.ledger.news import News
from autoresearch_mcp.server.ledger.outbox import Outbox
from autoresearch_mcp.server.ledger.pause import Pause
from autoresearch_mcp.server.ledger.promotions import Promotions
from autoresearch_mcp.server.ledger.proposals import Proposals
from autoresearch_mcp.server.ledger.remarks import Remarks
from autoresearch_mcp.server.ledger.results import Results
from autoresearch_mcp.server.ledger.standings import CommitStandings
from autoresearch_mcp.server.ledger.starts import Starts
from autoresearch_mcp.server.ledger.sweeps import Sweeps
from autoresearch_mcp.server.ledger.traces import Traces

__all__ = ["Ledger"]


class Ledger:
    """The ledger file at `path`, made if it is missing. Thread-safe. Each method belongs to the part whose subject it is.

    Args:
        path: of the file, whose folder exists.

    Raises:
        LabError: `newer_lab`, `read_only`, `disk_full`, `busy` or `ledger_unusable`, here and from every method.
    """

    def __init__(self, path: Path) -> None:
        database = Database(path)
        self.close = database.close
        self.changes = database.changes
        self.snapshot = database.snapshot
        self.fault = database.fault

        proposals = Proposals(database)
        self.proposal = proposals.proposal
        self.named = proposals.named
        self.proposals_after = proposals.proposals_after
        self.proposal_records_after = proposals.proposal_records_after
        self.proposals_by_author = proposals.proposals_by_author
        self.proposal_tags = proposals.proposal_tags
        self.built_on = proposals.built_on
        self.twin = proposals.twin
        self.bases = proposals.bases
        self.add_proposal = proposals.add_proposal
        self.measurements = proposals.measurements
        self.make_candidate = proposals.make_candidate
        self.novelties = proposals.novelties
        self.canonical = proposals.canonical
        self.near_copies = proposals.near_copies
        self.larger_than = proposals.larger_than
        self.proposal_of = proposals.proposal_of
        self.aliases = proposals.aliases
        self.add_alias = proposals.add_alias

        experiments = OpenExperiments(database)
        self.enqueue = experiments.enqueue
        self.answer = experiments.answer
        self.experiment = experiments.experiment
        self.open_experiments = experiments.open_experiments
        self.launch_settings = experiments.launch_settings
        self.next_launch = experiments.next_launch
        self.open_launches = experiments.open_launches
        self.move = experiments.move
        self.start = experiments.start
        self.request_cancel = experiments.request_cancel
        self.cancel = experiments.cancel

        pause = Pause(database)
        self.paused_at = pause.paused_at
        self.pause = pause.pause
        self.resume = pause.resume

        starts = Starts(database)
        self.starts = starts.starts
        self.starts_of = starts.starts_of
        self.typical_s = starts.typical_s
        self.champion_replicates = starts.champion_replicates
        self.first_queued = starts.first_queued
        self.queued_champion_replicates = starts.queued_champion_replicates

        candidacies = Candidacies(database)
        self.candidacy = candidacies.candidacy
        self.open_candidacies = candidacies.open_candidacies
        self.candidacy_of = candidacies.candidacy_of
        self.trainings_of = candidacies.trainings_of
        self.open_trainings = candidacies.open_trainings
        self.move_candidacy = candidacies.move_candidacy

        sweeps = Sweeps(database)
        self.sweep = sweeps.sweep
        self.open_sweeps = sweeps.open_sweeps
        self.add_sweep = sweeps.add_sweep
        self.move_sweep = sweeps.move_sweep
        self.keep_trial = sweeps.keep_trial
        self.trials = sweeps.trials
        self.sweep_of = sweeps.sweep_of

        results = Results(database)
        self.ended = results.ended
        self.states = results.states
        self.ended_of = results.ended_of
        self.beside = results.beside
        self.recent = results.recent
        self.recent_of = results.recent_of
        self.scores = results.scores
        self.conditions_of = results.conditions_of
        self.finished_after = results.finished_after
        self.ended_after = results.ended_after
        self.counts = results.counts
        self.trained_since = results.trained_since
        self.recent_failures = results.recent_failures
        self.seconds_by_author = results.seconds_by_author

        standings = CommitStandings(database)
        self.standings = standings.standings
        self.best = standings.best
        self.crowd = standings.crowd
        self.spread = standings.spread
        self.newest_conditions = standings.newest_conditions
        self.recount = standings.recount

        evidence = Evidence(database)
        self.keep_evidence = evidence.keep_evidence
        self.same_models = evidence.same_models
        self.findings = evidence.findings

        claims = Claims(database)
        self.claims = claims.claims
        self.newest_claim = claims.newest_claim
        self.claim = claims.claim
        self.release_claim = claims.release_claim
        self.renew_claim = claims.renew_claim
        self.try_idea = claims.try_idea
        self.ideas_of = claims.ideas_of
        self.commits_of_ideas = claims.commits_of_ideas
        self.suggest = claims.suggest

        ideas = Ideas(database)
        self.know_ideas = ideas.know_ideas
        self.free_ideas = ideas.free_ideas
        self.work = ideas.work
        self.tags_of_commits = ideas.tags_of_commits
        self.tags_of_ideas = ideas.tags_of_ideas
        self.count_repetition = ideas.count_repetition
        self.repetitions = ideas.repetitions

        decisions = Decisions(database)
        self.keep_decision = decisions.keep_decision
        self.final_decision = decisions.final_decision
        self.decisions = decisions.decisions
        self.passing = decisions.passing
        self.undecided = decisions.undecided
        self.last_words = decisions.last_words
        self.levels_spent = decisions.levels_spent
        self.decided_since = decisions.decided_since

        curves = Curves(database)
        self.keep_curve = curves.keep_curve
        self.kept_curves = curves.kept_curves
        self.all_curves = curves.all_curves

        budget = Budget(database)
        self.spending = budget.spending
        self.money = budget.money
        self.use = budget.use
        self.unsettled = budget.unsettled
        self.settle_bill = budget.settle_bill

        outbox = Outbox(database)
        self.remember = outbox.remember
        self.import_records = outbox.import_records
        self.outbox = outbox.outbox
        self.unflushed = outbox.unflushed
        self.waiting_since = outbox.waiting_since
        self.settle = outbox.settle
        self.pending = outbox.pending

        promotions = Promotions(database)
        self.intend_promotion = promotions.intend_promotion
        self.confirm_promotion = promotions.confirm_promotion
        self.drop_promotion = promotions.drop_promotion
        self.promotions = promotions.promotions
        self.promotion_count = promotions.promotion_count
        self.champion_moves = promotions.champion_moves

        remarks = Remarks(database)
        self.remarks = remarks.remarks
        self.remarks_after = remarks.remarks_after
        self.withdrawn = remarks.withdrawn
        self.withdraw = remarks.withdraw
        self.restore = remarks.restore
        self.amend = remarks.amend

        news = News(database)
        self.newest_news = news.newest_news
        self.news_after = news.news_after
        self.has_news = news.has_news
        self.unheard = news.unheard

        looks = Looks(database)
        self.cursor = looks.cursor
        self.happened = looks.happened

        access = Access(database)
        self.add_token = access.add_token
        self.revoke_token = access.revoke_token
        self.tokens = access.tokens
        self.tokens_version = access.tokens_version
        self.record_change = access.record_change
        self.recorded_changes = access.recorded_changes

        alerts = Alerts(database)
        self.alerts_began = alerts.alerts_began
        self.has_alert = alerts.has_alert
        self.add_alert = alerts.add_alert
        self.take_deliveries = alerts.take_deliveries
        self.waiting_deliveries = alerts.waiting_deliveries
        self.delivered = alerts.delivered
        self.postpone_delivery = alerts.postpone_delivery

        traces = Traces(database)
        self.keep_trace = traces.keep_trace
        self.trace_of = traces.trace_of
