"""A process that answers questions about a lab beside its server. It starts with the first, and ends when none came for ten minutes."""

import asyncio
import contextlib
import logging
import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Concatenate

from autoresearch_mcp.server.beside.asking import Helper, P, R, S
from autoresearch_mcp.server.beside.work import LENGTH, packed
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.installation import import_environment
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.roles import TOKEN

logger = logging.getLogger(__name__)

IDLE_S = 600.0  # after which it ends
ANSWER_S = 120.0  # after which one that computes still is ended: the page of a year takes 5


class Beside(Helper[S]):
    """Answers by a process of its own. For the tasks of one event loop.

    Args:
        answering: makes the object whose methods are called there, from the lab. It can be imported.
        root: the lab's folder.
        niceness: of the process.
        idle_s: after which the process ends when nobody asks.
    """

    def __init__(self, answering: Callable[[Lab], S], root: Path, niceness: int = 0, idle_s: float = IDLE_S) -> None:
        what = f"{answering.__module__}:{answering.__qualname__}"
        self._command = [sys.executable, "-P", "-m", "autoresearch_mcp.server.beside.work", what, str(root), str(idle_s)]
        self._niceness = niceness
        self._starting = asyncio.Lock()
        self._process: _Process | None = None
        self._is_closed = False

    @property
    def pid(self) -> int | None:
        """Return the number of the process; None while there is none."""
        return self._process.pid if self._process is not None and self._process.is_there else None

    async def ask(self, question: Callable[Concatenate[S, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Return the answer of a method of the class, which is looked up by its name.

        Raises:
            LabError: the method's own; and `no_answer`, where no process gave one.
        """
        for _ in range(2):  # one that ended meanwhile is replaced
            if self._is_closed:
                break
            process = None
            try:
                process = await self._at_work()
                answer: R = await process.ask(question.__name__, args, kwargs)
                return answer
            except (OSError, EOFError) as error:  # TimeoutError is an OSError
                logger.warning("a process beside the server did not answer: %s", error or "it ended")
                if process is not None:
                    process.close()
        raise LabError(
            "There is no answer: the process beside the server that gives it ended twice. The server's log says why; ask again.",
            "no_answer",
        )

    async def _at_work(self) -> "_Process":
        async with self._starting:
            if self._process is None or not self._process.is_there:
                process = await _Process.started(self._command, self._niceness)
                if self._is_closed:
                    process.close()
                    raise EOFError
                self._process = process
            return self._process

    def close(self) -> None:
        """End the process, and start none again."""
        self._is_closed = True
        if self._process is not None:
            self._process.close()
            self._process = None


class _Process:
    """The process, from its start to its end."""

    def __init__(self, process: subprocess.Popen[bytes], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._number = 0
        self.is_there = True
        self._listening = asyncio.create_task(self._listen())

    @classmethod
    async def started(cls, command: list[str], niceness: int) -> "_Process":
        ours, its = socket.socketpair()
        environment = {name: value for name, value in os.environ.items() if name != TOKEN} | import_environment()

        def start() -> subprocess.Popen[bytes]:
            with its:
                return subprocess.Popen(command, stdin=its.fileno(), stdout=subprocess.DEVNULL, env=environment)

        try:
            process = await asyncio.to_thread(start)
        except BaseException:
            ours.close()  # at which one that starts yet ends
            raise
        if niceness:
            with contextlib.suppress(OSError):  # it ended already
                os.setpriority(os.PRIO_PROCESS, process.pid, niceness)
        return cls(process, *await asyncio.open_connection(sock=ours))

    @property
    def pid(self) -> int:
        return self._process.pid

    async def ask(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the answer.

        Raises:
            LabError: the method's own.
            OSError, EOFError: the process ended.
        """
        if not self.is_there:
            raise EOFError
        self._number += 1
        number, answer = self._number, asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        async with asyncio.timeout(ANSWER_S):
            self._writer.write(packed(number, method, args, kwargs))
            await self._writer.drain()
            return await answer

    async def _listen(self) -> None:
        """Hand out answers until the process ends; who waits for one then is told."""
        try:
            while True:
                (length,) = LENGTH.unpack(await self._reader.readexactly(LENGTH.size))
                number, is_refused, value = pickle.loads(await self._reader.readexactly(length))  # noqa: S301 - from this program's own process
                if (answer := self._asked.pop(number, None)) is None or answer.done():
                    continue  # who asked has left
                if is_refused:
                    answer.set_exception(LabError(*value))
                else:
                    answer.set_result(value)
        except Exception as error:  # it ended, or it is of another version
            if not isinstance(error, OSError | EOFError):
                logger.exception("a process beside the server can't be understood")
            self.close()

    def close(self) -> None:
        """End it, at once."""
        self.is_there = False
        self._listening.cancel()
        self._writer.close()
        self._process.kill()
        self._process.wait()
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(EOFError())
                answer.exception()  # so that one that nobody waits for any more is no error of the server's
        self._asked.clear()
