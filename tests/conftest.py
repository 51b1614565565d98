"""What all tests share: isolation from the user's git configuration, and labs."""

import atexit
import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest

if TYPE_CHECKING:
    from tests.standins.modal.standin import Standin
    from tests.standins.sshd import Hosts

# A shell that runs the tests in the background has them, and all that they start, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Before anything runs git or starts a process: no test depends on, or touches, the user's own configuration.
os.environ |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
# The processes that tests start would compile all that they import, each for itself.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# Trainings stop while a neighbour's model is scored, and launchers with another TMPDIR are no neighbours: see trainer/quiet.py.
os.environ["TMPDIR"] = tempfile.mkdtemp(prefix="autoresearch-tests-")
atexit.register(shutil.rmtree, os.environ["TMPDIR"], ignore_errors=True)
# Deeplake's service itself is spoken to only where AUTORESEARCH_REAL_DEEPLAKE asks for it, by the crash test.
DEEPLAKE = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("DEEPLAKE_")}
REAL_DEEPLAKE = DEEPLAKE if os.environ.get("AUTORESEARCH_REAL_DEEPLAKE") else {}
for name in ("AUTORESEARCH_AGENT", "AUTORESEARCH_LAB", "AUTORESEARCH_EMBEDDINGS_KEY"):
    os.environ.pop(name, None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, then those that train: where processes take a file each, none is left with a long one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path not in slow, not {"acceptance", "compute", "trainer"} & set(item.path.parts)))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@functools.cache
def fresh_lab(name: str) -> Path:
    """Return a lab on the tiny profile that nobody has touched, to be copied: `init` takes 25 calls of git."""
    from autoresearch_mcp.server.commands.init import create_lab

    root = Path(os.environ["TMPDIR"], "fresh-labs", name)
    create_lab(root, profile="tiny", budget_s=1.0)
    return root


@pytest.fixture
def make_lab(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Makes a lab on the tiny profile: `make_lab(name="lab", toml={"old text": "new text"}, train="train.py")`.

    Labs of a name share their secret, so their data too.
    """
    from autoresearch_mcp.server.proposals.making import NewRepo
    from autoresearch_mcp.server.runner.lock import stop_runner

    roots: list[Path] = []

    def make(name: str = "lab", toml: dict[str, str] | None = None, train: str = "") -> Path:
        root = tmp_path / name
        shutil.copytree(fresh_lab(name), root, symlinks=True)
        subprocess.run(["git", "-C", root, "update-index", "-q", "--refresh"], check=True)  # the index knows files by their inodes
        if train:
            NewRepo(root).commit_files({"train.py": train.encode()}, "Another model")
        text = (root / "lab.toml").read_text(encoding="utf-8")
        for old, new in (toml or {}).items():
            assert old in text, f"lab.toml has no {old!r}"
            text = text.replace(old, new)
        (root / "lab.toml").write_text(text, encoding="utf-8")
        roots.append(root)
        return root

    yield make
    for root in roots:
        stop_runner(root / ".autoresearch")


@pytest.fixture
def lab_root(make_lab: Callable[..., Path]) -> Path:
    return make_lab()


@pytest.fixture(scope="session")
def postgres_dsn() -> Iterator[str]:
    from tests.standins.deeplake.postgres import postgres

    with postgres() as dsn:
        yield dsn


@pytest.fixture(scope="session")
def modal_standin(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Standin]":
    """The process environment points Modal's client at it."""
    from tests.standins.modal.standin import standin

    with standin(tmp_path_factory.mktemp("modal")) as running:
        os.environ.update(running.environment)
        yield running
        for name in running.environment:
            del os.environ[name]


@pytest.fixture(scope="session")
def slurm_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A real Slurm, which the process environment points its commands at. Yields its configuration file."""
    from tests.standins.slurm import cluster, why_missing

    if why := why_missing():
        pytest.skip(f"no Slurm: {why}")
    with cluster(tmp_path_factory.mktemp("cluster")) as conf:
        os.environ["SLURM_CONF"] = str(conf)
        yield conf
        del os.environ["SLURM_CONF"]


@pytest.fixture(scope="session")
def ssh_hosts(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Hosts]":
    """Hosts behind a real sshd: `box` and `other` for labs, and `bare`, where nothing is installed."""
    from tests.standins.sshd import hosts, why_missing

    if why := why_missing():
        pytest.skip(f"no ssh: {why}")
    with hosts(tmp_path_factory.mktemp("hosts"), ("box", "other", "bare")) as running:
        yield running


@pytest.fixture(scope="session")
def login_node(ssh_hosts: "Hosts", slurm_cluster: Path) -> str:
    """A host that is the login node of the real Slurm. Its commands count themselves in `commands` in its home."""
    tools = ssh_hosts.home("other") / "tools"
    tools.mkdir(exist_ok=True)
    for name in ("sbatch", "squeue", "scancel", "sinfo", "sacct"):
        text = f'#!/bin/sh\necho {name} >> "$HOME/commands"\nSLURM_CONF={slurm_cluster} exec {shutil.which(name)} "$@"\n'
        (tools / name).write_text(text, encoding="utf-8")
        (tools / name).chmod(0o755)
    return "other"


@pytest.fixture
def make_modal_lab(modal_standin: "Standin", make_lab: Callable[..., Path]) -> Callable[..., Path]:
    """Makes a lab that trains on the stand-in, and was set up there with the public split; the calls of `make_lab`."""
    from autoresearch_mcp.server.compute.modal.setup import set_up

    def make(name: str = "rented", toml: dict[str, str] | None = None, train: str = "") -> Path:
        root = make_lab(name, {'backend = "local"': 'backend = "modal"', 'heldout = "secret"': 'heldout = "public"', **(toml or {})}, train)
        (root / ".autoresearch").mkdir(exist_ok=True)
        anyio.run(set_up, root / ".autoresearch", "tiny", "autoresearch", "autoresearch")
        return root

    return make
