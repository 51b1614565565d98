"""The promotion gate: whether a commit is better than the champion by more than luck, with reasons.

- It compares metrics that the lab accepts, under equal conditions only (see `evidence`).
- It lets nobody choose what counts (see `attempts`).
- It applies the rule (see `rule`), which may be asked any number of times.
- What validation shows must be there on a hidden split, of which no agent sees a number. Every refusal of that kind tells one bit of
  the split. It costs a candidate that beats the champion on validation, and it is final, so a campaign learns little.

What the level means: the chance that a candidate that is no better is ever promoted, over all looks at it. Of 100 such candidates
about 0.3 pass at the default level of 0.005, because hopeless ones are dropped early (`tests/bench/gate.py`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from autoresearch_mcp.server.gate.attempts import bars, failures, is_failure, owed_seeds, was_started, without_repeated
from autoresearch_mcp.server.gate.boundary import N_MIN
from autoresearch_mcp.server.gate.evidence import BY_SETTING, counted, in_order_of_launch, metrics, uncounted
from autoresearch_mcp.server.gate.guards import check
from autoresearch_mcp.server.gate.noise import Others, listed, pool, sums_of_squares
from autoresearch_mcp.server.gate.rule import Decision, Rules, Run, decide, window
from autoresearch_mcp.server.gate.spread import mean
from autoresearch_mcp.server.goal import gain
from autoresearch_mcp.server.models import Metric, Score, Verdict
from autoresearch_mcp.server.settings import MetricSection, PromotionSection

WITHIN_NOISE = 2.0  # standard errors of a gain that may well be none
DEAD = 3  # attempts of a champion that all failed, after which what finishes may replace it


@dataclass(frozen=True)
class Evidence:
    """What counts on both sides.

    Attributes:
        conditions: under which the two are compared; empty where neither was measured.
        runs: the candidate's, in order of their starts; failures count as the worst value of either side.
        scores: its finished replicates among them.
        champion: the champion's fresh replicates that count.
        failures: how many of `runs` failed.
        owed: seeds of the candidate that must be trained again before it can be promoted.
        again: seeds of the candidate and of the champion that were set aside, and should be trained again.
        champion_died: whether the champion never finishes.
        champion_fixed: whether it submits the same model whatever its seed, so that it never has a second measurement.
    """

    conditions: str
    runs: Sequence[Run]
    scores: Sequence[Score]
    champion: Sequence[Score]
    failures: int
    owed: Sequence[int]
    again: tuple[Sequence[int], Sequence[int]]
    champion_died: bool
    champion_fixed: bool


def judge(
    candidate: Sequence[Score],
    champion: Sequence[Score],
    section: PromotionSection,
    reference: str = "cpu",
    spreads: Callable[[str], Others] | None = None,
    running: int = 0,
) -> Verdict:
    """Judge a commit by every attempt of both sides that left the queue for good.

    Args:
        candidate: its attempts, under this champion; those of near-copies are its own.
        champion: the champion's attempts. Only those that the lab launched itself count.
        section: the lab's rules.
        reference: the kind of device whose results are compared.
        spreads: returns the spreads of all other commits under some conditions; by default only the candidate's own is known.
        running: replicates of the candidate that are being trained: nothing is final before they end.
    """
    if candidate and champion and candidate[0].commit == champion[0].commit:
        return Verdict(promote=False, code="is_champion", reason="This commit is the champion already. Nothing to promote.")
    if any(bars(score) for score in candidate):
        return barred(None)
    evidence = weigh(candidate, champion, section, reference)
    return rule_on(evidence, candidate, champion, section, reference, spreads, running)


def barred(ancestor: str | None) -> Verdict:
    """Return the verdict on a commit whose model failed while it was scored, or that is built on one that broke a rule there."""
    reason = "Its model failed while it was scored, and not by the scorer's fault. That bars the commit."
    if ancestor:
        reason = f"It is built on {ancestor[:12]}, whose model looks ahead, keeps state or mixes rows. That bars what is built on it."
    return Verdict(
        promote=False,
        code="barred",
        final=True,
        reason=reason,
        next="It is decided. Start again from the champion.",
    )


def rules_of(section: PromotionSection) -> Rules:
    """Return what the lab's settings ask of a candidate."""
    return Rules(level=section.level_per_candidate, cap=section.max_replicates, goal=section.metric.better)


def weigh(candidate: Sequence[Score], champion: Sequence[Score], section: PromotionSection, reference: str) -> Evidence:
    """Choose what counts, and under which conditions: see `judge` for the arguments."""
    rules = rules_of(section)
    attempts = [score for score in in_order_of_launch(candidate) if was_started(score) and score.device == reference]
    defending = [score for score in in_order_of_launch(champion) if score.device == reference]
    eligible = counted(attempts, section)
    fresh = counted([score for score in defending if score.by_lab], section)
    conditions = next((score.conditions for side in (eligible, fresh) for score in reversed(side)), "")
    theirs, again = without_repeated([score for score in fresh if score.conditions == conditions], defending)
    ours, ours_again = without_repeated([score for score in eligible if score.conditions == conditions], attempts)
    kept = {score.experiment for score in ours}
    kept |= {score.experiment for score in failures(attempts)}
    attempts = [score for score in attempts if score.experiment in kept][: rules.cap]
    ended = max((score.finished_at for score in attempts), default=0.0)
    side = [(score.finished_at, score) for score in theirs]
    faced = window(side, ended) if attempts else [score for _, score in side]
    finished = [score for score in attempts if score.metric is not None]
    return Evidence(
        conditions=conditions,
        runs=_runs(attempts, faced, rules),
        scores=finished,
        champion=faced,
        failures=len(attempts) - len(finished),
        owed=owed_seeds([score for score in in_order_of_launch(candidate) if score.device == reference]),
        again=(ours_again, again),
        champion_died=sum(map(is_failure, defending)) >= DEAD and all(score.metric is None for score in defending),
        champion_fixed=_is_fixed([score for score in defending if score.by_lab and score.conditions == conditions], theirs),
    )


def _is_fixed(defending: Sequence[Score], kept: Sequence[Score]) -> bool:
    """Return whether a champion's replicates are one model under `DEAD` seeds or more, of which `kept` is what counts."""
    finished = [score for score in defending if score.metric is not None]
    seeds, models = {score.seed for score in finished}, {score.weights for score in finished}
    return len(kept) == 1 and len(seeds) >= DEAD and len(models) == 1 and None not in models


def charged(evidence: Evidence, charge: float) -> Evidence:
    """Return evidence in which each replicate of the candidate is worse by a charge, on both splits."""
    if not charge:
        return evidence
    runs = [Run(run.metric + charge, None if run.hidden is None else run.hidden + charge) for run in evidence.runs]
    return replace(evidence, runs=runs)


def _runs(attempts: Sequence[Score], champion: Sequence[Score], rules: Rules) -> list[Run]:
    """Return attempts as the rule sees them. A failure costs what the worst finished replicate of either side costs."""
    every = [score for score in (*attempts, *champion) if score.metric is not None]
    if not every:
        return []
    hidden = [score.test_bpb for score in every if score.test_bpb is not None]
    worst = Run(rules.worst(metrics(every)), rules.worst(hidden) if hidden else None)
    return [worst if score.metric is None else Run(score.metric, score.test_bpb) for score in attempts]


def rule_on(
    evidence: Evidence,
    candidate: Sequence[Score],
    champion: Sequence[Score],
    section: PromotionSection,
    reference: str,
    spreads: Callable[[str], Others] | None = None,
    running: int = 0,
) -> Verdict:
    """Return the verdict on evidence: see `judge` for the other arguments."""
    own = metrics(evidence.champion)
    others = spreads(evidence.conditions) if spreads else listed([sums_of_squares(metrics(evidence.scores))])
    theirs = [Run(score.metric, score.test_bpb) for score in evidence.champion if score.metric is not None]
    decision = decide(evidence.runs, theirs, pool(sums_of_squares(own), others), rules_of(section))
    verdict = _guarded(_verdict(decision, evidence, section), evidence, section)
    if len(evidence.scores) >= N_MIN and len(evidence.scores) > evidence.failures:
        if evidence.champion_died:
            return _unless_open(verdict.model_copy(update=_REPLACES), evidence, running)
        if evidence.champion_fixed:
            return _unless_open(verdict.model_copy(update=_beside_one_model(evidence, section.metric)), evidence, running)
    for name, side, short in (
        ("candidate", candidate, not evidence.scores),
        ("champion", champion, not evidence.champion and any(score.by_lab for score in champion)),
    ):
        if short:
            verdict = _explain_missing(verdict, name, side, section, reference, evidence.conditions)
    return _unless_open(verdict, evidence, running)


_REPLACES = {
    "promote": True,
    "code": "promote",
    "final": True,
    "reason": f"The champion never finished: {DEAD} or more trainings of it failed, and none ended with a metric. This commit finishes, so "
    "it may replace it, as the first that can be measured.",
    "next": "The champion may move.",
}


def _beside_one_model(evidence: Evidence, metric: MetricSection) -> dict[str, object]:
    """Return how a candidate stands beside a champion that has one measurement and can't get another, as changes of a verdict."""
    (only,) = evidence.champion
    pairs = [(mean([run.metric for run in evidence.runs]), only.metric), (_hidden_mean(evidence.runs), only.test_bpb)]
    better = all(gain(ours, theirs, metric.better) > 0 for ours, theirs in pairs if ours is not None and theirs is not None)
    same = f"The champion submits the same model whatever its seed, so it has one measurement and can't get another. This commit's {len(evidence.scores)} "
    if better:
        reason = f"{same}replicates are better than that, so it may replace it, as the first that can be measured."
        return {"promote": True, "code": "promote", "final": True, "reason": reason, "next": "The champion may move."}
    following = "It is decided. Let the code use its seed: `run.config['seed']`."
    return {"promote": False, "code": "futile", "final": True, "reason": f"{same}replicates are not better than that.", "next": following}


def _hidden_mean(runs: Sequence[Run]) -> float | None:
    hidden = [run.hidden for run in runs if run.hidden is not None]
    return mean(hidden) if hidden else None


def _verdict(decision: Decision, evidence: Evidence, section: PromotionSection) -> Verdict:
    ours, theirs = evidence.scores, evidence.champion
    return Verdict(
        promote=decision.verdict == "promote",
        code=decision.verdict,
        reason=_reason(decision, evidence, section.metric),
        next=decision.next,
        final=decision.final,
        metric=_kind([*ours, *theirs], section.metric),
        n=decision.n,
        m=decision.m,
        candidate_mean=mean([run.metric for run in evidence.runs]) if evidence.runs else None,
        champion_mean=mean(metrics(theirs)) if theirs else None,
        gain=decision.gain,
        se=decision.se,
        gain_sd=decision.gain_sd,
        p=decision.p,
        needed_gain=decision.needed_gain,
        noise=decision.noise,
        nu=decision.nu,
        level=section.level_per_candidate,
    )


def _guarded(verdict: Verdict, evidence: Evidence, section: PromotionSection) -> Verdict:
    """Return the verdict, unless a guard stands against a promotion."""
    all_in = verdict.n >= section.max_replicates
    for guard in section.metric.guard if verdict.promote else ():
        result = check(guard, evidence.scores, evidence.champion, all_in)
        if result.answer != "passed":
            failed = result.answer == "failed"
            changes = {
                "promote": False,
                "final": failed,
                "code": "guard" if failed else "continue",
                "reason": f"The guard {guard.name} {'failed' if failed else 'is open'}: {result.reason} Otherwise: {verdict.reason}",
                "next": f"It is decided. Keep the gain without the loss of {guard.name}."
                if failed
                else "One more replicate of it decides next.",
            }
            return verdict.model_copy(update=changes)
    return verdict


def _kind(scores: Sequence[Score], metric: MetricSection) -> Metric:
    printed = all(score.val_bpb is None for score in scores) if scores else bool(metric.name)
    return "reported" if printed else "verified"


_OPENINGS = {
    "promote": "Better",
    "continue": "Open",
    "not_confirmed": "Better on validation, but not on the hidden split",
    "champion": "Open",
}


def _reason(decision: Decision, evidence: Evidence, metric: MetricSection) -> str:
    opening = _OPENINGS.get(decision.verdict) or _futile(decision)
    if decision.gain is None:
        counts = f"{decision.n} replicates of the candidate count, and {decision.m} of the champion"
        return f"{opening}: {counts}." + _failures(evidence.failures)
    name = metric.title if _kind(evidence.scores, metric) == "verified" else f"the reported {metric.name or 'metric'}"
    if metric.better == "max":
        name += f" ({metric.direction})"
    values = f"{mean([run.metric for run in evidence.runs]):.4f} against {mean(metrics(evidence.champion)):.4f}"
    reason = f"{opening}: {name} {values}, a gain of {decision.gain:+.4f}"
    if decision.se is not None and decision.p is not None:
        reason += f" with standard error {decision.se:.4f} (p = {decision.p:.2g})"
    reason += f" over {decision.n} replicates and {decision.m} of the champion."
    if decision.needed_gain is not None and decision.verdict in ("continue", "futile"):
        reason += f" With these, a gain of {decision.needed_gain:.4f} promotes."
    if decision.verdict == "not_confirmed":
        reason += " The hidden split, whose numbers are not shown, has less than half of it: the change fits the validation text."
    if decision.verdict == "promote" and _kind(evidence.scores, metric) == "reported":
        reason += " Its own code printed it; nobody verified it."
        if len(set(metrics(evidence.scores))) == 1:
            reason += " All of the candidate's numbers are equal: the metric is coarse, or the code may ignore its seed."
    return reason + _failures(evidence.failures)


def _futile(decision: Decision) -> str:
    """Say in which way a candidate is not better by enough: a gain within noise is no loss."""
    how = "not better by enough"
    if decision.gain is not None and decision.se:
        deviation = decision.gain / decision.se
        how = "within noise, and not better by enough" if abs(deviation) < WITHIN_NOISE else how if deviation > 0 else "worse"
    return f"Decided with all {decision.n} replicates: {how}" if decision.final else how.capitalize()


def _failures(count: int) -> str:
    if not count:
        return ""
    what = "1 replicate of it failed and counts" if count == 1 else f"{count} replicates of it failed and count"
    return f" {what} as the worst value of either side."


def _unless_open(verdict: Verdict, evidence: Evidence, running: int) -> Verdict:
    """Return the verdict, unless something of the candidate still has to end before it can be final."""
    if not verdict.final:
        return verdict
    if running:
        words = (
            "1 replicate of it is being trained, and counts" if running == 1 else f"{running} replicates of it are being trained, and count"
        )
        following = "The gate decides when they have ended."
    elif evidence.owed and verdict.code != "futile":
        words = (
            f"{len(evidence.owed)} of its trainings ended without showing what they are worth, such as one that was cancelled while it ran"
        )
        following = f"They must be trained again with their seeds: {', '.join(map(str, evidence.owed[:8]))}."
    else:
        return verdict
    opening = "Open" if verdict.promote else "Not decided"
    reason = f"{opening}: {words}. So far: {verdict.reason}"
    return verdict.model_copy(update={"promote": False, "code": "continue", "final": False, "reason": reason, "next": following})


def _explain_missing(
    verdict: Verdict,
    name: str,
    side: Sequence[Score],
    section: PromotionSection,
    reference: str,
    conditions: str,
) -> Verdict:
    """Say which of a side's replicates don't count, and why."""
    rest = uncounted(side, section, conditions)
    sentences = rest.sentences(name)
    if any(score.metric is not None and score.device != reference for score in side):
        sentences.append(f"Only results on {reference} count here, the lab's reference: those on other kinds of device are for screening.")
    changes: dict[str, Any] = {"reason": " ".join([verdict.reason, *sentences])}
    if code := next((why for why in BY_SETTING if rest.excluded[why]), None):
        changes |= {"code": code, "promote": False, "next": "The lab's owner decides whether such results count."}
    return verdict.model_copy(update=changes)
