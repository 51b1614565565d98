"""A process that draws the page, beside a server of many agents: those who call tools don't wait for the interpreter while somebody looks.

It starts when somebody first looks, and ends when nobody has for ten minutes, and the campaign that it read with it. Run as a script, it answers
what comes on its stdin, which is a socket, until that ends. A question is a length and that many bytes of JSON; an answer is its number,
whether it is a refusal, a length and that many bytes.
"""

import asyncio
import contextlib
import json
import logging
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import uuid
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.installation import import_environment
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.logs import log_to_stderr
from autoresearch_mcp.server.mcp.bridge import Identity
from autoresearch_mcp.server.mcp.collecting import share_heaps, short_collections
from autoresearch_mcp.server.mcp.front import TOKEN
from autoresearch_mcp.server.page.drawing import INTERNAL, Drawing
from autoresearch_mcp.server.roles import Role

logger = logging.getLogger(__name__)

AT_ONCE = 2  # views: a quick one goes past one that reads a long campaign
IDLE_S = 600.0  # after which it ends
DRAW_S = 120.0  # after which one that draws still is ended: a year is drawn in 5
_NICENESS = 5  # who calls a tool waits less than who looks
_LENGTH, _ANSWER = struct.Struct(">Q"), struct.Struct(">Q?Q")


class Beside:
    """A studio in a process of its own. For the tasks of one event loop.

    Args:
        root: the lab's folder.
        idle_s: after which the process ends when nobody looks.
    """

    def __init__(self, root: Path, idle_s: float = IDLE_S) -> None:
        self._root = root
        self._idle_s = idle_s
        self._starting = asyncio.Lock()
        self._artist: _Artist | None = None
        self._is_closed = False

    @property
    def pid(self) -> int | None:
        """Return the number of the process; None while there is none."""
        return self._artist.pid if self._artist is not None and self._artist.is_there else None

    async def draw(self, what: str, given: Mapping[str, Any]) -> bytes:
        """Draw, as `Drawing.draw` does.

        Raises:
            LabError: the view's own; and `not_drawn`, where no process could do it.
        """
        for _ in range(2):  # one that ended meanwhile is replaced
            if self._is_closed:
                break
            artist = None
            try:
                artist = await self._at_work()
                return await artist.ask(what, given)
            except (OSError, EOFError) as error:  # TimeoutError is an OSError
                logger.warning("the page's process did not answer: %s", error or "it ended")
                if artist is not None:
                    artist.close()
        raise LabError("The page was not drawn: the process that does it ended twice. The server's log says why; look again.", "not_drawn")

    async def _at_work(self) -> "_Artist":
        async with self._starting:
            if self._artist is None or not self._artist.is_there:
                artist = await _Artist.started(self._root, self._idle_s)
                if self._is_closed:
                    artist.close()
                    raise EOFError
                self._artist = artist
            return self._artist

    def close(self) -> None:
        """End the process, and start none again."""
        self._is_closed = True
        if self._artist is not None:
            self._artist.close()
            self._artist = None


class _Artist:
    """The process, from its start to its end."""

    def __init__(self, process: subprocess.Popen[bytes], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._asked: dict[int, asyncio.Future[bytes]] = {}
        self._number = 0
        self.is_there = True
        self._listening = asyncio.create_task(self._listen())

    @classmethod
    async def started(cls, root: Path, idle_s: float) -> "_Artist":
        ours, its = socket.socketpair()
        environment = {name: value for name, value in os.environ.items() if name != TOKEN} | import_environment()
        command = [sys.executable, "-P", "-m", "autoresearch_mcp.server.page.beside", str(root), str(idle_s)]

        def start() -> subprocess.Popen[bytes]:
            with its:
                return subprocess.Popen(command, stdin=its.fileno(), stdout=subprocess.DEVNULL, env=environment)

        try:
            process = await asyncio.to_thread(start)
        except BaseException:
            ours.close()  # at which one that starts yet ends
            raise
        with contextlib.suppress(OSError):  # it ended already
            os.setpriority(os.PRIO_PROCESS, process.pid, _NICENESS)
        return cls(process, *await asyncio.open_connection(sock=ours))

    @property
    def pid(self) -> int:
        return self._process.pid

    async def ask(self, what: str, given: Mapping[str, Any]) -> bytes:
        """Return what is drawn.

        Raises:
            LabError: the view's own.
            OSError, EOFError: the process ended.
        """
        if not self.is_there:
            raise EOFError
        self._number += 1
        number, answer = self._number, asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        message = json.dumps({"number": number, "what": what, "given": given}, default=asdict).encode()
        async with asyncio.timeout(DRAW_S):
            self._writer.write(_LENGTH.pack(len(message)) + message)
            await self._writer.drain()
            drawn: bytes = await answer
        return drawn

    async def _listen(self) -> None:
        """Hand out answers until the process ends; who waits for one then is told."""
        try:
            while True:
                number, is_refused, length = _ANSWER.unpack(await self._reader.readexactly(_ANSWER.size))
                body = await self._reader.readexactly(length)
                if (answer := self._asked.pop(number, None)) is None or answer.done():
                    continue  # who asked has left
                if is_refused:
                    answer.set_exception(LabError(**json.loads(body)))
                else:
                    answer.set_result(body)
        except (OSError, EOFError):
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


class _Answering:
    """What the process does with its questions."""

    def __init__(self, root: Path, line: socket.socket) -> None:
        self._root = root
        self._line = line
        self._opening, self._writing = threading.Lock(), threading.Lock()
        self._drawing: Drawing | None = None

    def go_on(self, idle_s: float) -> None:
        """Answer until the line ends, or nobody asked for so many seconds."""
        pool, drawing = ThreadPoolExecutor(AT_ONCE), set[Future[None]]()
        while True:
            drawing = {each for each in drawing if not each.done()}
            ready, _, _ = select.select([self._line], [], [], idle_s)
            if not ready and all(each.done() for each in drawing):
                return
            if ready:
                if (message := self._message()) is None:
                    return
                drawing.add(pool.submit(self._answer, message))

    def _message(self) -> bytes | None:
        """Return a question, or None where the line has ended."""
        if len(head := self._line.recv(_LENGTH.size, socket.MSG_WAITALL)) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack(head)
        message = self._line.recv(length, socket.MSG_WAITALL)
        return message if len(message) == length else None

    def _answer(self, message: bytes) -> None:
        asked, is_refused = json.loads(message), True
        try:
            body, is_refused = self._drawn(asked["what"], asked["given"]), False
        except LabError as error:
            body = _refusal(str(error), error.code)
        except Exception:
            incident = uuid.uuid4().hex[:8]
            logger.exception("internal error %s in the page's %s", incident, asked["what"])
            body = _refusal(f"Internal error (logged as {incident} on the server's stderr).", INTERNAL)
        with self._writing, contextlib.suppress(OSError):  # the server went away
            self._line.sendall(_ANSWER.pack(asked["number"], is_refused, len(body)) + body)

    def _drawn(self, what: str, given: dict[str, Any]) -> bytes:
        with self._opening:
            if self._drawing is None:
                self._drawing = Drawing(Lab(self._root, starts_runner=False))
        if (visitor := given.get("visitor")) is not None:
            given["visitor"] = Identity(visitor["name"], None if visitor["role"] is None else Role(visitor["role"]))
        return self._drawing.draw(what, given)


def _refusal(message: str, code: str) -> bytes:
    return json.dumps({"message": message, "code": code}).encode()


def main() -> None:
    """Answer until the server ends or nobody looks."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the server too, which ends the line
    log_to_stderr(logging.WARNING)
    share_heaps()
    with socket.socket(fileno=os.dup(0)) as line, short_collections():
        _Answering(Path(sys.argv[1]), line).go_on(float(sys.argv[2]))
    os._exit(0)  # whatever is still drawn, nobody looks at it: it only reads


if __name__ == "__main__":
    main()
