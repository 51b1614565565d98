"""The lab's repository at `/git`: clone and fetch for readers, push to their own branches for workers, by git's own `http-backend`.

Promises: bodies and answers stream; a request that is broken off, too large or too slow ends with its processes, and no ref moves by it.
"""

import contextlib
import os
import shutil
import signal
from collections.abc import Mapping

import anyio
import anyio.abc
import anyio.to_thread
from anyio.streams.buffered import BufferedByteReceiveStream
from mcp.server.transport_security import TransportSecuritySettings
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Send

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.mcp.bridge import GUEST
from autoresearch_mcp.server.mcp.door import Door, caller, workers_only
from autoresearch_mcp.server.proposals.branches import folder_of
from autoresearch_mcp.server.proposals.offered import MOST_SENT, OfferedRepository, Push

PATH = "/git"
_READ, _WRITE = "git-upload-pack", "git-receive-pack"
_MOST_ASKED = 1 << 20  # bytes of a question for objects
_AT_ONCE = 4  # requests that git works at
_MOST_S = 600.0  # seconds of a request
_GRACE_S = 2.0  # between asking git's processes to end and ending them
_MOST_HEADERS = 16_384
# CPU seconds of each process, and for a push KB of memory and blocks of 512 bytes of a file
_LIMITS = {_READ: "ulimit -t 300", _WRITE: "ulimit -t 30; ulimit -v 1500000; ulimit -f 131072"}


class GitDoor(Door):
    """Answers what is below `/git`, and passes everything else on."""

    path = PATH

    def __init__(self, lab: Lab, security: TransportSecuritySettings, app: ASGIApp) -> None:
        super().__init__(lab, security, app)
        self._repository = OfferedRepository(lab.root)
        self._repository.prepare()
        self._turns = anyio.CapacityLimiter(_AT_ONCE)

    def refusal(self, request: Request) -> PlainTextResponse | None:
        """Refuse what git needn't see."""
        service = _service(request)
        if not service:
            return PlainTextResponse(f"Only git is served at {PATH}: `git clone {request.url.replace(path=PATH, query='')}`.\n", 404)
        if request.method != ("GET" if request.url.path.endswith("/info/refs") else "POST"):
            return PlainTextResponse("Not this method.\n", 405)
        if service == _WRITE and (refusal := workers_only(request, "A push")):
            return refusal
        if int(request.headers.get("content-length") or 0) > _most(service):
            return PlainTextResponse(f"A request has at most {_most(service):,} bytes here.\n", 413)
        return None

    async def answer(self, request: Request, send: Send) -> None:
        """Have git answer."""
        try:
            environment = {**(await self._environment(request)), **_cgi(request)}
        except LabError as error:
            await PlainTextResponse(f"{error}\n", 403)(request.scope, request.receive, send)
            return
        async with self._turns:
            await _Exchange(request, environment, send).run()

    async def _environment(self, request: Request) -> Mapping[str, str]:
        if _service(request) == _READ:
            return self._repository.environment(None)
        identity = caller(request)
        who = identity.name or request.scope.get(GUEST, "")  # without names each request says its own, as each call does
        if identity.name:
            tokens = await anyio.to_thread.run_sync(self._lab.tokens)
            others = {token.name for token in tokens.values() if token.name != who and folder_of(token.name) == folder_of(who)}
            if others and folder_of(who) != who:
                raise LabError(f"The folder agents/{folder_of(who)} is {min(others)}'s. Ask for a token with another name.", "not_yours")
        push = Push(
            root=str(self._lab.root),
            editable=self._lab.settings.training.editable,
            folder=folder_of(who) if who else "",
            who=who,
            role=str(identity.role or ""),
            origin=request.client.host if request.client else "",
        )
        return self._repository.environment(push)


class _Exchange:
    """One request and git's answer to it."""

    def __init__(self, request: Request, environment: Mapping[str, str], send: Send) -> None:
        self._scope = request.scope
        self._service = _service(request)
        self._environment = environment
        self._receive = request.receive
        self._send = send
        self._answering = False
        self._refused = ""
        self._whole = anyio.Event()  # the request was read to its end, before which a client may not hear an answer

    async def run(self) -> None:
        """Feed git the request, and pass its answer on. All its processes are gone when this returns."""
        git = shutil.which("git") or "git"
        command = ["/bin/sh", "-c", f'{_LIMITS[self._service]}; exec "$0" http-backend', git]
        async with await anyio.open_process(command, env=self._environment, start_new_session=True, stderr=None) as process:
            try:
                with anyio.move_on_after(_MOST_S):
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(self._feed, process, tasks.cancel_scope)
                        await self._answer(process)
                        tasks.cancel_scope.cancel()
            finally:
                with anyio.CancelScope(shield=True):
                    await _end(process)
        if not self._answering:
            status, why = (413, self._refused) if self._refused else (500, "git couldn't answer. The server's log says why.")
            with contextlib.suppress(OSError):
                await PlainTextResponse(f"{why}\n", status)(self._scope, self._receive, self._send)

    async def _feed(self, process: anyio.abc.Process, scope: anyio.CancelScope) -> None:
        assert process.stdin is not None
        size = 0
        while (message := await self._receive())["type"] == "http.request":
            body = message.get("body", b"")
            size += len(body)
            if size > _most(self._service):
                self._refused = f"A request has at most {_most(self._service):,} bytes here."
                scope.cancel()
                return
            with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):  # git has read enough
                if body:
                    await process.stdin.send(body)
                if not message.get("more_body"):
                    self._whole.set()
                    await process.stdin.aclose()
        scope.cancel()  # the client has gone

    async def _answer(self, process: anyio.abc.Process) -> None:
        assert process.stdout is not None
        stream = BufferedByteReceiveStream(process.stdout)
        try:
            head = await stream.receive_until(b"\r\n\r\n", _MOST_HEADERS)
        except (anyio.IncompleteRead, anyio.DelimiterNotFound):
            return
        headers = [(name.strip().lower(), value.strip()) for name, _, value in (line.partition(b":") for line in head.split(b"\r\n"))]
        status = next((int(value.split()[0]) for name, value in headers if name == b"status"), 200)
        self._answering = True
        await self._send({"type": "http.response.start", "status": status, "headers": [each for each in headers if each[0] != b"status"]})
        with contextlib.suppress(anyio.EndOfStream):
            while True:
                await self._send(_part(await stream.receive(), True))
        with anyio.move_on_after(_GRACE_S):
            await self._whole.wait()
        await self._send(_part(b"", False))


def _part(body: bytes, more: bool) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more}


async def _end(process: anyio.abc.Process) -> None:
    """End git's processes, where they go on, and give them time to remove what they had begun."""
    for number in (None, signal.SIGTERM, signal.SIGKILL):
        if number is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, number)
        with anyio.move_on_after(_GRACE_S if number else 0.1):
            await process.wait()
            return


def _service(request: Request) -> str:
    """Return which of git's services a request is for; empty for none."""
    path = request.url.path.removeprefix(PATH)
    wanted = request.query_params.get("service", "") if path == "/info/refs" else path.removeprefix("/")
    return wanted if wanted in (_READ, _WRITE) else ""


def _most(service: str) -> int:
    return 8 * MOST_SENT if service == _WRITE else _MOST_ASKED  # git says best that a push is too large


def _cgi(request: Request) -> dict[str, str]:
    """Return a request as CGI has it. Only headers that git's server needs, and no protocol in which it hands out hidden objects."""
    given = {
        "CONTENT_TYPE": request.headers.get("content-type"),
        "CONTENT_LENGTH": request.headers.get("content-length"),
        "HTTP_CONTENT_ENCODING": request.headers.get("content-encoding"),
    }
    return {
        "REQUEST_METHOD": request.method,
        "PATH_INFO": request.url.path.removeprefix(PATH),
        "QUERY_STRING": f"service={_service(request)}" if request.method == "GET" else "",
        "REMOTE_ADDR": request.client.host if request.client else "",
        **{name: value for name, value in given.items() if value is not None},
    }
