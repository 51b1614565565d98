"""What `setup modal` made for a lab, as the runner finds it: ids and names, in one file of the lab's state folder."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from autoresearch_mcp.server.compute.base import ComputeError
from autoresearch_mcp.server.paths import StatePaths
from autoresearch_mcp.trainer import prepare, protocol

# In a sandbox, all that agents' code must not reach is under one folder that only root can enter.
PRIVATE = "/private"
TRAINING, EVALUATION, OUT, RUNS = f"{PRIVATE}/training", f"{PRIVATE}/evaluation", f"{PRIVATE}/out", f"{PRIVATE}/runs"
COMPILE_CACHE = f"{PRIVATE}/compile_cache"
CODE = "/run/code"  # the code to train, mounted by content
RUNS_VOLUME = "autoresearch-runs"
_AGAIN = "Run `autoresearch-mcp setup modal`: it makes what is missing."


@dataclass(frozen=True)
class Deployment:
    """Attributes:
    lab: tags this lab's sandboxes; labs of several machines may share an app.
    fixed: hash of the trainer's fixed files in the image.
    compile_caches: kind of device -> the volume with the compile cache for it. On other kinds, each training compiles for itself.
    """

    lab: str
    environment: str
    app: str
    profile: str
    image: str
    fixed: str
    training: str
    evaluation: str
    runs: str = RUNS_VOLUME
    compile_caches: Mapping[str, str] = field(default_factory=dict)

    def save(self, state: Path) -> None:
        protocol.write_json(StatePaths(state).deployment, asdict(self))


def volumes(profile: str) -> tuple[str, str]:
    """Names of the volumes of a profile's data: what trains, what measures. Other data has other names, so none ever changes."""
    version = prepare.data_dir(profile).name
    return f"autoresearch-training-{version}", f"autoresearch-evaluation-{version}"


def load(state: Path) -> Deployment:
    """The lab's deployment.

    Raises:
        ComputeError: there is none; the text says what to run.
    """
    path = StatePaths(state).deployment
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        values.setdefault("compile_caches", values.pop("graphs", {}))  # its name before version 0.2
        return Deployment(**values)
    except FileNotFoundError:
        raise ComputeError(f"The training could not be started: this lab was not set up on Modal. {_AGAIN}") from None
    except (ValueError, TypeError, AttributeError):
        raise ComputeError(f"The training could not be started: {path.name} is damaged. {_AGAIN}") from None


def check(found: Deployment, profile: str) -> None:
    """Whether new trainings may use it. What runs already is adopted in any case.

    Raises:
        ComputeError: it is for another profile, or another version of this program.
    """
    if profile not in prepare.PROFILES or (found.training, found.evaluation) != volumes(profile):
        raise ComputeError(f"The training could not be started: the data of the profile {profile!r} is not on Modal. {_AGAIN}")
    if found.fixed != prepare.fixed_hash():
        raise ComputeError(f"The training could not be started: the image on Modal holds another version of the trainer. {_AGAIN}")
