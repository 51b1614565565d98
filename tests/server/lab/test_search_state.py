"""The status says whether the search gets anywhere."""

from autoresearch_mcp.server.answers import SearchState
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
