"""The gate's answer to who asks for a promotion, with what is under way for it and what more replicates would cost."""

from collections.abc import Callable

from autoresearch_mcp.server import answers as a
from autoresearch_mcp.server.gate.promotion import Promoter
from autoresearch_mcp.server.lab.alerting import Alerting
from autoresearch_mcp.server.lab.core import LabCore
from autoresearch_mcp.server.lab.status import LabStatus
from autoresearch_mcp.server.models import ACTIVE_STATES, Verdict

_OPEN = ("continue", "champion", "stale_base")  # verdicts after which a launch until decided goes on


class Verdicts:
    """Asks the gate, and moves the champion. Thread-safe: it keeps nothing between calls.

    Args:
        core: the lab's stores.
        status: knows what is queued, and what a training takes.
        promoter: returns the gate and the champion's ref, under the settings of now.
        alerting: tells people that a promotion waits for them.
    """

    def __init__(self, core: LabCore, status: LabStatus, promoter: Callable[[], Promoter], alerting: Alerting) -> None:
        self._core = core
        self._status = status
        self._promoter = promoter
        self._alerting = alerting

    def promote_commit(self, commit: str, author: str, approved_by: str | None = None, confirm: bool = False) -> a.PromoteAnswer:
        """Ask the gate, and move the champion if it says yes.

        Args:
            commit: the candidate.
            author: who asks.
            approved_by: who said yes, where lab.toml wants a person's approval.
            confirm: whether a commit on an old base may replace the champion as it is.

        Raises:
            LabError: `not_a_proposal`, and the repository's own.
        """
        sha = self._core.commit(commit)
        answer = self._promoter().promote(sha, author, approved_by, confirm)
        self._core.wake()
        if answer.verdict.code == "awaiting_approval":
            self._alerting.approval_wanted(sha, answer.champion, author, answer.verdict.reason)
        if answer.promoted or answer.verdict.final or answer.verdict.code not in _OPEN:
            return answer
        following = self._following(answer.retrain or sha, answer.verdict)
        verdict = answer.verdict.model_copy(update={"next": following})
        return answer.model_copy(update={"verdict": verdict, "note": f"Not promoted. {verdict.reason} {following}"})

    def _following(self, commit: str, verdict: Verdict) -> str:
        """Say what happens next: what is under way, or what a launch would cost."""
        ledger, settings = self._core.ledger, self._core.settings
        everything = ledger.open_experiments()
        ahead = self._status.forecast(everything)
        open_ = [e for e in everything if e.commit == commit and not e.reproduces]
        candidacy = ledger.candidacy_of(commit)
        goes_on = candidacy.id if candidacy is not None and candidacy.state == "open" else ""
        if open_:
            running = sum(e.state in ACTIVE_STATES for e in open_)
            last = ahead.last_s([e.id for e in open_])
            done = f", done in about {last:.0f} s" if last is not None else ""
            of_it = f"{running} running and {len(open_) - running} queued of it{done}: wait, then ask again."
            return f"{of_it} {goes_on} goes on until it is decided." if goes_on else of_it
        if goes_on:
            return f"{verdict.next} The lab sees to it: {goes_on} goes on until it is decided."
        step = f"launch_training(commit={commit[:12]!r}, until='decided') goes on with it"
        if ahead.each_s is None:
            return f"{verdict.next} {step}."
        more = max(1, settings.promotion.max_replicates - verdict.n)
        minutes = more * ahead.each_s / settings.slots / 60
        return f"{verdict.next} {step}: {ahead.each_s:.0f} s a replicate; {more} more, the most that count, take {minutes:.1f} min here."
