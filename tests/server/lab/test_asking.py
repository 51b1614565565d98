"""Asking the log: SQL over one schema, times and names as agents write them, and answers that say what there is instead."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lab.moments import unix
from autoresearch_mcp.server.lab.query import ExperimentQuery
from tests.server.measured import MeasuredLab

Ask = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="module")
def measured(lab_of_module: MeasuredLab) -> MeasuredLab:
    """One lab for all tests of this file: what a test adds, it tells apart by an author or a tag of its own."""
    return lab_of_module


@pytest.fixture(scope="module")
def idea(measured: MeasuredLab) -> str:
    """A candidate that is measured beside the champion."""
    measured.measure(measured.lab.champion(), [1.60, 1.61, 1.59, 1.602, 1.605, 1.595, 1.612, 1.586])
    idea = measured.propose("DEPTH = ", "DEPTH = 1 + ")
    (*_, last) = measured.measure(idea, [1.40, 1.41, 1.39])
    measured.ledger.keep_curve(last, "s", [3.0, None, 2.0])
    return idea


@pytest.fixture
def ask(measured: MeasuredLab) -> Ask:
    return lambda **query: measured.lab.query_experiments(ExperimentQuery(**query)).rows


def test_sql_knows_commits_as_the_tool_groups_them(measured: MeasuredLab, idea: str, ask: Ask) -> None:
    (row,) = ask(sql="SELECT * FROM commits WHERE gain > 0")
    (grouped, _) = ask(group_by="commit")
    assert row == pytest.approx({"se": None, "steps": None} | grouped) and row["commit"] == idea and row["state"] == "open (n=3)"
    joined = "SELECT e.commit, c.idea, count(*) AS n FROM experiments e JOIN commits c USING (commit) GROUP BY commit ORDER BY n"
    assert [row["n"] for row in ask(sql=joined)] == [3, 8]


def test_a_page_by_ago_goes_on_where_it_ended(measured: MeasuredLab, idea: str) -> None:
    first = measured.lab.query_experiments(ExperimentQuery(since="1h", limit=6))
    second = measured.lab.query_experiments(ExperimentQuery(since="1h", limit=6, cursor=first.next_cursor))
    assert (len(first.rows), len(second.rows), second.next_cursor) == (6, 5, None)
    assert measured.lab.query_experiments(ExperimentQuery(until="1h")).rows == []
    with pytest.raises(ValueError, match="an ISO time"):
        ExperimentQuery(since="yesterday")


def test_sql_knows_proposals_curves_and_changes(measured: MeasuredLab, idea: str, ask: Ask) -> None:
    probe = measured.lab.propose_patch(
        "A probe of the head", "bob", edits=[{"path": "train.py", "search": "DEPTH = 2", "replace": "DEPTH = 4"}], kind="measurement"
    )
    rows = ask(sql="SELECT commit, author, kind, json_extract(sets, '$.DEPTH') AS depth FROM proposals ORDER BY created_at")
    assert [(row["commit"], row["author"], row["kind"]) for row in rows] == [
        (idea, "ada", "candidate"),
        (probe.commit, "bob", "measurement"),
    ]
    (run,) = measured.measure(probe.commit, [1.2])
    assert ask(sql="SELECT n, mean, gain, state FROM commits WHERE state NOT LIKE '%open%' AND state != 'champion'") == [
        {"n": 1, "mean": pytest.approx(1.2), "gain": None, "state": "measurement only"}
    ]
    assert measured.lab.get_experiment(run).against_champion.endswith(
        "One replicate proves nothing. It is a measurement: never a candidate."
    )
    assert ask(sql="SELECT share, loss FROM curves WHERE commit IN (SELECT commit FROM proposals)") == [
        {"share": pytest.approx(0.05), "loss": 3.0},
        {"share": pytest.approx(0.15), "loss": 2.0},
    ]
    measured.lab.record_change("ada", "worker", "http", "a client at 10.0.0.9", "launch_training", idea)
    for way, origin in (("http", "page at ::1"), ("stdio", "claude-code"), ("command line", "a-host.example")):
        measured.lab.record_change("eve", "owner", way, origin, "cancel", idea)
    assert ask(sql="SELECT who, role, action, subject FROM changes WHERE who = 'ada'") == [
        {"who": "ada", "role": "worker", "action": "launch_training", "subject": idea}
    ]
    assert [row["origin"] for row in ask(sql="SELECT origin FROM changes ORDER BY at")] == [
        "a client on another machine",
        "page on this machine",
        "claude-code on this machine",
        "command line",
    ]
    assert "a-host" not in str(ask(sql="SELECT * FROM changes"))
    assert "10.0.0.9" not in str(ask(sql="SELECT * FROM changes")), "where people call from is the owner's to see"


def test_what_sql_can_not_know_is_refused_with_what_there_is(ask: Ask, idea: str) -> None:
    with pytest.raises(LabError, match="the tables are experiments, commits, proposals, promotions, memories, curves, changes"):
        ask(sql="SELECT * FROM runs")
    with pytest.raises(
        LabError, match="columns of commits are commit TEXT, idea TEXT, author TEXT or NULL, experiments INTEGER, n INTEGER"
    ):
        ask(sql="SELECT depth FROM commits")
    with pytest.raises(LabError, match=r"no such column: commit.*columns of memories"):
        ask(sql="SELECT commit FROM memories")
    with pytest.raises(LabError, match=r"Known: .*memory_mb"):
        ask(columns=["nosuch"])
    assert set(ask(columns=["memory_mb", "steps", "curve"], limit=1)[0]) == {"id", "memory_mb", "steps", "curve"}


def test_cancelled_ones_are_shown_to_who_asks_for_them(measured: MeasuredLab, ask: Ask, idea: str) -> None:
    (id,) = measured.lab.launch_training("champion", "ada", tags=["stop"]).experiments
    assert [row["id"] for row in ask(tag="stop")] == [id]
    measured.lab.cancel("ada", [id])
    nothing = measured.lab.query_experiments(ExperimentQuery(tag="stop"))
    assert nothing.rows == [] and "Cancelled ones that match: 1." in nothing.note
    assert [row["id"] for row in ask(state=["cancelled"], tag="stop")] == [id]
    assert ask(group_by="state", tag="stop") == [{"state": "cancelled", "count": 1}] and ask(group_by="commit", tag="stop") == []


def test_unknown_names_are_answered_with_those_that_there_are(measured: MeasuredLab, idea: str) -> None:
    lab = measured.lab
    lab.launch_training(idea, "bob", tags=["lr"])
    lab.write_memory("finding", "Deeper is better by 0.2.", "carol", tags=["depth"])
    assert lab.query_experiments(ExperimentQuery(author="bbo")).note == "There is no author 'bbo'; there are: ada, bob."
    assert "There is no tag 'rate'; there are: " in lab.query_experiments(ExperimentQuery(tag="rate")).note
    assert lab.query_experiments(ExperimentQuery(author="ada", tag="lr")).note == "", "both are known"
    assert (
        "'dave'; there are: carol" in lab.search_memory(author="dave").note
        and "'rate'; there are: depth" in lab.search_memory(tag="rate").note
    )
    newest = lab.query_experiments(ExperimentQuery(limit=1)).rows[0]["id"]
    with pytest.raises(LabError, match=rf"no experiment e-000000000000000.*The newest are {newest}"):
        lab.get_experiment("e-000000000000000")
    with pytest.raises(LabError, match=rf"newest proposals are .*{idea[:12]}"):
        lab.launch_training("0123456789", "ada")


@pytest.mark.parametrize(
    ("text", "seconds_ago"), [("10m", 600), (" 1.5h ago", 5400), ("2 d", 172_800), ("90s", 90), ("1w", 604_800), ("30 min", 1800)]
)
def test_times_may_be_said_as_ago(text: str, seconds_ago: float) -> None:
    assert unix(text) == pytest.approx(time.time() - seconds_ago, abs=5)


@pytest.mark.parametrize("text", ["1700000000", "2023-11-14T22:13:20Z", "2023-11-14t22:13:20", "2023-11-15T00:13:20+02:00", "1.7e9"])
def test_times_may_be_iso_or_unix(text: str) -> None:
    assert unix(text) == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC).timestamp()


def test_a_promotion_tells_both_means_and_whose_idea_it_was(measured: MeasuredLab, idea: str, ask: Ask) -> None:
    before = measured.lab.champion()
    assert measured.lab.promote_commit(idea, "bob").promoted
    (row,) = ask(sql="SELECT * FROM promotions")
    assert (row["author"], row["idea_by"], row["kind"], row["previous"]) == ("bob", "ada", "promotion", before)
    assert (row["n"], row["m"], row["mean"], row["mean_before"]) == (3, 8, pytest.approx(1.4), pytest.approx(1.6))
    assert row["gain"] == pytest.approx(0.2) and 0 < row["p"] < 0.005 and row["sd"] > 0 and row["idea"].startswith("DEPTH")
