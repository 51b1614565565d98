"""The lab's nouns as pydantic models: they cross the wire, and they are stored.

Times are seconds since the epoch, UTC. Metrics are validation bits per byte (`val_bpb`), lower is better.
"""

import math
import os
import threading
import time
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

ProposalKind = Literal["candidate", "measurement"]  # a measurement is trained and shown, and never promoted
Table = Literal["experiments", "memories", "promotions"]
ExperimentState = Literal["queued", "starting", "running", "scoring", "finished", "crashed", "timed_out", "stopped_early", "cancelled"]
Fault = Literal["code", "scorer", "machine", "cancel"]
Phase = Literal["starting", "running", "scoring"]
MemoryKind = Literal["finding", "failure", "idea", "insight"]
SweepState = Literal["open", "done", "cancelled", "stopped"]
Sampler = Literal["tpe", "cmaes", "random", "grid"]
CandidacyState = Literal["open", "decided", "cancelled", "out_of_budget", "stopped"]
Metric = Literal["verified", "reported"]  # measured by the scorer; printed by the training code itself

ACTIVE_STATES: tuple[ExperimentState, ...] = ("starting", "running", "scoring")
TERMINAL_STATES: tuple[ExperimentState, ...] = ("finished", "crashed", "timed_out", "stopped_early", "cancelled")

# Who cancelled, where no agent did: the owner, the lab at its cap, or a pause, after which it waits again
OWNER, BUDGET, PAUSE = "[owner]", "[budget]", "[pause]"
UNLISTED: dict[str, Any] = {
    "unlisted": True
}  # extra of a field that answers hold and no output schema names: every agent pays for each name
IMPORTED = "imported"  # tag of records that another lab made: they count nowhere here

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_turn, _newest = threading.Lock(), 0


def new_id(prefix: str) -> str:
    """Return a short id that sorts by time. We make ids ourselves, so that a retried write is harmless.

    Returns:
        The prefix, then 9 characters of milliseconds and 6 random ones (30 bits).
    """
    global _newest
    fresh = (time.time_ns() // 1_000_000 << 30) | int.from_bytes(os.urandom(4), "big") >> 2
    with _turn:
        _newest = value = max(fresh, _newest + 1)  # in one process never the same twice, however many a millisecond
    return f"{prefix}-" + "".join(_ALPHABET[value >> shift & 31] for shift in range(70, -1, -5))


class Model(BaseModel):
    """Base of all models. Unknown fields are an error, so a typo or a newer writer is noticed. Built when first used: a server starts sooner."""

    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="strings", defer_build=True)  # NaN and inf survive as strict JSON


class Failure(Model):
    """Why an experiment did not finish, in a class that an agent can act on."""

    kind: str = Field(
        description="oom, nan, diverged, shape_error, import_error, syntax_error, timeout, killed, invalid_model, sandbox_violation, lost, hopeless, "
        "over_budget or error"
    )
    message: str
    lines: list[str] = Field(default=[], description="the few log lines that explain it", json_schema_extra=UNLISTED)
    advice: str = Field(default="", json_schema_extra=UNLISTED)


class Proposal(Model):
    """A commit made by `propose_patch`: a change to editable files, with a hypothesis."""

    commit: str
    base: str
    fingerprint: str = Field(description="hash of the resulting editable files, equal for code that differs in comments and layout only")
    author: str
    hypothesis: str
    title: str = Field(default="", description="its hypothesis in a few words, for where there is no room; empty in records of before")
    tags: list[str] = []
    files_changed: int
    insertions: int
    deletions: int
    created_at: float
    sets: dict[str, str] = Field(default={}, description="constants that it gives another value, by name; none in records of before")
    change: str = Field(default="", description="hash of the lines that it adds and removes; empty in records of before")
    ported_from: str = Field(default="", description="the proposal whose change this is on another base")
    novelty: float | None = Field(
        default=None, description="how far it was from all before it, 0 to 1; None for what was ported or swept, and in records of before"
    )
    added: int = Field(default=0, description="bytes of new information that the source holds beyond the lab's first one, compressed")


class Circumstances(Model):
    """How a training went, and whose a failure was: for telling its machine from its code.

    The launcher and the runner saw all of it by themselves, except for `steps`, which the training code reports and may forge.
    """

    steps: int | None = Field(default=None, description="the last step that the training code reported: a hint, never evidence")
    cpu_share: float | None = Field(default=None, description="CPU seconds used / (wall seconds * threads), from start() to submit()")
    window_s: float | None = Field(default=None, description="wall seconds from start() to submit()")
    pressure: float | None = Field(default=None, description="share of the window in which something on the machine waited for a core")
    metrics: dict[str, float] = Field(
        default={}, description="further numbers: what the code printed, and `peak_memory_mb` and `train_s`, which the lab measured"
    )
    host: str = Field(default="", description="tells machines apart: a hash of the node's name, or what the provider tells of the place")
    device_id: str = Field(default="", description="of the GPU, as its driver says")
    beside: list[str] = Field(default=[], description="experiments that held a slot of the same machine at some time of it, at most 64")
    fault: Fault | None = Field(default=None, description="whose a failure was; None without one, and for records of before")
    barred: bool = Field(
        default=False, description="a check of its model failed: it looks ahead, keeps state or mixes rows. It bars what is built on it"
    )
    ended_in: Phase | None = Field(default=None, description="the phase in which it ended")
    cancelled_by: str = Field(default="", description="who asked to cancel it; `[owner]` on the command line, `[budget]` at the lab's cap")
    cancelled_running: bool = Field(default=False, description="it was cancelled after it had left the queue, so by what it had shown")


class Experiment(Circumstances):
    """One training of one commit with one seed on one kind of device."""

    id: str
    commit: str
    base: str = Field(description="the commit that the proposal changed; the commit itself for a champion's replicate")
    author: str
    hypothesis: str
    tags: list[str] = []
    seed: int
    state: ExperimentState = "queued"
    attempt: int = 0
    losses: int = Field(
        default=0, description="attempts that vanished without a result; one that never began, because its runner died, is no attempt"
    )
    device: str = Field(description="kind of device, such as cpu or h100")
    created_at: float
    started_at: float | None = None
    finished_at: float | None = None
    cancel_requested: bool = False
    by_lab: bool = Field(
        default=False, description="the lab launched it as a replicate of the champion: only those stand for the champion at the gate"
    )
    candidacy: str = Field(default="", description="the launch until decided that it belongs to")
    reproduces: str = Field(default="", description="the experiment of which this is a second run with the same seed: it is no evidence")
    reserved_s: float = Field(description="the most device seconds that an attempt can use: held back from its start to its end")
    expected_s: float = Field(default=0.0, description="what trainings like it have cost: held back while it waits; 0: the most, as before")
    cost_s: float = Field(default=0.0, description="device seconds used")
    reserved_usd: float = Field(default=0.0, description="the most that an attempt can cost: held back from its start to its end")
    cost_usd: float = Field(
        default=0.0, description="device seconds times the rate; the budget counts the provider's number once it is known"
    )
    val_bpb: float | None = Field(default=None, description="verified: measured by the scorer")
    reported_bpb: float | None = Field(default=None, description="what the training code printed; never trusted")
    conditions: str = Field(default="", description="hash of all that must be equal for two metrics to be compared")
    failure: Failure | None = None
    details: dict[str, Any] = Field(default={}, description="the launcher's result: hashes, versions, steps, tokens, timings")
    curve: list[tuple[float, float]] = Field(default=[], description="digest of the loss curve: (share of budget, training loss)")
    log_tail: str = ""
    version: int = Field(default=0, description="grows with every change; the newest version of a row wins")

    @property
    def terminal(self) -> bool:
        """Whether it has ended."""
        return self.state in TERMINAL_STATES

    @property
    def held_s(self) -> float:
        """Device seconds that the budget holds back for it now, besides what is spent."""
        next_ = self.expected_s or self.reserved_s if self.state == "queued" else self.reserved_s
        return 0.0 if self.terminal else self.cost_s + next_

    @property
    def metric(self) -> float | None:
        """The metric by which it is compared. See `_metric`."""
        return _metric(self)


class Candidacy(Model):
    """A launch with `until="decided"`: the lab trains a commit, one replicate at a time, until the gate decides."""

    id: str
    commit: str = Field(description="what is trained; another commit once the champion moved and the change was rebased")
    author: str
    tags: list[str] = []
    device: str
    max_replicates: int
    budget: float | None = Field(default=None, description="the most it may use: device hours, or USD where devices are rented")
    state: CandidacyState = "open"
    verdict: str = Field(default="", description="the gate's last answer, in one word")
    note: str = Field(default="", description="the gate's last answer, or why it ended, in sentences")
    replicates: int = Field(default=0, description="launched of this commit under these settings")
    settings: str = Field(default="", description="hash of the settings of the last launch")
    spent_s: float = Field(default=0.0, description="device seconds of its replicates that ended")
    spent_usd: float = 0.0
    created_at: float
    ended_at: float | None = None
    version: int = 0


class SweepParameter(Model):
    """A constant that a sweep varies: over a range, or over some values."""

    path: str = Field(description="the file that it stands in")
    now: str = Field(description="its value at the sweep's commit, as it is written")
    low: float | None = None
    high: float | None = None
    log: bool = False
    whole: bool = Field(default=False, description="whole numbers only")
    choices: list[str] = Field(default=[], description="the values as code, instead of a range")


class Sweep(Model):
    """A search over constants of one commit: many trials, each an ordinary proposal and experiment."""

    id: str
    commit: str
    author: str
    parameters: dict[str, SweepParameter]
    trials: int
    parallel: int
    sampler: Sampler
    tags: list[str] = []
    seed: int
    state: SweepState = "open"
    note: str = Field(default="", description="why it ended, in a sentence")
    importances: dict[str, float] = Field(default={}, description="share of the metric's variation that each constant explains")
    weighed: int = Field(default=0, description="trials that had finished when the importances were reckoned")
    created_at: float
    ended_at: float | None = None
    version: int = 0


class Trial(Model):
    """One point of a sweep."""

    sweep: str
    number: int = Field(description="from 0")
    values: dict[str, str] = Field(description="of each constant, as code")
    commit: str = Field(default="", description="empty where no proposal could be made of it")
    experiment: str = Field(default="", description="that measures it; may be an earlier one of the same code")
    note: str = Field(default="", description="why there is no experiment")
    attrs: dict[str, Any] = Field(default={}, description="what the sampler wants to find again")


class Memory(Model):
    """An append-only note by an agent."""

    id: str
    kind: MemoryKind
    text: str
    author: str
    tags: list[str] = Field(default=[], json_schema_extra=UNLISTED)
    experiments: list[str] = Field(default=[], json_schema_extra=UNLISTED)
    commits: list[str] = Field(default=[], json_schema_extra=UNLISTED)
    supersedes: list[str] = Field(default=[], json_schema_extra=UNLISTED)
    contradicts: list[str] = Field(default=[], json_schema_extra=UNLISTED)
    created_at: float = Field(json_schema_extra=UNLISTED)
    version: int = 1


class Promotion(Model):
    """The champion moved forward, with the evidence that the gate saw."""

    id: str
    commit: str
    previous: str
    author: str
    approved_by: str = Field(description="`policy` where lab.toml asks for no approval, else who said yes")
    verdict: dict[str, Any]
    created_at: float
    version: int = 1

    @property
    def is_demotion(self) -> bool:
        """Whether the owner took a promotion back: `commit` is the champion of before."""
        return self.verdict.get("code") == "demoted"

    @property
    def is_adoption(self) -> bool:
        """Whether the owner made a commit of their own the champion."""
        return self.verdict.get("code") == "adopted"


def _metric(e: "Experiment | Score") -> float | None:
    """Return the metric by which an experiment that finished is compared.

    Returns:
        The verified one; where only the code's own word was asked for, the reported one; None if there is none.
    """
    value = e.reported_bpb if e.val_bpb is None else e.val_bpb
    return value if e.state == "finished" and value is not None and math.isfinite(value) else None


Record = Experiment | Memory | Promotion


class Score(Circumstances):
    """One replicate of a commit that left the queue for good: the evidence that the gate reads."""

    experiment: str
    commit: str
    conditions: str
    device: str
    state: ExperimentState
    val_bpb: float | None
    reported_bpb: float | None = None
    seed: int = 0
    author: str = ""
    started: bool
    created_at: float | None = Field(default=None, description="when it was queued; None for records of before")
    started_at: float | None = Field(default=None, description="when its last attempt began")
    launch: int = Field(default=0, description="its place in the order of all launches of the lab; 0 for one of an older lab")
    by_lab: bool = Field(default=False, description="launched by the lab as a replicate of the champion: only those stand for it")
    finished_at: float
    confined: bool = True  # trained in a sandbox
    test_bpb: float | None = Field(default=None, description="on the hidden split: for the gate and the owner, never for an agent")
    weights: str | None = Field(default=None, description="hash of what was submitted")
    answers: str | None = Field(default=None, description="hash of what the model answered on both splits")

    @property
    def metric(self) -> float | None:
        """The metric by which it is compared. See `_metric`."""
        return _metric(self)


class Verdict(Model):
    """The gate's answer on a candidate against the champion, with its numbers. It holds no number of the hidden split.

    Gains are in the metric's unit, and positive is better.
    """

    promote: bool = Field(json_schema_extra=UNLISTED)
    code: Literal[
        "promote",
        "continue",
        "futile",
        "not_confirmed",
        "champion",
        "guard",
        "barred",
        "near_copy",
        "unsandboxed",
        "reported",
        "is_champion",
        "already_in",
        "stale_base",
        "awaiting_approval",
    ] = Field(
        description="`continue`: open, train more replicates; `futile`: drop it; `not_confirmed`: not on the hidden split; `champion`: "
        "the lab trains the champion first; `guard`: a guarded metric got worse; `barred`: it failed its scoring; `near_copy`: of a commit "
        "that was launched before"
    )
    reason: str
    next: str = Field(default="", description="what happens next")
    final: bool = Field(default=False, description="it stays so until the champion or the conditions change", json_schema_extra=UNLISTED)
    metric: Metric = Field(default="verified", json_schema_extra=UNLISTED)
    n: int = Field(default=0, description="replicates of the candidate that count")
    m: int = Field(default=0, description="fresh replicates of the champion that count", json_schema_extra=UNLISTED)
    candidate_mean: float | None = Field(default=None, json_schema_extra=UNLISTED)
    champion_mean: float | None = Field(default=None, json_schema_extra=UNLISTED)
    gain: float | None = Field(default=None, description="of the means; positive is better")
    se: float | None = Field(default=None, description="standard error of the gain", json_schema_extra=UNLISTED)
    gain_sd: float | None = Field(
        default=None, description="the gain in standard deviations between replicates", json_schema_extra=UNLISTED
    )
    p: float | None = Field(default=None, description="chance of such a gain by luck, at one look", json_schema_extra=UNLISTED)
    needed_gain: float | None = Field(default=None, description="what would promote with these replicates", json_schema_extra=UNLISTED)
    noise: float | None = Field(default=None, description="standard deviation between replicates of one commit", json_schema_extra=UNLISTED)
    nu: int = Field(default=0, description="degrees of freedom of the noise", json_schema_extra=UNLISTED)
    level: float = Field(default=0.005, json_schema_extra=UNLISTED)
