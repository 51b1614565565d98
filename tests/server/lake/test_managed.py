"""The managed lake against the stand-in: nothing is lost, doubled or hung, whatever the service does; and it says what is wrong."""

import json
import random
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lake import default_prefix, open_lake
from autoresearch_mcp.server.lake.base import Condition, LakeUnavailable, Query
from autoresearch_mcp.server.lake.embedded.store import EmbeddedLake
from autoresearch_mcp.server.lake.managed.service import Service
from autoresearch_mcp.server.lake.managed.store import ManagedLake
from autoresearch_mcp.server.settings import Settings
from tests.server.lake.records import experiment, memory
from tests.standins.deeplake.server import ORG, TOKEN, DeeplakeStandIn, Faults
from tests.waiting import until

Machine = Callable[..., ManagedLake]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses and limits at a hundredth of their length."""
    monkeypatch.setattr("autoresearch_mcp.server.lake.managed.service.BACKOFF_S", (0.01, 0.05))
    monkeypatch.setattr("autoresearch_mcp.server.lake.managed.service.ATTEMPT_S", 0.5)
    monkeypatch.setattr("autoresearch_mcp.server.lake.managed.store.AWAY_S", (0.05, 0.6))
    monkeypatch.setattr("autoresearch_mcp.server.lake.managed.store.READ_S", 0.3)
    monkeypatch.setattr("autoresearch_mcp.server.lake.managed.store.WRITE_S", 0.6)
    monkeypatch.setattr("autoresearch_mcp.server.lake.managed.store.HOLD_S", 1.5)


def flush(lake: ManagedLake, outbox: dict[str, int]) -> None:
    """As the runner does: what is not read back stays; an outage is for the next time."""
    try:
        stored = lake.present("experiments", list(outbox))
        missing = [id for id, version in outbox.items() if stored.get(id, -1) < version]
        if missing:
            lake.append("experiments", [experiment(int(id[2:])) for id in missing])
        stored = lake.present("experiments", list(outbox))
    except LakeUnavailable:
        return
    for id, version in stored.items():
        if version >= outbox[id]:
            del outbox[id]


def names(count: int, first: int = 0) -> list[str]:
    return [f"e-{n:06d}" for n in range(first, first + count)]


STORMS = {
    "calm": Faults(),
    "slow": Faults(latency_s=0.03),
    "throttled": Faults(statuses=(429,), chance=0.6),
    "out of order": Faults(statuses=(500, 502, 503, 504), chance=0.5),
    "answers lost after the commit": Faults(drop_after_commit=0.3),
    "malformed answers": Faults(malformed=0.3),
    "seen late": Faults(visible_after_s=0.7),
    "everything at once": Faults(0.005, 0.4, statuses=(429, 503), chance=0.2, drop_after_commit=0.1, malformed=0.1),
}


@pytest.mark.parametrize("storm", STORMS)
def test_no_row_is_lost_or_stored_twice(storm: str, deeplake: DeeplakeStandIn, workspace: str, machine: Machine) -> None:
    lake = machine("here")
    deeplake.faults = STORMS[storm]
    outbox: dict[str, int] = {}
    deadline = time.monotonic() + 60
    for first in range(0, 40, 5):
        outbox |= dict.fromkeys(names(5, first), 4)
        flush(lake, outbox)
    while outbox and time.monotonic() < deadline:
        flush(lake, outbox)
        threading.Event().wait(0.05)
    assert not outbox
    stored = [id for id, _ in deeplake.rows(workspace, "lab_v5_experiments")]
    assert sorted(stored) == names(40)
    deeplake.faults = Faults()
    there = machine("there")
    assert [record.id for record in there.select("experiments", Query(order_by="id", descending=False, limit=100))] == names(40)
    assert there.warning() == ""


def test_several_machines_share_one_log(deeplake: DeeplakeStandIn, workspace: str, machine: Machine) -> None:
    machines = [machine(f"machine-{n}") for n in range(3)]
    faults: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for first in range(100 * number, 100 * number + 30, 5):
                outbox = dict.fromkeys(names(5, first), 4)
                while outbox:
                    flush(machines[number], outbox)
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert faults == []
    expected = [*names(30), *names(30, 100), *names(30, 200)]
    for each in machines:
        assert sorted(each.present("experiments", expected)) == expected
    assert [id for id, _ in deeplake.rows(workspace, "lab_v5_experiments")] == expected


def test_rows_are_found_however_wrong_their_writers_clock_was(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = machine("reader"), machine("writer")
    now = time.time()
    for n, skew_s in enumerate((0, 5, -86_400, 86_400, -3_600, 1)):
        with monkeypatch.context() as patch:
            patch.setattr("autoresearch_mcp.server.lake.managed.store.time.time", lambda skew_s=skew_s: now + skew_s)
            writer.append("experiments", [experiment(n)])
        assert reader.count("experiments") == {"": n + 1}


def test_a_lake_that_is_closed_keeps_nobody_waiting(deeplake: DeeplakeStandIn, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a runner that is told to leave while the service is silent."""
    monkeypatch.setattr("autoresearch_mcp.server.lake.managed.service.ATTEMPT_S", 60.0)
    monkeypatch.setattr("autoresearch_mcp.server.lake.managed.store.WRITE_S", 60.0)
    lake = machine("here")
    deeplake.faults = Faults(hang_s=2.0)
    refused = threading.Event()

    def append() -> None:
        try:
            lake.append("experiments", [experiment(1)])
        except LakeUnavailable:
            refused.set()

    writer = threading.Thread(target=append)
    writer.start()
    until(lambda: any(thread.name == "deeplake" for thread in threading.enumerate()))
    lake.close()
    assert refused.wait(1.5)
    writer.join()


@pytest.mark.parametrize(
    ("status", "says"),
    [(401, "DEEPLAKE_API_KEY is wrong or has expired"), (403, "may not use the workspace"), (402, "out of credits.*Add credits")],
)
def test_what_a_person_has_to_mend_is_said_at_once(
    status: int, says: str, deeplake: DeeplakeStandIn, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autoresearch_mcp.server.lake.managed.service.ATTEMPT_S", 20.0)
    monkeypatch.setattr("autoresearch_mcp.server.lake.managed.store.WRITE_S", 60.0)  # for which it would be tried again and again
    lake = machine("here", token="a.wrong.secret")
    deeplake.faults = Faults(statuses=(status,), chance=1.0, tokens={"a.wrong.secret"} if status != 401 else {TOKEN})
    began = time.monotonic()
    with pytest.raises(LakeUnavailable, match=says) as refusal:
        lake.append("experiments", [experiment(1)])
    assert time.monotonic() - began < 20 and "secret" not in repr(refusal.value)
    assert lake.count("experiments") == {"": 0}
    assert "was not reached from here yet" in lake.warning() and "secret" not in lake.warning()


def test_the_token_is_in_no_repr_no_message_and_no_file(deeplake: DeeplakeStandIn, machine: Machine, tmp_path: Path) -> None:
    lake = machine("here")
    deeplake.faults = Faults(statuses=(400, 500), chance=0.7, malformed=0.5)
    texts = [repr(lake), repr(vars(lake)), repr(lake.service)]
    for n in range(20):
        try:
            lake.append("experiments", [experiment(n)])
        except LakeUnavailable as error:
            texts += [str(error), repr(error), repr(error.__cause__), repr(error.__context__)]
        lake.count("experiments")
        texts.append(lake.warning())
    texts += [path.read_text(encoding="latin-1") for path in tmp_path.rglob("*") if path.is_file()]
    assert not [text for text in texts if TOKEN in text]


@pytest.mark.parametrize(
    "harm",
    ['ALTER TABLE "lab_v5_experiments" DROP COLUMN "seed"', 'ALTER TABLE "lab_v5_experiments" ALTER COLUMN "seed" TYPE boolean USING true'],
)
def test_a_table_that_was_changed_by_hand_is_named(harm: str, deeplake: DeeplakeStandIn, workspace: str, machine: Machine) -> None:
    machine("here").append("experiments", [experiment(1)])
    deeplake.execute(workspace, harm)
    with pytest.raises(LakeUnavailable, match=r"lab_v5_experiments is not as this version made it.*\[lake\] tables"):
        machine("here").append("experiments", [experiment(2)])


def test_a_table_that_is_gone_is_made_again_from_the_copy(deeplake: DeeplakeStandIn, workspace: str, machine: Machine) -> None:
    lake = machine("here")
    lake.append("experiments", [experiment(1), experiment(2)])
    assert lake.count("experiments") == {"": 2}
    deeplake.execute(workspace, 'DROP TABLE "lab_v5_experiments"')
    assert lake.count("experiments") == {"": 2} and "gone" in lake.warning()
    machine("here").append("experiments", [experiment(3)])
    assert [id for id, _ in deeplake.rows(workspace, "lab_v5_experiments")] == names(3, 1)


def test_records_from_before_the_token_are_shared_too(machine: Machine, tmp_path: Path) -> None:
    EmbeddedLake(tmp_path / "here").append("memories", [memory(n, f"note {n}") for n in range(3)])
    lake = machine("here")
    assert lake.count("memories") == {"": 3}
    lake.append("memories", [memory(3, "the first with a token")])
    assert machine("there").count("memories") == {"": 4}
    assert EmbeddedLake(tmp_path / "here").count("memories") == {"": 3}  # until it is read back
    assert lake.count("memories") == {"": 4}
    assert EmbeddedLake(tmp_path / "here").count("memories") == {"": 4}


def test_a_new_version_takes_all_records_along(machine: Machine, version_before: pytest.MonkeyPatch) -> None:
    old = machine("here")
    old.append("experiments", [experiment(n, details={"steps": n}) for n in range(3)])
    assert old.count("experiments") == {"": 3}
    old.close()
    version_before.undo()
    new = machine("here")
    assert new.count("experiments") == {"": 3}
    new.append("experiments", [experiment(3, details={"steps": 3})])
    assert machine("there").count("experiments", (Condition("steps", ">=", 1.0),)) == {"": 3}


def test_a_lost_copy_is_read_again(machine: Machine, tmp_path: Path) -> None:
    lake = machine("here")
    lake.append("memories", [memory(n, f"note {n}") for n in range(3)])
    assert lake.count("memories") == {"": 3}
    shutil.rmtree(tmp_path / "here")
    assert machine("here").count("memories") == {"": 3}
    (tmp_path / "here" / "shared.json").write_text("torn{", encoding="utf-8")
    assert machine("here").count("memories") == {"": 3}


def test_a_row_that_was_stored_twice_is_seen_once(deeplake: DeeplakeStandIn, workspace: str, machine: Machine) -> None:
    lake = machine("here")
    lake.append("experiments", [experiment(1)])
    deeplake.execute(workspace, 'INSERT INTO "lab_v5_experiments" SELECT * FROM "lab_v5_experiments"')
    assert lake.count("experiments") == {"": 1}
    before = len(deeplake.statements)
    assert lake.count("experiments") == {"": 1}
    assert len(deeplake.statements) - before == 3  # and it costs no second look at everything


def test_a_long_log_is_read_in_parts_and_says_what_is_missing(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine("there").append("experiments", [experiment(n) for n in range(60)])
    monkeypatch.setattr("autoresearch_mcp.server.lake.managed.store._FETCH_ROWS", 10)
    monkeypatch.setattr("autoresearch_mcp.server.lake.managed.tables._LIST_ROWS", 25)
    lake = machine("here")
    with monkeypatch.context() as patch:
        patch.setattr(lake._copy, "append", lambda *row: (EmbeddedLake.append(lake._copy, *row), threading.Event().wait(0.4)))
        assert lake.count("experiments") == {"": 10}
    assert lake.warning() == "50 records of the shared log are still on their way to this machine."
    assert until(lambda: lake.count("experiments") == {"": 60}) and lake.warning() == ""


def test_values_travel_as_parameters_only(deeplake: DeeplakeStandIn, machine: Machine) -> None:
    note = "'; DROP TABLE memories; -- $1"
    lake = machine("here")
    lake.append("memories", [memory(1, note, author=note, tags=[note])])
    assert lake.search("drop table")[0][0].author == note  # type: ignore[union-attr]
    assert not any("DROP" in sql for sql, _ in deeplake.statements)
    columns = [sql for sql, _ in deeplake.statements if sql.startswith("INSERT")]
    assert columns and all('"terms"' not in sql for sql in columns)


def test_the_environment_and_lab_toml_choose_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def settings(**lake: str) -> Settings:
        return Settings.model_validate({"lab": {"name": "My Lab!"}, "lake": lake})

    assert isinstance(open_lake(settings(), tmp_path), EmbeddedLake)
    with pytest.raises(LabError, match="needs DEEPLAKE_API_KEY"):
        open_lake(settings(backend="managed"), tmp_path)
    monkeypatch.setenv("DEEPLAKE_API_KEY", TOKEN)
    assert isinstance(open_lake(settings(backend="embedded"), tmp_path), EmbeddedLake)
    assert isinstance(open_lake(settings(), tmp_path), ManagedLake)
    assert default_prefix("My Lab!") == "my_lab_" and default_prefix("日本") == "lab_"
    for url in ("http://api.deeplake.ai", "https://me:secret@host", "nonsense"):
        monkeypatch.setenv("DEEPLAKE_API_URL", url)
        with pytest.raises(LabError, match="DEEPLAKE_API_URL"):
            open_lake(settings(), tmp_path)


def test_a_token_that_names_no_organisation_is_explained(deeplake: DeeplakeStandIn, tmp_path: Path) -> None:
    for token, works in (("no-jwt", False), (TOKEN, True)):
        org = "" if not works else ORG
        lake = ManagedLake(tmp_path / token, Service(token, "ws", org, deeplake.url), "x_")
        lake.count("experiments")
        assert ("DEEPLAKE_ORG_ID" in lake.warning()) is not works


def test_what_is_stored_is_what_was_written(deeplake: DeeplakeStandIn, workspace: str, machine: Machine) -> None:
    rng = random.Random(1)
    record = experiment(1, val_bpb=rng.random() + 1, tags=["a"], details={"x": [1, None]})
    machine("here").append("experiments", [record])
    ((text, bpb, tags),) = deeplake.rows(workspace, "lab_v5_experiments", "record, val_bpb, tags")
    assert json.loads(text) == json.loads(record.model_dump_json()) and bpb == record.val_bpb and tags == '["a"]'
