"""Worker processes that run statements, one each at a time, and that can be killed.

A worker stays for the next statement, so an ordinary one pays no start; one that was killed is replaced at once. A message is
a length and that many bytes of JSON: to a worker the request, from it the answer. A worker inherits no secrets of the environment.
"""

import atexit
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoresearch_mcp.server.lake.sql.turns import QUICK_MOST_S, QUICK_S
from autoresearch_mcp.server.lake.sql.worker import LENGTH_BYTES, MEMORY_MB

_SEND_S = 10.0  # to send the request; a worker that takes it more slowly is stuck
_GRACE_S = 2.0  # until the worker's own alarm
_NICENESS = 10  # of a statement that is not quick, so that it is out of the way of everything else on the machine
_KEPT = 4  # workers that wait for the next statement
_MOST_ANSWER = 8 << 20  # bytes; a worker that obeys its limits stays far below
_ENVIRONMENT = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")  # what some installations of Python need to start


class Refused(Exception):
    """SQLite refused the statement; the text says why."""


class Stopped(Exception):
    """A statement ran into a limit; the text says which."""


class Preempted(Exception):
    """A statement was not done in time to go on where it was."""


@dataclass(frozen=True)
class Answer:
    """The rows of a statement, and whether there are more."""

    names: list[str]
    rows: list[list[Any]]
    more: bool


class Pool:
    """Thread-safe. It starts as many workers as there are statements at once: the callers bound those."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self._registered = False

    def warm(self) -> None:
        """Start a worker where none waits, so that it is ready when the statement is."""
        with self._lock:
            if not self._registered:
                atexit.register(self.close)
                self._registered = True
            if not self._idle:
                self._idle.append(_Worker())

    def run(
        self,
        statement: str,
        database: Path | None,
        *,
        limit: int,
        seconds: float,
        most_text: int,
        may_be_long: Callable[[], bool],
    ) -> Answer:
        """Run a SELECT.

        Args:
            statement: in SQLite's dialect.
            database: the SQLite file that it reads.
            limit: the most rows to return.
            seconds: how long the statement may take.
            most_text: characters that the values may have, and again the names.
            may_be_long: asked where the statement is not done after `QUICK_S`.

        Raises:
            Refused: SQLite can't run it.
            Stopped: it ran into a limit.
            Preempted: it may not be long; it has ended.
        """
        self.warm()
        with self._lock:
            worker = self._idle.pop() if self._idle else _Worker()
        if not worker.alive:
            worker.close()
            worker = _Worker()
        uri = f"{database.as_uri()}?mode=ro&immutable=1" if database else ":memory:"
        request = {"statement": statement, "database": uri, "limit": limit, "seconds": seconds, "most_text": most_text}
        try:
            answer = worker.ask(json.dumps(request).encode(), seconds, may_be_long)
        finally:
            self._put_back(worker)
        if "refused" in answer:
            raise Refused(answer["refused"])
        if "stopped" in answer:
            raise Stopped(answer["stopped"])
        return Answer(answer["names"], answer["rows"], answer["more"])

    def close(self) -> None:
        """End the workers that wait."""
        with self._lock:
            idle, self._idle = self._idle, []
        for worker in idle:
            worker.close()

    def _put_back(self, worker: "_Worker") -> None:
        with self._lock:
            if worker.usable and len(self._idle) < _KEPT:
                self._idle.append(worker)
                return
        worker.close()
        self.warm()


class _Worker:
    """One child process. After `ask`, `usable` tells whether it can run another statement."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("worker.py")
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._requests, self._answers = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._requests, False)
        os.set_blocking(self._answers, False)
        self._nice = False
        self.usable = True

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, request: bytes, seconds: float, may_be_long: Callable[[], bool]) -> dict[str, Any]:
        """Return what the worker answers, or what stopped it.

        Raises:
            Preempted: it is not quick, and may not be long.
        """
        usable, self.usable = self.usable, False  # an exception leaves half a message behind
        try:
            with contextlib.suppress(BrokenPipeError):  # it ended; its answer or its exit status says why
                self._send(request, time.monotonic() + _SEND_S)
            deadline = time.monotonic() + seconds + _GRACE_S
            if not self._is_quick():
                if not may_be_long():
                    raise Preempted
                self._yield_to_others()
            length = int.from_bytes(self._receive(LENGTH_BYTES, deadline), "big")
            if length > _MOST_ANSWER:
                raise EOFError
            answer: dict[str, Any] = json.loads(self._receive(length, deadline))
        except TimeoutError:
            return {"stopped": _too_long(seconds)}
        except EOFError:
            self.close()
            if self._process.returncode == -signal.SIGALRM:
                return {"stopped": _too_long(seconds)}
            return {"stopped": f"it ended the process that ran it, which may use {MEMORY_MB} MB; narrow it down"}
        self.usable = usable and not self._nice and not answer.get("ends")
        return answer

    def close(self) -> None:
        """Kill the process, wherever it is, and wait for its end."""
        self.usable = False
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._process.kill()
        self._process.wait()

    def _is_quick(self) -> bool:
        """Wait for the answer for a moment. Returns whether it began, or the process ended."""
        end, work_end = time.monotonic() + QUICK_MOST_S, self._worked_s() + QUICK_S
        while (left := min(end - time.monotonic(), work_end - self._worked_s())) > 0:
            with contextlib.suppress(TimeoutError):
                _wait(self._answers, select.POLLIN, time.monotonic() + max(left, 0.01))
                return True
        return False

    def _worked_s(self) -> float:
        """Return the processor time that the process has used; off Linux, the time on the wall."""
        if sys.platform == "linux":
            with contextlib.suppress(OSError):  # it ended
                return time.clock_gettime((~self._process.pid << 3) | 2)  # how the kernel numbers the clock of a process
        return time.monotonic()

    def _yield_to_others(self) -> None:
        """Lower the priority of the process, for good."""
        self._nice = True
        with contextlib.suppress(OSError):  # it ended this moment
            os.setpriority(os.PRIO_PROCESS, self._process.pid, _NICENESS)

    def _send(self, message: bytes, deadline: float) -> None:
        for part in (len(message).to_bytes(LENGTH_BYTES, "big"), message):
            left = memoryview(part)
            while left:
                _wait(self._requests, select.POLLOUT, deadline)
                with contextlib.suppress(BlockingIOError):
                    left = left[os.write(self._requests, left) :]

    def _receive(self, size: int, deadline: float) -> bytes:
        """Read so many bytes.

        Raises:
            EOFError: the process ended before.
            TimeoutError: at the deadline.
        """
        content = b""
        while len(content) < size:
            _wait(self._answers, select.POLLIN, deadline)
            with contextlib.suppress(BlockingIOError):
                part = os.read(self._answers, size - len(content))
                if not part:
                    raise EOFError
                content += part
        return content


def _wait(descriptor: int, event: int, deadline: float) -> None:
    poll = select.poll()
    poll.register(descriptor, event)
    if not poll.poll(max(0.0, deadline - time.monotonic()) * 1e3):
        raise TimeoutError


def _too_long(seconds: float) -> str:
    return f"it took longer than {seconds:.0f} s; narrow it down"
