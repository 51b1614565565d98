"""Labs of one name on several machines: what each sees of the others through the managed log, and what stays its own."""

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import pytest

from autoresearch_mcp.server import secret
from autoresearch_mcp.server.lab.query import ExperimentQuery
from autoresearch_mcp.server.lake import open_lake
from autoresearch_mcp.server.lake.heldout import OTHER_TEXT
from autoresearch_mcp.server.paths import LabPaths
from autoresearch_mcp.server.runner.flushing import Flusher
from tests.server.measured import MeasuredLab, without_runner
from tests.standins.deeplake.server import ORG, TOKEN, DeeplakeStandIn

Machine = Callable[..., MeasuredLab]
CHAMPION = [1.60, 1.61, 1.59, 1.605, 1.595, 1.602, 1.598, 1.60001]
BETTER = [1.40, 1.41, 1.39]


@pytest.fixture
def lab_on(
    deeplake: DeeplakeStandIn, workspace: str, make_lab: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Machine]:
    """Opens the lab on another machine: one name and one code, a state of its own. It has the first one's secret, or its own."""
    for name, value in {"API_KEY": TOKEN, "ORG_ID": ORG, "WORKSPACE": workspace, "API_URL": deeplake.url}.items():
        monkeypatch.setenv(f"DEEPLAKE_{name}", value)
    monkeypatch.setattr("autoresearch_mcp.server.lake.managed.store.SYNC_EVERY_S", 0.0)
    root = make_lab()
    with contextlib.ExitStack() as opened:

        def open_on(machine: str, with_own_secret: bool = False) -> MeasuredLab:
            copy = tmp_path / machine / "lab"
            shutil.copytree(root, copy, symlinks=True)
            if with_own_secret:
                secret.write(LabPaths(copy).secret, machine.encode().ljust(32), replace=True)
            return opened.enter_context(without_runner(copy))

        yield open_on


def measure(lab: MeasuredLab, commit: str, values: list[float]) -> set[str]:
    """Measure on the text that the lab's secret draws, which is part of the conditions."""
    text = secret.fingerprint(LabPaths(lab.root).secret)
    return set(lab.measure(commit, [*values], conditions=f"5 seconds, {text}", data=text))


def flush(lab: MeasuredLab) -> list[str]:
    """Send to the log what the ledger acknowledged, as the runner does, and return what it then warns of."""
    with contextlib.closing(open_lake(lab.lab.settings, LabPaths(lab.root).state)) as lake:
        flusher = Flusher(LabPaths(lab.root).state, lab.ledger, lake)
        anyio.run(flusher.flush)
    assert flusher.keeps_up
    return flusher.troubles


def test_labs_of_one_name_see_each_others_results_and_memories_and_each_judges_by_its_own(lab_on: Machine) -> None:
    here, there = lab_on("here"), lab_on("there")
    first = here.lab.champion()
    idea = here.propose("DEPTH = ", "DEPTH = 1 + ")
    ours = measure(here, first, CHAMPION) | measure(here, idea, BETTER)
    note = here.lab.write_memory("finding", "a third layer pays", "ada").id
    assert here.lab.promote_commit(idea, "ada").promoted and flush(here) == []
    theirs = measure(there, first, CHAMPION[:5])
    assert flush(there) == []

    for each in (here, there):
        ranking = each.lab.query_experiments(ExperimentQuery(order_by="val_bpb"))
        assert {row["id"] for row in ranking.rows} == ours | theirs
        assert all(row.get("comparable", True) for row in ranking.rows) and ranking.note == ""
        assert [memory.id for memory in each.lab.search_memory("layer").memories] == [note]
        assert [promotion.commit for promotion in each.lab.records("promotions")] == [idea], "the log tells of it"
    assert here.lab.champion() == idea and there.lab.champion() == first
    assert [len(each.lab.promotions()) for each in (here, there)] == [1, 0]
    assert len(here.lab.overview().ended) == len(ours) and f"{len(theirs)} experiments of other labs" in here.lab.plot_progress().text
    pictures = [there.lab.plot_progress() for _ in range(2)]
    assert pictures[0].png == pictures[1].png and f"{len(ours)} experiments of other labs" in pictures[0].text
    assert "Best single run: 1.5900" in pictures[0].text, "its own"
    status = there.lab.status()
    assert (status.counts, status.champion.n, status.promotions) == ({"finished": 5}, 5, 0), "none of the other's counts"
    assert [leader.commit for leader in status.leaderboard] == [first]


def test_a_lab_with_a_secret_of_its_own_is_warned_and_its_results_are_ranked_apart(lab_on: Machine) -> None:
    here, stranger = lab_on("here"), lab_on("stranger", with_own_secret=True)
    ours = measure(here, here.lab.champion(), CHAMPION[:2])
    assert flush(here) == []
    theirs = measure(stranger, stranger.lab.champion(), BETTER)
    warning = [f"Labs of this log are not comparable. {OTHER_TEXT}"]
    assert flush(stranger) == warning
    ours |= measure(here, here.lab.champion(), CHAMPION[2:3])
    assert flush(here) == warning, "both owners are told"
    for lab, own, others in ((here, ours, theirs), (stranger, theirs, ours)):
        ranking = lab.lab.query_experiments(ExperimentQuery(order_by="val_bpb"))
        apart = {row["id"] for row in ranking.rows if not row.get("comparable", True)}
        assert apart == others and {row["id"] for row in ranking.rows} - apart == own
        assert OTHER_TEXT in ranking.note


def test_a_lab_that_took_over_the_secret_of_the_others_is_warned_no_longer_once_it_measured_with_it(lab_on: Machine) -> None:
    here, stranger = lab_on("here"), lab_on("stranger", with_own_secret=True)
    measure(here, here.lab.champion(), CHAMPION[:2])
    assert flush(here) == []
    measure(stranger, stranger.lab.champion(), CHAMPION[:2])
    assert flush(stranger) != []
    shared = secret.read(secret.ensure(LabPaths(here.root).secret))
    secret.write(LabPaths(stranger.root).secret, shared, replace=True)
    measure(stranger, stranger.lab.champion(), CHAMPION[2:3])
    assert flush(stranger) == [], "what it measured before on text of its own is no other lab's"
