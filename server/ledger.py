"""The ledger: what IS happening in a lab, in one SQLite file. ACID across processes, fsynced before a call returns.

Promises
- Whatever a method wrote is on disk when it returns (WAL, synchronous=FULL), or nothing of it is.
- Any number of servers and one runner use it at once; a writer waits up to 30 s for the others.
- State changes are guarded: an experiment moves only from the states that the caller names, and ends once.
- A terminal experiment, a memory or a promotion leaves the outbox only through `settle`, after it was read back from the lake.
- `proposals`, `promotions` and the thin `ended` rows stay for good: the gate, the budget and the status read them without the lake.

Who writes: servers insert proposals, experiments, memories, promotions and cancel requests; only the runner moves experiments
that have left the queue and settles the outbox.
"""

import json
import math
import queue
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.models import TERMINAL_STATES, Experiment, ExperimentState, Memory, Promotion, Proposal, Record, Score, Table

SCHEMA_VERSION = 4
_BUSY_S = 30.0

_SCHEMA = """
CREATE TABLE proposals (
    "commit" TEXT PRIMARY KEY, base TEXT NOT NULL, fingerprint TEXT NOT NULL UNIQUE, created_at REAL NOT NULL, record TEXT NOT NULL
) STRICT;
CREATE TABLE aliases (  -- commits with the code of a proposal, on another parent: its scores are theirs
    "commit" TEXT PRIMARY KEY, proposal TEXT NOT NULL
) STRICT;
CREATE TABLE experiments (  -- not ended yet
    id TEXT PRIMARY KEY, "commit" TEXT NOT NULL, state TEXT NOT NULL, reserved_s REAL NOT NULL, created_at REAL NOT NULL, record TEXT NOT NULL
) STRICT;
CREATE TABLE ended (  -- thin, for good
    id TEXT PRIMARY KEY, "commit" TEXT NOT NULL, conditions TEXT NOT NULL, device TEXT NOT NULL, state TEXT NOT NULL, val_bpb REAL,
    started INTEGER NOT NULL, finished_at REAL NOT NULL, seed INTEGER NOT NULL, author TEXT NOT NULL, hypothesis TEXT NOT NULL,
    failure TEXT, reported_bpb REAL
) STRICT;
CREATE INDEX ended_by_commit ON ended ("commit");
CREATE INDEX ended_by_time ON ended (finished_at);
CREATE TABLE promotions (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, done INTEGER NOT NULL, record TEXT NOT NULL
) STRICT;
CREATE TABLE outbox (  -- acknowledged, not yet read back from the lake
    seq INTEGER PRIMARY KEY, tbl TEXT NOT NULL, id TEXT NOT NULL, version INTEGER NOT NULL, record TEXT NOT NULL, UNIQUE (tbl, id)
) STRICT;
CREATE TABLE answers (  -- of calls with an idempotency key
    key TEXT PRIMARY KEY, request TEXT NOT NULL, answer TEXT NOT NULL, created_at REAL NOT NULL
) STRICT;
CREATE TABLE totals (name TEXT PRIMARY KEY, value REAL NOT NULL) STRICT;
INSERT INTO totals VALUES ('spent_s', 0);
"""
_UPGRADES = {  # from the version before
    2: """
CREATE TABLE evidence (  -- of finished experiments, for the gate and the lab's owner: in no tool, no resource and no lake
    experiment TEXT PRIMARY KEY, test_bpb REAL, sandbox TEXT
) STRICT
""",
    3: """
ALTER TABLE evidence ADD COLUMN weights TEXT;
ALTER TABLE ended ADD COLUMN reproduces TEXT NOT NULL DEFAULT ''
""",
    4: """
CREATE TABLE bills (  -- what each ended attempt on a rented device cost: elapsed times rate at first, settled by the provider's number
    experiment TEXT NOT NULL, attempt INTEGER NOT NULL, author TEXT NOT NULL, at REAL NOT NULL, usd REAL NOT NULL, settled INTEGER NOT NULL,
    PRIMARY KEY (experiment, attempt)
) STRICT
""",
}

Group = tuple[str, int, float, float, int]  # commit, replicates, mean, sum of squared deviations, 1 where the metric is reported
_THIN = ("id", "commit", "conditions", "device", "state", "val_bpb", "seed", "author", "reported_bpb", "reproduces")
_MODELS: dict[str, type[Experiment] | type[Memory] | type[Promotion]] = {
    "experiments": Experiment,
    "memories": Memory,
    "promotions": Promotion,
}


class Ledger:
    """The ledger file at `path`, made if it is missing. Thread-safe; each call borrows a connection.

    Raises:
        LabError: `newer_lab`, `read_only`, `disk_full` or `ledger_unusable`, here and from every method.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._idle: queue.LifoQueue[sqlite3.Connection] = queue.LifoQueue()
        self._watch_lock = threading.Lock()
        with self._errors():
            self._watch = self._connect()
            self._prepare(self._watch)

    def close(self) -> None:
        self._watch.close()
        while True:
            try:
                self._idle.get_nowait().close()
            except queue.Empty:
                return

    def changes(self) -> int:
        """A number that differs from the last answer when anything was committed since. Costs microseconds."""
        with self._watch_lock, self._errors():
            return int(self._watch.execute("PRAGMA data_version").fetchone()[0])

    # Proposals

    def proposal(self, commit: str) -> Proposal | None:
        with self._read() as db:
            row = db.execute('SELECT record FROM proposals WHERE "commit" = ?', (commit,)).fetchone()
        return Proposal.model_validate_json(row[0]) if row else None

    def proposals_after(self, row: int, limit: int) -> list[tuple[int, Proposal]]:
        """The newest proposals that were recorded after row number `row` (0: all), oldest first, with their row numbers."""
        with self._read() as db:
            found = db.execute("SELECT rowid, record FROM proposals WHERE rowid > ? ORDER BY rowid DESC LIMIT ?", (row, limit)).fetchall()
        return [(number, Proposal.model_validate_json(record)) for number, record in reversed(found)]

    def twin(self, fingerprint: str) -> Proposal | None:
        """The proposal with the same code, if there is one."""
        with self._read() as db:
            row = db.execute("SELECT record FROM proposals WHERE fingerprint = ?", (fingerprint,)).fetchone()
        return Proposal.model_validate_json(row[0]) if row else None

    def add_proposal(self, proposal: Proposal) -> Proposal:
        """Record it, unless its twin is there already. Returns the one that is recorded."""
        with self._write() as db:
            db.execute(
                "INSERT INTO proposals VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (proposal.commit, proposal.base, proposal.fingerprint, proposal.created_at, proposal.model_dump_json()),
            )
            row = db.execute("SELECT record FROM proposals WHERE fingerprint = ?", (proposal.fingerprint,)).fetchone()
        return Proposal.model_validate_json(row[0])

    def proposal_of(self, commit: str) -> str:
        """The commit of the proposal whose code this one has: itself, unless it was put onto another parent."""
        with self._read() as db:
            row = db.execute('SELECT proposal FROM aliases WHERE "commit" = ?', (commit,)).fetchone()
        return row[0] if row else commit

    def add_alias(self, commit: str, proposal: str) -> None:
        with self._write() as db:
            db.execute("INSERT INTO aliases VALUES (?, ?) ON CONFLICT DO NOTHING", (commit, proposal))

    # Experiments

    def enqueue(
        self, experiments: Sequence[Experiment], total_s: float, key: str | None, request: str, total_usd: float = math.inf
    ) -> list[Experiment] | None:
        """Queue experiments and reserve their budget, all or none. With a key that was used before: None, and nothing is queued.

        Raises:
            LabError: `over_budget`, or `key_reused` for another request under the same key.
        """
        needed = sum(e.reserved_s for e in experiments)
        with self._write() as db:
            if key is not None and self._answer(db, key, request) is not None:
                return None
            left = total_s - self._spent(db) - self._reserved(db)
            if needed > left:
                raise LabError(
                    f"Not queued: this could use up to {needed:.0f} device seconds and the lab's budget has {max(0, left):.0f} left "
                    f"({self._spent(db):.0f} spent, {self._reserved(db):.0f} reserved by running and queued experiments, {total_s:.0f} in all). "
                    "Launch fewer replicates, wait for running experiments to return what they don't use, or ask the lab's owner to raise "
                    "[budget] device_hours in lab.toml.",
                    "over_budget",
                )
            usd, left_usd = sum(e.reserved_usd for e in experiments), total_usd - self._billed(db) - self._reserved_usd(db)
            if usd > left_usd:
                raise LabError(
                    f"Not queued: this could cost up to ${usd:.2f} and the lab's budget has ${max(0, left_usd):.2f} left of ${total_usd:.2f}. "
                    "Launch fewer replicates, choose a cheaper device, wait for running experiments to return what they don't use, or ask "
                    "the lab's owner to raise [budget] usd in lab.toml.",
                    "over_budget",
                )
            for e in experiments:
                db.execute("INSERT INTO experiments VALUES (?, ?, ?, ?, ?, ?)", _row(e))
            if key is not None:
                answer = json.dumps([e.id for e in experiments])
                db.execute("INSERT INTO answers VALUES (?, ?, ?, ?)", (key, request, answer, time.time()))
        return list(experiments)

    def answer(self, key: str, request: str) -> list[str] | None:
        """The experiments that an earlier launch under this key queued.

        Raises:
            LabError: `key_reused`.
        """
        with self._read() as db:
            return self._answer(db, key, request)

    @staticmethod
    def _answer(db: sqlite3.Connection, key: str, request: str) -> list[str] | None:
        row = db.execute("SELECT request, answer FROM answers WHERE key = ?", (key,)).fetchone()
        if row is None:
            return None
        if row[0] != request:
            raise LabError(
                "Not queued: this idempotency_key was used before for another launch. Use a new key for a new launch; "
                "repeat a key only to repeat the same call.",
                "key_reused",
            )
        ids: list[str] = json.loads(row[1])
        return ids

    def experiment(self, id: str) -> Experiment | None:
        """The whole record, while it has not ended or is still in the outbox."""
        with self._read() as db:
            row = db.execute(
                "SELECT record FROM experiments WHERE id = ? UNION ALL SELECT record FROM outbox WHERE tbl = 'experiments' AND id = ?",
                (id, id),
            ).fetchone()
        return Experiment.model_validate_json(row[0]) if row else None

    def open_experiments(self, *states: ExperimentState) -> list[Experiment]:
        """Experiments that have not ended, oldest first; of the given states, or all."""
        where = f"WHERE state IN ({', '.join('?' * len(states))})" if states else ""
        with self._read() as db:
            rows = db.execute(f"SELECT record FROM experiments {where} ORDER BY created_at, id", states).fetchall()  # noqa: S608
        return [Experiment.model_validate_json(r[0]) for r in rows]

    def move(self, id: str, states: Sequence[ExperimentState], **changes: Any) -> Experiment | None:
        """Change an experiment that is in one of `states`; a terminal `state` among the changes ends it, once.

        Returns:
            the changed experiment, or None if it was in another state (or had ended): nothing was changed then.
        """
        with self._write() as db:
            return self._move(db, id, states, changes)

    def request_cancel(self, id: str) -> Experiment | None:
        """Cancel at once what is queued; mark what runs, for the runner to stop. None if it had ended."""
        with self._write() as db:
            return self._move(db, id, ["queued"], {"state": "cancelled", "finished_at": time.time()}) or self._move(
                db, id, ["starting", "running", "scoring"], {"cancel_requested": True}
            )

    def _move(self, db: sqlite3.Connection, id: str, states: Sequence[ExperimentState], changes: dict[str, Any]) -> Experiment | None:
        row = db.execute("SELECT record FROM experiments WHERE id = ?", (id,)).fetchone()
        before = Experiment.model_validate_json(row[0]) if row else None
        if before is None or before.state not in states:
            return None
        after = Experiment.model_validate({**before.model_dump(), **changes, "version": before.version + 1})
        if "cost_usd" in changes:
            bill = (id, before.attempt, before.author, time.time(), after.cost_usd - before.cost_usd)
            db.execute("INSERT INTO bills VALUES (?, ?, ?, ?, ?, 0) ON CONFLICT DO NOTHING", bill)
        if after.state not in TERMINAL_STATES:
            db.execute("UPDATE experiments SET state = ?, record = ? WHERE id = ?", (after.state, after.model_dump_json(), id))
            return after
        after.reserved_s = after.reserved_usd = 0.0
        db.execute("DELETE FROM experiments WHERE id = ?", (id,))
        thin = {
            **after.model_dump(include={*_THIN}),
            "started": after.started_at is not None,
            "finished_at": after.finished_at or time.time(),
            "hypothesis": after.hypothesis[:160],
            "failure": f"{after.failure.kind}: {after.failure.message[:160]}" if after.failure else None,
        }
        names = ", ".join(f'"{name}"' for name in thin)
        db.execute(f"INSERT INTO ended ({names}) VALUES ({', '.join(f':{name}' for name in thin)})", thin)  # noqa: S608
        db.execute("UPDATE totals SET value = value + ? WHERE name = 'spent_s'", (after.cost_s,))
        self._post(db, "experiments", after)
        return after

    # What has ended, and the totals

    def ended(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """The thin rows of ended experiments, by id."""
        return {r["id"]: r for r in self._ended(f"WHERE id IN ({', '.join('?' * len(ids))})", ids)} if ids else {}

    def keep_evidence(self, id: str, sandbox: str, test_bpb: float | None, weights: str | None) -> None:
        """What the gate needs of an experiment that is about to end, and agents must not see. What is None stays as it was kept before."""
        with self._write() as db:
            db.execute(
                "INSERT INTO evidence (experiment, sandbox, test_bpb, weights) VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET sandbox = "
                "excluded.sandbox, test_bpb = coalesce(excluded.test_bpb, test_bpb), weights = excluded.weights",
                (id, sandbox, test_bpb, weights),
            )

    def test_scores(self) -> list[tuple[str, str, float, float]]:
        """(conditions, commit, val_bpb, test_bpb) of every replicate that finished with both. For the lab's owner."""
        with self._read() as db:
            return db.execute(
                'SELECT e.conditions, e."commit", e.val_bpb, v.test_bpb FROM ended e JOIN evidence v ON v.experiment = e.id '
                "WHERE e.val_bpb IS NOT NULL AND v.test_bpb IS NOT NULL AND e.reproduces = ''"
            ).fetchall()

    def ended_of(self, commit: str) -> list[dict[str, Any]]:
        """Replicates of a commit, or of the proposal whose code it has, that ended, oldest first."""
        same = 'SELECT ?1 UNION SELECT proposal FROM aliases WHERE "commit" = ?1'
        return self._ended(f'WHERE "commit" IN ({same}) ORDER BY finished_at', [commit])

    def recent(self, limit: int) -> list[dict[str, Any]]:
        return self._ended("ORDER BY finished_at DESC LIMIT ?", [limit])

    def _ended(self, clause: str, values: Sequence[Any]) -> list[dict[str, Any]]:
        with self._read() as db:
            cursor = db.execute(f"SELECT * FROM ended {clause}", tuple(values))  # noqa: S608
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row)) for row in cursor]

    def scores(self, commit: str) -> list[Score]:
        """Every replicate of a commit that ended, oldest first: what the gate judges by. A second run with the same seed is none."""
        rows = [r for r in self.ended_of(commit) if not r["reproduces"]]
        evidence = self._evidence([r["id"] for r in rows])
        return [
            Score(
                experiment=r["id"],
                commit=commit,
                conditions=r["conditions"],
                device=r["device"],
                state=r["state"],
                val_bpb=r["val_bpb"],
                reported_bpb=r["reported_bpb"],
                started=bool(r["started"]),
                finished_at=r["finished_at"],
                **evidence.get(r["id"], {}),
            )
            for r in rows
        ]

    def _evidence(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        with self._read() as db:
            columns, these = "experiment, sandbox != 'unsandboxed', test_bpb, weights", ", ".join("?" * len(ids))
            found = db.execute(f"SELECT {columns} FROM evidence WHERE experiment IN ({these})", tuple(ids))  # noqa: S608
            return {id: dict(zip(("confined", "test_bpb", "weights"), rest)) for id, *rest in found}

    def summaries(self, conditions: str) -> list[Group]:
        """Commits by the metric that they finished with under these conditions, which never mix verified and reported ones; best first."""
        with self._read() as db:
            return db.execute(
                'WITH counted AS (SELECT "commit", coalesce(val_bpb, reported_bpb) AS metric, val_bpb IS NULL AS reported FROM ended '
                "WHERE state = 'finished' AND conditions = ? AND reproduces = ''), "
                'means AS (SELECT "commit", avg(metric) AS mean FROM counted GROUP BY "commit") '
                'SELECT c."commit", count(*), m.mean, sum((metric - m.mean) * (metric - m.mean)), max(reported) FROM counted c '
                'JOIN means m ON m."commit" = c."commit" WHERE metric IS NOT NULL GROUP BY c."commit" ORDER BY m.mean',
                (conditions,),
            ).fetchall()

    def counts(self) -> dict[str, int]:
        """Experiments by state."""
        with self._read() as db:
            return dict(
                db.execute(
                    "SELECT state, sum(n) FROM (SELECT state, count(*) AS n FROM experiments GROUP BY state "
                    "UNION ALL SELECT state, count(*) FROM ended GROUP BY state) GROUP BY state"
                ).fetchall()
            )

    def spending(self) -> tuple[float, float]:
        """Device seconds (spent, reserved)."""
        with self._read() as db:
            return self._spent(db), self._reserved(db)

    @staticmethod
    def _spent(db: sqlite3.Connection) -> float:
        return float(db.execute("SELECT value FROM totals WHERE name = 'spent_s'").fetchone()[0])

    @staticmethod
    def _reserved(db: sqlite3.Connection) -> float:
        return float(db.execute("SELECT coalesce(sum(reserved_s), 0) FROM experiments").fetchone()[0])

    def money(self) -> tuple[float, float, float, dict[str, float]]:
        """USD (spent, reserved, spent in the last hour), and spent by agent."""
        with self._read() as db:
            hour = db.execute("SELECT coalesce(sum(usd), 0) FROM bills WHERE at > ?", (time.time() - 3600,)).fetchone()[0]
            agents = db.execute("SELECT author, sum(usd) AS usd FROM bills GROUP BY author ORDER BY usd DESC").fetchall()
            return self._billed(db), self._reserved_usd(db), float(hour), dict(agents)

    def unsettled(self, until: float) -> list[tuple[str, int]]:
        """(experiment, attempt) of what ended before `until` and whose cost is not the provider's number yet."""
        with self._read() as db:
            return db.execute("SELECT experiment, attempt FROM bills WHERE NOT settled AND at < ? ORDER BY at", (until,)).fetchall()

    def settle_bill(self, experiment: str, attempt: int, usd: float | None) -> None:
        """The provider's number has the last word; None lets the estimate stand for good."""
        with self._write() as db:
            db.execute(
                "UPDATE bills SET usd = coalesce(?, usd), settled = 1 WHERE experiment = ? AND attempt = ?", (usd, experiment, attempt)
            )

    @staticmethod
    def _billed(db: sqlite3.Connection) -> float:
        return float(db.execute("SELECT coalesce(sum(usd), 0) FROM bills").fetchone()[0])

    @staticmethod
    def _reserved_usd(db: sqlite3.Connection) -> float:
        return float(db.execute("SELECT coalesce(sum(json_extract(record, '$.reserved_usd')), 0) FROM experiments").fetchone()[0])

    # Memories, promotions and the outbox

    def remember(self, memory: Memory) -> None:
        with self._write() as db:
            self._post(db, "memories", memory)

    def take_in(self, table: Table, records: Sequence[Record]) -> None:
        """Post records that were made elsewhere to the lake. They count nowhere else."""
        with self._write() as db:
            for record in records:
                db.execute(
                    "INSERT INTO outbox (tbl, id, version, record) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                    (table, record.id, record.version, record.model_dump_json()),
                )

    def intend_promotion(self, promotion: Promotion) -> None:
        """Write down what is about to happen, before the git ref moves; `confirm_promotion` or `drop_promotion` follows."""
        with self._write() as db:
            db.execute("INSERT INTO promotions (id, done, record) VALUES (?, 0, ?)", (promotion.id, promotion.model_dump_json()))

    def confirm_promotion(self, promotion: Promotion) -> None:
        """The ref has moved: the promotion is a fact, and goes to the lake."""
        with self._write() as db:
            if db.execute("UPDATE promotions SET done = 1 WHERE id = ? AND done = 0", (promotion.id,)).rowcount:
                self._post(db, "promotions", promotion)

    def drop_promotion(self, promotion: Promotion) -> None:
        """The ref did not move: nothing happened."""
        with self._write() as db:
            db.execute("DELETE FROM promotions WHERE id = ? AND done = 0", (promotion.id,))

    def promotions(self, done: bool = True) -> list[Promotion]:
        """Oldest first; with `done=False` the one, if any, that a crash left between intent and confirmation."""
        with self._read() as db:
            return [
                Promotion.model_validate_json(r[0])
                for r in db.execute("SELECT record FROM promotions WHERE done = ? ORDER BY seq", (done,))
            ]

    def promotion_count(self) -> int:
        with self._read() as db:
            return int(db.execute("SELECT count(*) FROM promotions WHERE done = 1").fetchone()[0])

    def outbox(self, table: Table, limit: int = -1) -> list[Record]:
        """Records that wait to be flushed to the lake, oldest first."""
        with self._read() as db:
            rows = db.execute("SELECT record FROM outbox WHERE tbl = ? ORDER BY seq LIMIT ?", (table, limit)).fetchall()
        return [_MODELS[table].model_validate_json(r[0]) for r in rows]

    def unflushed(self) -> int:
        with self._read() as db:
            return int(db.execute("SELECT count(*) FROM outbox").fetchone()[0])

    def fault(self) -> str:
        """What SQLite finds wrong with the file, or nothing. Reads all of it."""
        with self._read() as db:
            said = str(db.execute("PRAGMA quick_check(1)").fetchone()[0])
        return "" if said == "ok" else said

    def waiting_since(self) -> float | None:
        """When the oldest record that waits to be flushed came to be."""
        with self._read() as db:
            oldest = db.execute("SELECT record FROM outbox ORDER BY seq LIMIT 1").fetchone()
        if oldest is None:
            return None
        record = json.loads(oldest[0])
        return float(record.get("finished_at") or record["created_at"])

    def settle(self, table: Table, versions: dict[str, int]) -> None:
        """Let go of records that were read back from the lake in at least the version that is here."""
        with self._write() as db:
            db.executemany(
                "DELETE FROM outbox WHERE tbl = ? AND id = ? AND version <= ?", [(table, id, version) for id, version in versions.items()]
            )

    def pending(self, table: Table) -> list[Record]:
        """What queries lay over the lake's rows: the outbox, and experiments that have not ended, in one snapshot."""
        with self._read() as db:
            rows = db.execute("SELECT record FROM outbox WHERE tbl = ? ORDER BY seq", (table,)).fetchall()
            if table == "experiments":
                rows += db.execute("SELECT record FROM experiments ORDER BY created_at").fetchall()
        return [_MODELS[table].model_validate_json(r[0]) for r in rows]

    @staticmethod
    def _post(db: sqlite3.Connection, table: Table, record: Record) -> None:
        db.execute(
            "INSERT INTO outbox (tbl, id, version, record) VALUES (?, ?, ?, ?)",
            (table, record.id, record.version, record.model_dump_json()),
        )

    # Connections

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        return db

    def _prepare(self, db: sqlite3.Connection) -> None:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version < SCHEMA_VERSION:
            with self._transaction(db, "IMMEDIATE"):
                version = db.execute("PRAGMA user_version").fetchone()[0]  # another process may have been first
                for statement in _SCHEMA.split(";\n") if version == 0 else []:
                    db.execute(statement)
                for upgrade in range(max(version, 1) + 1, SCHEMA_VERSION + 1):
                    for statement in _UPGRADES[upgrade].split(";\n"):
                        db.execute(statement)
                db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        elif version > SCHEMA_VERSION:
            raise LabError(
                f"The ledger of this lab was written by a newer autoresearch-mcp (version {version}, this one knows {SCHEMA_VERSION}). "
                "Upgrade with `pip install -U autoresearch-mcp`; nothing was changed.",
                "newer_lab",
            )

    @contextmanager
    def _read(self) -> Iterator[sqlite3.Connection]:
        with self._borrow() as db, self._transaction(db, "DEFERRED"):
            yield db

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with self._borrow() as db, self._transaction(db, "IMMEDIATE"):
            yield db

    @contextmanager
    def _borrow(self) -> Iterator[sqlite3.Connection]:
        with self._errors():
            try:
                db = self._idle.get_nowait()
            except queue.Empty:
                db = self._connect()
            try:
                yield db
            finally:
                self._idle.put(db)

    @staticmethod
    @contextmanager
    def _transaction(db: sqlite3.Connection, kind: str) -> Iterator[None]:
        db.execute(f"BEGIN {kind}")
        try:
            yield
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            text = str(error)
            if "readonly" in text or "unable to open" in text:
                message, code = (
                    f"The lab's ledger {self._path} cannot be written ({text}): make its folder writable. Nothing was recorded.",
                    "read_only",
                )
            elif "full" in text or "disk I/O" in text:
                message, code = (
                    f"Nothing was recorded: the disk of {self._path} is full or failing ({text}). Free space, then call again.",
                    "disk_full",
                )
            elif "locked" in text or "busy" in text:
                message, code = f"Nothing was recorded: other processes kept the ledger busy for {_BUSY_S:.0f} s. Call again.", "busy"
            else:
                raise
            raise LabError(message, code) from error
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.IntegrityError):
                raise
            raise LabError(
                f"The lab's ledger {self._path} is unusable ({error}). Restore it from a backup; nothing was changed.", "ledger_unusable"
            ) from error


def _row(e: Experiment) -> tuple[str, str, str, float, float, str]:
    return e.id, e.commit, e.state, e.reserved_s, e.created_at, e.model_dump_json()
