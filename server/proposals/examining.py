"""Examines the files of a proposal: whether they can run, what they add, and which others do the same."""

from collections.abc import Collection, Mapping
from typing import NamedTuple

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.proposals import growth, source
from autoresearch_mcp.server.proposals.fingerprint import canonical


class Question(NamedTuple):
    """The files of a proposal.

    Attributes:
        first: the lab's first source, by path.
        base: what the proposal changes.
        after: what it makes of that.
        changed: the paths whose content is new.
        modules: names that the lab's own files can be imported by; None where it can't be told which packages there are.
    """

    first: Mapping[str, bytes]
    base: Mapping[str, bytes]
    after: Mapping[str, bytes]
    changed: Collection[str]
    modules: Collection[str] | None


class Findings(NamedTuple):
    """What was found out.

    Attributes:
        fingerprint: shared by files that are the same but for comments and layout.
        canonical: shared by near-copies.
        added: bytes of new information beyond the lab's first source.
        sound: of the changed paths, those that could run whatever their base was; the others lack what that lacked.
    """

    fingerprint: str
    canonical: str
    added: int
    sound: list[str]


def examined(question: Question) -> Findings:
    """Examine files in this process.

    Raises:
        LabError: those of `source.check` and `growth.check`.
    """
    for path in question.changed:
        source.check(path, question.after[path], question.modules, question.base)
    added = growth.check(question.first, question.base, question.after)
    sound = [path for path in question.changed if _is_sound(path, question.after[path], question.modules)]
    return Findings(source.fingerprint(question.after), canonical(question.after), added, sound)


def _is_sound(path: str, data: bytes, modules: Collection[str] | None) -> bool:
    try:
        source.check(path, data, modules)
    except LabError:
        return False
    return True
