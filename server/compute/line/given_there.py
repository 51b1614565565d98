"""Keeps folders of the lab's owner on a machine behind ssh, and puts their places into the specs of runs. ssh sends this source too.

They lie beside the runs of their lab, in a folder for each key and name. No training can read there but what its spec calls readable.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from autoresearch_mcp.server.compute.line.there import interpreter_of

_LEFT_S = 86_400  # after which a folder that came in part is removed


def place_of(root: Path, key: str, name: str) -> Path:
    """Return where a folder lies, below the lab's own."""
    return root / "given" / key / name


def is_whole(root: Path, key: str, name: str) -> bool:
    """Return whether a folder has come, and is still what was sent."""
    from autoresearch_mcp.trainer import given

    return given.is_whole(place_of(root, key, name), key in given.CONTENTS)


def give(root: Path, key: str, name: str, pieces: list[dict[str, Any]], listing: dict[str, Any] | None) -> dict[str, Any]:
    """Take in pieces of a folder, and the listing when all have come. Without either, tell what has come, and whether that is all.

    Older folders of its key go, but for those that runs use.
    """
    from autoresearch_mcp.trainer import given

    folder = place_of(root, key, name)
    try:
        if pieces:
            given.take(folder, pieces)
        if listing is None:
            return {"come": {}} if pieces else {"come": given.come(folder), "whole": is_whole(root, key, name)}
        whole = given.finish(folder, listing, key in given.CONTENTS)
        in_use = "".join(spec.read_text(encoding="utf-8") for spec in (root / "runs").glob("*/*/spec.json"))
        for other in folder.parent.iterdir():
            old = other.name.startswith(".") and other.stat().st_mtime < time.time() - _LEFT_S
            if old or (not other.name.startswith(".") and other.name != name and other.name not in in_use):
                shutil.rmtree(other, ignore_errors=True)
    except OSError as error:
        return {"failed": f"it could not be written there: {error}. Is the disk full?"}
    except given.GivenError as error:
        return {"failed": str(error)}
    return {"whole": whole}


def lay_out(root: Path, spec: dict[str, Any], names: dict[str, str]) -> str:
    """Put the paths of this machine into a run's spec.

    Args:
        root: The lab's folder here.
        spec: Of the run, with the paths of the lab's own machine.
        names: Of the folders that it needs, by key.

    Returns:
        The key of a folder that is not here, or is not what was given; empty where nothing is missing.
    """
    for key, name in names.items():
        if not is_whole(root, key, name):
            return key
    folders = {key: str(place_of(root, key, name)) for key, name in names.items()}
    if "data" in folders:
        spec["readable"] = folders["data"]
    if scoring := spec["scoring"]:
        scoring["hidden"] = folders["hidden"]
        if scoring["file"]:
            scoring["file"] = f"{folders['scorer']}/{Path(scoring['file']).name}"
    if "text" in folders:
        spec["own_text"]["text"] = folders["text"]
    if spec["python"]:
        spec["python"] = interpreter_of(spec["python"])
    return ""
