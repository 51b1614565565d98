"""The status as agents read it: few lines, each short, within a cap."""

from collections.abc import Sequence
from typing import Literal

from pydantic_core import to_json

from autoresearch_mcp.server import answers as a
from autoresearch_mcp.server.lab.curves import thinned
from autoresearch_mcp.server.lab.titles import shorten
from autoresearch_mcp.server.mcp.concise import concise

Part = Literal["curve", "log", "diff", "versions"]
MOST = 4_000  # characters of the answer
USUAL = 2_500  # likewise, while that takes no list below its floor
_LINES = {"running": 8, "queued": 4, "recent": 3, "open": 8, "sweeps": 3, "leaderboard": 5, "directions": 4}
_FLOOR = {"running": 2, "queued": 1, "recent": 1, "open": 2, "sweeps": 1, "leaderboard": 3, "directions": 2}
_WORDS = 32  # characters of an idea
_SENTENCE = 400  # characters of a warning
_AUTHORS = 6
_SIMILAR = 1  # proposals like an agent's branch


def brief(status: a.StatusAnswer) -> a.StatusAnswer:
    """Return the status with the first lines of each list, and fewer where the whole would be too long."""
    lines = {name: getattr(status, name)[:most] for name, most in _LINES.items()}
    lines |= {name: [brief_line(line) for line in lines[name]] for name in ("running", "queued", "recent")}
    lines["leaderboard"] = [leader.model_copy(update=_UNCERTAIN) for leader in lines["leaderboard"]]
    texts = {
        "warnings": [shorten(each, _SENTENCE) for each in status.warnings],
        "next": [shorten(each, _SENTENCE) for each in status.next],
        "cost_by_author": dict(list(status.cost_by_author.items())[:_AUTHORS]),
    }
    shorter = status.model_copy(update=lines | texts)
    size = _size(shorter)
    for most, floor in ((USUAL, _FLOOR), (MOST, dict.fromkeys(_FLOOR, 0))):
        while size > most:
            spare = {name: len(lines[name]) - floor[name] for name in lines if len(lines[name]) > floor[name]}
            if not spare:
                break
            longest = max(spare, key=lambda name: (spare[name], name != "leaderboard"))
            lines[longest] = lines[longest][:-1]
            shorter = shorter.model_copy(update={longest: lines[longest]})
            size = _size(shorter)
    return shorter


_UNCERTAIN = {"gain_low": None, "gain_high": None, "mark": ""}  # get_experiment and promote_commit tell the first two, `why` the third


def _size(status: a.StatusAnswer) -> int:
    return len(to_json(concise(status.model_dump(mode="json", exclude_none=True), kept=())))


def brief_line(line: a.ExperimentLine) -> a.ExperimentLine:
    """Return an experiment's line without what a reader of many lines can do without."""
    shorter = {"seed": None, "device": ""}
    return line.model_copy(
        update=shorter | {"hypothesis": shorten(line.hypothesis, _WORDS), "failure": line.failure and shorten(line.failure, 60)}
    )


def brief_wait(line: a.ExperimentLine) -> a.ExperimentLine:
    """Return an experiment's line for its own agent, who knows the idea: at most 250 characters."""
    update = {"seed": None, "device": "", "author": "", "hypothesis": shorten(line.hypothesis, _WORDS)}
    if line.failure:
        update |= {"hypothesis": "", "failure": shorten(line.failure, 120)}
    return line.model_copy(update=update)


def brief_branch(answer: a.ProposalAnswer) -> a.ProposalAnswer:
    """Return what was made of a branch without what its own agent has in its folder: its diff and its words, unless they are a twin's."""
    own = {} if answer.duplicate else {"hypothesis": "", "title": "", "author": ""}
    launched = [brief_wait(line) for line in answer.launched]
    return answer.model_copy(update={"diff": "", "launched": launched, "similar": answer.similar[:_SIMILAR], **own})


def brief_experiment(whole: a.ExperimentAnswer, parts: Sequence[Part]) -> a.ExperimentAnswer:
    """Return an experiment's answer without what was not asked for; the last lines of a failure without an explanation stay."""
    line, failure = whole.experiment, whole.failure
    explained = failure is not None and bool(failure.lines)
    return whole.model_copy(
        update={
            "experiment": line and line.model_copy(update={"failure": None}),  # `failure` tells it
            "failure": failure and failure.model_copy(update={"lines": [each for each in failure.lines if each != failure.message]}),
            "attempt": whole.attempt if whole.attempt and whole.attempt > 1 else None,
            "cost_usd": whole.cost_usd or None,
            "curve": thinned(whole.curve) if "curve" in parts else [],
            "log_tail": whole.log_tail if "log" in parts or (failure is not None and not explained) else "",
            "details": whole.details if "versions" in parts else {},
        }
    )


def brief_promotion(answer: a.PromoteAnswer) -> a.PromoteAnswer:
    """Return a verdict whose note doesn't say again what the verdict says."""
    note = answer.note
    for text in filter(None, (answer.verdict.reason, answer.verdict.next)):
        note = note.replace(text, "")
    verdict = answer.verdict.model_copy(update={"next": ""}) if answer.promoted else answer.verdict
    return answer.model_copy(update={"note": " ".join(note.split()), "verdict": verdict})
