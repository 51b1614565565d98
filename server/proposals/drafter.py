"""A process that carries out orders for drafts: run as a script, it answers those on its stdin until that ends.

A message is a length and that many bytes of JSON.
"""

import functools
import json
import sys
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.proposals.drafts import Conflict
from autoresearch_mcp.server.proposals.orders import LENGTH_BYTES, Order
from autoresearch_mcp.server.proposals.repo import Repo


@functools.lru_cache(2)
def _repo(root: str, editable: tuple[str, ...], judges_imports: bool) -> Repo:
    return Repo(Path(root), editable, judges_imports=lambda: judges_imports)


def _carried_out(order: Order) -> dict[str, Any]:
    """Return an answer as JSON."""
    repo = _repo(order.root, tuple(order.editable), order.judges_imports)
    try:
        drafted = repo.build(**order.given) if order.method == "build" else repo.rebase(**order.given)
    except LabError as error:
        return {"refused": str(error), "code": error.code}
    except Exception:
        return {"fault": traceback.format_exc()}
    return {"conflict" if isinstance(drafted, Conflict) else "draft": asdict(drafted)}


def _serve(incoming: BinaryIO, outgoing: BinaryIO) -> None:
    while length := int.from_bytes(incoming.read(LENGTH_BYTES), "big"):
        if len(message := incoming.read(length)) < length:
            return
        answer = json.dumps(_carried_out(Order(**json.loads(message)))).encode()
        outgoing.write(len(answer).to_bytes(LENGTH_BYTES, "big") + answer)
        outgoing.flush()


if __name__ == "__main__":
    _serve(sys.stdin.buffer, sys.stdout.buffer)
