"""Folders of the lab's owner that go to where trainings run: what `[training] data`, `[scorer]` and `[profile.NAME] text` name."""

import time
from dataclasses import dataclass
from pathlib import Path

from autoresearch_mcp.server.compute.base import ComputeError
from autoresearch_mcp.trainer import given
from autoresearch_mcp.trainer.protocol import Spec

_FRESH_S = 2.0  # for which a file that was written may be written again under the same time
_States = dict[Path, tuple[int, int, int]]
_read: dict[Path, tuple[_States, given.Listing]] = {}  # folders whose contents were read, with the states of their files then


@dataclass(frozen=True)
class Folder:
    """A folder to send.

    Attributes:
        key: What it is for: `data`, `hidden`, `scorer` or `text`.
        path: Where it is here.
        listing: What it holds.
        name: Of that listing.
    """

    key: str
    path: Path
    listing: given.Listing
    name: str

    @property
    def megabytes(self) -> float:
        """How large it is."""
        return sum(max(0, int(size)) for size, _ in self.listing.values()) / 2**20


def folders_of(spec: Spec) -> list[Folder]:
    """List the folders that a run needs beside its code.

    Raises:
        ComputeError: One can't be sent.
    """
    scoring = spec.scoring
    paths = {"data": spec.readable} if spec.readable else {}
    paths |= {"hidden": scoring.hidden} if scoring else {}
    paths |= {"scorer": str(Path(scoring.file).parent)} if scoring and scoring.file else {}
    paths |= {"text": spec.own_text.text} if spec.own_text and spec.own_text.text else {}
    return [look(key, Path(path)) for key, path in paths.items()]


def look(key: str, path: Path) -> Folder:
    """List a folder.

    Raises:
        ComputeError: It can't be sent.
    """
    try:
        listing = _contents(path) if key in given.CONTENTS else given.list_files(path, contents=False)
    except given.GivenError as error:
        raise ComputeError(f"A folder can't be sent: {error}.") from error
    return Folder(key, path, listing, given.name_of(listing))


def _contents(path: Path) -> given.Listing:
    """List a folder with its contents, which are read again where a file was written since the last time.

    Raises:
        GivenError: It can't be sent.
    """
    try:
        states = _states(path)
    except OSError:  # it changes just now
        states = {}
    known = _read.get(path)
    if states and known is not None and known[0] == states:
        return known[1]
    is_settled = all(at < time.time_ns() - _FRESH_S * 1e9 for _, _, at in states.values())
    listing = given.list_files(path, contents=True)
    _read[path] = states if is_settled else {}, listing
    return listing


def _states(path: Path) -> _States:
    """Return what changes with each write to a file: its size, its number and its time of change."""
    found = ((each, each.lstat()) for each in path.rglob("*"))
    return {each: (info.st_size, info.st_ino, info.st_ctime_ns) for each, info in found}
