"""The process that runs agents' SELECTs, one after another: a script that needs the standard library only, so it starts fast.

It reads requests from stdin and writes answers to stdout (see `pool`), and ends with its stdin. What a statement may do here:

- Read the tables in the file that its request names, which can't be written. SQLite's authorizer refuses everything else, files and recursion included.
- Run for the seconds of the request; then the kernel's alarm ends this process, also inside a single SQL function.
- Use `MEMORY_MB` in all, `HEAP_MB` of it in SQLite. It writes no file: what SQLite would spill to disk counts as memory.
- Answer with so many characters. Rows are read one by one, and no row after the last that fits.
"""

import contextlib
import json
import math
import os
import resource
import signal
import sqlite3
import sys
from collections.abc import Sequence
from typing import Any, BinaryIO

MEMORY_MB = 384
HEAP_MB = 192
_CACHE_KIB = 32 << 10  # of the tables that it reads; a part of the heap
LENGTH_BYTES = 8  # before each message
_MOST_CELL = 1_000_000  # bytes, of values while the statement runs
_SHOWN_CELL = 2_000  # characters, in the answer
_SHOWN_NAME = 100
_LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: _MOST_CELL,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 100_000,
    sqlite3.SQLITE_LIMIT_COLUMN: 100,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 500,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 50,
    sqlite3.SQLITE_LIMIT_VDBE_OP: 250_000,
    sqlite3.SQLITE_LIMIT_FUNCTION_ARG: 100,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 1_000,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 0,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}
_ALLOWED = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION}


def main() -> None:
    """Answer requests until stdin ends."""
    _confine()
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    while (request := _read(requests)) is not None:
        try:
            answer = _answer(json.loads(request))
        except MemoryError:
            answer = {"stopped": f"it needs more than {HEAP_MB} MB of memory; narrow it down", "ends": True}
        content = json.dumps(answer).encode()
        answers.write(len(content).to_bytes(LENGTH_BYTES, "big") + content)
        answers.flush()
        if "ends" in answer:
            return


def _confine() -> None:
    """Take limits that hold for this process for good."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the alarm kills
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl+C on the terminal is the server's
    os.chdir("/")
    for limit, most in ((resource.RLIMIT_AS, MEMORY_MB << 20), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        with contextlib.suppress(OSError, ValueError):  # macOS refuses the first; SQLite's own limit holds there
            resource.setrlimit(limit, (most, most))
    database = sqlite3.connect(":memory:")
    database.execute(f"PRAGMA hard_heap_limit = {HEAP_MB << 20}")  # of the process, not of this connection
    database.close()


def _read(requests: BinaryIO) -> bytes | None:
    """Return the next message, or None at the end of the stream."""
    length = requests.read(LENGTH_BYTES)
    return requests.read(int.from_bytes(length, "big")) if length else None


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    with contextlib.closing(sqlite3.connect(request["database"], uri=True, isolation_level=None)) as database:
        return _answer_from(database, request)


def _answer_from(database: sqlite3.Connection, request: dict[str, Any]) -> dict[str, Any]:
    database.execute("PRAGMA temp_store = MEMORY")
    database.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    database.execute("SELECT 1 FROM json_each('[]')")  # it is there from now on; making it is not authorised below
    for limit, most in _LIMITS.items():
        database.setlimit(limit, most)
    database.set_authorizer(lambda action, *_: sqlite3.SQLITE_OK if action in _ALLOWED else sqlite3.SQLITE_DENY)
    signal.setitimer(signal.ITIMER_REAL, request["seconds"])
    try:
        cursor = database.execute(request["statement"])
        return _rows(cursor, request["limit"], request["most_text"])
    except sqlite3.Error as error:
        return {"refused": str(error)[:500]}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _rows(cursor: sqlite3.Cursor, limit: int, most_text: int) -> dict[str, Any]:
    """Read rows while they fit."""
    names = _unique([name if len(name) <= _SHOWN_NAME else f"{name[:_SHOWN_NAME]}..." for name, *_ in cursor.description])
    names_size = sum(map(len, names))
    rows: list[list[Any]] = []
    room, names_room = most_text, most_text
    for values in cursor:
        if len(rows) == limit:
            return {"names": names, "rows": rows, "more": True}
        row = list(map(_shown, values))
        room -= sum(len(str(value)) for value in row)
        names_room -= names_size
        if min(room, names_room) < 0:
            if not rows:
                return {"stopped": f"its first row alone has more than {most_text:,} characters; select fewer columns"}
            return {"names": names, "rows": rows, "more": True}
        rows.append(row)
    return {"names": names, "rows": rows, "more": False}


def _unique(names: Sequence[str]) -> list[str]:
    return [name if name not in names[:index] else f"{name}_{index + 1}" for index, name in enumerate(names)]


def _shown(value: Any) -> Any:
    if isinstance(value, bytes):
        return value[: _SHOWN_CELL // 2].hex()
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has no infinity
    return value[:_SHOWN_CELL] if isinstance(value, str) else value


if __name__ == "__main__":
    main()
