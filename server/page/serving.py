"""The page alone, on this machine: for a lab whose agents speak over stdio."""

import contextlib
import logging
import signal
from collections.abc import Callable
from pathlib import Path

import anyio
import uvicorn
from starlette.responses import PlainTextResponse

from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.logs import log_to_stderr
from autoresearch_mcp.server.mcp.front import Guests
from autoresearch_mcp.server.mcp.http import LOOPBACK, PATIENCE_S, is_news, listen, security_of
from autoresearch_mcp.server.page.door import PageDoor


def serve_page(root: Path, port: int, key: str, show: Callable[[str], object] | None) -> None:
    """Serve the page until a signal. The first line on stdout is its address, which holds the key.

    Args:
        root: the lab's folder.
        port: 0 for a free one.
        key: opens the page as the lab's owner, besides the lab's own tokens.
        show: is given the address once it can be opened.

    Raises:
        LabError: the lab's own, and `address_taken`.
    """
    log_to_stderr(logging.WARNING)
    logging.getLogger("uvicorn.error").addFilter(is_news)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt), contextlib.closing(Lab(root)) as lab, listen(LOOPBACK, port) as listening:
        app = PageDoor(lab, Guests(lab, key), security_of(LOOPBACK), PlainTextResponse("Not Found", 404))
        address = f"http://{LOOPBACK}:{listening.getsockname()[1]}/login?key={key}"
        print(f"The page of {lab.root} is at {address}", flush=True)  # noqa: T201
        if show is not None:
            show(address)
        config = uvicorn.Config(app, log_config=None, access_log=False, ws="none", lifespan="off", timeout_graceful_shutdown=PATIENCE_S)
        anyio.run(uvicorn.Server(config).serve, [listening])
