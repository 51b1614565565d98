"""The page alone, on this machine: for a lab whose agents speak over stdio."""

import contextlib
import logging
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path

import anyio
import uvicorn
from starlette.responses import PlainTextResponse

from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.mcp.front import Guests
from autoresearch_mcp.server.mcp.http import LOOPBACK, PATIENCE_S, is_news, listen, security_of
from autoresearch_mcp.server.page.door import PageDoor


@contextlib.contextmanager
def served_page(root: Path, port: int = 0) -> Iterator[str]:
    """Serve the page in a thread until the block ends, and yield its address.

    The address holds a key of this run, which opens the page as the lab's owner, besides the lab's own tokens.

    Args:
        root: the lab's folder.
        port: 0 for a free one.

    Raises:
        LabError: the lab's own, and `address_taken`.
    """
    key = secrets.token_urlsafe(24)
    with contextlib.closing(Lab(root)) as lab, listen(LOOPBACK, port) as listening:
        app = PageDoor(lab, Guests(lab, key), security_of(LOOPBACK), PlainTextResponse("Not Found", 404))
        config = uvicorn.Config(app, log_config=None, access_log=False, ws="none", lifespan="off", timeout_graceful_shutdown=PATIENCE_S)
        logging.getLogger("uvicorn.error").addFilter(is_news)
        server = uvicorn.Server(config)
        serving = threading.Thread(target=anyio.run, args=(server.serve, [listening]), name="page", daemon=True)
        serving.start()
        try:
            yield f"http://{LOOPBACK}:{listening.getsockname()[1]}/login?key={key}"
        finally:
            server.should_exit = True
            serving.join()
