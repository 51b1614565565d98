"""Examines the files of a proposal: whether they can run, what they add, and which others do the same.

This computes for a tenth of a second, most of it in the interpreter. A server of many agents has it done by processes beside it (see `examiners`):
run as a script, this answers questions on stdin until that ends. A message is a length and that many bytes of JSON.
"""

import base64
import json
import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any, BinaryIO, NamedTuple

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.proposals import growth, source
from autoresearch_mcp.server.proposals.fingerprint import canonical

LENGTH_BYTES = 8  # before each message


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


Examine = Callable[[Question], Findings]


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


def written(question: Question) -> bytes:
    """Return a question as a message. Files that are the same are in it once."""
    contents = {
        data: str(number) for number, data in enumerate({*question.first.values(), *question.base.values(), *question.after.values()})
    }
    return json.dumps(
        {
            "contents": {name: base64.b64encode(data).decode("ascii") for data, name in contents.items()},
            "files": [{path: contents[data] for path, data in files.items()} for files in question[:3]],
            "changed": list(question.changed),
            "modules": None if question.modules is None else list(question.modules),
        }
    ).encode()


def _read(message: bytes) -> Question:
    given = json.loads(message)
    contents = {name: base64.b64decode(text) for name, text in given["contents"].items()}
    first, base, after = ({path: contents[name] for path, name in files.items()} for files in given["files"])
    return Question(first, base, after, given["changed"], given["modules"])


def _answer(message: bytes) -> dict[str, Any]:
    try:
        return examined(_read(message))._asdict()
    except LabError as error:
        return {"refused": str(error), "code": error.code}


def _serve(questions: BinaryIO, answers: BinaryIO) -> None:
    while length := questions.read(LENGTH_BYTES):
        answer = json.dumps(_answer(questions.read(int.from_bytes(length, "big")))).encode()
        answers.write(len(answer).to_bytes(LENGTH_BYTES, "big") + answer)
        answers.flush()


if __name__ == "__main__":
    _serve(sys.stdin.buffer, sys.stdout.buffer)
