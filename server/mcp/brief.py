"""The status as agents read it: few lines, each short, within a cap."""

from collections.abc import Sequence
from typing import Literal

from autoresearch_mcp.server import answers as a
from autoresearch_mcp.server.lab.curves import thinned
from autoresearch_mcp.server.lab.titles import shorten

Part = Literal["curve", "log", "diff", "versions"]
MOST = 4_000  # characters of the answer, about
_LINES = {"running": 8, "queued": 4, "recent": 3, "open": 8, "leaderboard": 5}
_WORDS = 44  # characters of an idea
_SENTENCE = 400  # characters of a warning
_AUTHORS = 6


def brief(status: a.StatusAnswer) -> a.StatusAnswer:
    """Return the status with the first lines of each list, and fewer where the whole would be too long."""
    most = dict(_LINES)
    while True:
        shorter = status.model_copy(
            update={
                "running": _lines(status.running, most["running"]),
                "queued": _lines(status.queued, most["queued"]),
                "recent": _lines(status.recent, most["recent"]),
                "open": status.open[: most["open"]],
                "leaderboard": status.leaderboard[: most["leaderboard"]],
                "warnings": [shorten(each, _SENTENCE) for each in status.warnings],
                "cost_by_author": dict(list(status.cost_by_author.items())[:_AUTHORS]),
            }
        )
        longest = max(most, key=lambda name: (len(getattr(shorter, name)), name != "leaderboard"))
        if len(shorter.model_dump_json(exclude_none=True)) <= MOST or not getattr(shorter, longest):
            return shorter
        most[longest] = len(getattr(shorter, longest)) - 1


def brief_line(line: a.ExperimentLine) -> a.ExperimentLine:
    """Return an experiment's line without what a reader of many lines can do without."""
    shorter = {"seed": None, "device": ""}
    return line.model_copy(
        update=shorter | {"hypothesis": shorten(line.hypothesis, _WORDS), "failure": line.failure and shorten(line.failure, 90)}
    )


def brief_wait(line: a.ExperimentLine) -> a.ExperimentLine:
    """Return an experiment's line for its own agent, who knows the idea: at most 250 characters."""
    update = {"seed": None, "device": "", "author": "", "hypothesis": shorten(line.hypothesis, _WORDS)}
    if line.failure:
        update |= {"hypothesis": "", "failure": shorten(line.failure, 120)}
    return line.model_copy(update=update)


def brief_experiment(whole: a.ExperimentAnswer, parts: Sequence[Part]) -> a.ExperimentAnswer:
    """Return an experiment's answer without what was not asked for; the last lines of a failure without an explanation stay."""
    line, failure = whole.experiment, whole.failure
    explained = failure is not None and bool(failure.lines)
    return whole.model_copy(
        update={
            "experiment": line and line.model_copy(update={"failure": None}),  # `failure` tells it
            "failure": failure and failure.model_copy(update={"lines": [each for each in failure.lines if each != failure.message]}),
            "attempt": whole.attempt if whole.attempt > 1 else 0,
            "curve": thinned(whole.curve) if "curve" in parts else [],
            "log_tail": whole.log_tail if "log" in parts or (failure is not None and not explained) else "",
            "details": whole.details if "versions" in parts else {},
        }
    )


def _lines(lines: Sequence[a.ExperimentLine], most: int) -> list[a.ExperimentLine]:
    return [brief_line(line) for line in lines[:most]]
