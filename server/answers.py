"""The answers of the lab's use cases: small models that become the tools' structured output."""

from typing import Annotated, Any, Literal

from pydantic import Field

from autoresearch_mcp.server.models import UNLISTED, Experiment, ExperimentState, Failure, Memory, Model, SweepState, Verdict
from autoresearch_mcp.server.search_answers import Direction as Direction
from autoresearch_mcp.server.search_answers import SearchState as SearchState
from autoresearch_mcp.server.search_answers import SearchStateName as SearchStateName
from autoresearch_mcp.server.search_answers import ShareLeft as ShareLeft


class ExperimentLine(Model):
    """An experiment in one line, as lists and waits show it."""

    id: str
    commit: str
    state: ExperimentState
    val_bpb: float | None = None
    reported_bpb: float | None = Field(default=None, json_schema_extra=UNLISTED)
    seed: int | None = Field(default=None, json_schema_extra=UNLISTED)
    device: str = Field(default="", json_schema_extra=UNLISTED)
    author: str = Field(json_schema_extra=UNLISTED)
    hypothesis: str = Field(json_schema_extra=UNLISTED)
    progress: float | None = Field(
        default=None, description="share of the training budget used, 0 to 1, while it runs", json_schema_extra=UNLISTED
    )
    position: int | None = Field(default=None, description="in the queue, from 1", json_schema_extra=UNLISTED)
    done_in_s: int | None = Field(default=None, description="until it has ended, about", json_schema_extra=UNLISTED)
    pace: str | None = Field(default=None, exclude=True, description="as in `ExperimentAnswer`; lists tell it in their notes")
    failure: str | None = Field(default=None, description="class and message, when it did not finish")
    disturbed: str = Field(default="", description="by how much its steps fall out of its commit's own", json_schema_extra=UNLISTED)

    @classmethod
    def of(cls, experiment: Experiment, progress: float | None = None, pace: str | None = None) -> "ExperimentLine":
        """Return an experiment's line.

        Args:
            experiment: which.
            progress: the share of the training budget that it has used, while it runs.
            pace: where its loss is against the champion's, in words.
        """
        failure = experiment.failure
        return cls(
            id=experiment.id,
            commit=experiment.commit,
            state=experiment.state,
            val_bpb=experiment.val_bpb,
            reported_bpb=experiment.reported_bpb,
            seed=experiment.seed,
            device=experiment.device,
            author=experiment.author,
            hypothesis=experiment.hypothesis[:160],
            progress=progress,
            pace=pace,
            failure=f"{failure.kind}: {failure.message[:160]}" if failure else None,
        )


class Outcome(Model):
    """What became of an experiment of a commit that the reader knows."""

    id: str
    state: ExperimentState
    val_bpb: float | None = None
    reported_bpb: float | None = Field(default=None, json_schema_extra=UNLISTED)
    device: str = Field(json_schema_extra=UNLISTED)
    failure: str | None = Field(default=None, description="class and message, when it did not finish", json_schema_extra=UNLISTED)


class Summary(Model):
    """The metric of a commit over its replicates."""

    commit: str
    n: int
    mean: float | None = None
    sd: float | None = Field(default=None, json_schema_extra=UNLISTED)
    reported: bool | None = Field(
        default=None,
        description="true: the code printed it, and nobody verified it; else the scorer measured it",
        json_schema_extra=UNLISTED,
    )


class Leader(Summary):
    """A commit of the leaderboard. Its gain on the champion is positive where it is better."""

    gain: float | None = Field(default=None, description="its likely gain on the champion, with the luck of being among the best taken off")
    gain_low: float | None = Field(default=None, description="lower end of the 95 % interval of the gain", json_schema_extra=UNLISTED)
    gain_high: float | None = Field(default=None, description="upper end", json_schema_extra=UNLISTED)
    p_better: float | None = Field(
        default=None, description="chance that it is better than the champion at all", json_schema_extra=UNLISTED
    )
    mark: Literal["", "champion", "decided", "open", "futile"] = Field(default="open", json_schema_extra=UNLISTED)
    why: str = Field(default="", description="why it is no champion, or may be none", json_schema_extra=UNLISTED)


class Money(Model):
    """USD, where devices are rented. Spent is elapsed x rate, until the provider's number is known."""

    total: float
    spent: float
    running: float
    reserved: float
    left: float
    last_hour: float
    by_agent: dict[str, float]


class Budget(Model):
    """Device seconds of the whole lab."""

    total_s: float = Field(json_schema_extra=UNLISTED)
    spent_s: float
    reserved_s: float = Field(json_schema_extra=UNLISTED)
    left_s: float
    usd: Money | None = Field(default=None, json_schema_extra=UNLISTED)


class TrainingCost(Model):
    """What one more training takes, and how many the budget allows."""

    typical_s: float | None = Field(default=None, description="mean of the last ones like it, from start to end")
    reserves_s: float = Field(description="the most that one can use; held back from its start to its end")
    slots: int = Field(description="trainings that run at once")
    left: int = Field(description="how many more the budget allows")
    queue_s: float | None = Field(default=None, description="until the queue is empty, about", json_schema_extra=UNLISTED)
    limits: str


class Range(Model):
    """Where a constant may lie in a sweep."""

    low: float | None = None
    high: float | None = None
    log: bool | None = None
    choices: Annotated[list[str], Field(min_length=2, max_length=64)] | None = None


class SweepLine(Model):
    """A sweep with its best trial so far. One trial shows little: only the gate can say that it is better."""

    id: str
    commit: str
    author: str = Field(json_schema_extra=UNLISTED)
    state: SweepState
    ended: int
    failed: int = Field(json_schema_extra=UNLISTED)
    running: int = Field(json_schema_extra=UNLISTED)
    left: int
    best: float | None = None
    best_commit: str | None = None
    best_values: dict[str, str] = Field(default={}, json_schema_extra=UNLISTED)
    importances: dict[str, float] = Field(
        default={}, description="share of the metric's variation that each constant explains, from 20 trials on", json_schema_extra=UNLISTED
    )
    note: str = Field(default="", json_schema_extra=UNLISTED)


class SweepAnswer(Model):
    """The sweep that a launch began."""

    id: str
    repeated: bool = Field(json_schema_extra=UNLISTED)
    sweep: SweepLine = Field(json_schema_extra=UNLISTED)
    note: str


class OpenLaunch(Model):
    """A launch until decided that goes on."""

    id: str
    commit: str
    author: str
    n: int = Field(description="replicates that ended")
    verdict: str = Field(description="the gate's, so far; empty before the first")
    position: int = Field(description="among those that are open; the first 8 take turns")


class StatusAnswer(Model):
    """The lab at a glance."""

    lab: str = Field(json_schema_extra=UNLISTED)
    metric: str = Field(description="what is compared, and who measured it")
    champion: Summary
    noise_sd: float | None = Field(description="pooled standard deviation of val_bpb between replicates of one commit")
    noise_nu: int = Field(default=0, description="degrees of freedom of that: how surely it is known", json_schema_extra=UNLISTED)
    drift: float | None = Field(
        default=None, description="of the champion in time; from 1 on the machine is unsteady (see warnings)", json_schema_extra=UNLISTED
    )
    steps_sd: float | None = Field(
        default=None, description="standard deviation of the steps that equal code makes, as a share", json_schema_extra=UNLISTED
    )
    expected_false_promotions: float = Field(
        default=0.0,
        description="how many candidates that are no better are promoted so far, at most, on average: the levels that the gate spent",
        json_schema_extra=UNLISTED,
    )
    counts: dict[str, int] = Field(description="experiments by state", json_schema_extra=UNLISTED)
    running: list[ExperimentLine] = Field(json_schema_extra=UNLISTED)
    queued: list[ExperimentLine] = Field(json_schema_extra=UNLISTED)
    open: list[OpenLaunch] = Field(default=[], description="launches until decided: the first 8", json_schema_extra=UNLISTED)
    sweeps: list[SweepLine] = Field(default=[], json_schema_extra=UNLISTED)
    recent: list[ExperimentLine] = Field(description="latest ended, newest first", json_schema_extra=UNLISTED)
    leaderboard: list[Leader] = Field(description="best commits by likely gain on the champion; the mean is the raw one")
    budget: Budget
    training: TrainingCost | None = Field(default=None, json_schema_extra=UNLISTED)
    cost_by_author: dict[str, float] = Field(default={}, description="device seconds that ended", json_schema_extra=UNLISTED)
    promotions: int = Field(json_schema_extra=UNLISTED)
    unflushed: int = Field(description="records acknowledged and durable here, not yet in the shared log", json_schema_extra=UNLISTED)
    runner: bool = Field(description="whether the runner process is alive; it starts on demand", json_schema_extra=UNLISTED)
    search: SearchState | None = Field(default=None, json_schema_extra=UNLISTED)
    share: ShareLeft | None = Field(default=None, json_schema_extra=UNLISTED)
    directions: list[Direction] = Field(
        default=[], description="by the tags of ideas, the latest activity first", json_schema_extra=UNLISTED
    )
    cursor: str = Field(default="", description="place in what happened, for `since`", json_schema_extra=UNLISTED)
    news: list[str] = Field(default=[], description="what happened since, the newest first", json_schema_extra=UNLISTED)
    warnings: list[str]
    next: list[str] = Field(description="what to do next")


class FileAnswer(Model):
    """Lines of a file at a commit."""

    path: str
    commit: str
    text: str
    lines: int = Field(description="lines in the whole file")
    first_line: int
    truncated: bool
    cut: bool = Field(default=False, description="whether the one line in `text` is longer than can be shown")
    editable: bool
    files: list[str] = Field(description="the paths at this commit, at most 200, without those that are about agents and clients")
    in_force: bool = Field(default=False, description="whether it is lab.toml as it is in force, not as it is at the commit")


class SimilarProposal(Model):
    """An earlier proposal that resembles an idea."""

    commit: str
    author: str = Field(json_schema_extra=UNLISTED)
    hypothesis: str
    likeness: float = Field(description="0 to 1: of the hypotheses' words or meaning", json_schema_extra=UNLISTED)
    ended: int = Field(description="replicates that have ended", json_schema_extra=UNLISTED)
    mean_val_bpb: float | None = Field(default=None, json_schema_extra=UNLISTED)


class ProposalAnswer(Model):
    """A proposal, new or made before, and what `launch` queued of it."""

    commit: str
    title: str = Field(json_schema_extra=UNLISTED)
    base: str
    duplicate: bool = Field(
        description="true: this code was proposed before; commit, author and results are the twin's", json_schema_extra=UNLISTED
    )
    diff_stat: str = Field(json_schema_extra=UNLISTED)
    diff: str = Field(description="against the base; at most 2 KB", json_schema_extra=UNLISTED)
    hypothesis: str = Field(json_schema_extra=UNLISTED)
    author: str = Field(json_schema_extra=UNLISTED)
    results: list[Outcome]
    launched: list[ExperimentLine] = Field(default=[], json_schema_extra=UNLISTED)
    similar: list[SimilarProposal] = []
    note: str


class LaunchAnswer(Model):
    """The experiments that a launch queued."""

    experiments: list[str]
    seeds: list[int] = Field(json_schema_extra=UNLISTED)
    commit: str
    repeated: bool = Field(
        description="true: it was launched before, such as under this idempotency_key; nothing new was queued", json_schema_extra=UNLISTED
    )
    until_decided: str | None = Field(default=None, description="id to wait for and to cancel, of a launch until decided")
    reserved_s: float = Field(json_schema_extra=UNLISTED)
    budget_left_s: float = Field(json_schema_extra=UNLISTED)
    note: str


class WaitAnswer(Model):
    """Where the experiments are after a wait."""

    done: bool
    experiments: list[ExperimentLine]
    changed: list[str] = Field(description="`id: old -> new` for every change seen during this call")
    note: str


class ExperimentAnswer(Model):
    """All that is known of one experiment, or several side by side."""

    experiment: ExperimentLine | None = None
    sweep: SweepLine | None = Field(default=None, json_schema_extra=UNLISTED)
    against_champion: str = Field(default="", description="where its commit stands, in a sentence")
    pace: str | None = Field(
        default=None,
        description="while it runs: its reported loss against the champion's runs at the same share, and the chance to beat them",
        json_schema_extra=UNLISTED,
    )
    steps: int | None = Field(default=None, description="as the training code reports them", json_schema_extra=UNLISTED)
    cpu_share: float | None = Field(default=None, description="share of the device's time that it got", json_schema_extra=UNLISTED)
    used: str = Field(default="", description="how much of each limit", json_schema_extra=UNLISTED)
    disturbed: str = Field(default="", description="by how much its steps fall out of its commit's own", json_schema_extra=UNLISTED)
    base: str = Field(default="", json_schema_extra=UNLISTED)
    remarks: list[str] = Field(default=[], description="on its proposal, made later", json_schema_extra=UNLISTED)
    tags: list[str] = Field(default=[], json_schema_extra=UNLISTED)
    attempt: int | None = Field(default=None, json_schema_extra=UNLISTED)
    cost_s: float = 0.0
    cost_usd: float | None = Field(default=None, json_schema_extra=UNLISTED)
    created_at: float | None = Field(default=None, json_schema_extra=UNLISTED)
    started_at: float | None = Field(default=None, json_schema_extra=UNLISTED)
    finished_at: float | None = Field(default=None, json_schema_extra=UNLISTED)
    curve: list[tuple[float, float]] = Field(default=[], json_schema_extra=UNLISTED)
    details: dict[str, Any] = Field(default={}, json_schema_extra=UNLISTED)
    failure: Failure | None = None
    log_tail: str = Field(default="", json_schema_extra=UNLISTED)
    diff: str = Field(default="", json_schema_extra=UNLISTED)
    rows: list[dict[str, Any]] = Field(default=[], description="one each, where several were asked for")


class CancelAnswer(Model):
    """What a cancellation did."""

    states: dict[str, str] = Field(default={}, description="by id, of experiments and launches until decided", json_schema_extra=UNLISTED)
    commit: str | None = Field(default=None, description="of a proposal that was withdrawn", json_schema_extra=UNLISTED)
    freed_s: float = Field(default=0.0, description="device seconds that came back to the budget, about")
    note: str


class QueryAnswer(Model):
    """A page of rows."""

    rows: list[dict[str, Any]]
    matched: int | None = Field(
        default=None, description="rows that matched in all; null where it was not counted", json_schema_extra=UNLISTED
    )
    next_cursor: str | None = None
    note: str = ""


class MemoryAnswer(Model):
    """The id of a new memory."""

    id: str
    note: str


class MemoryHit(Memory):
    """A memory that a search returned."""

    score: float = Field(json_schema_extra=UNLISTED)
    superseded_by: list[str] = Field(default=[], json_schema_extra=UNLISTED)
    contradicted_by: list[str] = Field(default=[], json_schema_extra=UNLISTED)
    why: str = Field(default="", description="why it stands where it does in the backlog", json_schema_extra=UNLISTED)


class FreeIdea(Model):
    """An idea that anybody can begin with."""

    id: str
    text: str
    why: str = Field(json_schema_extra=UNLISTED)


class ClaimAnswer(Model):
    """Whether an idea is the caller's now; if not, what became of it, and what is free."""

    claimed: bool
    id: str = Field(description="of the idea; empty where a new one was refused")
    text: str = Field(json_schema_extra=UNLISTED)
    free: list[FreeIdea] = Field(default=[], description="the three best instead")
    similar: list[SimilarProposal] = Field(default=[], json_schema_extra=UNLISTED)
    note: str


class SearchAnswer(Model):
    """What a search returned."""

    memories: list[MemoryHit]
    ranking: str = Field(json_schema_extra=UNLISTED)
    proposed: list[SimilarProposal] = Field(default=[], description="earlier proposals whose hypothesis resembles the query")
    note: str = ""


class PromoteAnswer(Model):
    """What the gate said, and the champion now."""

    promoted: bool
    champion: str
    previous: str | None = None
    verdict: Verdict
    retrain: str | None = Field(
        default=None, description="where the champion moved meanwhile: the change rebased onto it; train this commit, then promote it"
    )
    verdict_of: str = Field(
        default="", description="the commit whose numbers the verdict holds, where it is another: `retrain`", json_schema_extra=UNLISTED
    )
    verdict_against: str = Field(
        default="",
        description="what these were compared with, where the champion moved; the verdict's champion_mean is of that",
        json_schema_extra=UNLISTED,
    )
    note: str


class ProgressPicture(Model):
    """A PNG and the same facts as text."""

    png: bytes
    text: str
