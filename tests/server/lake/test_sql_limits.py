"""Statements that ask for too much end, cost a bounded piece of memory, and are in nobody else's way."""

import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lake import sql
from autoresearch_mcp.server.lake.sql import turns
from autoresearch_mcp.server.lake.sql.worker import MEMORY_MB
from autoresearch_mcp.server.models import Table
from tests.server.lake.records import experiment, memory
from tests.server.lake.test_sql import over

DATA = over(*(experiment(n) for n in range(200)))
ORDINARY = "SELECT count(*) AS n FROM experiments"
ENDLESS = "SELECT count(*) FROM " + ", ".join(f"experiments e{n}" for n in range(9))
LONG_TEXT = "replace(hex(zeroblob(240000)), '00', 'aa')"
LONG_CALL = f"SELECT instr({LONG_TEXT}, substr({LONG_TEXT}, 240000) || 'b')"  # one call of one function
WIDE = "SELECT " + ", ".join(["hex(zeroblob(499999))"] * 140) + " FROM experiments"
WIDE_AS_ALLOWED = "SELECT " + ", ".join(["hex(zeroblob(499999))"] * 50) + " FROM experiments"
SORTED = "SELECT count(*) FROM (SELECT hex(zeroblob(490000)) AS h FROM experiments a, experiments b ORDER BY b.id, h LIMIT 100000)"


def outcome(text: str, caller: str = "") -> str:
    """Returns "answered" for an answer within its size, else the reason of the refusal."""
    try:
        answer, _ = sql.select(text, DATA, 200, caller)
    except LabError as error:
        assert error.code == "bad_sql", error
        return str(error)
    assert sum(len(name) + len(str(value)) for row in answer for name, value in row.items()) <= 2 * sql.MOST_TEXT
    return "answered"


def generated(dice: random.Random) -> Iterator[str]:
    """Statements of every kind that can grow: in depth, in width, in length, in rows, in the steps of one function."""
    while True:
        few, some, many = dice.randrange(2, 9), dice.randrange(20, 120), dice.randrange(200, 600)
        size = dice.randrange(10_000, 3_000_000)
        yield "SELECT " + "(SELECT " * some + "1" + ")" * some
        yield "SELECT " + "abs(" * many + "1" + ")" * many
        yield "SELECT " + " + ".join(["1"] * many)
        yield "SELECT * FROM " + "(SELECT * FROM " * some + "experiments" + ")" * some
        yield "SELECT " + ", ".join([f"zeroblob({size})"] * some) + " FROM experiments"
        yield f"SELECT printf('%{size}d', 1), printf('%.{size}f', 0.1), printf('%*s', {size}, 'x') FROM experiments"
        yield f"SELECT {LONG_TEXT} GLOB '{'*a' * many}*b' FROM experiments"
        yield f"SELECT {LONG_TEXT} LIKE '{'%a' * dice.randrange(10, 400)}%b' FROM experiments"
        yield f"SELECT like('{'%_a' * some}%b', {LONG_TEXT}) FROM experiments"
        yield f"SELECT count(*) FROM json_each('[{','.join(['1'] * many)}]') a" + ", json_each(json_array(1, 2, 3)) b" * few
        yield "SELECT count(*) FROM " + ", ".join(f"json_each('[{','.join(['1'] * some)}]') j{n}" for n in range(few))
        yield "SELECT json_group_array(a.hypothesis || b.hypothesis || c.hypothesis) FROM experiments a, experiments b, experiments c"
        yield "SELECT count(*) FROM " + ", ".join(f"experiments e{n}" for n in range(few))
        yield f"SELECT group_concat(hex(zeroblob({size}))) FROM experiments a, experiments b"
        yield "SELECT group_concat(a.id || b.id || c.id) FROM experiments a, experiments b, experiments c"
        yield f"WITH RECURSIVE x(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM x LIMIT {size}) SELECT * FROM x"
        yield "SELECT " + "replace(" * some + "'a'" + ", 'a', 'aaa')" * some
        yield "SELECT " + "hex(" * dice.randrange(15, 60) + "'abc'" + ")" * 60
        yield f"SELECT instr({LONG_TEXT}, {LONG_TEXT} || 'b') FROM experiments a, experiments b"
        yield f"SELECT DISTINCT hex(randomblob({size % 100_000})) FROM experiments a, experiments b"
        yield f"SELECT hex(randomblob({size % 400_000})) FROM experiments a, experiments b ORDER BY 1"
        yield "SELECT id, sum(val_bpb) OVER (ORDER BY random() ROWS UNBOUNDED PRECEDING) FROM " + "experiments, " * few + "experiments z"
        yield "SELECT 1 FROM experiments WHERE " + " OR ".join(f"id = '{n}'" for n in range(many))
        yield " UNION ALL ".join(["SELECT * FROM experiments"] * some)
        yield f'SELECT 1 AS "{"n" * many}", * FROM experiments, experiments b'


def test_a_hundred_generated_statements_end_and_leave_the_next_one_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql, "LIMIT_S", 0.2)
    statements = generated(random.Random(9))
    texts = [next(statements) for _ in range(110)]
    with ThreadPoolExecutor(4) as threads:
        outcomes = list(threads.map(outcome, texts))
    assert "answered" in outcomes and any("took longer" in each for each in outcomes)
    monkeypatch.undo()
    assert sql.select(ORDINARY, DATA, 10)[0] == [{"n": 200}]


@pytest.mark.parametrize("text", [ENDLESS, LONG_CALL])
def test_a_statement_ends_at_its_limit_also_inside_one_function(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql, "LIMIT_S", 0.5)
    assert "took longer" in outcome(text)


def test_the_memory_that_statements_take_is_bounded() -> None:
    """In a process of its own, so that its children are the workers alone."""
    script = f"""if True:
        import resource
        from pathlib import Path
        from autoresearch_mcp.server.lake import sql
        from tests.server.lake import test_sql_limits as limits
        reasons = [limits.outcome(text) for text in (limits.WIDE, limits.WIDE_AS_ALLOWED, limits.SORTED)]
        assert not any(reason == "answered" for reason in reasons), reasons
        assert "many columns" in reasons[0] and "fewer columns" in reasons[1] and "memory" in reasons[2], reasons
        sql.close()
        unit = {1 if sys.platform == "darwin" else 1024}
        status = Path("/proc/self/status")  # its own peak; ru_maxrss of a process begins with that of its parent
        peak = int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024 if status.exists() else 0
        print(peak, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit)
    """
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    server, worker = map(int, done.stdout.split())
    assert 150 << 20 < worker <= MEMORY_MB << 20
    assert server < 300 << 20


def test_a_line_of_endless_statements_keeps_nobody_waiting() -> None:
    """They are more than may run at once, and nothing tells who asks."""
    begun = threading.Semaphore(0)

    def load(table: Table, columns: Sequence[str]) -> Any:
        begun.release()
        return DATA(table, columns)

    with ThreadPoolExecutor(turns.SLOW + turns.QUICK) as threads:
        endless = [threads.submit(sql.select, ENDLESS, load, 10) for _ in range(turns.SLOW + turns.QUICK)]
        for _ in endless:
            assert begun.acquire(timeout=60)
        assert sql.select(ORDINARY, DATA, 10)[0] == [{"n": 200}]
        assert not any(future.done() for future in endless)
        for future in endless:
            with pytest.raises(LabError, match="took longer"):
                future.result()


def test_copying_counts_as_time_of_the_statement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql, "LIMIT_S", 0.6)

    def endless(table: Table, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        while True:
            yield from DATA(table, columns)

    with pytest.raises(LabError, match="name fewer of them"):
        sql.select(ORDINARY, endless, 10)
    assert outcome(ORDINARY) == "answered"


def test_a_copy_has_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoresearch_mcp.server.lake.sql.copy.MOST_MB", 1)
    notes = over(*(memory(n, "x" * 8_000) for n in range(200)))
    with pytest.raises(LabError, match="room for 1 MB; name fewer columns"):
        sql.select("SELECT text FROM memories", notes, 10)
    assert sql.select("SELECT count(kind) AS n FROM memories", notes, 10)[0] == [{"n": 200}]


def test_the_servers_memory_does_not_grow_with_the_rows_that_a_statement_reads() -> None:
    """In a process of its own; the rows have far more characters than it may take bytes."""
    script = """if True:
        import resource, sys
        from pathlib import Path
        from autoresearch_mcp.server.lake import sql
        def notes(count):
            return lambda table, columns: ((f"note {n} " + "x" * 8_000,) for n in range(count))
        def peak():
            status = Path("/proc/self/status")  # ru_maxrss of a process begins with that of its parent
            if status.exists():
                return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        text = "SELECT count(*) AS n FROM memories WHERE text LIKE 'note 1%'"
        sql.select(text, notes(10), 10)
        before = peak()
        print(sql.select(text, notes(20_000), 10)[0][0]["n"], peak() - before)
    """
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    count, grown = map(int, done.stdout.split())
    assert count == 11_111
    assert grown < 40 << 20


def test_what_was_copied_is_its_owners_alone_and_gone_afterwards(tmp_path: Path) -> None:
    folder = tmp_path / "sql"
    folder.mkdir()
    killed, other = folder / "sql-killed.sqlite", folder / "sql-recent.sqlite"
    killed.touch()
    other.touch()
    os.utime(killed, (0, 0))
    modes = []

    def load(table: Table, columns: Sequence[str]) -> Any:
        modes.extend(path.stat().st_mode & 0o777 for path in folder.iterdir() if path != other)
        return DATA(table, columns)

    assert sql.select(ORDINARY, load, 10, folder=folder)[0] == [{"n": 200}]
    with pytest.raises(LabError, match="no such column"):
        sql.select("SELECT nosuch FROM experiments", load, 10, folder=folder)
    assert modes == [0o600, 0o600] and list(folder.iterdir()) == [other]
