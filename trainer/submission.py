"""Takes a submitted model out of the agent's reach, keeps it for another machine, and takes it up there (fixed)."""

import shutil
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoresearch_mcp.trainer import client, prepare, protocol
from autoresearch_mcp.trainer.failures import Ended, Failure

CONFIG = "config.json"  # of a submitted model, beside its weights


@dataclass(frozen=True)
class Submission:
    """Names what to score: the agent's code, and the weights and the config that it handed in."""

    code: Path
    entry: str
    weights: Path
    config: Mapping[str, Any]
    threads: int
    device: str  # a torch device type


def take_weights(scratch: Path, target: Path, limit_mb: int) -> tuple[str, float]:
    """Move the submitted weights out of the run's scratch directory. Call it when no process lives that could change them.

    Returns:
        Their hash, and their megabytes.

    Raises:
        Ended: there are none, or they are no plain file of at most `limit_mb`.
    """
    submitted = scratch / client.WEIGHTS
    try:
        info = submitted.lstat()
    except FileNotFoundError:
        raise Ended("crashed", Failure("invalid_model", "train.py submitted no weights.")) from None
    if not stat.S_ISREG(info.st_mode) or info.st_size > limit_mb << 20:
        message = f"the submitted weights must be a plain file of at most {limit_mb} MB, got {info.st_size / 2**20:.1f} MB."
        raise Ended("crashed", Failure("invalid_model", message))
    submitted.rename(target)
    return _seal(target), round(info.st_size / 2**20, 3)


def keep(run: Path, weights: Path, config: Mapping[str, Any]) -> None:
    """Leave a submitted model in the run directory, for the machine that scores it."""
    folder = run / protocol.SUBMISSION
    folder.mkdir()
    protocol.write_json(folder / CONFIG, dict(config))
    weights.rename(folder / client.WEIGHTS)


def take_up(run: Path, target: Path) -> tuple[str, dict[str, Any]]:
    """Take up a model that another machine left in the run directory.

    Returns:
        The hash of its weights, and its config.

    Raises:
        Ended: the weights are missing.
    """
    folder = run / protocol.SUBMISSION
    try:
        shutil.copyfile(folder / client.WEIGHTS, target)
    except FileNotFoundError:
        raise Ended("crashed", Failure("error", "the submitted weights are missing.", fault="machine")) from None
    return _seal(target), protocol.read_json(folder / CONFIG) or {}


def _seal(weights: Path) -> str:
    weights.chmod(0o644)  # model servers, which may be other users, read it
    return prepare.file_hash(weights)[:16]
