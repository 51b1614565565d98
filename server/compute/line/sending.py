"""Sends folders of the lab's owner to a machine behind ssh."""

import asyncio
import base64
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

from autoresearch_mcp.server.compute.base import ComputeError
from autoresearch_mcp.server.compute.folders import Folder
from autoresearch_mcp.trainer import given

PIECE = 4 << 20  # bytes of a request
FILES = 2_000  # of a request
SEND_S = 300.0  # for a request, on a slow line

Ask = Callable[[dict[str, Any], float], Awaitable[dict[str, Any]]]
"""Asks a host, with the seconds that it may take."""


async def send(ask: Ask, folder: Folder) -> None:
    """Send a folder, but for what came there in an earlier try.

    Raises:
        ComputeError: It can't be kept there, or it changes while it is sent.
        HostAway: The line broke. Call it again.
        HostRefused: The host can't be used.
    """
    about = {"key": folder.key, "name": folder.name}
    there = _of(await ask({"give": {**about, "pieces": [], "listing": None}}, SEND_S))
    if there["whole"]:
        return
    pieces = _pieces(folder, there["come"])
    while (piece := await asyncio.to_thread(_next, pieces)) is not None:
        _of(await ask({"give": {**about, "pieces": piece, "listing": None}}, SEND_S))
    if not _of(await ask({"give": {**about, "pieces": [], "listing": folder.listing}}, SEND_S))["whole"]:
        raise ComputeError(f"{folder.path} changed while it was sent. Launch it again.")


def _of(answer: dict[str, Any]) -> dict[str, Any]:
    if "failed" in answer:
        raise ComputeError(f"{str(answer['failed'])[:400]}.")
    return answer


def _next(pieces: Iterator[list[dict[str, Any]]]) -> list[dict[str, Any]] | None:
    """Return the next pieces; None after the last.

    Raises:
        ComputeError: A file can't be read any more.
    """
    try:
        return next(pieces, None)
    except OSError as error:
        raise ComputeError(f"{error.filename} can't be read: {error.strerror}.") from error


def _pieces(folder: Folder, come: Mapping[str, int]) -> Iterator[list[dict[str, Any]]]:
    """Yield pieces of files, as many as a request takes."""
    batch: list[dict[str, Any]] = []
    left = PIECE
    for name, (size, _) in folder.listing.items():
        if size == given.LINK or come.get(name) == size:
            continue
        with (folder.path / name).open("rb") as file:
            runs = bool((folder.path / name).stat().st_mode & 0o100)
            at = file.seek(min(come.get(name, 0), int(size)))
            while True:
                data = file.read(left)
                batch.append({"path": name, "at": at, "runs": runs, "data": base64.b64encode(data).decode()})
                at, left = at + len(data), left - len(data)
                if left > 0 and len(batch) < FILES:
                    break
                yield batch
                batch, left = [], PIECE
    if batch:
        yield batch
