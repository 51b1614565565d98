"""One read-only SELECT over the documented tables, the same for every store: the rows that are known now, in a passing SQLite.

- `statement` parses the SELECT and refuses anything else with a reason.
- `copy` copies the rows that it may read.
- `pool` runs it in a child process (`worker`), which is killed after `LIMIT_S` and has little memory.
- `turns` decides whose statement runs next, so that one agent's statements don't hold up another's.

Gives up speed for exactness: the columns that the statement names are copied for every call (half a second at 100,000 rows),
so that unflushed rows count and both stores answer alike.
"""

from typing import Any

from autoresearch_mcp.server.lake.sql.copy import Load, copied
from autoresearch_mcp.server.lake.sql.pool import Pool, Refused, Stopped
from autoresearch_mcp.server.lake.sql.statement import check, refused
from autoresearch_mcp.server.lake.sql.statement import describe as _describe
from autoresearch_mcp.server.lake.sql.turns import Turns
from autoresearch_mcp.server.lake.sql.worker import HEAP_MB

__all__ = ["LIMIT_S", "MOST_TEXT", "Load", "asks_for_schema", "close", "describe", "select"]

LIMIT_S = 5.0
MOST_TEXT = 50_000  # characters of an answer's values; as many again for the names of its columns

_turns = Turns()
_pool = Pool()


def select(sql: str, load: Load, limit: int, caller: str = "") -> tuple[list[dict[str, Any]], bool]:
    """Answer a SELECT.

    Args:
        sql: what the agent wrote.
        load: gives the rows that are known now.
        limit: the most rows to return.
        caller: who asks; statements of one caller wait for each other before others wait for them.

    Returns:
        The first rows by column name, and whether there are more.

    Raises:
        LabError: `bad_sql`, with the reason; `busy`, where too many statements wait already.
    """
    _pool.warm()  # it starts while the statement is parsed and the rows are read
    statement, needed = check(sql)
    with _turns.turn(caller):
        database = copied(needed, load)
        try:
            answer = _pool.run(statement, database, limit=limit, seconds=LIMIT_S, most_text=MOST_TEXT)
        except Refused as reason:
            raise refused(str(reason), needed) from None
        except Stopped as limit_reached:
            raise refused(str(limit_reached)) from None
    return [dict(zip(answer.names, values)) for values in answer.rows], answer.more


def close() -> None:
    """End the workers that wait for a statement; the next statement starts others."""
    _pool.close()


def asks_for_schema(sql: str) -> bool:
    """Return whether it is the word "schema", as SQLite's shell has it too, instead of a SELECT."""
    return sql.strip().strip(".;").lower() == "schema"


def describe() -> str:
    """Describe the tables for agents, and the rules."""
    return _describe(LIMIT_S, HEAP_MB)
