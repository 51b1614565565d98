"""What code that keeps no contract needs on Modal: packages in the image, and folders of the lab's owner on volumes.

Each folder has a volume whose name says what it holds, so a finished volume never changes. `setup modal` sends it, and writes the mark
that it is whole last. Trainings mount the data alone, where their sandbox lets them read it. Answers and scorer are mounted by what scores,
below the folder that only root can enter.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from autoresearch_mcp.server.compute.base import ComputeError
from autoresearch_mcp.server.compute.folders import Folder, folders_of, look
from autoresearch_mcp.server.compute.modal.client import Mount, Service
from autoresearch_mcp.server.compute.modal.deployment import KEYS, PRIVATE
from autoresearch_mcp.server.compute.spec import spec_of
from autoresearch_mcp.server.settings import Settings
from autoresearch_mcp.server.settings.modal import REQUIREMENTS, name_of
from autoresearch_mcp.trainer import given
from autoresearch_mcp.trainer.protocol import Spec

DATA = "/run/data"  # in a container of a training
HIDDEN, SCORER = (
    f"{PRIVATE}/hidden",
    f"{PRIVATE}/scorer",
)  # in one that scores; the folder itself lies below, under the name of what it holds
WHOLE, FILES = "whole", "files"  # on a volume: the mark, written last, and the folder itself
ALWAYS = ("numpy>=2,<3",)
MEASURING = ("scikit-learn>=1.7,<2", "pyarrow>=21")  # where the lab measures predictions: what the extra `sklearn` brings here
BATCH_FILES, BATCH_BYTES = 500, 256 << 20  # of what is sent at once


@dataclass(frozen=True)
class OwnCode:
    """What a lab's code needs there.

    Attributes:
        packages: What pip installs.
        folders: Of the lab's owner.
    """

    packages: tuple[str, ...]
    folders: tuple[Folder, ...]

    @property
    def names(self) -> dict[str, str]:
        """What each folder is for, and the name of what it holds."""
        return {folder.key: folder.name for folder in self.folders}


def own_code(settings: Settings, root: Path) -> OwnCode | None:
    """Return what the code of a lab needs, as its folder and its settings are now; None where code keeps the contract.

    Args:
        settings: Of the lab.
        root: Its folder.

    Raises:
        ComputeError: A file or a folder that they name can't be read or sent.
    """
    packages = packages_of(settings, root)
    return None if packages is None else OwnCode(packages, tuple(folders_for(spec_of(settings.launch(), ""))))


def packages_of(settings: Settings, root: Path) -> tuple[str, ...] | None:
    """Return what pip installs for the code of a lab; None where code keeps the contract.

    Raises:
        ComputeError: A list of requirements is missing, or has a line that names no package.
    """
    if not settings.is_script:
        return None
    named = [line for text in settings.compute.modal.packages for line in _lines(text, root)]
    own = {name_of(line) for line in named}
    needed = (*ALWAYS, *(MEASURING if settings.scorer.kind == "predictions" else ()))
    return (*(line for line in needed if name_of(line) not in own), *named)


def _lines(text: str, root: Path) -> Iterator[str]:
    """Yield the requirements that an entry of `packages` stands for."""
    if not text.startswith(REQUIREMENTS):
        yield text.strip()
        return
    file = text.removeprefix(REQUIREMENTS).strip()
    try:
        content = (root / file).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ComputeError(f"{file}, which [compute.modal] packages names, can't be read: {why}.") from error
    for number, line in enumerate(content.splitlines(), 1):
        if (requirement := line.partition(" #")[0].strip()) and not requirement.startswith("#"):
            if not name_of(requirement):
                raise ComputeError(
                    f"{file}, line {number}: only packages with versions go to Modal, and {requirement[:80]!r} is something else. List what the "
                    "code needs as [compute.modal] packages."
                )
            yield requirement


def folders_for(spec: Spec) -> list[Folder]:
    """List the folders that a run needs there beside its code.

    Raises:
        ComputeError: One can't be sent.
    """
    return [folder for folder in folders_of(spec) if folder.key in KEYS]


def volume(key: str, name: str) -> str:
    """Name the volume of a folder."""
    return f"autoresearch-{key}-{name}"


def placed(spec: Spec, names: Mapping[str, str]) -> Spec:
    """Return a run's spec with the paths that its folders have in containers.

    Args:
        spec: With paths of this machine.
        names: What each folder is for, and the name of what it holds.
    """
    scoring = spec.scoring
    if scoring is not None:
        file = f"{SCORER}/{names['scorer']}/{Path(scoring.file).name}" if scoring.file else ""
        scoring = replace(scoring, hidden=f"{HIDDEN}/{names['hidden']}", file=file)
    return replace(spec, readable=DATA if spec.readable else "", scoring=scoring)


def for_training(names: Mapping[str, str]) -> dict[str, Mount]:
    """Return what a training mounts of the owner's."""
    return {DATA: _mount("data", names)} if "data" in names else {}


def for_scoring(names: Mapping[str, str]) -> tuple[dict[str, Mount], list[str]]:
    """Return what a scorer mounts of the owner's, and the arguments that tell it where."""
    places = {key: f"{place}/{names[key]}" for key, place in (("hidden", HIDDEN), ("scorer", SCORER)) if key in names}
    mounts = {place: _mount(key, names) for key, place in places.items()}
    return mounts, [text for key, place in places.items() for text in (f"--{key}", place)]


def _mount(key: str, names: Mapping[str, str]) -> Mount:
    return Mount(volume(key, names[key]), read_only=True, sub_path=f"/{FILES}")


async def send(service: Service, folder: Folder, say: Callable[[str], None]) -> None:
    """Send a folder to its volume, unless it is there. What came in an earlier try is not sent again.

    Raises:
        ComputeError: It holds no file, or something that no volume can hold, or it changes while it is sent.
        ModalAway: The service is away. Call it again.
    """
    name = volume(folder.key, folder.name)
    what = KEYS[folder.key]
    say(f"volume {name}")
    await service.create_volume(name)
    if await service.read(name, WHOLE) is not None:
        say(f"{what}: there already")
        return
    files = _files(folder)
    say(f"{what}: sending {len(files):,} files, {sum(size for *_, size in files) / 2**20:.1f} MB")
    batch: list[tuple[Path, str, int]] = []
    for number, (file, path, size) in enumerate(files, 1):
        batch.append((file, f"{FILES}/{path}", size))
        if number == len(files) or len(batch) == BATCH_FILES or sum(size for *_, size in batch) >= BATCH_BYTES:
            await service.upload(name, batch)
            batch = []
    if look(folder.key, folder.path).name != folder.name:
        raise ComputeError(f"{folder.path} changed while it was sent. Run `autoresearch-mcp setup modal` again.")
    await service.write(name, WHOLE, json.dumps({"files": len(files)}).encode())


def _files(folder: Folder) -> Sequence[tuple[Path, str, int]]:
    """Return the files of a folder, their paths in it and their bytes. A link to a file is that file.

    Raises:
        ComputeError: It holds none, or a link to a folder.
    """
    files = []
    for path, (size, _) in folder.listing.items():
        file = folder.path / path
        if size == given.LINK and not file.is_file():
            raise ComputeError(f"{path} in {folder.path} is a link to a folder or to nothing, which no volume can hold: put files there.")
        files.append((file, path, file.stat().st_size))
    if not files:
        raise ComputeError(f"{folder.path} holds no file.")
    return files
