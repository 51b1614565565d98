"""What a process beside a server does: it opens the lab, and answers what comes on its stdin, which is a socket, until that ends.

python -m autoresearch_mcp.server.beside.work MODULE:CLASS LAB VERSION LOG IDLE_S, where the class takes the lab. It ends by itself when nobody asked for
so long. A message is its number, whether it is a refusal, a length, and that many bytes, which are pickled as between the processes of
`multiprocessing`: both ends are this program. Message 0 says whether it opened the lab as its server has it open; each further one answers a question.
"""

import contextlib
import importlib
import logging
import os
import pickle
import select
import signal
import socket
import struct
import sys
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from autoresearch_mcp.server import __version__
from autoresearch_mcp.server.beside.interpreter import share_heaps, short_collections
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.logs import log_to_stderr

logger = logging.getLogger("autoresearch.beside")  # as a script it has no name

HEAD = struct.Struct(">Q?Q")
INTERNAL = "internal"  # the code of a refusal that is nobody's doing but ours
_AT_ONCE = 16  # questions: those who ask take turns, so more than one computes only where one takes long


class _Answering:
    """What the process does with its questions.

    Args:
        subject: whose methods answer.
        line: to the server.
    """

    def __init__(self, subject: object, line: socket.socket) -> None:
        self._subject = subject
        self._line = line
        self._writing = threading.Lock()

    def go_on(self, idle_s: float) -> None:
        """Answer until the line ends, or nobody asked for so many seconds."""
        pool, at_work = ThreadPoolExecutor(_AT_ONCE), set[Future[None]]()
        while True:
            at_work = {each for each in at_work if not each.done()}
            ready, _, _ = select.select([self._line], [], [], idle_s)
            if not ready and all(each.done() for each in at_work):
                return
            if ready:
                if (question := self._question()) is None:
                    return
                at_work.add(pool.submit(self._answer, *question))

    def _question(self) -> tuple[int, bytes] | None:
        """Return a question and its number, or None where the line has ended."""
        with contextlib.suppress(OSError):  # the server was killed before it read an answer
            if len(head := self._line.recv(HEAD.size, socket.MSG_WAITALL)) == HEAD.size:
                number, _, length = HEAD.unpack(head)
                message = self._line.recv(length, socket.MSG_WAITALL)
                return (number, message) if len(message) == length else None
        return None

    def _answer(self, number: int, message: bytes) -> None:
        try:
            method, args, kwargs = pickle.loads(message)  # noqa: S301 - the server's own
            answer = packed(number, getattr(self._subject, method)(*args, **kwargs))
        except LabError as error:
            answer = refusal(number, error)
        except BaseException:  # whatever it is, the others' questions go on
            incident = uuid.uuid4().hex[:8]
            logger.exception("internal error %s in a process beside the server", incident)
            answer = refusal(number, LabError(f"Internal error (logged as {incident} on the server's stderr).", INTERNAL))
        with self._writing:
            _say(self._line, answer)


def _say(line: socket.socket, message: bytes) -> None:
    with contextlib.suppress(OSError):  # the server went away
        line.sendall(message)


def packed(number: int, value: object, is_refused: bool = False) -> bytes:
    """Return a message as it is sent."""
    body = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    return HEAD.pack(number, is_refused, len(body)) + body


def refusal(number: int, error: LabError) -> bytes:
    """Return a refusal as it is sent."""
    return packed(number, (str(error), error.code), is_refused=True)


def _opened(root: Path, version: str, log: str) -> Lab:
    """Open the lab, if that is the lab that the server has open.

    Raises:
        LabError: `changed`, and the lab's own.
    """
    lab = Lab(root, starts_runner=False)
    if (__version__, lab.opened_log) != (version, log):
        raise LabError("this program, or where lab.toml keeps the log, changed since the server started. Restart it.", "changed")
    return lab


def _warm_up(subject: object) -> None:
    try:
        getattr(subject, "warm_up", lambda: None)()
    except Exception:  # a question that needs the same says it in its answer
        logger.warning("a process beside the server was not warmed up", exc_info=True)


def main() -> None:
    """Answer until the server ends or nobody asks."""
    what, root, version, log, idle_s = sys.argv[1:]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the server too, which ends the line
    log_to_stderr(logging.WARNING)
    share_heaps()
    with socket.socket(fileno=os.dup(0)) as line, Path(os.devnull).open("rb") as nothing, short_collections():
        os.dup2(nothing.fileno(), 0)  # what is started here inherits no line to the server
        module, _, name = what.partition(":")
        answering: Callable[[Lab], object] = getattr(importlib.import_module(module), name)
        try:
            subject = answering(_opened(Path(root), version, log))
        except LabError as error:
            _say(line, refusal(0, error))
        else:
            _warm_up(subject)
            _say(line, packed(0, None))
            _Answering(subject, line).go_on(float(idle_s))
    os._exit(0)  # whatever is still computed, nobody waits for it


if __name__ == "__main__":
    main()
