"""A change moves onto another commit: merged, as a whole chain, or with the conflict's lines in the refusal."""

import pytest

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.proposals.repo import Conflict, Draft, Repo
from tests.server.proposals.helpers import TRAIN, change, git


def test_a_change_is_rebased_onto_a_moved_champion(repo: Repo) -> None:
    start, mine, theirs = repo.champion(), change(repo, "lr = 0.1", "lr = 0.2"), change(repo, "depth = 2", "depth = 3")
    repo.advance(start, theirs.commit)
    draft = repo.rebase(mine.commit, theirs.commit, "stacked", "ada")
    assert isinstance(draft, Draft)
    assert repo.read(draft.commit, "train.py") == TRAIN.replace(b"0.1", b"0.2").replace(b"depth = 2", b"depth = 3")
    assert draft.base == theirs.commit


def test_a_chain_of_proposals_is_rebased_as_a_whole(repo: Repo) -> None:
    first = change(repo, "lr = 0.1", "lr = 0.2")
    second = change(repo, "    return depth * width", "    return depth + width", base=first.commit)
    theirs = change(repo, "depth = 2", "depth = 3").commit
    draft = repo.rebase(second.commit, theirs, "stacked", "ada")
    assert isinstance(draft, Draft)
    assert repo.read(draft.commit, "train.py") == b"depth = 3\nwidth = 64\n\n\ndef build():\n    return depth + width\n\n\nlr = 0.2\n"


def test_a_rebase_that_conflicts_names_the_lines_and_one_that_adds_nothing_says_so(repo: Repo) -> None:
    mine, theirs = change(repo, "lr = 0.1", "lr = 0.2"), change(repo, "lr = 0.1", "lr = 0.3")
    conflict = repo.rebase(mine.commit, theirs.commit, "stacked", "ada")
    assert isinstance(conflict, Conflict)
    assert conflict.files == ["train.py"] and "lr = 0.2" in conflict.text and "lr = 0.3" in conflict.text and "width" not in conflict.text
    with pytest.raises(LabError) as error:
        repo.rebase(mine.commit, change(repo, "lr = 0.1", "lr = 0.2", message="again").commit, "stacked", "ada")
    assert error.value.code == "no_change"


def test_a_deletion_is_rebased_unless_the_champion_changed_the_file(repo: Repo) -> None:
    start, mine = repo.champion(), repo.build(repo.champion(), "m", "a", files={"model/net.py": None, "train.py": "lr = 1\n"})
    other = repo.build(start, "m", "a", files={"model/new.py": "a = 1\n"}).commit
    draft = repo.rebase(mine.commit, other, "stacked", "ada")
    assert isinstance(draft, Draft) and set(repo.paths(draft.commit)) == {"train.py", "trainer/score.py", "model/new.py"}
    changed = repo.build(start, "m", "a", files={"model/net.py": "layers = 4\n"}).commit
    conflict = repo.rebase(mine.commit, changed, "stacked", "ada")
    assert isinstance(conflict, Conflict) and conflict.files == ["model/net.py"] and "deleted it" in conflict.text
    gone = repo.build(start, "m", "a", files={"model/net.py": None}).commit
    assert isinstance(repo.rebase(mine.commit, gone, "stacked", "ada"), Draft)


def test_a_transplant_has_the_code_of_one_commit_and_the_rest_of_another(repo: Repo) -> None:
    mine = repo.build(repo.champion(), "m", "a", files={"model/extra.py": "a = 1\n"})
    theirs = repo.build(repo.champion(), "m", "a", files={"model/deep/other.py": "b = 1\n", "train.py": "lr = 9\n"})
    moved = repo.transplant(mine.commit, theirs.commit, "m", "a")
    assert repo.fingerprint(moved) == mine.fingerprint
    assert set(repo.paths(moved)) == set(repo.paths(mine.commit))
    git(repo.root, "fsck", "--strict")
