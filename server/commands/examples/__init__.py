"""Holds the examples of `init --example`: small labs whose metric is verified by answers that no training reads."""

import contextlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from autoresearch_mcp.server.commands.examples.data import write_images, write_tabular
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.installation import is_installed
from autoresearch_mcp.server.settings import OwnCode

BUDGET_S = 20.0


@dataclass(frozen=True)
class Change:
    """A change to an example's train.py, for a scripted campaign."""

    hypothesis: str
    search: str
    replace: str


@dataclass(frozen=True)
class Example:
    """A lab to try.

    Attributes:
        metric: what is measured.
        packages: what it needs, as names to import and to install.
        write: makes the data in a folder, as `public` and `hidden`.
        better: a change that the gate promotes.
        worse: one that it doesn't.
    """

    metric: str
    packages: dict[str, str]
    write: Callable[[Path], None]
    better: Change
    worse: Change


_SKLEARN = {"sklearn": "autoresearch-mcp[sklearn]"}
EXAMPLES = {
    "tabular": Example(
        metric="log loss",
        packages=_SKLEARN,
        write=write_tabular,
        better=Change("Three times the trees: 40 small steps end too early", "TREES = 40", "TREES = 120"),
        worse=Change("Stumps overfit less", "DEPTH = 3", "DEPTH = 1"),
    ),
    "images": Example(
        metric="accuracy",
        packages=_SKLEARN | {"torch": "autoresearch-mcp[local]"},
        write=write_images,
        better=Change("Momentum goes further in the same steps", "MOMENTUM = 0.0", "MOMENTUM = 0.9"),
        worse=Change("A tenth of the learning rate is steadier", "LEARNING_RATE = 0.1", "LEARNING_RATE = 0.01"),
    ),
}


@dataclass(frozen=True)
class Start:
    """What a lab begins with instead of the stock file.

    Attributes:
        train: the text of train.py.
        own: how it is run and scored.
    """

    train: bytes
    own: OwnCode


def data_folder(lab: Path) -> Path:
    """Name the folder with an example's data: beside the lab, as no answer may lie in it."""
    return lab.with_name(f"{lab.name}-data")


@contextlib.contextmanager
def begun(name: str | None, lab: Path) -> Iterator[Start | None]:
    """Write an example's data beside a lab that is being made. Where that fails, nothing stays.

    Args:
        name: of the example; None for no example.
        lab: where the lab will be.

    Yields:
        What the lab begins with; None for no example.

    Raises:
        LabError: `missing_package`, or `not_empty`: the folder for the data is there already.
    """
    if name is None:
        yield None
        return
    example, folder = EXAMPLES[name], data_folder(lab)
    if missing := [package for package in example.packages if not is_installed(package)]:
        wanted = " ".join(f"'{example.packages[package]}'" for package in missing)
        raise LabError(f"The example needs {', '.join(missing)}: pip install {wanted}. Nothing was made.", "missing_package")
    if folder.exists():
        raise LabError(f"{folder}, where the example's data goes, is there already. Remove it, or name another lab.", "not_empty")
    own = OwnCode(metric=example.metric, data=str(folder / "public"), hidden=str(folder / "hidden"), hide=("sklearn/datasets/data",))
    try:
        example.write(folder)
        yield Start((Path(__file__).parent / f"{name}.py").read_bytes(), own)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
