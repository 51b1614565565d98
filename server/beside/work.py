"""What a process beside a server does: it opens the lab, and answers what comes on its stdin, which is a socket, until that ends.

python -m autoresearch_mcp.server.beside.work MODULE:CLASS LAB IDLE_S, where the class takes the lab. It ends by itself when nobody asked for so long.
A message is a length and that many bytes, which are pickled as between the processes of `multiprocessing`: both ends are this program.
A question is a number, a method, and its arguments; an answer is that number, whether it is a refusal, and the value.
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
from typing import Any

from autoresearch_mcp.server.beside.collecting import share_heaps, short_collections
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.logs import log_to_stderr

logger = logging.getLogger(__name__)

LENGTH = struct.Struct(">Q")
INTERNAL = "internal"  # the code of a refusal that is nobody's doing but ours
_AT_ONCE = 16  # questions: those who ask take turns, so more than one computes only where one takes long


class _Answering:
    """What the process does with its questions.

    Args:
        opened: opens what answers them, once the first is there.
        line: to the server.
    """

    def __init__(self, opened: Callable[[], Any], line: socket.socket) -> None:
        self._opened = opened
        self._line = line
        self._opening, self._writing = threading.Lock(), threading.Lock()
        self._subject: Any = None

    def go_on(self, idle_s: float) -> None:
        """Answer until the line ends, or nobody asked for so many seconds."""
        pool, at_work = ThreadPoolExecutor(_AT_ONCE), set[Future[None]]()
        while True:
            at_work = {each for each in at_work if not each.done()}
            ready, _, _ = select.select([self._line], [], [], idle_s)
            if not ready and all(each.done() for each in at_work):
                return
            if ready:
                if (message := self._message()) is None:
                    return
                at_work.add(pool.submit(self._answer, message))

    def _message(self) -> bytes | None:
        """Return a question, or None where the line has ended."""
        with contextlib.suppress(OSError):  # the server was killed before it read an answer
            if len(head := self._line.recv(LENGTH.size, socket.MSG_WAITALL)) == LENGTH.size:
                (length,) = LENGTH.unpack(head)
                message = self._line.recv(length, socket.MSG_WAITALL)
                return message if len(message) == length else None
        return None

    def _answer(self, message: bytes) -> None:
        number, method, args, kwargs = pickle.loads(message)  # noqa: S301 - the server's own
        try:
            answer = packed(number, False, getattr(self._answerer(), method)(*args, **kwargs))
        except LabError as error:
            answer = packed(number, True, (str(error), error.code))
        except Exception:
            incident = uuid.uuid4().hex[:8]
            logger.exception("internal error %s in %s", incident, method)
            answer = packed(number, True, (f"Internal error (logged as {incident} on the server's stderr).", INTERNAL))
        with self._writing, contextlib.suppress(OSError):  # the server went away
            self._line.sendall(answer)

    def _answerer(self) -> Any:
        with self._opening:
            if self._subject is None:
                self._subject = self._opened()
        return self._subject


def packed(*message: object) -> bytes:
    """Return a message as it is sent."""
    body = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return LENGTH.pack(len(body)) + body


def main() -> None:
    """Answer until the server ends or nobody asks."""
    what, root, idle_s = sys.argv[1:]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the server too, which ends the line
    log_to_stderr(logging.WARNING)
    share_heaps()
    module, _, name = what.partition(":")
    answering: Callable[[Lab], Any] = getattr(importlib.import_module(module), name)
    with socket.socket(fileno=os.dup(0)) as line, short_collections():
        _Answering(lambda: answering(Lab(Path(root), starts_runner=False)), line).go_on(float(idle_s))
    os._exit(0)  # whatever is still computed, nobody waits for it: it only reads


if __name__ == "__main__":
    main()
