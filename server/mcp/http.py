"""The lab over Streamable HTTP: one server for a swarm, in either protocol era, without sessions.

On this machine's own addresses anyone with an account here may call it, until the lab has tokens, and the SDK refuses the Host and
Origin of a browser's page. Beyond them a token is required; it says who calls, and what they may do. The transport is not encrypted
unless a certificate is given or a TLS proxy stands in front of it. A client of the older era is not named to its calls here, so it should pass `author`.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from asyncio import CancelledError
from collections.abc import Callable, Sequence
from pathlib import Path

import anyio
import uvicorn
from mcp.server.transport_security import RequestBodyLimitMiddleware, TransportSecuritySettings
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from autoresearch_mcp.contracts import TOOLS
from autoresearch_mcp.server.beside.interpreter import share_heaps, short_collections
from autoresearch_mcp.server.beside.process import Beside
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.logs import log_to_stderr
from autoresearch_mcp.server.mcp.app import build_server
from autoresearch_mcp.server.mcp.front import ComparableHeaders, Guests, ReadableMessages, TokenMiddleware
from autoresearch_mcp.server.mcp.git_door import GitDoor
from autoresearch_mcp.server.mcp.limits import BodyTimeout, RateLimit, TimelyProtocol
from autoresearch_mcp.server.mcp.metrics import MetricsDoor
from autoresearch_mcp.server.mcp.reads import Reads
from autoresearch_mcp.server.mcp.timing import CallTimes
from autoresearch_mcp.server.mcp.try_door import TryDoor
from autoresearch_mcp.server.mcp.warming import warmed_up
from autoresearch_mcp.server.proposals.drafters import Drafters
from autoresearch_mcp.server.roles import ANYBODY, TOKEN, Identity
from autoresearch_mcp.server.tracing import exporting

MAX_BODY = 4 * 1024 * 1024
TURN_S = 0.0002  # for which a thread computes before another one's turn: the event loop needs many, and each is short
IDLE_S = 75  # for which an idle connection stays: clients let go of theirs first, so none asks on one that ends
PATIENCE_S = 1  # for calls in flight, after a signal; what the lab has begun is finished, waits are cut

FrontDoor = Callable[[Lab, Guests, TransportSecuritySettings, ASGIApp], ASGIApp]

LOOPBACK = "127.0.0.1"
_LOOPBACK = (LOOPBACK, "localhost", "::1")


def serve_http(
    lab_root: Path,
    address: str,
    identity: Identity = ANYBODY,
    hosts: Sequence[str] = (),
    origins: Sequence[str] = (),
    certificate: tuple[Path, Path] | None = None,
    front_door: FrontDoor | None = None,
) -> None:
    """Serve the lab in `lab_root` at `http://ADDRESS/mcp`, its repository at `/git` and its page at `/`, until a signal. The first line on stdout is the URL.

    Args:
        lab_root: the lab's folder.
        address: `HOST:PORT` or `PORT`; port 0 takes a free one.
        identity: for whom it works.
        hosts: Host headers to accept besides this machine's own, such as that of a TLS proxy.
        origins: origins of web pages that may call, such as `https://inspector.example`; `*` for all, which takes a token.
        certificate: files of a certificate and its private key, to encrypt with; None for plain HTTP.
        front_door: stands before the rest, such as the page's.

    Raises:
        LabError: the lab's own, `bad_address`, `no_token`, `bad_token`, `bad_certificate` and `address_taken`: nothing is served.
    """
    log_to_stderr(logging.WARNING)
    logging.getLogger("uvicorn.error").addFilter(is_news)
    sys.setswitchinterval(TURN_S)
    share_heaps()
    host, port = _parsed(address)
    origins = [each.strip().rstrip("/").lower() for each in origins]
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # uvicorn passes on the signal that ended it
    with (
        contextlib.suppress(KeyboardInterrupt),
        Drafters() as drafters,
        contextlib.closing(Lab(lab_root, drafters.carry_out)) as lab,
        listen(host, port) as listening,
        exporting("autoresearch"),
    ):
        token = _owners_token(lab, host, "*" in origins)
        logging.getLogger("mcp").setLevel(logging.WARNING)  # the SDK logs a line for every request otherwise
        security = security_of(host, hosts, origins)
        lab.alerting.start()
        times = CallTimes(TOOLS)
        reads = Beside(Reads, lab, is_quick=True)
        server = build_server(lab, identity, times=times, helper=reads)
        app: ASGIApp = server.streamable_http_app(stateless_http=True, transport_security=security)
        app = MetricsDoor(lab, security, TryDoor(lab, security, ReadableMessages(app)), times)
        app = GitDoor(lab, security, BodyTimeout(RequestBodyLimitMiddleware(app, MAX_BODY)))
        app = RateLimit(lambda: lab.settings.auth.requests_per_minute, ComparableHeaders(app, "*" in origins))
        guests = Guests(lab, token, identity)
        app = TokenMiddleware(guests, app)
        if front_door is not None:
            app = front_door(lab, guests, security, app)
        if origins:
            # GET and DELETE are answered 405, which a page can read only where it may ask.
            methods, exposed = ["GET", "POST", "DELETE"], ["WWW-Authenticate", "Retry-After"]
            app = CORSMiddleware(app, allow_origins=origins, allow_methods=methods, allow_headers=["*"], expose_headers=exposed)
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            ws="none",
            http=TimelyProtocol,
            lifespan="on",
            timeout_keep_alive=IDLE_S,
            timeout_graceful_shutdown=PATIENCE_S,
            ssl_certfile=certificate[0] if certificate else None,
            ssl_keyfile=certificate[1] if certificate else None,
        )
        if certificate:
            try:
                config.load()
            except OSError as error:  # of ssl's own kind
                raise LabError(f"{certificate[0]} and its key can't be used: {error.strerror or error}.", "bad_certificate") from None
        shown = f"[{host}]" if ":" in host else host
        print(f"Serving {lab.root} at http{'s' if certificate else ''}://{shown}:{listening.getsockname()[1]}/mcp", flush=True)  # noqa: T201
        with short_collections(), warmed_up(lab):
            anyio.run(_serve, uvicorn.Server(config), listening, reads)


async def _serve(server: uvicorn.Server, listening: socket.socket, reads: Beside[Reads]) -> None:
    """Serve until a signal, with a process beside the server that answers what only reads."""
    with contextlib.closing(reads):
        starting = asyncio.create_task(reads.start())
        await server.serve([listening])
        starting.cancel()


def is_news(record: logging.LogRecord) -> bool:
    """Return whether to log it: a wait that was cut at the end is no error, though uvicorn logs a traceback for each."""
    return not (record.exc_info and isinstance(record.exc_info[1], CancelledError))


def _parsed(address: str) -> tuple[str, int]:
    """`HOST:PORT`, `[IPV6]:PORT` or `PORT`, which is one of this machine's own."""
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") or LOOPBACK
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise LabError(f"{address!r} is no address. Give HOST:PORT, such as 127.0.0.1:8765.", "bad_address")
    return host, int(port)


def security_of(host: str, hosts: Sequence[str] = (), origins: Sequence[str] = ()) -> TransportSecuritySettings:
    """Return which Host and Origin headers are accepted. Beyond this machine all are, because every request carries the token there.

    The lab's own page comes from each host that is accepted: by HTTP, or encrypted by the lab or by a proxy.
    """
    if host not in _LOOPBACK:
        return TransportSecuritySettings(enable_dns_rebinding_protection=False)
    names = [form for each in ("127.0.0.1", "localhost", "[::1]", *hosts) for form in (each.lower(), f"{each.lower()}:*")]
    own = [f"{scheme}://{name}" for scheme in ("http", "https") for name in names]
    return TransportSecuritySettings(allowed_hosts=names, allowed_origins=[*own, *origins])


def _owners_token(lab: Lab, host: str, any_origin: bool) -> str:
    """Return the owner's own token; empty where none is needed, as anybody may call or the lab's tokens open it.

    Raises:
        LabError: `no_token`, `bad_token`.
    """
    token = os.environ.get(TOKEN, "")
    if token and (len(token) < 16 or not token.isascii() or not token.isprintable() or " " in token):
        raise LabError(f"{TOKEN} must be 16 or more printable ASCII characters without spaces.", "bad_token")
    if token or lab.settings.auth.issuer or any(each.valid for each in lab.tokens().values()):
        return token
    ways = f"Make tokens with `autoresearch-mcp token create`, or set {TOKEN} to a long random text; clients send one as `Authorization: Bearer ...`"
    if host not in _LOOPBACK:
        raise LabError(f"Anyone who reaches {host} could run code in this lab. {ways}. Or serve {LOOPBACK} only.", "no_token")
    if any_origin:
        raise LabError(
            f"With --allow-origin '*' any web page that you open could run code in this lab. {ways}. Or name the origins that may call.",
            "no_token",
        )
    return ""


def listen(host: str, port: int) -> socket.socket:
    """Listen at an address. The socket names its protocol, because asyncio sets TCP_NODELAY only on sockets that do."""
    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise LabError(f"{host}:{port} can't be served: {error.strerror}. Choose another address.", "address_taken") from None
    return socket.socket(listening.family, listening.type, socket.IPPROTO_TCP, fileno=listening.detach())
