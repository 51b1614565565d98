"""Processes beside the server examine proposals as the server itself would, and are replaced when they are killed."""

import os
import signal
from collections.abc import Iterator

import pytest

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.proposals.examiners import Examiners
from autoresearch_mcp.server.proposals.examining import Question, examined

BASE = {"train.py": b"RATE = 0.1\nprint(RATE)\n", "notes\udcff.bin": b"\xff\0"}


def question(text: bytes) -> Question:
    return Question(BASE, BASE, {**BASE, "train.py": text}, ["train.py"], {"train"})


@pytest.fixture(scope="module")
def examiners() -> Iterator[Examiners]:
    with Examiners() as opened:
        yield opened


def test_a_process_beside_finds_the_same(examiners: Examiners) -> None:
    for text in (b"RATE = 0.2\nprint(RATE)\n", b"import os\nprint('\xc3\xa9', os.sep)\n" * 30):
        assert examiners.examine(question(text)) == examined(question(text))
    for text in (b"RATE = (\n", b"import nowhere_to_be_found\n", os.urandom(20_000).hex().encode()):
        refusals = []
        for examine in (examiners.examine, examined):
            with pytest.raises(LabError) as error:
                examine(question(b"TEXT = '" + text + b"'\n" if len(text) > 100 else text))
            refusals.append((str(error.value), error.value.code))
        assert refusals[0] == refusals[1]


def test_what_was_lacking_before_may_stay_and_is_not_taken_for_sound() -> None:
    for text, sound in ((b"import nowhere_to_be_found\nRATE = 0.1\n", []), (b"import train\n", ["train.py"])):
        base = {"train.py": text}
        after = {**base, "train.py": text + b"RATE = 0.2\n"}
        assert examined(Question(base, base, after, ["train.py"], {"train"})).sound == sound


def test_a_process_that_was_killed_is_replaced_and_none_is_left(examiners: Examiners) -> None:
    examiners.examine(question(b"RATE = 0.3\n"))
    (before,) = examiners.pids
    os.kill(before, signal.SIGKILL)
    assert examiners.examine(question(b"RATE = 0.3\n")).added >= 0
    (after,) = examiners.pids
    assert after != before
    with Examiners() as others:
        others.examine(question(b"RATE = 0.4\n"))
        (pid,) = others.pids
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
