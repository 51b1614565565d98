"""Tells whether labs of one log measure on different held-out text."""

import time
from collections.abc import Callable, Collection, Sequence

from autoresearch_mcp.server.lake.base import Condition, Lake, Query
from autoresearch_mcp.server.models import IMPORTED, Experiment

OTHER_TEXT = (
    "Some were measured on other held-out text, drawn with another secret. Labs that share a log should share it: "
    "`autoresearch-mcp secret export` there, `secret import` here."
)
_LATELY_S = 24 * 3600
_MOST = 500  # experiments of the log that are looked at


class HeldOutTexts:
    """The held-out texts that experiments were measured on: those that compare with a lab's champion, and others."""

    def __init__(self) -> None:
        self._ours: set[tuple[str, str]] = set()  # tokenizer and data: labs of one profile have one tokenizer
        self._theirs: set[tuple[str, str]] = set()

    def note(self, experiment: Experiment, is_ours: bool) -> None:
        """Take in an experiment."""
        hashes = experiment.details.get("hashes") or {}
        if "data" in hashes and "tokenizer" in hashes:
            (self._ours if is_ours else self._theirs).add((hashes["tokenizer"], hashes["data"]))

    @property
    def differ(self) -> bool:
        """Whether one that is not ours has the tokenizer of one that is, and other data."""
        return any(tokenizer == ours for tokenizer, _ in self._theirs - self._ours for ours, _ in self._ours)


def differ_lately(lake: Lake, ours: Experiment, own: Callable[[Sequence[str]], Collection[str]]) -> bool:
    """Return whether another lab of this log measured on other held-out text within a day.

    Args:
        lake: the log.
        ours: what this lab measured last.
        own: returns those of some experiments that are this lab's. What it measured itself before it took over a secret says nothing of others.

    Raises:
        LakeUnavailable: the log can't be read.
    """
    recent = Query(where=(Condition("created_at", ">=", time.time() - _LATELY_S),), limit=_MOST)
    found = [each for each in lake.select("experiments", recent) if isinstance(each, Experiment) and IMPORTED not in each.tags]
    known, texts = own([each.id for each in found]), HeldOutTexts()
    texts.note(ours, is_ours=True)
    for each in found:
        if each.id not in known:
            texts.note(each, is_ours=False)
    return texts.differ
