"""What `setup modal` made for a lab: ids and names, in one file of the lab's state folder, where the runner finds them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from autoresearch_mcp.server.compute.base import ComputeError
from autoresearch_mcp.server.paths import StatePaths
from autoresearch_mcp.trainer import prepare, profiles, protocol
from autoresearch_mcp.trainer.profiles import Profile
from autoresearch_mcp.trainer.protocol import OwnText

# In a sandbox, all that agents' code must not reach is under one folder that only root can enter.
PRIVATE = "/private"
TRAINING, EVALUATION, OUT, RUNS = f"{PRIVATE}/training", f"{PRIVATE}/evaluation", f"{PRIVATE}/out", f"{PRIVATE}/runs"
COMPILE_CACHE = f"{PRIVATE}/compile_cache"
CODE = "/run/code"  # the code to train, mounted by content
RUNS_VOLUME = "autoresearch-runs"
KEYS = {"data": "[training] data", "hidden": "[scorer] hidden", "scorer": "[scorer] file"}  # what folders are for -> who names them
_AGAIN = "Run `autoresearch-mcp setup modal`: it makes what is missing."


@dataclass(frozen=True)
class Deployment:
    """What one lab uses on Modal.

    Attributes:
        lab: Tags this lab's sandboxes; labs of several machines may share an app.
        environment: The Modal environment.
        app: The app in it.
        profile: What is trained.
        image: The object id of the image of trainings and scorers.
        fixed: The hash of the trainer's fixed files in the image.
        training: The volume with the training split; empty where code brings its own data.
        evaluation: The volume with the validation and test splits; empty likewise.
        runs: The volume with the results.
        compile_caches: Kind of device -> the volume with the compile cache for it. On other kinds, each training compiles for itself.
        own: What the profile is made of, where it is of the owner's own text.
        packages: What pip installed in the image for code that keeps no contract; None where code keeps it.
        given: Of such code, what each folder of the owner's is for, and the name of what it holds. See own_code.py.
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
    own: Mapping[str, Any] | None = None
    packages: Sequence[str] | None = None
    given: Mapping[str, str] = field(default_factory=dict)

    @property
    def limits(self) -> Profile:
        """The profile that is trained."""
        return profiles.find(self.profile, OwnText(**self.own) if self.own else None)

    def save(self, state: Path) -> None:
        """Write it to the lab's state folder.

        Raises:
            OSError: It was not written.
        """
        protocol.write_json(StatePaths(state).deployment, asdict(self))


def volumes(profile: str | Profile, heldout: str = "") -> tuple[str, str]:
    """Name the volumes of a profile's data. Other data has other names, so a volume never changes.

    Args:
        profile: What is trained.
        heldout: The fingerprint of the lab's secret; empty for the public split.

    Returns:
        The volume with the training split, and the one with the validation and test splits.

    Raises:
        ComputeError: The owner's text can't be read.
    """
    limits = profiles.resolve(profile)
    try:
        version = prepare.data_dir(limits.name, limits.own).name + (f"-{heldout}" if heldout else "")
    except prepare.PreparationError as error:
        raise ComputeError(f"The training could not be started. {error}") from error
    return f"autoresearch-training-{version}", f"autoresearch-evaluation-{version}"


def load(state: Path) -> Deployment:
    """Read the lab's deployment.

    Args:
        state: The lab's state folder.

    Raises:
        ComputeError: There is none, or it is damaged; the text says what to run.
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


def check(
    deployment: Deployment,
    profile: str | Profile,
    heldout: str = "",
    packages: Sequence[str] | None = None,
    given: Mapping[str, str] | None = None,
) -> None:
    """Check that new trainings may use a deployment. What runs already is adopted in any case.

    Args:
        deployment: The lab's deployment.
        profile: What the lab trains now.
        heldout: The fingerprint of the lab's secret; empty for the public split.
        packages: What code that keeps no contract needs in the image now; None where code keeps it.
        given: What each folder that such code needs holds now; None leaves them out.

    Raises:
        ComputeError: It is for something else, or another version of this program.
    """
    if why := _unlike(deployment, profile, heldout, packages, given):
        raise ComputeError(f"The training could not be started: {why}. {_AGAIN}")


def _unlike(
    deployment: Deployment, profile: str | Profile, heldout: str, packages: Sequence[str] | None, given: Mapping[str, str] | None
) -> str:
    """Say how a deployment differs from what is wanted; empty where it doesn't."""
    name = profile if isinstance(profile, str) else profile.name
    known = name in profiles.PROFILES or isinstance(profile, Profile)
    if packages is None and (not known or (deployment.training, deployment.evaluation) != volumes(profile, heldout)):
        return f"the data of the profile {name!r} is not on Modal, or not this lab's"
    if packages is not None and (deployment.packages is None or list(deployment.packages) != list(packages)):
        return "the image on Modal holds other packages than [compute.modal] packages asks for"
    if differing := [KEYS[key] for key, named in (given or {}).items() if deployment.given.get(key) != named]:
        return f"{' and '.join(differing)} in lab.toml names a folder that is not on Modal as it is here now"
    if deployment.fixed != prepare.fixed_hash():
        return "the image on Modal holds another version of the trainer"
    return ""
