"""Limits of an HTTP server: how often a caller may ask, and how long a request may take to arrive."""

import asyncio
import time
from collections.abc import Callable

import anyio
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from autoresearch_mcp.server.mcp.bridge import CALLER
from autoresearch_mcp.server.roles import Identity

HEAD_S = 10.0  # for a request's line and headers
BODY_S = 30.0  # for its body; git's requests have their own
_BURST_S = 10.0  # of requests may come at once
_MOST_CALLERS = 10_000


class RateLimit:
    """Answers 429 to a caller that asks too often. Where nobody has a name or a role, callers can't be told apart, and none is limited.

    Args:
        per_minute: says how many requests a caller may make in a minute.
        app: comes next.
    """

    def __init__(self, per_minute: Callable[[], int], app: ASGIApp) -> None:
        self._per_minute = per_minute
        self._app = app
        self._used: dict[str, tuple[float, float]] = {}  # by caller: requests that count, and when they were counted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or pass on."""
        caller: Identity | None = scope.get(CALLER)
        if scope["type"] == "http" and caller is not None and caller.role is not None and (wait := self._wait_s(caller.name)) > 0:
            why = f"{caller.name or 'This caller'} has made more requests than {self._per_minute():,} a minute. Ask again in {wait} s.\n"
            await PlainTextResponse(why, 429, {"Retry-After": str(wait)})(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _wait_s(self, name: str) -> int:
        """Count a request. Returns 0, or how many seconds its caller should wait."""
        now, rate = time.monotonic(), self._per_minute() / 60
        if len(self._used) > _MOST_CALLERS:
            self._used = {name: (used, at) for name, (used, at) in self._used.items() if used > (now - at) * rate}
        used, at = self._used.get(name, (0.0, now))
        used = max(0.0, used - (now - at) * rate) + 1
        if used > _BURST_S * rate:
            return max(1, round((used - _BURST_S * rate) / rate))
        self._used[name] = used, now
        return 0


class BodyTimeout:
    """Answers 408 to a request whose body takes too long to arrive.

    Args:
        app: comes next. It reads the whole body before it answers.
        seconds: for the body.
    """

    def __init__(self, app: ASGIApp, seconds: float = BODY_S) -> None:
        self._app = app
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, and end what doesn't arrive."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        until, arrived = anyio.current_time() + self._seconds, False

        async def timely() -> Message:
            nonlocal arrived
            if arrived:
                return await receive()
            message: Message = {}
            with anyio.CancelScope(deadline=until):
                message = await receive()
            if not message:
                raise _TooSlow
            arrived = not message.get("more_body")
            return message

        try:
            await self._app(scope, timely, send)
        except _TooSlow:
            why = f"The request's body took more than {self._seconds:.0f} s to arrive. Nothing was changed.\n"
            await PlainTextResponse(why, 408, {"Connection": "close"})(scope, receive, send)


class _TooSlow(Exception):
    """A body that takes too long."""


class TimelyProtocol(H11Protocol):
    """Closes a connection on which a request has begun, or was never begun, and whose headers don't arrive in time."""

    _head: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        super().connection_made(transport)
        self._expect_headers()

    def data_received(self, data: bytes) -> None:
        """Wait for the rest of the headers, where no request is being worked at."""
        super().data_received(data)
        self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more."""
        self._expect_nothing()
        super().connection_lost(exc)

    def _expect_headers(self) -> None:
        is_working = self.cycle is not None and not self.cycle.response_complete
        if is_working:
            self._expect_nothing()
        elif self._head is None:
            self._head = self.loop.call_later(HEAD_S, self._close_slow)

    def _close_slow(self) -> None:
        self._head = None
        if (self.cycle is None or self.cycle.response_complete) and not self.transport.is_closing():
            self.transport.close()

    def _expect_nothing(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None
