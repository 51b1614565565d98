"""One read-only SELECT over the documented tables, the same for every store: the rows that are known now, in a passing SQLite.

- `statement` parses the SELECT and refuses anything else with a reason.
- `copy` copies the rows that it may read into a file, a part at a time, so that the server's memory is bounded too.
- `pool` runs it in a child process (`worker`), which is killed in the end and has little memory. Copy and run get `LIMIT_S` together.
- `turns` decides whose statement goes on, so that one agent's statements don't hold up another's.

Gives up speed for exactness: the columns that the statement names are copied for every call (a second at 100,000 rows),
so that unflushed rows count and both stores answer alike.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

from autoresearch_mcp.server.lake.sql.copy import Copy, Load
from autoresearch_mcp.server.lake.sql.pool import Answer, Pool, Preempted, Refused, Stopped
from autoresearch_mcp.server.lake.sql.statement import check, refused
from autoresearch_mcp.server.lake.sql.statement import describe as _describe
from autoresearch_mcp.server.lake.sql.tables import DERIVED
from autoresearch_mcp.server.lake.sql.turns import QUICK_MOST_S, QUICK_S, Turn, Turns
from autoresearch_mcp.server.lake.sql.worker import HEAP_MB

__all__ = ["DERIVED", "LIMIT_S", "MOST_TEXT", "Load", "asks_for_schema", "close", "describe", "select"]

LIMIT_S = 5.0
MOST_TEXT = 50_000  # characters of an answer's values; as many again for the names of its columns

_turns = Turns()
_pool = Pool()


def select(sql: str, load: Load, limit: int, caller: str = "", folder: Path | None = None) -> tuple[list[dict[str, Any]], bool]:
    """Answer a SELECT.

    Args:
        sql: what the agent wrote.
        load: gives the rows that are known now.
        limit: the most rows to return.
        caller: who asks; long statements of one caller wait for each other before others wait for them.
        folder: where the rows are copied to for as long as it takes; the system's folder for such files, where it is left out.

    Returns:
        The first rows by column name, and whether there are more.

    Raises:
        LabError: `bad_sql`, with the reason; `busy`, where too many statements wait already.
    """
    _pool.warm()  # it starts while the statement is parsed and the rows are read
    statement, needed = check(sql)
    with _turns.turn(caller) as turn, Copy(needed, load, folder or Path(tempfile.gettempdir())) as copy:
        left_s = _complete(copy, turn)
        try:
            answer = _run(statement, copy.path, turn, limit, left_s)
        except Refused as reason:
            raise refused(str(reason), needed) from None
        except Stopped as limit_reached:
            raise refused(str(limit_reached)) from None
    return [dict(zip(answer.names, values)) for values in answer.rows], answer.more


def _complete(copy: Copy, turn: Turn) -> float:
    """Copy the rows. Returns how many seconds are left for the statement; those in which it waited for others don't count."""
    began = time.monotonic()
    done = copy.go_on(min(QUICK_MOST_S, LIMIT_S), QUICK_S)
    left_s = LIMIT_S - (time.monotonic() - began)
    if not done:
        turn.slow_down()

        def go_on() -> bool:
            nonlocal left_s
            began = time.monotonic()
            done = copy.go_on(left_s)
            left_s -= time.monotonic() - began
            return done

        done = _turns.alone(go_on)
    if not done or left_s <= 0:
        raise refused(
            f"copying the columns that it names took longer than {LIMIT_S:.0f} s; name fewer of them, above all no long text: "
            "search_memory finds memories by their words"
        )
    return left_s


def _run(statement: str, database: Path | None, turn: Turn, limit: int, seconds: float) -> Answer:
    while True:
        try:
            return _pool.run(statement, database, limit=limit, seconds=seconds, most_text=MOST_TEXT, may_be_long=turn.slow_down_now)
        except Preempted:
            turn.slow_down()  # and begin again


def close() -> None:
    """End the workers that wait for a statement; the next statement starts others."""
    _pool.close()


def asks_for_schema(sql: str) -> bool:
    """Return whether it is the word "schema", as SQLite's shell has it too, instead of a SELECT."""
    return sql.strip().strip(".;").lower() == "schema"


def describe() -> str:
    """Describe the tables for agents, and the rules."""
    return _describe(LIMIT_S, HEAP_MB)
