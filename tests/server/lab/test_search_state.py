"""The status says whether the search gets anywhere."""

import pytest

from autoresearch_mcp.server.answers import SearchState
from autoresearch_mcp.server.lab.query import ExperimentQuery
from tests.server.measured import MeasuredLab

CHAMPION = [1.60, 1.61, 1.59, 1.602, 1.605, 1.595, 1.612, 1.586]


def search(measured: MeasuredLab) -> SearchState:
    state = measured.lab.status(steps=False).search
    assert state is not None
    return state


def test_the_search_is_dry_after_many_commits_without_a_gain_and_stalled_while_one_is_open(measured: MeasuredLab) -> None:
    assert (search(measured).state, search(measured).gain_left) == ("searching", None)
    measured.measure(measured.lab.champion(), list(CHAMPION))
    assert (search(measured).state, search(measured).trainings) == ("searching", 0), "the champion's replicates are the lab's"
    for number in range(29):
        measured.measure(f"{number:040x}", [1.62, 1.61])
    assert (search(measured).state, search(measured).trainings, search(measured).commits) == ("searching", 58, 29)
    measured.measure(f"{29:040x}", [1.615, 1.605])
    assert search(measured).state == "dry"
    measured.measure(f"{30:040x}", [1.45, 1.46])
    stalled = search(measured)
    assert stalled.state == "stalled" and stalled.gain_left is not None and stalled.gain_left > 0.05


def test_the_search_thrashes_while_half_of_its_trainings_crash(measured: MeasuredLab) -> None:
    measured.measure("a" * 40, [None] * 4 + [1.6] * 5)
    assert (search(measured).state, search(measured).failed) == ("searching", 0.44), "nine trainings are too few to say so"
    measured.measure("b" * 40, [None])
    assert (search(measured).state, search(measured).failed) == ("thrashing", 0.5)
    measured.measure("c" * 40, [1.6] * 3)
    assert search(measured).state == "searching"


def test_directions_tell_what_came_of_the_ideas_with_their_tag_and_who_works_on_them(measured: MeasuredLab) -> None:
    lab = measured.lab
    assert lab.status().directions == []
    measured.measure(lab.champion(), list(CHAMPION))
    lab.write_memory("idea", "Everything about the shape of the model.", "boss", tags=["direction", "shape"])
    ideas = [
        lab.write_memory("idea", f"{words} at a time.", "eve", tags=tags).id
        for words, tags in (
            ("Three layers instead of two", ["shape"]),
            ("A wider stream, by a half", ["shape", "width"]),
            ("Half of the heads", ["shape"]),
            ("Rotate the positions", ["shape"]),
        )
    ]
    lab.write_memory("idea", "Rotate all positions, but slower.", "eve", tags=["shape", f"after:{ideas[0]}"], supersedes=[ideas[3]])
    for idea, search, replace in ((ideas[0], "DEPTH = 2", "DEPTH = 3"), (ideas[1], "WIDTH = 64", "WIDTH = 96")):
        edits = [{"path": "train.py", "search": search, "replace": replace}]
        commit = lab.propose_patch(f"{search} becomes {replace}.", "ada", edits=edits, idea=idea).commit
        measured.measure(commit, [1.40, 1.41, 1.39] if idea == ideas[0] else [None])
    assert lab.promote_commit(lab.query_experiments(ExperimentQuery(order_by="val_bpb", limit=1)).rows[0]["commit"], "ada").promoted
    lab.claim_idea("bob", ideas[2])
    for asked in ({"id": ideas[2]}, {"id": ideas[0]}):
        assert not lab.claim_idea("cleo", **asked).claimed
    status = lab.status()
    shape, width = sorted(status.directions, key=lambda each: each.tag)
    assert (shape.tag, shape.ideas, shape.tried, shape.failed, shape.promoted, shape.who) == ("shape", 4, 2, 1, 1, ["bob"])
    assert (width.tag, width.ideas, width.tried, width.failed, width.promoted, width.who, width.gain) == ("width", 1, 1, 1, None, [], None)
    assert shape.gain == pytest.approx(0.2, abs=0.03) and shape.se is not None and 0 < shape.se < 0.02 and shape.active_at
    assert status.search is not None and status.search.repetitions == 2
    lab.demote("owner", "It was a mistake.")
    (shape,) = [each for each in lab.status().directions if each.tag == "shape"]
    assert shape.promoted is None and shape.gain == pytest.approx(0.2, abs=0.01), "it is open again"


def test_the_share_of_decisive_trainings_is_that_of_decisions(measured: MeasuredLab) -> None:
    measured.measure(measured.lab.champion(), list(CHAMPION))
    commit = measured.propose("DEPTH = 2", "DEPTH = 3")
    measured.measure(commit, [1.70])
    measured.measure(measured.propose("WIDTH = 64", "WIDTH = 80"), [1.6, 1.6])
    assert measured.lab.promote_commit(commit, "ada").verdict.code == "futile"
    search = measured.lab.status().search
    assert search is not None and (search.trainings, search.decisive) == (3, 0.33)
