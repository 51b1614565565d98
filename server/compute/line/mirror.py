"""The copies here of what runs leave on another machine: how far they have come, and what an answer adds to them."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoresearch_mcp.trainer import protocol

HELD = "held.json"  # in a run's folder here: for how many of the other machine's own seconds it ran


def sizes(directories: Mapping[str, Path]) -> dict[str, dict[str, int]]:
    """Return how much of each run's growing files is here, as bytes of its `log` and `curve`.

    Args:
        directories: The runs' folders here, by run.
    """
    names = {"log": protocol.LOG, "curve": protocol.CURVE}
    return {
        run: {key: path.stat().st_size if (path := directory / name).exists() else 0 for key, name in names.items()}
        for run, directory in directories.items()
    }


def take_in(directories: Mapping[str, Path], looks: Mapping[str, dict[str, Any]], texts: Sequence[str] = ()) -> None:
    """Write what came back into the lab, the result last.

    Args:
        directories: The runs' folders here, by run.
        looks: What the other machine told of each. What is written is removed from it, but for the result.
        texts: Names of small files to write too, whose text a look may have under their name.

    Raises:
        OSError: It can't be written here.
        KeyError: It tells of a run that nobody asked about.
    """
    for run, seen in looks.items():
        directory = directories[run]
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name in (protocol.LOG, protocol.CURVE):
            if name in seen:
                with (directory / name).open("ab") as file:
                    file.write(base64.b64decode(seen.pop(name)))
        if seen["progress"]:
            protocol.write_json(directory / protocol.PROGRESS, seen["progress"])
        for name in texts:
            if seen.get(name):
                (directory / name).write_text(seen.pop(name), encoding="utf-8")
        if seen.get("hidden"):
            protocol.write_json(directory / protocol.HIDDEN, seen.pop("hidden"))
        if seen.get("result"):
            protocol.write_json(directory / HELD, {"held_s": seen["held_s"]})
            protocol.write_json(directory / protocol.RESULT, seen["result"])
