"""A process that answers questions about a lab beside its server. It starts with the first, and ends when none came for ten minutes."""

import asyncio
import contextlib
import logging
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Concatenate

import anyio

from autoresearch_mcp.server import __version__
from autoresearch_mcp.server.beside.asking import Helper, InThreads, P, R, S
from autoresearch_mcp.server.beside.work import HEAD
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.installation import import_environment
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.roles import TOKEN

logger = logging.getLogger(__name__)

IDLE_S = 600.0  # after which it ends
ANSWER_S = 120.0  # that a question may take: the page of a year takes 5
AGAIN_S = 30.0  # after a start that failed, until the next


class Beside(Helper[S]):
    """Answers by a process of its own, and in threads while none can be had. For the tasks of one event loop.

    It opens the lab as the server has it open. Where it can't, because lab.toml is not valid just now, or names another log since, the
    server answers by itself, as it would without a process.

    Args:
        answering: makes the object whose methods are called, from the lab. It can be imported. Where it has a method `warm_up`, the
            process calls that before it answers anybody.
        lab: the server's own.
        niceness: of the process.
        is_quick: whether the server answers by itself too while the process starts, which takes a second or two.
        idle_s: after which the process ends when nobody asks.
    """

    def __init__(self, answering: Callable[[Lab], S], lab: Lab, niceness: int = 0, is_quick: bool = False, idle_s: float = IDLE_S) -> None:
        what = f"{answering.__module__}:{answering.__qualname__}"
        module = "autoresearch_mcp.server.beside.work"
        self._command = [sys.executable, "-P", "-m", module, what, str(lab.root), __version__, lab.opened_log, str(idle_s)]
        self._niceness = niceness
        self._answering, self._lab = answering, lab
        self._in_threads: InThreads[S] | None = None
        self._is_quick = is_quick
        self._starting: asyncio.Task[_Process | None] | None = None
        self._again_at = 0.0
        self._process: _Process | None = None
        self._is_closed = False

    @property
    def pid(self) -> int | None:
        """Return the number of the process; None while there is none."""
        return self._process.pid if self._process is not None and self._process.is_there else None

    async def ask(self, question: Callable[Concatenate[S, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Return the answer of a method of the class, which is looked up by its name.

        Who is cancelled meanwhile leaves when the answer is there, as from a thread: what others wait for is not begun before.

        Raises:
            LabError: the method's own; and `no_answer`, where the process took too long, or ended twice.
        """
        message = pickle.dumps((question.__name__, args, kwargs), pickle.HIGHEST_PROTOCOL)
        with anyio.CancelScope(shield=True):
            for _ in range(2):  # one that ended meanwhile is replaced
                process = await self._at_work()
                if self._is_closed:
                    break
                if process is None:
                    self._in_threads = self._in_threads or InThreads(self._answering(self._lab))
                    return await self._in_threads.ask(question, *args, **kwargs)
                try:
                    answer: R = await process.ask(message)
                    return answer
                except TimeoutError:
                    raise LabError(f"There is no answer after {ANSWER_S:g} s. Ask for less, or later.", "no_answer") from None
                except (OSError, EOFError) as error:
                    process.close()
                    if not self._is_closed:
                        logger.warning("a process beside the server did not answer: %s", error or "it ended")
        raise LabError(
            "There is no answer: the process beside the server that gives it ended, and the next one too. The server's log says why; ask again.",
            "no_answer",
        )

    async def start(self) -> None:
        """Start the process where there is none, and wait until it answers or can't be had."""
        await self._started()

    async def _at_work(self) -> "_Process | None":
        """Return the process; None while none can be had, or none is waited for."""
        if self._process is not None and self._process.is_there:
            return self._process
        starting = self._started()
        return None if self._is_quick else await asyncio.shield(starting)

    def _started(self) -> "asyncio.Task[_Process | None]":
        if self._starting is None or self._starting.done():
            self._starting = asyncio.create_task(self._start())
        return self._starting

    async def _start(self) -> "_Process | None":
        if self._process is not None and self._process.is_there:
            return self._process
        if self._is_closed or time.monotonic() < self._again_at:
            return None
        try:
            process = await _Process.started(self._command, self._niceness)
        except (LabError, OSError, EOFError) as error:
            self._again_at = time.monotonic() + AGAIN_S
            logger.warning("the server answers by itself, as no process beside it can: %s", error or "it ended at once")
            return None
        if self._is_closed:
            process.close()
        self._process = process
        return process

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
        self._heard_at = 0.0
        self.is_there = True
        self._listening = asyncio.create_task(self._listen())

    @classmethod
    async def started(cls, command: list[str], niceness: int) -> "_Process":
        """Start it, and wait until it has opened the lab.

        Raises:
            LabError: it can't.
            OSError, EOFError: it didn't.
        """
        ours, its = socket.socketpair()
        # It opens the server's own stores, so it needs what they need
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
        started = cls(process, *await asyncio.open_connection(sock=ours))
        try:
            await started._answer_to(0, b"")
        except BaseException:
            started.close()
            raise
        return started

    @property
    def pid(self) -> int:
        return self._process.pid

    async def ask(self, message: bytes) -> Any:
        """Return the answer to a question.

        Raises:
            LabError: the method's own.
            TimeoutError: it took too long. Where the process said nothing else meanwhile, it is ended.
            OSError, EOFError: the process ended.
        """
        self._number += 1
        return await self._answer_to(self._number, HEAD.pack(self._number, False, len(message)) + message)

    async def _answer_to(self, number: int, message: bytes) -> Any:
        if not self.is_there:
            raise EOFError
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(ANSWER_S):
                self._writer.write(message)
                await self._writer.drain()
                return await answer
        except TimeoutError:
            if time.monotonic() - self._heard_at >= ANSWER_S:
                self.close()
            raise
        finally:
            self._asked.pop(number, None)

    async def _listen(self) -> None:
        """Hand out answers until the process ends; who waits for one then is told."""
        try:
            while True:
                number, is_refused, length = HEAD.unpack(await self._reader.readexactly(HEAD.size))
                value = pickle.loads(await self._reader.readexactly(length))  # noqa: S301 - from this program's own process
                self._heard_at = time.monotonic()
                if (answer := self._asked.get(number)) is None or answer.done():
                    continue  # it came too late
                if is_refused:
                    answer.set_exception(LabError(*value))
                else:
                    answer.set_result(value)
        except Exception as error:
            if not isinstance(error, OSError | EOFError):
                logger.exception("a process beside the server can't be understood")
            self.close()

    def close(self) -> None:
        """End it, at once."""
        if not self.is_there:
            return
        self.is_there = False
        self._listening.cancel()
        self._writer.close()
        self._process.kill()
        threading.Thread(target=self._process.wait, daemon=True).start()  # one that waits for a disk ends when that answers
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(EOFError())
                answer.exception()  # so that one that nobody waits for any more is no error of the server's
