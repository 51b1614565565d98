"""`autoresearch-mcp ui`: the page of a lab, for its owner, on this machine alone."""

import argparse
import contextlib
import logging
import signal
import sys
import webbrowser

import anyio

from autoresearch_mcp.server.commands.arguments import add_lab, existing_lab, say
from autoresearch_mcp.server.logs import log_to_stderr

EXAMPLES = ("autoresearch-mcp ui my-lab", "autoresearch-mcp ui --no-browser --port 8766 my-lab")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("--port", type=int, default=0, help="to listen on (default: a free one)")
    parser.add_argument("--no-browser", action="store_true", help="print the address, and open nothing")
    add_lab(parser)


def run(arguments: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C or a signal. Who has the address is the owner there, so it holds a key that only this run knows."""
    from autoresearch_mcp.server.mcp.http import is_news
    from autoresearch_mcp.server.page.serving import served_page

    root = existing_lab(arguments.dir)
    log_to_stderr(logging.WARNING)
    logging.getLogger("uvicorn.error").addFilter(is_news)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt), served_page(root, arguments.port) as address:
        say(f"The page of {root} is at {address}")
        sys.stdout.flush()
        if not arguments.no_browser:
            webbrowser.open(address)
        anyio.run(_signal)
    return 0


async def _signal() -> None:
    """Wait for Ctrl-C or a signal, whichever thread the system gives it to: only an event loop is woken then."""
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            return
