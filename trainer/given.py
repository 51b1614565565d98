"""Keeps the folders that a lab gives to a machine of its owner: data, answers, text (fixed).

A folder comes in pieces and appears whole or not at all. Its name is the hash of what it holds: of names, sizes and contents, or, where
it may be large, of names, sizes and times of writing. So whoever needs it can tell whether it is still what was sent.
"""

import base64
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

LINK = -1  # in place of the bytes of a link
CONTENTS = ("hidden", "scorer")  # what folders are given for that are small, and go by what they hold
Listing = dict[str, list[int | str]]
"""By path: bytes, and the hash of the content or the second of writing; of a link `LINK`, and where it leads."""


class GivenError(Exception):
    """A folder can't be given; the text says why."""


def list_files(root: Path, contents: bool) -> Listing:
    """List what a folder holds. Folders without a file and what Python caches are left out.

    Args:
        root: the folder.
        contents: whether to read all files, or to go by when they were written.

    Raises:
        GivenError: something can't be read, or leads out of the folder.
    """
    found: Listing = {}
    top = root.resolve()
    try:
        for above, folders, files in os.walk(top, onerror=_refuse):
            folders[:] = sorted(each for each in folders if each != "__pycache__")
            for path in (Path(above, each) for each in (*folders, *sorted(files))):
                name, info = path.relative_to(top).as_posix(), path.lstat()
                if stat.S_ISLNK(info.st_mode):
                    if not path.resolve().is_relative_to(top):
                        raise GivenError(f"{name} in {root} is a link that leads out of it: put its files there")
                    found[name] = [LINK, os.path.relpath(path.resolve(), path.parent)]
                elif stat.S_ISREG(info.st_mode):
                    found[name] = [info.st_size, _content(path) if contents else int(info.st_mtime)]
    except OSError as error:
        raise GivenError(f"{error.filename or root} can't be read: {error.strerror}") from error
    return found


def name_of(listing: Mapping[str, list[int | str]]) -> str:
    """Return the name of a folder that holds this."""
    return hashlib.sha256(json.dumps(listing, sort_keys=True).encode()).hexdigest()[:16]


def is_whole(folder: Path, contents: bool) -> bool:
    """Return whether a folder that was given is there, and holds what its name says."""
    try:
        return name_of(list_files(folder, contents)) == folder.name
    except GivenError:
        return False


def come(folder: Path) -> dict[str, int]:
    """Return how many bytes have come of each file of a folder that has not appeared yet."""
    coming = _coming(folder)
    return {path.relative_to(coming).as_posix(): path.stat().st_size for path in coming.rglob("*") if path.is_file()}


def take(folder: Path, pieces: Iterable[Mapping[str, Any]]) -> None:
    """Take in pieces of files. A piece that comes again changes nothing.

    Args:
        folder: where it will appear, when `finish` is called.
        pieces: each with `path`, `at`, `runs` (whether the file is a program) and `data`, which is in base64.
    """
    for piece in pieces:
        target = _coming(folder) / piece["path"]
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT, 0o700 if piece["runs"] else 0o600), "wb") as file:
            file.seek(piece["at"])
            file.write(base64.b64decode(piece["data"]))


def finish(folder: Path, listing: Listing, contents: bool) -> bool:
    """Let a folder appear whose files have come, in place of one of its name that is damaged.

    Returns:
        Whether it is what its name says. If not, what has come is removed.
    """
    coming = _coming(folder)
    coming.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name, (size, what) in listing.items():
        path = coming / name
        if size == LINK and not path.is_symlink():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.symlink_to(str(what))
        elif isinstance(what, int):
            os.utime(path, (what, what))
    if name_of(list_files(coming, contents)) != folder.name:
        shutil.rmtree(coming)
        return False
    if folder.exists():
        damaged = folder.with_name(f".{folder.name}.damaged")
        shutil.rmtree(damaged, ignore_errors=True)
        folder.rename(damaged)
        shutil.rmtree(damaged, ignore_errors=True)
    coming.rename(folder)
    return True


def _coming(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.coming")


def _refuse(error: OSError) -> None:
    raise error


def _content(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
