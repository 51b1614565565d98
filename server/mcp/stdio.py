"""The lab over standard input and output: one server for one client, in either protocol era.

Nothing but protocol reaches the wire: it moves to private descriptors first, so a stray print lands on stderr and a
child process reads an empty input. A probe (`server/discover`) never decides the era, because some clients probe and
then initialize on the same pipe; the first other request decides. End of input, SIGTERM and Ctrl-C all end the process
quickly and quietly: calls that the lab has begun are finished, waits are cut.
"""

import contextlib
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import CancelledError
from functools import partial
from pathlib import Path
from typing import Any, cast

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
from mcp.server.mcpserver import MCPServer
from mcp.server.runner import serve_dual_era_loop
from mcp.server.stdio import stdio_server
from mcp.shared.message import SessionMessage
from mcp.types import JSONRPCRequest

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.logs import log_to_stderr
from autoresearch_mcp.server.mcp.app import build_server
from autoresearch_mcp.server.mcp.messages import refused, whole
from autoresearch_mcp.server.roles import ANYBODY, Identity
from autoresearch_mcp.server.tracing import exporting

PATIENCE_S = 3.0  # after a signal; then the process ends even if a disk or a client that doesn't read holds it

Incoming = SessionMessage | Exception


def serve_stdio(lab_root: Path, identity: Identity = ANYBODY) -> None:
    """Serve the lab in `lab_root` until the client goes away.

    Raises:
        SystemExit: 2, if the lab can't be opened; the reason is on stderr.
    """
    log_to_stderr(logging.WARNING)
    with contextlib.suppress(KeyboardInterrupt), _private_wire() as (source, sink):
        try:
            lab = Lab(lab_root)
        except LabError as error:
            print(f"autoresearch-mcp: {error}", file=sys.stderr)  # noqa: T201
            raise SystemExit(2) from error
        with exporting("autoresearch"), contextlib.closing(lab):
            lab.alerting.start()
            anyio.run(_serve, build_server(lab, identity, one_client=True), source, sink)


@contextlib.contextmanager
def _private_wire() -> Iterator[tuple[int, int]]:
    """Descriptors of the real standard input and output, while 0 reads nothing and 1 writes to stderr."""
    sys.stdout.flush()
    source, sink = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    try:
        yield source, sink
    finally:
        sys.stdout.flush()
        os.dup2(source, 0)
        os.dup2(sink, 1)
        os.close(sink)  # `source` stays open: a reader may be blocked on it, and its number must not be used again


async def _serve(server: MCPServer[object], source: int, sink: int) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_end_on_signal, tasks.cancel_scope)
        answers = Sink(sink)
        await _converse(server, Lines(source, answers), answers)
        tasks.cancel_scope.cancel()


async def _end_on_signal(scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            last_resort = threading.Timer(PATIENCE_S, os._exit, (0,))
            last_resort.daemon = True
            last_resort.start()
            scope.cancel()


async def _converse(server: MCPServer[object], lines: "Lines", sink: "Sink") -> None:
    low = server._lowlevel_server
    # The SDK asks for anyio files, and uses no more of them than these two classes have.
    async with stdio_server(cast(Any, lines), cast(Any, sink)) as (incoming, outgoing), low.lifespan(low) as state:
        serve = partial(serve_dual_era_loop, low, lifespan_state=state, init_options=low.create_initialization_options())

        async def answer_probe(probe: SessionMessage) -> None:
            """In a loop of its own, so that it locks no era."""
            ask, asked = anyio.create_memory_object_stream[Incoming](1)
            reply, replies = anyio.create_memory_object_stream[SessionMessage](1)
            async with ask, replies, anyio.create_task_group() as tasks:
                tasks.start_soon(serve, asked, reply)
                await ask.send(probe)
                await outgoing.send(await replies.receive())
                tasks.cancel_scope.cancel()

        forward, forwarded = anyio.create_memory_object_stream[Incoming](0)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(serve, forwarded, outgoing)
            async with forward, contextlib.aclosing(incoming):
                probing = True
                async for item in incoming:
                    request = item.message if isinstance(item, SessionMessage) and isinstance(item.message, JSONRPCRequest) else None
                    probing = probing and (request is None or request.method == "server/discover")
                    if probing and request is not None:
                        await answer_probe(cast(SessionMessage, item))
                    else:
                        await forward.send(item)


class Lines:
    """Lines from a descriptor, read by a daemon thread, so that a blocked read never holds up the exit.

    A line that can be no message is answered here with the reason, because the SDK would drop it without a word.
    """

    def __init__(self, source: int, answers: "Sink") -> None:
        self._source = source
        self._answers = answers

    async def __aiter__(self) -> AsyncIterator[str]:
        send, lines = anyio.create_memory_object_stream[str](0)
        token = anyio.lowlevel.current_token()

        def read() -> None:
            with contextlib.suppress(OSError, CancelledError, anyio.BrokenResourceError, anyio.RunFinishedError):
                with os.fdopen(self._source, "rb", closefd=False) as file:
                    for line in file:
                        message = whole(line.decode("utf-8", "replace"))
                        if message.isspace():
                            continue
                        if refusal := refused(message):
                            anyio.from_thread.run(self._answers.write, json.dumps(refusal.answer()) + "\n", token=token)
                        else:
                            anyio.from_thread.run(send.send, message, token=token)
                anyio.from_thread.run(send.aclose, token=token)

        threading.Thread(target=read, name="stdin", daemon=True).start()
        async with lines:
            async for line in lines:
                yield line


class Sink:
    """Writes whole messages to a descriptor.

    A client that doesn't read blocks a thread, never the loop. What is written to one that went away is dropped, because the end of
    its input ends the conversation.
    """

    def __init__(self, sink: int) -> None:
        self._sink = sink
        self._turn = anyio.Lock()

    async def write(self, text: str) -> None:
        """Write a message, after those before it."""
        async with self._turn:
            await anyio.to_thread.run_sync(self._write, text.encode("utf-8", "replace"), abandon_on_cancel=True)

    async def flush(self) -> None:
        """Nothing is buffered."""

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        with contextlib.suppress(BrokenPipeError):
            while view:
                view = view[os.write(self._sink, view) :]
