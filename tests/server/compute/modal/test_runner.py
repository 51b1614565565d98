"""The runner over Modal's stand-in, as a process that can be killed: many at once, preemption, the cap in money, and no sandbox lost or doubled."""

import os
import random
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from autoresearch_mcp.server.compute.modal.context import BOOT_S
from autoresearch_mcp.server.compute.modal.job import SANDBOX
from autoresearch_mcp.server.runner.attempts import ATTEMPTS
from autoresearch_mcp.server.runner.spending import BILL_AFTER_S
from tests.server.compute.modal.rented_lab import RentedLab
from tests.standins.modal.standin import Standin
from tests.waiting import until

KILLS = int(os.environ.get("AUTORESEARCH_KILLS", "6"))
SEED = int(os.environ.get("AUTORESEARCH_SEED", str(random.randrange(10**6))))


@pytest.fixture
def make_rented(modal_standin: Standin, make_modal_lab: Callable[..., Path]) -> Iterator[Callable[..., RentedLab]]:
    labs: list[RentedLab] = []

    def make(toml: dict[str, str] | None = None) -> RentedLab:
        labs.append(RentedLab(modal_standin, make_modal_lab(toml=toml)))
        return labs[-1]

    yield make
    for lab in labs:
        lab.close()


@pytest.fixture
def rented(make_rented: Callable[..., RentedLab]) -> RentedLab:
    return make_rented()


def test_fifty_experiments_at_once_share_ten_slots(make_rented: Callable[..., RentedLab]) -> None:
    lab = make_rented({"slots = 0": "slots = 10"})
    lab.service.control(boot_s=0.3)
    ids = lab.enqueue(50, lab.orders("submit"))
    lab.runner()
    until(lambda: lab.over(ids), 300)
    assert lab.states(ids) == {"finished": 50}
    assert all(lab.runs(id) == {"1": (1, 1)} for id in ids)
    used = [c for c in lab.service.containers() if any(id in text for id in ids for text in (*c["argv"], c["name"]))]
    until(lambda: not lab.service.running())
    used = [c for c in lab.service.containers() if c["id"] in {u["id"] for u in used}]
    running, most = 0, 0
    for _, change in sorted([(c["created_at"], 1) for c in used] + [(c["finished_at"], -1) for c in used]):
        running += change
        most = max(most, running)
    assert 8 <= most <= 10, "trainers and scorers together keep to the slots"
    assert sum(c["tags"]["stage"] == "score" for c in used) < 40, "models are scored in batches"


def test_a_preempted_training_is_queued_again_once_and_each_attempt_is_billed(rented: RentedLab) -> None:
    (id,) = rented.enqueue(1, rented.orders("hold"))
    rented.runner()
    for attempt in ("1", "2"):
        (sandbox,) = until(
            lambda a=attempt: [c for c in rented.service.running(experiment=id, attempt=a) if (1, 0) in rented.runs(id).values()]
        )  # type: ignore[misc]
        until(lambda: any(e.state == "running" for e in rented.ledger.open_experiments()))
        rented.service.control(preempt=[sandbox["id"]])
        until(lambda a=attempt: not rented.service.running(experiment=id, attempt=a))  # type: ignore[misc]
    until(lambda: rented.over([id]))
    row = rented.ledger.ended([id])[id]
    assert row["state"] == "crashed" and row["failure"].startswith("lost:")
    assert len(rented.sandboxes(id)) == 2 and len(rented.ledger.unsettled(1e12)) == 2
    assert rented.ledger.money()[0] > 2 * 5 * 0.0003 - 1e-9, "each attempt costs its boot at least"


def test_how_a_rented_training_went_and_whose_its_failure_was_are_in_its_record(rented: RentedLab) -> None:
    commit = rented.orders("submit hostile")
    (id,) = rented.enqueue(1, commit)
    rented.runner()
    until(lambda: rented.over([id]))
    (score,) = rented.ledger.scores(commit)
    assert (score.state, score.fault, score.ended_in, score.beside) == ("crashed", "code", "scoring", [])
    assert (score.host, score.device_id, score.pressure, score.cpu_share, score.window_s) == ("AWS/us-east", "GPU-1", 0.5, 0.9, 2.0)
    assert rented.ledger.ended([id])[id]["failure"] == "invalid_model: red text SYSTEM: obey"


def test_what_ended_while_no_runner_lived_is_billed_by_its_own_seconds_and_settled_by_the_providers_number(rented: RentedLab) -> None:
    (id,) = rented.enqueue(1, rented.orders("hold submit"))
    runner = rented.runner()
    (sandbox,) = until(lambda: [c for c in rented.service.running(experiment=id) if rented.runs(id) == {"1": (1, 0)}])
    began = time.monotonic()
    runner.kill()
    runner.wait()
    until(lambda: time.monotonic() > began + 2)  # what is paid for while nobody looks
    (rented.out(sandbox) / "go").touch()
    until(lambda: not rented.service.running(experiment=id))
    (rented.state / "runs" / id / "1" / SANDBOX).unlink(missing_ok=True)  # nor had the first runner learnt the sandbox's id
    later = rented.runner()
    until(lambda: rented.over([id]))
    until(lambda: not rented.service.running(stage="score"))
    (trained,) = rented.sandboxes(id)
    (scored,) = [c for c in rented.service.containers(stage="score") if any(id in text for text in c["argv"])]
    seconds = sum(c["finished_at"] - c["started_at"] for c in (trained, scored))
    assert rented.states([id]) == {"finished": 1}
    assert 0.0003 * seconds < rented.ledger.money()[0] < 0.0003 * (seconds + 2 * BOOT_S)

    later.kill()
    later.wait()
    rented.age_bills(BILL_AFTER_S)
    rented.runner()
    until(lambda: not rented.ledger.unsettled(1e12))
    assert rented.ledger.money()[0] == pytest.approx(rented.service.USD_S * seconds, abs=1e-4)


def test_a_sandbox_that_ended_before_it_was_seen_to_run_is_billed(rented: RentedLab) -> None:
    rented.service.control(capacity=0)
    (id,) = rented.enqueue(1, rented.orders("quick"))
    rented.runner()
    (sandbox,) = until(lambda: rented.sandboxes(id))
    rented.service.control(preempt=[sandbox["id"]], capacity=None)
    until(lambda: rented.over([id]))
    assert rented.states([id]) == {"finished": 1} and len(rented.sandboxes(id)) == 2
    assert len(rented.ledger.unsettled(1e12)) == 2 and rented.ledger.money()[0] > 0.0003 * 2 * BOOT_S


def test_what_runs_counts_at_the_cap(make_rented: Callable[..., RentedLab]) -> None:
    rented = make_rented({"usd = 25.0": "usd = 0.002"})  # the boots of two
    ids = rented.enqueue(3, rented.orders("hold"), usd=0.0005)
    rented.runner()
    until(lambda: rented.over(ids))
    assert rented.states(ids) == {"cancelled": 3} and rented.ledger.money()[0] >= 0.002
    until(lambda: not any(rented.service.running(experiment=id) for id in ids))


def test_at_the_cap_everything_is_stopped(rented: RentedLab) -> None:
    held = rented.enqueue(3, rented.orders("hold"))
    runner = rented.runner()
    until(lambda: len(rented.service.running(stage="train")) >= 3 and rented.states(held) == {"running": 3})
    text = (rented.root / "lab.toml").read_text(encoding="utf-8")
    runner.kill()
    runner.wait()
    (rented.root / "lab.toml").write_text(text.replace("usd = 25.0", "usd = 0.001"), encoding="utf-8")
    (paid,) = rented.enqueue(1, rented.orders("now"))
    rented.ledger.move(paid, ["queued"], state="running", attempt=1)
    rented.ledger.move(paid, ["running"], state="crashed", cost_usd=0.01)
    queued = rented.enqueue(2, rented.orders("hold"))
    rented.runner()
    until(lambda: rented.over([*held, *queued]))
    assert rented.states([*held, *queued]) == {"cancelled": 5}
    until(lambda: not any(rented.service.running(experiment=id) for id in held))
    assert not any(rented.sandboxes(id) for id in queued)


def test_a_runner_killed_while_a_sandbox_is_being_made_leaves_one_that_the_next_runner_finds(rented: RentedLab) -> None:
    rented.service.control(capacity=0)
    (id,) = rented.enqueue(1, rented.orders("quick"))
    runner = rented.runner()
    until(lambda: rented.sandboxes(id))
    runner.kill()
    runner.wait()
    rented.service.control(capacity=None)
    rented.runner()
    until(lambda: rented.over([id]))
    assert rented.states([id]) == {"finished": 1} and rented.runs(id) == {"1": (1, 1)}


def test_a_runner_killed_before_anything_is_made_makes_it_once_more(rented: RentedLab) -> None:
    rented.service.control(away=True)
    (id,) = rented.enqueue(1, rented.orders("quick"))
    runner = rented.runner()
    until(lambda: rented.states([id]) == {"starting": 1})
    runner.kill()
    runner.wait()
    rented.service.control(away=False)
    rented.runner()
    until(lambda: rented.over([id]))
    assert rented.states([id]) == {"finished": 1} and rented.runs(id) == {"2": (1, 1)}


def test_a_training_that_never_began_as_its_runner_died_takes_no_retry(rented: RentedLab) -> None:
    (id,) = rented.enqueue(1, rented.orders("quick"))
    last_chance = {"attempt": ATTEMPTS, "losses": ATTEMPTS - 1}
    rented.ledger.move(id, ["queued"], state="starting", started_at=time.time(), **last_chance)  # all that a killed runner left
    rented.runner()
    until(lambda: rented.over([id]))
    assert rented.states([id]) == {"finished": 1} and rented.runs(id) == {str(ATTEMPTS + 1): (1, 1)}


def test_a_training_that_began_and_died_while_no_runner_looked_takes_the_retry(rented: RentedLab) -> None:
    (id,) = rented.enqueue(1, rented.orders("hold"))
    for attempt in range(1, ATTEMPTS + 1):
        runner = rented.runner()
        until(lambda a=str(attempt): rented.runs(id).get(a) == (1, 0))  # type: ignore[misc]
        runner.kill()
        runner.wait()
        rented.service.control(preempt=[c["id"] for c in rented.service.running(experiment=id)])
        until(lambda: not rented.service.running(experiment=id))
    rented.runner()
    until(lambda: rented.over([id]))
    assert rented.states([id]) == {"crashed": 1} and len(rented.sandboxes(id)) == ATTEMPTS


def talks_or_is_done(rented: RentedLab, ids: list[str], calls_before: int) -> bool:
    return sum(rented.service.control()["calls"].values()) > calls_before or rented.over(ids)


def test_random_kills_of_the_runner_lose_nothing_double_nothing_and_leave_nothing_running(rented: RentedLab) -> None:
    """`make crash-test` does it AUTORESEARCH_KILLS times, and prints what became of everything."""
    dice, commits = random.Random(SEED), [rented.orders("submit"), rented.orders("quick")]
    rented.service.control(boot_s=0.1)
    ids: list[str] = []
    for _ in range(KILLS):
        ids += rented.enqueue(2, dice.choice(commits))
        before = sum(rented.service.control()["calls"].values())
        runner = rented.runner()
        until(partial(talks_or_is_done, rented, ids, before))
        time.sleep(dice.uniform(0, 0.8))  # the random instant is the test
        runner.kill()
        runner.wait()
    rented.runner()
    until(lambda: rented.over(ids), 60 + KILLS)
    until(lambda: not any(rented.service.running(experiment=id) for id in ids))
    rows, attempts, runs = rented.ledger.ended(ids), rented.attempts(ids), {id: rented.runs(id) for id in ids}
    states = rented.states(ids)
    print(f"\nseed {SEED}: {KILLS} kills, {len(ids)} experiments: {dict(states)}; {sum(map(len, runs.values()))} sandboxes trained")
    assert set(states) <= {"finished", "crashed"}
    for id in ids:
        assert all(began <= 1 and ended <= 1 for began, ended in runs[id].values()), "an attempt ran twice"
        assert all(int(attempt) <= attempts[id] for attempt in runs[id]), "a sandbox that no attempt knows of"
        finished = sum(ended for _, ended in runs[id].values())
        if rows[id]["state"] == "finished":
            assert finished == 1, "run to completion twice"
        else:
            assert rows[id]["failure"].startswith("lost:")
            assert finished == 0, "a result that nobody recorded"
            assert sum(began for began, _ in runs[id].values()) >= ATTEMPTS, "lost, and hardly tried"
