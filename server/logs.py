"""How the server's processes log: to stderr, without what an agent's text could do to a terminal."""

import logging
import sys

from autoresearch_mcp.server.untrusted import clean


class CleanFormatter(logging.Formatter):
    """Formats records without terminal escapes and invisible characters. Lines after the first are indented, so none poses as a record."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text."""
        return clean(super().format(record)).replace("\n", "\n    ")


def log_to_stderr(level: int) -> None:
    """Send all records of this process from `level` on to stderr.

    Warnings that only repeat to the owner what an agent or a stranger sent are left out: sqlglot's about statements, which the lab
    answers itself, and the SDK's about each request with a foreign Host or Origin, which the client is told.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(CleanFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])
    for name in ("sqlglot", "mcp.server.transport_security"):
        logging.getLogger(name).setLevel(logging.ERROR)
