"""Processes that draft proposals for a server of many agents, so that those who read don't wait for the interpreter meanwhile."""

import contextlib
import json
import os
import subprocess
import sys
import threading
from dataclasses import asdict
from types import TracebackType
from typing import Any

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.installation import import_environment
from autoresearch_mcp.server.proposals.drafts import Conflict, Draft
from autoresearch_mcp.server.proposals.orders import LENGTH_BYTES, Order

_NICENESS = 10  # who asks for the status waits less than who proposes
# What some installations of Python and git need to start; no secrets
_ENVIRONMENT = (
    *("PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "LC_CTYPE", "PYTHONPATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"),
    *("GIT_PYTHON_GIT_EXECUTABLE", "GIT_PYTHON_REFRESH"),
)


class Drafters:
    """Thread-safe. As many processes as there are orders at once, of which a server takes two, each from its first one on, until they are closed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[_Process] = []
        self._is_closed = False

    def __enter__(self) -> "Drafters":
        """Start nothing yet."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """End the processes that wait, and each that is at work after its answer."""
        with self._lock:
            self._is_closed, idle, self._idle = True, self._idle, []
        for process in idle:
            process.close()

    @property
    def pids(self) -> list[int]:
        """Return the processes that wait for an order."""
        with self._lock:
            return [process.pid for process in self._idle]

    def carry_out(self, order: Order) -> Draft | Conflict:
        """Draft, as the method of `Repo` does.

        Raises:
            LabError: the method's own; and `not_drafted`, where no process could do it.
            RuntimeError: whatever else the method raised, with its traceback.
        """
        message = json.dumps(asdict(order)).encode()
        for _ in range(2):  # one that was killed by others is replaced
            with self._lock:
                process = self._idle.pop() if self._idle else None
            process = process or _Process()
            try:
                answer = process.ask(message)
            except (OSError, EOFError):
                process.close()
                continue
            with self._lock:
                is_kept = not self._is_closed
                self._idle += [process] if is_kept else []
            if not is_kept:
                process.close()
            if "fault" in answer:
                raise RuntimeError(answer["fault"])  # which is logged as any fault of ours
            if "refused" in answer:
                raise LabError(answer["refused"], answer["code"])
            if "conflict" in answer:
                return Conflict(**answer["conflict"])
            return Draft(**{**answer["draft"], **{name: tuple(answer["draft"][name]) for name in ("notes", "sound")}})
        raise LabError(
            "The change was not examined: the process that does it ended twice. Nothing was kept; write it more simply, or propose again.",
            "not_drafted",
        )


class _Process:
    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "autoresearch_mcp.server.proposals.drafter"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ} | import_environment(),
        )
        with contextlib.suppress(OSError):  # it ended already
            os.setpriority(os.PRIO_PROCESS, self._process.pid, _NICENESS)

    @property
    def pid(self) -> int:
        """Return its number."""
        return self._process.pid

    def ask(self, message: bytes) -> dict[str, Any]:
        """Return the answer to an order.

        Raises:
            OSError, EOFError: the process ended.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(len(message).to_bytes(LENGTH_BYTES, "big") + message)
        self._process.stdin.flush()
        length = int.from_bytes(self._process.stdout.read(LENGTH_BYTES), "big")
        text = self._process.stdout.read(length)
        if not length or len(text) < length:
            raise EOFError
        answer: dict[str, Any] = json.loads(text)
        return answer

    def close(self) -> None:
        """End it."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):  # what was still to be sent
                pipe.close()
        self._process.wait()
