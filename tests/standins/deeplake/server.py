"""The service's REST endpoints, and the faults that a test may order."""

import json
import random
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import psycopg

TOKEN = "a-token.that-nobody.may-read"
ORG = "org-of-tests"


@dataclass
class Faults:
    """What goes wrong from now on. Chances are drawn anew for every request."""

    latency_s: float = 0.0
    visible_after_s: float = 0.0  # an acknowledged INSERT is seen by SELECTs this much later
    down: bool = False  # connections are accepted and dropped
    hang_s: float = 0.0  # no answer for so long
    statuses: tuple[int, ...] = ()  # one of them is answered instead, with `chance`
    chance: float = 0.0
    drop_after_commit: float = 0.0  # chance that a statement has its effect and its answer is lost
    malformed: float = 0.0  # chance of an answer that is no JSON
    tokens: set[str] = field(default_factory=lambda: {TOKEN})


class DeeplakeStandIn:
    """Serves on a free port of this machine until `close`."""

    def __init__(self, dsn: str, seed: int = 0) -> None:
        self.faults = Faults()
        self.statements: list[tuple[str, list[Any]]] = []
        self.problems: list[str] = []  # what a client should never send
        self._dsn = dsn
        self._dice = random.Random(seed)
        self._waiting: list[tuple[float, str, str, list[Any]]] = []  # inserts that are not visible yet
        self._workspaces: set[str] = set()
        self._idle: list[psycopg.Connection[Any]] = []
        self._lock = threading.Lock()
        standin = self

        class Handler(_Handler):
            service = standin

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = False  # `close` waits for the answers that are under way
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        for connection in self._idle:
            connection.close()

    def rows(self, workspace: str, table: str, columns: str = "id, version") -> list[tuple[Any, ...]]:
        """What is really stored, faults or not."""
        with self._session(workspace) as connection:
            self._settle(workspace, connection, time.monotonic() + 1e9)
            return connection.execute(f'SELECT {columns} FROM "{table}" ORDER BY id').fetchall()

    def execute(self, workspace: str, sql: str) -> None:
        """What somebody else did to the tables."""
        with self._session(workspace) as connection:
            connection.execute(sql)

    def chance(self, probability: float) -> bool:
        with self._lock:
            return self._dice.random() < probability

    def query(self, workspace: str, body: dict[str, Any]) -> dict[str, Any]:
        sql, params = body["query"], body.get("params") or []
        self.statements.append((sql, params))
        with self._session(workspace) as connection:
            if (problem := _problem(sql, connection)) is not None:
                self.problems.append(problem)
                raise psycopg.errors.FeatureNotSupported(problem)
            self._settle(workspace, connection, time.monotonic())
            if self.faults.visible_after_s and sql.startswith("INSERT"):
                with self._lock:
                    self._waiting.append((time.monotonic() + self.faults.visible_after_s, workspace, sql, params))
                return {"columns": [], "rows": [], "row_count": 1}
            cursor = psycopg.RawCursor(connection)
            cursor.execute(sql, [_param(value) for value in params] or None)
            columns = [column.name for column in cursor.description or []]
            rows = [list(row) for row in cursor.fetchall()] if columns else []
            return {"columns": columns, "rows": rows, "row_count": len(rows)}

    def _settle(self, workspace: str, connection: psycopg.Connection[Any], now: float) -> None:
        with self._lock:
            due = [each for each in self._waiting if each[0] <= now and each[1] == workspace]
            self._waiting = [each for each in self._waiting if each not in due]
            for _, _, sql, params in due:
                psycopg.RawCursor(connection).execute(sql, [_param(value) for value in params])

    @contextmanager
    def _session(self, workspace: str) -> Iterator[psycopg.Connection[Any]]:
        with self._lock:
            connection = self._idle.pop() if self._idle else psycopg.connect(self._dsn, autocommit=True)
            if workspace not in self._workspaces:
                connection.execute(f'CREATE SCHEMA IF NOT EXISTS "{workspace}"')
                self._workspaces.add(workspace)
        connection.execute(f'SET search_path = "{workspace}"')
        try:
            yield connection
        finally:
            self._idle.append(connection)


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """A client that has given up is part of the game."""


class _Handler(BaseHTTPRequestHandler):
    service: DeeplakeStandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._serve({})

    def do_POST(self) -> None:
        self._serve(json.loads(self.rfile.read(int(self.headers.get("content-length") or 0)) or b"{}"))

    def _serve(self, body: dict[str, Any]) -> None:
        faults = self.service.faults
        time.sleep(faults.latency_s)
        if faults.down:
            return self._drop()
        if faults.hang_s:
            time.sleep(faults.hang_s)
        if self.headers.get("Authorization", "").removeprefix("Bearer ") not in faults.tokens:
            return self._answer(401, {"error": "unauthorized"})
        if faults.statuses and self.service.chance(faults.chance):
            return self._answer(random.choice(faults.statuses), {"error": "injected"})
        if self.path == "/me":
            return self._answer(200, {"organizations": [ORG]})
        route = re.fullmatch(r"/workspaces/([\w-]+)/tables(/query)?", self.path)
        if route is None:
            return self._answer(404, {"error": "no such route"})
        try:
            answer = self.service.query(route[1], body)
        except psycopg.Error as error:
            return self._answer(400, {"error": str(error).splitlines()[0], "code": "INVALID_REQUEST"})
        if self.service.chance(faults.drop_after_commit):
            return self._drop()
        self._answer(200, answer, torn=self.service.chance(faults.malformed))

    def _answer(self, status: int, content: dict[str, Any], torn: bool = False) -> None:
        data = b"<html>gateway" if torn else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _drop(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)


def _problem(sql: str, connection: psycopg.Connection[Any]) -> str | None:
    """Why the service would, or might, choke on this statement."""
    if ";" in sql or "'" in sql:
        return "one statement at a time, and values as parameters"
    if re.search(r"\bON\s+CONFLICT\b|^\s*UPDATE\b", sql, re.IGNORECASE):
        return "ON CONFLICT and UPDATE are not supported by the table access method"
    if (insert := re.match(r'INSERT INTO "(\w+)" \(([^)]*)\)', sql)) is not None:
        there = connection.execute(
            "SELECT column_name FROM information_schema.columns WHERE table_name = %s AND table_schema = current_schema()", [insert[1]]
        ).fetchall()
        if missing := {name for (name,) in there} - {name.strip(' "') for name in insert[2].split(",")}:
            return f"the INSERT leaves out the column {sorted(missing)}"
    elif sql.lstrip().upper().startswith("INSERT"):
        return "an INSERT has to name its columns"
    return None


def _param(value: Any) -> str | None:
    """As text of an unknown type: PostgreSQL infers it, as it does for the service."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return None if value is None else str(value)
