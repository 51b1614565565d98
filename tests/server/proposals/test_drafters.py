"""Processes beside the server draft proposals as the server itself would, and are replaced when they are killed."""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.proposals import source
from autoresearch_mcp.server.proposals.drafters import Drafters
from autoresearch_mcp.server.proposals.examining import Question, examined
from autoresearch_mcp.server.proposals.orders import Order
from autoresearch_mcp.server.proposals.repo import Conflict, Draft, Repo

EDIT = {"path": "train.py", "search": "depth = 2", "replace": "depth = 3  # é"}


@pytest.fixture(scope="module")
def drafters() -> Iterator[Drafters]:
    with Drafters() as opened:
        yield opened


@pytest.fixture
def beside(repo: Repo, drafters: Drafters) -> Repo:
    return Repo(repo.root, repo.editable.patterns, carry_out=drafters.carry_out)


def built(repo: Repo, **change: Any) -> tuple[object, ...]:
    """Returns what came of a change, and which files its commit has."""
    try:
        draft = repo.build(repo.champion(), "Deeper \ud800.", "ada", **change)
    except LabError as error:
        return str(error), error.code
    return replace(draft, commit=""), repo.matching(draft.commit, repo.editable)


def test_a_process_beside_builds_the_same_and_refuses_the_same(repo: Repo, beside: Repo) -> None:
    good = [
        {"edits": [EDIT]},
        {"files": {"model/net.py": None, "model/deep/net.py": "layers = 3\n"}},
        {"diff": "--- a/model/net.py\n+++ b/model/net.py\n@@ -1,1 +1,1 @@\n-layers = 3\n+layers = 4\n"},
    ]
    for change in good:
        assert isinstance(built(repo, **change)[0], Draft) and built(beside, **change) == built(repo, **change)
    texts = ("depth = (\n", "import nowhere_to_be_found\n", f"TEXT = {os.urandom(20_000).hex()!r}\n", "")
    bad = [{"edits": [{**EDIT, "search": "nowhere"}]}, {"edits": [EDIT, EDIT]}, *({"files": {"train.py": text}} for text in texts)]
    for change in bad:
        assert isinstance(built(repo, **change)[0], str) and built(beside, **change) == built(repo, **change)


def test_a_process_beside_moves_a_change_onto_another_commit(repo: Repo, beside: Repo) -> None:
    base = repo.champion()
    deeper = repo.build(base, "Deeper.", "ada", edits=[EDIT]).commit
    other = repo.build(base, "Layers.", "bob", files={"model/net.py": "layers = 4\n"}).commit
    clashing = repo.build(base, "Shallower.", "bob", edits=[{**EDIT, "replace": "depth = 1"}]).commit
    moved = beside.rebase(deeper, other, "Deeper.", "ada")
    assert isinstance(moved, Draft) and moved.base == other and b"depth = 3" in repo.read(moved.commit, "train.py")
    conflict = beside.rebase(deeper, clashing, "Deeper.", "ada")
    assert isinstance(conflict, Conflict) and conflict == repo.rebase(deeper, clashing, "Deeper.", "ada")


def test_what_was_found_sound_beside_is_not_looked_at_again(beside: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    draft = beside.build(beside.champion(), "Deeper.", "ada", edits=[EDIT])

    def looked_at(*given: object, **more: object) -> None:
        raise LabError("It is looked at again.", "again")

    monkeypatch.setattr(source, "check", looked_at)
    beside.check(draft.commit, "train.py")
    with pytest.raises(LabError, match="looked at again"):
        beside.check(draft.base, "train.py")


def test_imports_are_judged_where_they_can_be(repo: Repo, drafters: Drafters) -> None:
    judges = True
    beside = Repo(repo.root, repo.editable.patterns, judges_imports=lambda: judges, carry_out=drafters.carry_out)
    change = {"files": {"train.py": "import nowhere_to_be_found\n"}}
    assert built(beside, **change) == built(repo, **change) and "nowhere_to_be_found" in str(built(beside, **change)[0])
    judges = False
    assert isinstance(built(beside, **change)[0], Draft)


def test_what_was_lacking_before_may_stay_and_is_not_taken_for_sound() -> None:
    for text, sound in ((b"import nowhere_to_be_found\nRATE = 0.1\n", []), (b"import train\n", ["train.py"])):
        base = {"train.py": text}
        after = {**base, "train.py": text + b"RATE = 0.2\n"}
        assert examined(Question(base, base, after, ["train.py"], {"train"})).sound == sound


def test_a_fault_of_ours_is_told_with_its_traceback_and_ends_no_process(beside: Repo, drafters: Drafters) -> None:
    assert isinstance(built(beside, edits=[EDIT])[0], Draft)
    before = drafters.pids
    with pytest.raises(RuntimeError, match=r"(?s)Traceback.*unexpected keyword argument 'colour'"):
        drafters.carry_out(Order(str(beside.root), ("train.py",), True, "build", {"colour": "red"}))
    assert drafters.pids == before


def test_a_process_that_was_killed_is_replaced_and_none_is_left(beside: Repo, drafters: Drafters, repo: Repo) -> None:
    assert isinstance(built(beside, edits=[EDIT])[0], Draft)
    (before,) = drafters.pids
    os.kill(before, signal.SIGKILL)
    assert isinstance(built(beside, edits=[EDIT])[0], Draft)
    (after,) = drafters.pids
    assert after != before
    with Drafters() as others:
        assert isinstance(built(Repo(repo.root, carry_out=others.carry_out), edits=[EDIT])[0], Draft)
        (pid,) = others.pids
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
