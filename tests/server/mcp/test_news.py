"""What a caller hasn't heard: it stands in its next answer, whatever it asks, and once."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from mcp import Client

from autoresearch_mcp.server.answers import Range
from autoresearch_mcp.server.lab.core import LabCore
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.lab.news import NewsCases
from autoresearch_mcp.server.ledger.news import Piece
from autoresearch_mcp.server.mcp.app import build_server
from tests.server.mcp.calls import answer, call, text
from tests.server.mcp.conftest import FakeRunnerLab, make_runner_lab
from tests.server.mcp.winning import propose, win

pytestmark = pytest.mark.anyio


@pytest.fixture
def runner_lab(tmp_path: Path) -> Iterator[FakeRunnerLab]:
    yield from make_runner_lab(tmp_path / "lab")


async def test_whoever_has_not_heard_is_told_once_that_the_champion_moved(runner_lab: FakeRunnerLab, lab: Lab) -> None:
    winner, old, first = propose(lab, 1), propose(lab, 4, "bob"), lab.champion()
    (queued,) = lab.launch_training(old, "bob").experiments
    (hers,) = lab.launch_training(propose(lab, 5), "ada").experiments
    win(runner_lab, lab, winner)
    with contextlib.closing(Lab(runner_lab.root)) as other:  # another server, such as another agent's
        async with Client(build_server(lab)) as ada, Client(build_server(other)) as bob:
            assert "news" not in await answer(bob, "write_memory", kind="finding", text="Bob was here before.", author="bob")
            moved = await answer(ada, "promote_commit", commit=winner, author="ada")
            assert moved["promoted"] and "news" not in moved, "who moved it knows"
            heard = text(await call(bob, "read_file"))  # signed by nobody: the name that the session gave last counts
            assert "news" not in await answer(bob, "get_status") and "News" not in text(await call(bob, "read_file"))
            late = await answer(ada, "get_status")
            assert "news" not in late
    (news,) = [line for line in heard.splitlines() if line.startswith("News: ")]
    assert f"moved from {first[:12]} to {winner[:12]}: 'A depth of 1 is better', an idea of ada" in news
    assert "Mean 1.6400 (n 3) against 1.6800 (n 8, sd 0.00" in news and "a gain of 0.0400 (p = " in news
    assert queued in news and old[:12] in news and hers not in news


async def test_news_stands_in_refusals_too_and_not_in_the_first_answer(runner_lab: FakeRunnerLab, lab: Lab) -> None:
    win(runner_lab, lab, winner := propose(lab, 1))
    assert lab.promote_commit(winner, "ada").promoted
    async with Client(build_server(lab)) as bob:
        assert "news" not in await answer(bob, "get_status"), "a newcomer sees the champion of now"
        lab.demote("[owner]", "It was a mistake.")
        refused = await call(bob, "get_experiment", id=["e-000000000000000"])
        assert refused.is_error and "took a promotion back" in str(refused.content[-1])
        assert "news" not in await answer(bob, "get_status")


async def test_a_fresh_agent_learns_in_one_call_what_happened_since(runner_lab: FakeRunnerLab, lab: Lab) -> None:
    winner, doubt = propose(lab, 1), propose(lab, 4, "bob")
    async with Client(build_server(lab)) as client:
        cursor = (await answer(client, "get_status"))["cursor"]
        assert "news" not in await answer(client, "get_status", since=cursor), "nothing happened"
        win(runner_lab, lab, winner)
        (lost,) = lab.launch_training(doubt, "bob").experiments
        runner_lab.move(lost, "crashed")
        (stopped,) = lab.launch_training(propose(lab, 5, "cleo"), "cleo").experiments
        lab.cancel("ada", [stopped], reason="It is hopeless.", anyones=True)
        idea = lab.write_memory("idea", "Tie the embeddings of the two layers.", "dan").id
        claim = lab.claim_idea("ada", text="Halve the batch after the first half.")
        over = {"RATE": Range(low=0.01, high=0.1)}
        sweep = lab.launch_sweep("champion", "cleo", over, trials=3, sampler="random").id
        decided, hers = (lab.launch_until_decided(propose(lab, depth, who), who) for depth, who in ((6, "cleo"), (7, "ada")))
        for id in (sweep, decided.until_decided, hers.until_decided):
            lab.cancel("ada", [id or ""], reason="The night is over.", anyones=True)
        assert lab.promote_commit(winner, "ada", approved_by="a person").promoted
    with contextlib.closing(Lab(runner_lab.root)) as later:  # another server
        async with Client(build_server(later)) as client:
            woken = await answer(client, "get_status", since=cursor)
            again = await answer(client, "get_status", since=woken["cursor"])
        cancelled = " ".join(later.since(cursor, "cleo"))
    news = woken["news"]
    assert f" to {winner[:12]}: " in news[0], "the newest first"
    told = "\n".join(news)
    assert "Trainings of ada ended: 1 cancelled, 3 finished; the best 1.6390." in told
    assert "Trainings of the lab ended: 8 finished" in told and "Trainings of bob ended: 1 crashed." in told
    assert f"dan wrote the idea {idea}: 'Tie the embeddings" in told and f"ada holds {claim.id}: 'Halve the batch" in told
    assert told.count(claim.id) == 1 and "hopeless" not in told and "It is hopeless." in cancelled
    assert f"The sweep {sweep} of cleo over RATE is cancelled: get_experiment" in told and "asked for it, a person approved." in told
    assert (
        f"({decided.until_decided}) is cancelled." in cancelled
        and str(decided.until_decided) not in told
        and str(hers.until_decided) not in told
    )
    assert "news" not in again, "each once"


async def test_what_happened_is_told_within_a_limit_and_older_things_are_counted(lab: Lab) -> None:
    cursor = lab.status().cursor
    for number in range(40):
        lab.write_memory("idea", f"Number {number} of many ideas " + "whose text goes on and on " * 20, "dan" * 21)
    async with Client(build_server(lab)) as client:
        result = await call(client, "get_status", since=cursor)
        news = (result.structured_content or {})["news"]
    assert len(text(result)) <= 4_000 and sum(map(len, news)) <= 2_100
    assert "Number 39" in news[0] and news[-1] == f"{40 - (len(news) - 1)} older things happened too."


@pytest.mark.parametrize("cursor", ["yesterday", "1.2", "-1.0.0.0.0", "1.2.3.4.5.6", "9" * 60])
async def test_a_cursor_that_is_none_is_refused_in_a_sentence(lab: Lab, cursor: str) -> None:
    async with Client(build_server(lab)) as client:
        refused = await call(client, "get_status", since=cursor)
    assert refused.is_error and "`cursor` of an earlier get_status answer" in text(refused)


async def test_who_asks_what_happened_holds_up_nobody_else(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    cursor, asked, may_end = lab.status().cursor, threading.Event(), threading.Event()

    def slow(cursor: str, caller: str) -> list[str]:
        asked.set()
        assert may_end.wait(20)
        return ["It took long."]

    monkeypatch.setattr(lab, "since", slow)
    async with Client(build_server(lab)) as one, Client(build_server(lab)) as other, anyio.create_task_group() as tasks:
        woken: list[str] = []

        async def wake() -> None:
            woken.extend((await answer(one, "get_status", since=cursor))["news"])

        tasks.start_soon(wake)
        assert await anyio.to_thread.run_sync(asked.wait, 20)
        assert "champion" in await answer(one, "get_status") and "champion" in await answer(other, "get_status")
        assert woken == []
        may_end.set()
    assert woken == ["It took long."]


def test_what_happens_while_one_asks_is_not_lost(lab: Lab) -> None:
    (queued,) = lab.launch_training(propose(lab, 6, "cleo"), "cleo").experiments
    with contextlib.closing(LabCore(lab.root)) as core:
        cursor, unheard = str(core.ledger.cursor()), core.ledger.unheard

        def cancelled_meanwhile(caller: str) -> list[Piece]:
            lab.cancel("ada", [queued], reason="It is in the way.", anyones=True)
            return unheard(caller)

        core.ledger.unheard = cancelled_meanwhile
        news = NewsCases(core)
        assert "It is in the way." in " ".join(news.since(cursor, "cleo"))
        assert unheard("cleo") == []
