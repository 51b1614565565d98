"""The page's door: answers a browser's requests, and passes everything else on to the MCP server behind it."""

import contextlib
import functools
import hashlib
import secrets
from collections.abc import Callable
from functools import partial
from importlib.resources import files
from pathlib import PurePosixPath
from typing import Any, Concatenate, ParamSpec, TypeVar

import anyio
import anyio.to_thread
from mcp.server.transport_security import RequestBodyLimitMiddleware, TransportSecurityMiddleware, TransportSecuritySettings
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from autoresearch_mcp.server.beside.asking import Helper, InThreads
from autoresearch_mcp.server.beside.process import Beside
from autoresearch_mcp.server.beside.work import INTERNAL
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.lab.masking import mask_paths
from autoresearch_mcp.server.mcp.bridge import CALLER
from autoresearch_mcp.server.mcp.front import ComparableHeaders, Guests
from autoresearch_mcp.server.mcp.limits import BodyTimeout, RateLimit
from autoresearch_mcp.server.mcp.turns import Turns
from autoresearch_mcp.server.models import OWNER
from autoresearch_mcp.server.page.drawing import MARK, Drawing
from autoresearch_mcp.server.page.events import Pulse
from autoresearch_mcp.server.page.rendering import render
from autoresearch_mcp.server.page.session import Sessions, cookie, fields
from autoresearch_mcp.server.page.shelf import Shelf
from autoresearch_mcp.server.page.views import ADDRESSES, FILTERS, Asked, common, may_cancel, rules
from autoresearch_mcp.server.roles import Identity
from autoresearch_mcp.server.untrusted import one_line

P = ParamSpec("P")
R = TypeVar("R")

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with none, a browser sends `Origin: null` with a form, which nobody can tell from another site's
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_STATIC = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_MARK = secrets.token_hex(16)  # where a rendered view holds the visitor's own mark
_PATIENCE_S = 0.4  # for which a browser waits for the campaign, before it gets an outline to look at meanwhile
_MAX_FORM = 64 * 1024
_VIEWS = 2  # at once: a quick one goes past one that reads a long campaign
_NICENESS = 10  # of a process that draws: who calls a tool waits less than who looks
_AT_ONCE = 8  # outlines, errors and changes that a form asks for


class PageDoor:
    """Serves the page of a lab at `/`, and passes on what is not its own.

    Attributes:
        routes: what it answers.

    Args:
        lab: what it shows.
        guests: know a visitor by a token.
        security: which Host and Origin headers are accepted.
        app: comes next.
        studio: draws the views; by default threads of this process.
    """

    def __init__(
        self, lab: Lab, guests: Guests, security: TransportSecuritySettings, app: ASGIApp, studio: Helper[Drawing] | None = None
    ) -> None:
        self._lab = lab
        self._sessions = Sessions(guests)
        self._security = TransportSecurityMiddleware(security)
        self._pulse = Pulse(lab.changes, lab.is_training)
        self._limiter = anyio.CapacityLimiter(_AT_ONCE)
        self._studio: Helper[Drawing] = studio or InThreads(Drawing(lab))
        self._turns, self._views = Turns(), anyio.CapacityLimiter(_VIEWS)
        self._shelf = Shelf(lab, lambda: self._pulse.beat)
        self.routes = [
            *(Route(path, partial(self._view, view)) for view, path in ADDRESSES.items()),
            Route("/experiment/{name}", partial(self._view, "experiment")),
            Route("/commit/{name}", partial(self._view, "commit")),
            Route("/progress.json", self._progress),
            Route("/curve/{name}.json", self._curve),
            Route("/events", self._events),
            Route("/login", self._log_in, methods=["GET", "POST"]),
            Route("/logout", self._log_out, methods=["POST"]),
            Route("/cancel", partial(self._change, self._cancel), methods=["POST"]),
            Route("/approve", partial(self._change, self._approve), methods=["POST"]),
            Route("/refuse", partial(self._change, self._refuse), methods=["POST"]),
            Route("/static/{path:path}", self._static),
        ]
        self._paths = {route.path for route in self.routes} | {"/experiment", "/commit", "/curve", "/static"}
        router = Router(self.routes, redirect_slashes=False)
        self._limited = RateLimit(lambda: lab.settings.auth.requests_per_minute, router)
        self._own = ComparableHeaders(BodyTimeout(RequestBodyLimitMiddleware(self._from_here, _MAX_FORM)))
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on."""
        if scope["type"] == "lifespan":
            with contextlib.closing(self._studio):
                await self._app(scope, receive, send)
            return
        if scope["type"] != "http" or not self._is_own(scope["path"]):
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                there = {name.lower() for name, _ in message["headers"]}
                more = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *(each for each in more if each[0] not in there)]}
            await send(message)

        await self._own(scope, receive, send_with_headers)

    async def _from_here(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Note who asks, and answer, but for a Host or Origin that is not accepted."""
        request = Request(scope)
        refusal = await self._security.validate_request(request, is_post=False)
        if refusal is not None:
            await refusal(scope, receive, send)
        else:
            await self._limited({**scope, CALLER: await self._sessions.visitor(request)}, receive, send)

    def _is_own(self, path: str) -> bool:
        return path in self._paths or (path.count("/") > 1 and f"/{path.split('/')[1]}" in self._paths and not path.startswith("//"))

    async def _in_thread(self, use_case: Callable[..., R], *args: Any, **more: Any) -> R:
        return await anyio.to_thread.run_sync(partial(use_case, *args, **more), limiter=self._limiter)

    async def _viewed(self, given: dict[str, Any]) -> bytes:
        await self._in_thread(self._lab.wake)  # who looks starts the runner where there is work, as any call does
        return await self._drawn(Drawing.view, **given)

    async def _drawn(self, what: Callable[Concatenate[Drawing, P], bytes], *args: P.args, **kwargs: P.kwargs) -> bytes:
        """Have something drawn when its turn comes."""
        async with self._views, self._turns.taken():
            return await self._studio.ask(what, *args, **kwargs)

    async def _view(self, view: str, request: Request) -> Response:
        visitor = _visitor(request)
        if visitor is None:
            return RedirectResponse("/login", 303)
        asked = Asked(self._lab, visitor, dict(request.query_params), request.path_params.get("name", ""))
        given = {"view": view, "visitor": visitor, "query": asked.query, "name": asked.name, MARK: _MARK}
        patience_s = None if view != "campaign" or _waits(request) else _PATIENCE_S
        try:
            which = (view, visitor, tuple(sorted(asked.query.items())), asked.name)
            return self._html(request, await self._shelf.get(which, partial(self._viewed, given), patience_s))
        except TimeoutError:  # a long log is still being read: the page draws its frame, and asks again for what is in it
            outline = {**common(asked), "view": view, MARK: _MARK}
            return self._html(request, (await self._in_thread(render, "outline", outline)).encode())
        except LabError as error:
            status = _status(error)
            text = mask_paths(str(error), self._lab.root)
            heading = "Not found" if status == 404 else "Not now"
            told = {**common(asked), "view": "", "heading": heading, "text": text, MARK: _MARK}
            return self._html(request, (await self._in_thread(render, "error", told)).encode(), status)

    def _html(self, request: Request, html: bytes, status: int = 200) -> Response:
        tag = f'"{hashlib.sha256(html).hexdigest()[:24]}"'
        if status == 200 and request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers={"ETag": tag})
        html = html.replace(_MARK.encode(), self._sessions.mark(request).encode())
        return Response(html, status, {"ETag": tag}, "text/html")

    async def _progress(self, request: Request) -> Response:
        if _visitor(request) is None:
            return Response(status_code=401)
        query = request.query_params
        start, end = (int(text) if (text := query.get(name, "")).isdecimal() and len(text) < 10 else 0 for name in ("from", "to"))
        filters = {name: query.get(name, "") for name in FILTERS}
        which = ("chart", *filters.values(), start, end)
        try:
            body = await self._shelf.get(which, partial(self._drawn, Drawing.chart, filters, start, end))
        except LabError as error:
            return self._refused(error)
        tag = f'"{hashlib.sha256(body).hexdigest()[:24]}"'
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers={"ETag": tag})
        return Response(body, 200, {"ETag": tag, "Cache-Control": "private, no-cache"}, "application/json")

    async def _curve(self, request: Request) -> Response:
        if _visitor(request) is None:
            return Response(status_code=401)
        try:
            body = await self._drawn(Drawing.curve, request.path_params["name"])
        except LabError as error:
            return self._refused(error)
        return Response(body, media_type="application/json")

    def _refused(self, error: LabError) -> Response:
        return JSONResponse({"error": mask_paths(str(error), self._lab.root)}, _status(error))

    async def _events(self, request: Request) -> Response:
        if _visitor(request) is None:
            return Response(status_code=401)
        return StreamingResponse(self._pulse.stream(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})

    async def _log_in(self, request: Request) -> Response:
        context = {"lab_name": self._lab.settings.lab.name, "failed": False, "view": "login"}
        if request.method == "GET" and "key" not in request.query_params:
            return self._html(request, (await self._in_thread(render, "login", context)).encode())
        token = request.query_params.get("key") or (await fields(request)).get("token", "").strip()
        answer = RedirectResponse("/", 303)
        if not await self._sessions.log_in(request, token, answer):
            return self._html(request, (await self._in_thread(render, "login", context | {"failed": True})).encode(), 401)
        return answer

    async def _log_out(self, request: Request) -> Response:
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(cookie(request), httponly=True, samesite="strict")
        return answer

    async def _change(self, change: Callable[[Identity, dict[str, str]], tuple[str, str]], request: Request) -> Response:
        """Do what a form of the page asks for, and write down who did it."""
        visitor = _visitor(request)
        if visitor is None:
            return RedirectResponse("/login", 303)
        given = await fields(request)
        if not self._sessions.is_own(request, given.get("mark", "")):
            return await self._says(
                request, visitor, "This form was made before the server started again. Go back, reload the page, and try again.", 403
            )
        allowed = may_cancel(visitor) if change == self._cancel else rules(visitor)
        if not allowed:
            needed = "orchestrator" if change == self._cancel else "owner"
            return await self._says(request, visitor, f"This takes the role {needed}: log in with such a token. Nothing was changed.", 403)
        try:
            action, note = await self._in_thread(change, visitor, given)
        except LabError as error:
            return await self._says(request, visitor, mask_paths(str(error), self._lab.root), 409)
        who = visitor.name or "owner"
        origin = f"page at {request.client.host}" if request.client else "page"
        subject = one_line(given.get("what", ""), 400)
        await self._in_thread(self._lab.record_change, who, str(visitor.role or ""), "http", origin, action, subject)
        return await self._says(request, visitor, note, 200)

    async def _says(self, request: Request, visitor: Identity, text: str, status: int) -> Response:
        heading = "Done" if status == 200 else "Not done"
        context = {**common(Asked(self._lab, visitor, {})), "view": "", "heading": heading, "text": text, "mark": _MARK}
        return self._html(request, (await self._in_thread(render, "error", context)).encode(), status)

    def _cancel(self, visitor: Identity, given: dict[str, str]) -> tuple[str, str]:
        author = visitor.name or OWNER
        answer = self._lab.cancel(author, [given.get("what", "")], reason=given.get("reason", "")[:300], anyones=True)
        return "cancel", answer.note

    def _approve(self, visitor: Identity, given: dict[str, str]) -> tuple[str, str]:
        approved_by = f"{visitor.name or 'owner'} on the page"
        answer = self._lab.promote_commit(given.get("what", ""), author="owner", approved_by=approved_by)
        if not answer.promoted:
            raise LabError(answer.note, "not_promoted")
        return "approve", answer.note

    def _refuse(self, visitor: Identity, given: dict[str, str]) -> tuple[str, str]:
        reason = given.get("reason", "") or "the owner said no to its promotion"
        return "withdraw", self._lab.withdraw(given.get("what", ""), visitor.name or OWNER, reason, anyones=True).note

    async def _static(self, request: Request) -> Response:
        path = PurePosixPath(request.path_params["path"])
        kind = _STATIC.get(path.suffix)
        known = _static_files()
        if kind is None or str(path) not in known:
            return Response("Not Found", 404)
        return Response(known[str(path)], 200, {"Cache-Control": "max-age=300"}, kind)


def _status(error: LabError) -> int:
    """Return the HTTP status of a refusal."""
    if error.code == INTERNAL:
        return 500
    return 404 if error.code.startswith(("unknown_", "bad_")) else 409


def page_of_a_swarm(lab: Lab, guests: Guests, security: TransportSecuritySettings, app: ASGIApp) -> PageDoor:
    """Return a door whose views are drawn by a process beside this one, which answers many agents."""
    return PageDoor(lab, guests, security, app, Beside(Drawing, lab, _NICENESS))


def _visitor(request: Request) -> Identity | None:
    """Return who asks; None for nobody, where a token is needed."""
    visitor: Identity | None = request.scope[CALLER]
    return visitor


def _waits(request: Request) -> bool:
    """Return whether who asks would rather wait than get an outline (RFC 7240): the page itself, when it asks again."""
    return request.headers.get("prefer", "").startswith("wait")


@functools.cache
def _static_files() -> dict[str, bytes]:
    root = files("autoresearch_mcp.server.page") / "static"
    folders = ((root, ""), (root / "vendor", "vendor/"))
    return {f"{prefix}{each.name}": each.read_bytes() for folder, prefix in folders for each in folder.iterdir() if each.is_file()}
