"""A ledger of another version is brought up to date or refused, and so is a file that is none."""

import sqlite3
import threading
import time
from pathlib import Path

import pytest

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.ledger import Ledger, schema
from autoresearch_mcp.server.models import Memory, new_id
from tests.server.test_ledger import experiment


def older_ledger(path: Path, version: int, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """A ledger as the program of an earlier version of the schema made it."""
    with monkeypatch.context() as patched:
        patched.setattr(schema, "SCHEMA_VERSION", version)
        return Ledger(path)


def test_a_ledger_of_an_older_version_is_brought_up_to_date_with_all_that_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ledger.sqlite"
    older_ledger(path, 3, monkeypatch).close()
    old = experiment()
    waiting = Memory(id=new_id("m"), kind="idea", text="t", author="a", tags=["speed"], created_at=1.0)
    db = sqlite3.connect(path)
    row = (old.id, old.commit, old.state, old.reserved_s, old.created_at, old.model_dump_json())
    db.execute("INSERT INTO experiments VALUES (?, ?, ?, ?, ?, ?)", row)
    db.execute("INSERT INTO outbox (tbl, id, version, record) VALUES ('memories', ?, 1, ?)", (waiting.id, waiting.model_dump_json()))
    db.commit()
    db.close()
    ledger = Ledger(path)
    assert [e.id for e in ledger.open_experiments()] == [old.id] and ledger.money() == (0.0, 0.0, 0.0, {})
    assert ledger.launch_settings(old.id) is None
    assert ledger.outbox("memories") == [waiting]
    assert [(work.tag, work.ideas) for work in ledger.work()] == [("speed", 1)] and ledger.free_ideas("ada") == 1
    since = ledger.waiting_since()
    assert since is not None and abs(since - time.time()) < 60.0
    ledger.close()


def test_an_older_ledger_that_is_opened_many_times_at_once_is_brought_up_to_date_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger.sqlite"
    older_ledger(path, 4, monkeypatch).close()
    barrier, opened = threading.Barrier(8, timeout=60), list[Ledger]()

    def open_it() -> None:
        barrier.wait()
        opened.append(Ledger(path))

    threads = [threading.Thread(target=open_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 8
    for ledger in opened:
        assert ledger.open_launches() == []
        ledger.close()


def test_a_ledger_of_a_newer_version_is_refused_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    before = path.read_bytes()
    with pytest.raises(LabError, match="newer autoresearch-mcp") as error:
        Ledger(path)
    assert error.value.code == "newer_lab"
    assert path.read_bytes()[100:] == before[100:]  # the header notes the journal mode


def test_a_file_that_is_no_ledger_says_so(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"not a database, but long enough to look at" * 100)
    with pytest.raises(LabError) as error:
        Ledger(path)
    assert error.value.code == "ledger_unusable"
    assert path.read_bytes().startswith(b"not a database")
