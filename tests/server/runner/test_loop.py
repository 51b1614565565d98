"""The runner: experiments reach the lake, and a kill at any point loses nothing and trains nothing twice."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import asdict
from pathlib import Path

import anyio
import pytest

from autoresearch_mcp.server import cli, tracing
from autoresearch_mcp.server import settings as lab_settings
from autoresearch_mcp.server.compute.local.backend import LocalCompute
from autoresearch_mcp.server.lake.base import LakeDamaged, Query
from autoresearch_mcp.server.lake.embedded.manifest import read_head
from autoresearch_mcp.server.lake.embedded.store import EmbeddedLake
from autoresearch_mcp.server.models import ACTIVE_STATES, Experiment
from autoresearch_mcp.server.proposals.repo import Repo
from autoresearch_mcp.server.runner import flushing
from autoresearch_mcp.server.runner.attempts import ATTEMPTS
from autoresearch_mcp.server.runner.lock import runner_alive, runner_lock, stop_runner
from autoresearch_mcp.server.runner.loop import Runner
from autoresearch_mcp.trainer import protocol
from tests.server.harness import NOOP, LabHarness
from tests.server.lake.records import memory
from tests.trainings import QUICK
from tests.waiting import until


@pytest.fixture
def harness(make_lab: Callable[..., Path]) -> Iterator[LabHarness]:
    harness = LabHarness(make_lab())
    yield harness
    for e in harness.ledger.open_experiments():
        harness.ledger.request_cancel(e.id)
    harness.close()


@pytest.fixture
def quick(make_lab: Callable[..., Path]) -> Iterator[LabHarness]:
    """A harness whose champion trains in a moment."""
    with closing(LabHarness(make_lab(train=QUICK))) as harness:
        yield harness


@pytest.fixture
def still(harness: LabHarness) -> Iterator[LabHarness]:
    """A harness in which calls wake no runner: the lock is taken, as if by one that is busy. Release it with `drive`."""
    lock = runner_lock(harness.state)
    assert lock.__enter__()
    harness.release = lambda: lock.__exit__(None, None, None)  # type: ignore[attr-defined]
    yield harness
    with suppress(ValueError, StopIteration, RuntimeError):
        lock.__exit__(None, None, None)


def release(harness: LabHarness) -> None:
    harness.release()  # type: ignore[attr-defined]


def test_what_ended_reaches_the_lake_and_leaves_the_outbox(still: LabHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = still.launch(3)
    traced: list[tuple[str, str, str]] = []
    monkeypatch.setattr(
        tracing, "add_training", lambda context, *times, **_: traced.append((context, times[-1]["experiment"], times[-1]["state"]))
    )
    still.ledger.keep_trace(ids[:1], "00-trace-span-01")
    memory = still.lab.write_memory("finding", "Nothing was trained.", "ada").id
    release(still)
    still.drive()
    assert still.ledger.unflushed() == 0 and still.ledger.open_experiments() == []
    lake = EmbeddedLake(still.state / "lake")
    assert {e.id: e.val_bpb for e in lake.get("experiments", ids) if isinstance(e, Experiment)} == dict.fromkeys(ids, 1.5)
    assert [m.id for m in lake.get("memories", [memory])] == [memory]
    lake.close()
    assert [still.lab.get_experiment(id).experiment.val_bpb for id in ids] == [1.5] * 3
    assert still.lab.status().budget.reserved_s == 0
    assert traced == [("00-trace-span-01", ids[0], "finished")]


def test_slots_are_respected(make_lab: Callable[..., Path]) -> None:
    harness = LabHarness(make_lab("narrow", {"slots = 0": "slots = 1"}))
    most = 0
    with runner_lock(harness.state):
        ids = harness.launch(3)
    ledger = harness.ledger
    move = ledger.move

    def counting(id: str, states: object, **changes: object) -> object:
        nonlocal most
        most = max(most, len(ledger.open_experiments(*ACTIVE_STATES)))
        return move(id, states, **changes)  # type: ignore[arg-type]

    ledger.move = counting  # type: ignore[method-assign, assignment]
    stop_runner(harness.state)
    harness.drive()
    assert most == 1 and harness.ended(ids)
    harness.close()


@pytest.mark.parametrize(("slots", "cores", "beside"), [(2, 3, [3, 3, 3]), (2, 2, [2, 2, 3]), (1, 3, [1, 2, 3])])
def test_a_run_in_scoring_holds_its_slot_where_no_core_is_free_or_one_at_a_time_was_asked_for(
    make_lab: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, slots: int, cores: int, beside: list[int]
) -> None:
    monkeypatch.setattr("autoresearch_mcp.server.compute.local.backend.physical_cores", lambda: cores)
    harness = LabHarness(make_lab("scoring", {"slots = 0": f"slots = {slots}"}))
    with runner_lock(harness.state):
        ids = harness.launch(3)
    stop_runner(harness.state)
    harness.drive(command=(*NOOP, "score", "3"))
    assert [harness.lab.get_experiment(id).details["steps"] for id in ids] == beside
    harness.close()


def test_a_real_training_is_measured_and_recorded(harness: LabHarness) -> None:
    (id,) = harness.launch()
    until(lambda: harness.ended([id]), 90)
    answer = harness.lab.get_experiment(id)
    assert answer.experiment.state == "finished", answer.failure
    assert answer.experiment.val_bpb is not None and 1.5 < answer.experiment.val_bpb < 5
    assert answer.curve and answer.details["steps"] > 0 and answer.cost_s > 0
    assert answer.details["hashes"]["fixed"] and answer.details["sandbox"]
    assert "num_steps" in harness.lab.read_log(id)


def test_a_killed_runner_is_replaced_by_the_next_call_and_trains_nothing_twice(quick: LabHarness) -> None:
    (id,) = quick.launch()
    launcher = quick.launcher(id)
    os.kill(quick.runner(), signal.SIGKILL)
    until(lambda: not runner_alive(quick.state))
    assert quick.state_of(id) in ("starting", "running", "scoring", "finished")  # this call starts the next runner
    until(lambda: quick.ended([id]), 90)
    answer = quick.lab.get_experiment(id)
    assert answer.experiment.state == "finished" and answer.attempt == 1
    lock = quick.state / "runs" / id / "1" / "launcher.lock"
    assert int(lock.read_text(encoding="ascii")) == launcher
    assert [path.name for path in (quick.state / "runs" / id).iterdir()] == ["1"]


def test_a_killed_training_is_queued_again_once(quick: LabHarness) -> None:
    (id,) = quick.launch()
    os.kill(quick.launcher(id), signal.SIGKILL)
    until(lambda: quick.ended([id]), 90)
    answer = quick.lab.get_experiment(id)
    assert answer.experiment.state == "finished" and answer.attempt == 2


def test_a_training_that_never_began_as_its_runner_died_is_queued_again_as_often_as_that(still: LabHarness) -> None:
    class Killed(BaseException): ...

    async def killed(self: LocalCompute, job: object) -> None:
        raise Killed

    (id,) = still.launch()
    reserved = still.lab.status().budget.reserved_s
    release(still)
    for attempt in range(1, ATTEMPTS + 2):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            patch.setattr(LocalCompute, "submit", killed)
            still.drive()
        assert (still.record(id).state, still.record(id).attempt) == ("starting", attempt)
    still.ledger.move(id, ["starting"], started_at=time.time() - 86_400)
    still.drive()
    answer = still.lab.get_experiment(id)
    assert answer.experiment.state == "finished" and answer.attempt == ATTEMPTS + 2
    assert answer.cost_s < reserved / 2, "what never began cost nothing"


@pytest.mark.parametrize("start", ["open(line.strip() + '/launcher.lock', 'w').write('1')", "pass"], ids=["begun", "never begun"])
def test_a_training_that_is_lost_every_time_is_given_up(still: LabHarness, monkeypatch: pytest.MonkeyPatch, start: str) -> None:
    monkeypatch.setattr("autoresearch_mcp.server.runner.attempts.START_LIMIT_S", 0.0)
    (id,) = still.launch()
    release(still)
    vanishing = f"import sys\nfor line in sys.stdin:\n    {start}\n    print('{{}}', flush=True)"
    still.drive(command=(sys.executable, "-c", vanishing))
    answer = still.lab.get_experiment(id)
    assert answer.experiment.state == "crashed" and answer.attempt == ATTEMPTS
    assert answer.failure is not None and answer.failure.kind == "lost"


def test_a_running_training_is_paused_and_then_cancelled_and_returns_its_budget(make_lab: Callable[..., Path]) -> None:
    harness = LabHarness(make_lab("long", {"budget_s = 1 ": "budget_s = 30 "}))
    (id,) = harness.launch()
    harness.launcher(id)
    assert cli.main(["pause", "--now", str(harness.root)]) == 0
    until(lambda: harness.state_of(id) == "queued", 60)
    waiting = harness.record(id)
    assert (waiting.attempt, waiting.losses, waiting.cancelled_by, waiting.cancel_requested) == (1, 0, "", False) and waiting.cost_s > 0
    assert any("paused the lab" in warning for warning in harness.lab.status().warnings)
    launched = harness.lab.launch_training("champion", "bo")
    assert "paused" in launched.note
    harness.lab.cancel("bo", [launched.experiments[0]])
    assert [harness.lab.resume(), harness.lab.resume()] == [True, False]
    harness.launcher(id)
    assert harness.record(id).attempt == 2
    assert harness.lab.cancel("ada", [id]).states[id] in ACTIVE_STATES
    until(lambda: harness.ended([id]), 60)
    assert harness.state_of(id) == "cancelled"
    assert harness.lab.status().budget.reserved_s == 0
    assert [score.started for score in harness.ledger.scores(harness.lab.champion()) if score.experiment == id] == [True]
    harness.close()


WHOLE = json.dumps(asdict(protocol.Result("finished", val_bpb=1.5)))


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        ('{"state": "finished", "val_bpb": 1.5}', "the result lacks reported_bpb, "),
        (WHOLE.replace('"finished"', '"done"'), "the result's state is none of"),
        (WHOLE.replace('"hashes": {}', '"hashes": []'), "the result's hashes is not of its type."),
        (WHOLE.replace('"val_bpb": 1.5', '"val_bpb": true'), "the result's val_bpb is not of its type."),
        (WHOLE.replace('"curve": []', '"curve": [[1.0]]'), "the result's curve is not made of pairs."),
        (WHOLE.replace('"seed"', '"sead": 1, "seed"'), "the result has unknown fields: sead."),
        ('{"state": ', "the result is not valid JSON."),
        ("[]", "the result is no JSON object."),
    ],
)
def test_a_result_that_makes_no_sense_ends_its_experiment_with_the_reason_and_nothing_else(
    still: LabHarness, result: str, reason: str
) -> None:
    (id,) = still.launch()
    release(still)
    damaged = (
        f"import sys\nfor line in sys.stdin:\n    open(line.strip() + '/result.json', 'w').write({result!r})\n    print('{{}}', flush=True)"
    )
    still.drive(command=(sys.executable, "-c", damaged))
    failure = still.lab.get_experiment(id).failure
    assert failure is not None and failure.message.startswith(f"The launcher's result could not be understood. {reason}")
    assert still.ledger.open_experiments() == [] and still.ledger.unflushed() == 0


def test_what_the_launcher_saw_of_a_training_and_who_ran_beside_it_are_in_its_record(still: LabHarness) -> None:
    one, two = still.launch(2)
    release(still)
    facts = {"steps": 12, "cpu_share": 0.9, "wall_s": 1.5, "pressure": 0.25, "host": "a1", "device_id": "GPU-7", "ended_in": "scoring"}
    result = asdict(protocol.Result("crashed", hashes=dict.fromkeys(("fixed", "data", "tokenizer"), ""), versions={"torch": ""}))
    text = json.dumps(result | facts | {"fault": "scorer", "failure": {"kind": "error", "message": "m"}})
    command = (
        f"import sys\nfor line in sys.stdin:\n    open(line.strip() + '/result.json', 'w').write({text!r})\n    print('{{}}', flush=True)"
    )
    still.drive(command=(sys.executable, "-c", command))
    scores = {score.experiment: score for score in still.ledger.scores(still.lab.status().champion.commit)}
    for id, other in ((one, two), (two, one)):
        score, record = scores[id], still.lab.get_experiment(id)
        assert (score.steps, score.cpu_share, score.window_s, score.pressure) == (12, 0.9, 1.5, 0.25)
        assert (score.host, score.device_id, score.fault, score.ended_in) == ("a1", "GPU-7", "scorer", "scoring")
        assert score.beside == [other]
        assert record.details["steps"] == 12 and "host" not in record.details


@pytest.mark.parametrize(("data", "told"), [("theirs", True), ("ours", False)])
def test_a_lab_hears_that_another_of_its_log_measures_on_other_held_out_text(
    still: LabHarness, data: str, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flushing, "FLUSH_EVERY_S", 0.0)
    (id,) = still.launch()
    hashes = {"tokenizer": "t", "data": data}
    theirs = still.record(id).model_copy(update={"id": "e-00000000000000b", "state": "finished", "details": {"hashes": hashes}})
    lake = EmbeddedLake(still.state / "lake")
    lake.append("experiments", [theirs])
    measured = protocol.Result("finished", val_bpb=1.5, hashes={"fixed": "", "tokenizer": "t", "data": "ours"}, versions={"torch": ""})
    text = json.dumps(asdict(measured))
    program = (
        f"import sys\nfor line in sys.stdin:\n    open(line.strip() + '/result.json', 'w').write({text!r})\n    print('{{}}', flush=True)"
    )
    release(still)
    still.drive(command=(sys.executable, "-c", program), lake=lake)
    with runner_lock(still.state):  # only a living runner is believed
        warnings = " ".join(still.lab.status().warnings)
    assert ("secret export" in warnings) is told


@pytest.mark.parametrize("start", ["raise SystemExit", "open(line.strip() + '/result.json', 'w').write('[]'); print('{}', flush=True)"])
def test_an_end_without_a_result_is_the_machines_fault(still: LabHarness, start: str) -> None:
    still.launch()
    release(still)
    still.drive(command=(sys.executable, "-c", f"import sys\nfor line in sys.stdin:\n    {start}"))
    assert [score.fault for score in still.ledger.scores(still.lab.status().champion.commit)] == ["machine"]


def test_a_run_whose_files_cannot_be_written_is_a_failure_with_the_reason(still: LabHarness) -> None:
    (id,) = still.launch()
    (still.state / "runs").mkdir(exist_ok=True)
    (still.state / "runs" / id).write_text("in the way", encoding="utf-8")
    release(still)
    still.drive()
    failure = still.lab.get_experiment(id).failure
    assert failure is not None and failure.kind == "error" and "could not be written" in failure.message


def test_an_end_that_is_noticed_a_day_later_costs_no_more_than_was_reserved(still: LabHarness) -> None:
    (id,) = still.launch()
    reserved = still.lab.status().budget.reserved_s
    release(still)
    still.ledger.move(id, ["queued"], state="running", attempt=1, started_at=time.time() - 86_400)
    run = still.state / "runs" / id / "1"
    run.mkdir(parents=True)
    (run / "launcher.lock").write_text("1", encoding="ascii")  # it had begun, and nobody holds it
    still.drive()
    budget = still.lab.status().budget
    assert still.lab.states([id])[0].state == "finished" and still.lab.get_experiment(id).attempt == 2
    assert reserved <= budget.spent_s < reserved + 10 and budget.reserved_s == 0


def test_a_run_that_is_lost_between_its_hidden_score_and_its_result_leaves_none(still: LabHarness) -> None:
    (id,) = still.launch()
    release(still)
    still.ledger.move(id, ["queued"], state="scoring", attempt=1, started_at=time.time())
    run = still.state / "runs" / id / "1"
    run.mkdir(parents=True)
    (run / "launcher.lock").write_text("1", encoding="ascii")  # it had begun, and nobody holds it
    protocol.write_hidden(run, 71.828)
    still.drive()
    assert still.lab.get_experiment(id).attempt == 2 and list(still.state.rglob(protocol.HIDDEN)) == []


def test_a_launcher_that_cannot_start_fails_the_experiment_with_its_words(still: LabHarness) -> None:
    (id,) = still.launch()
    release(still)
    still.drive(command=(sys.executable, "-c", "raise SystemExit('no such device')"))
    failure = still.lab.get_experiment(id).failure
    assert failure is not None and "no such device" in failure.message


def test_while_the_lake_is_away_nothing_is_lost_and_queries_say_so(still: LabHarness) -> None:
    lake = still.state / "lake"
    lake.write_text("in the way", encoding="utf-8")
    ids = still.launch(2)
    release(still)
    settings = lab_settings.load(still.root)
    away = EmbeddedLake(lake)
    compute = LocalCompute("tiny", 1, still.state / "runner.log", command=NOOP)
    runner = Runner(settings, still.state, still.ledger, Repo(still.root), away, compute)

    async def drive() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(runner.run, 0.0)
            with anyio.fail_after(60):
                while still.ledger.open_experiments():  # noqa: ASYNC110
                    await anyio.sleep(0.02)
            runner.stopping.set()

    anyio.run(drive)
    assert still.ledger.unflushed() == 2
    with runner_lock(still.state):
        page = still.lab.query_experiments()
    assert {row["id"] for row in page.rows} == set(ids) and page.note
    lake.unlink()
    still.drive()
    assert still.ledger.unflushed() == 0
    assert {row["id"] for row in still.lab.query_experiments().rows} == set(ids)


def test_an_idle_runner_leaves_and_the_next_call_starts_another(quick: LabHarness) -> None:
    with runner_lock(quick.state):
        first = quick.launch()
    quick.drive()
    assert not runner_alive(quick.state)
    (second,) = quick.launch()
    assert until(lambda: runner_alive(quick.state))
    until(lambda: quick.ended([second]), 90)
    assert quick.state_of(second) == "finished" and quick.state_of(first[0]) == "finished"


@pytest.mark.parametrize("keep", [0.0, 0.5], ids=["emptied", "cut"])
def test_a_log_damaged_at_its_tail_is_rebuilt_and_refilled(keep: float, harness: LabHarness) -> None:
    folder = harness.state / "lake"
    for first in (0, 3):
        for n in range(first, first + 3):
            harness.ledger.remember(memory(n, f"note {n}"))
        harness.drive()
    reader = EmbeddedLake(folder)
    assert reader.count("memories") == {"": 6}
    head = read_head(folder / "memories.json")
    assert head is not None
    files = sorted((folder / f"memories.{head.generation}" / name for name in head.files), key=lambda path: path.stat().st_mtime_ns)
    for path in files[-5:]:
        path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    harness.ledger.remember(memory(6, "note 6"))
    with pytest.raises(LakeDamaged):
        EmbeddedLake(folder).count("memories")
    harness.drive()
    expected = [f"m-{n:06d}" for n in range(7)]
    for each in (reader, EmbeddedLake(folder)):
        assert [record.id for record in each.select("memories", Query(order_by="id", descending=False))] == expected
    assert harness.ledger.unflushed() == 0
    assert len(list(harness.state.glob("lake-damaged-*/memories.*"))) > 2  # nothing was deleted
