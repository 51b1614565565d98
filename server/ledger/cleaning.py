"""Cleans and caps what agents and their code wrote, where an experiment's end is recorded."""

from autoresearch_mcp.server.models import Experiment, Failure
from autoresearch_mcp.server.untrusted import clean, cut, one_line, recorded

HYPOTHESIS, NAME, TAG, MESSAGE, LINE, LINES, LOG = 2_000, 64, 40, 500, 300, 12, 8_000  # characters of each; of lines, how many


def cleaned(e: Experiment) -> Experiment:
    """Return an experiment whose texts are clean and short: each is one line, but for the end of its log."""
    return e.model_copy(
        update={
            "author": one_line(e.author, NAME),
            "hypothesis": one_line(e.hypothesis, HYPOTHESIS),
            "tags": [one_line(tag, TAG) for tag in e.tags],
            "cancelled_by": one_line(e.cancelled_by, NAME),
            "failure": _failure(e.failure) if e.failure else None,
            "details": recorded(e.details),
            "log_tail": cut(clean(e.log_tail), LOG),
            "host": one_line(e.host, 80),
            "device_id": one_line(e.device_id, 200),
        }
    )


def _failure(failure: Failure) -> Failure:
    return Failure(
        kind=one_line(failure.kind, NAME),
        message=one_line(failure.message, MESSAGE),
        lines=[" ".join(clean(line[:1_000]).splitlines())[:LINE] for line in failure.lines[:LINES]],
        advice=one_line(failure.advice, MESSAGE),
    )
