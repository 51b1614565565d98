"""What a lab needs, checked one by one, each fault with what to do about it. Reads only; says no secret.

A check is a function from the lab to a finding; `CHECKS` is the list, in the order in which things depend on each other.
"""

import importlib.util
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import get_args

from autoresearch_mcp.server import settings as lab_settings
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lake import KEY, is_managed, open_lake
from autoresearch_mcp.server.lake.base import LakeUnavailable
from autoresearch_mcp.server.models import Table
from autoresearch_mcp.server.paths import LabPaths


@dataclass(frozen=True)
class Finding:
    """`grade` is ok, note (works, but know this) or bad."""

    name: str
    grade: str
    said: str
    cure: str = ""

    @property
    def bad(self) -> bool:
        return self.grade == "bad"

    @property
    def mark(self) -> str:
        return {"ok": "ok  ", "note": "note", "bad": "BAD "}[self.grade]


class Patient:
    """A lab, as far as it can be opened."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.paths = LabPaths(root)
        self.state = self.paths.state

    @cached_property
    def settings(self) -> lab_settings.Settings:
        return lab_settings.load(self.root)


def examine(root: Path) -> list[Finding]:
    """All findings. A check that can't even look is a finding too."""
    patient = Patient(root)
    found = [_settings(patient)]
    if found[0].bad:
        return found
    for check in CHECKS:
        try:
            found += check(patient)
        except (LabError, LakeUnavailable) as error:
            found.append(Finding(check.__name__.replace("_", " "), "bad", str(error)))
    return found


def _settings(patient: Patient) -> Finding:
    try:
        name = patient.settings.lab.name
        return Finding("settings", "ok", f"{patient.root} is the lab {name}")
    except LabError as error:
        return Finding("settings", "bad", str(error))


def git(patient: Patient) -> list[Finding]:
    from autoresearch_mcp.server.proposals.repo import Repo

    if shutil.which("git") is None:
        return [Finding("git", "bad", "there is no git in PATH", "Install git 2.34 or newer.")]
    version = subprocess.run(["git", "--version"], capture_output=True, text=True, check=False).stdout.split()
    repo = Repo(patient.root, patient.settings.training.editable)
    sound = f"{version[2] if len(version) > 2 else 'of unknown version'}; the champion is {repo.champion()[:12]}"
    return [Finding("git", "ok", sound), *(Finding("git", "note", warning) for warning in repo.behind())]


def trainer(patient: Patient) -> list[Finding]:
    from autoresearch_mcp.server.lab.status import missing_packages

    if patient.settings.rents:
        return []
    if patient.settings.training.metric == "verified" and (missing := missing_packages()):
        return [Finding("trainer", "bad", f"trainings need {', '.join(missing)}", "pip install 'autoresearch-mcp[local]'")]
    return [Finding("trainer", "ok", "all packages are here")]


def data(patient: Patient) -> list[Finding]:
    from autoresearch_mcp.trainer import prepare

    if patient.settings.rents:
        return []
    training = patient.settings.training
    if training.metric == "reported":
        return [_scripts_data(training.data)]
    profile = training.profile
    folder = prepare.data_dir(profile)
    if (folder / prepare.META).is_file():
        return [Finding("data", "ok", f"the profile {profile} is prepared in {folder}")]
    return [Finding("data", "note", f"the profile {profile} is not prepared yet", "The first training does it, in seconds to minutes.")]


def _scripts_data(given: str) -> Finding:
    folder = Path(given).expanduser()
    if given and not folder.is_dir():
        return Finding("data", "bad", f"there is no folder {folder}", "Make it, or correct [training] data in lab.toml.")
    return Finding("data", "ok", f"the training code may read {folder}" if given else "the training code is given none")


def sandbox(patient: Patient) -> list[Finding]:
    from autoresearch_mcp.trainer.sandbox import abi, level

    if patient.settings.rents:
        return []
    if (confinement := level()) != "unsandboxed":
        if abi() >= 6:
            return [Finding("sandbox", "ok", f"Landlock and seccomp confine trainings ({confinement})")]
        cure = "Linux 6.12 or newer adds them."
        return [Finding("sandbox", "note", f"Landlock and seccomp confine trainings ({confinement}), but for signals", cure)]
    counts = patient.settings.promotion.unsandboxed == "allow"
    cure = "Use Linux 5.13 or newer with Landlock and seccomp, or train only code that you trust. " + (
        'Results say `unsandboxed` and count at the gate: [promotion] unsandboxed = "allow".'
        if counts
        else 'Results say `unsandboxed` and count at the gate only with [promotion] unsandboxed = "allow".'
    )
    return [Finding("sandbox", "note" if counts else "bad", "trainings are not confined here", cure)]


def modal(patient: Patient) -> list[Finding]:
    """What can be seen for nothing: package, deployment, token, and whether Modal has what `setup modal` made."""
    from autoresearch_mcp.server.commands.modal import lacking, look
    from autoresearch_mcp.server.lab.status import preflight_error

    if not patient.settings.rents:
        return []
    if (found := lacking()) is not None:
        return [Finding("modal", "bad", *found)]
    if why := preflight_error(patient.settings, patient.state):
        return [Finding("modal", "bad", why)]
    seen, bare = look(patient.state, patient.settings.devices)
    findings = [Finding("modal", "ok", said) for said in seen]
    if bare:
        said = f"there are no compiled graphs for {', '.join(bare)}: each training there compiles for itself, in an estimated 20 to 40 s"
        findings.append(Finding("modal", "note", said, "autoresearch-mcp setup modal"))
    return findings


def ledger(patient: Patient) -> list[Finding]:
    from autoresearch_mcp.server.ledger import Ledger

    path = patient.paths.ledger
    if not path.exists():
        return [Finding("ledger", "ok", "none yet; the first call makes it")]
    opened = Ledger(path)
    try:
        if fault := opened.fault():
            return [Finding("ledger", "bad", f"{path} is damaged: {fault}", "Stop all servers, and restore .autoresearch/ from a backup.")]
        waiting, since = opened.unflushed(), opened.waiting_since()
        late = since is not None and time.time() - since > 60
        said = f"sound; {waiting} records wait for the log" + (
            f", the oldest for {(time.time() - since) / 60:.0f} min" if late and since else ""
        )
        cure = "The findings on the log, or .autoresearch/runner.log, say why." if late else ""
        return [Finding("ledger", "note" if late else "ok", said, cure)]
    finally:
        opened.close()


def log(patient: Patient) -> list[Finding]:
    """The folder, every record of it."""
    from autoresearch_mcp.server.lake.embedded.repair import fault

    if importlib.util.find_spec("deeplake") is None:
        cure = "pip install deeplake; it has wheels for Linux (glibc) on x86-64 and arm64, and for macOS on arm64, Python 3.11 to 3.13."
        return [Finding("log", "bad", "the package deeplake is not installed", cure)]
    faults = [text for table in get_args(Table) if (text := fault(patient.paths.lake, table))]
    if faults:
        return [Finding("log", "bad", text, "autoresearch-mcp repair") for text in faults]
    lake = open_lake(patient.settings.model_copy(update={"lake": lab_settings.LakeSection(backend="embedded")}), patient.state)
    rows = {table: lake.count(table)[""] for table in get_args(Table)}
    lake.close()
    return [Finding("log", "ok", "sound; " + ", ".join(f"{n} {table}" for table, n in rows.items()))]


def shared_log(patient: Patient) -> list[Finding]:
    """Deeplake's service: token, workspace, tables, latency."""
    if not is_managed(patient.settings):
        return [Finding("shared log", "ok", f"none: the log is a folder of this machine (set {KEY} to share it)")]
    from autoresearch_mcp.server.lake.managed.service import ServiceError
    from autoresearch_mcp.server.lake.managed.store import ManagedLake

    lake = open_lake(patient.settings, patient.state)
    assert isinstance(lake, ManagedLake)
    try:
        took = [lake.service.ping() for _ in range(3)]
        rows = lake.shared_rows()
    except ServiceError as error:
        return [Finding("shared log", "bad", str(error), "Records are safe in the ledger until then.")]
    finally:
        lake.close()
    tables = ", ".join("no table of " + table if n is None else f"{n} {table}" for table, n in rows.items())
    said = f"workspace {lake.service.workspace}, {statistics.median(took) * 1e3:.0f} ms a query; {tables}"
    cure = "The first record makes the tables." if None in rows.values() else ""
    return [Finding("shared log", "ok", said, cure)]


def search(patient: Patient) -> list[Finding]:
    """Whether memories are found by meaning too."""
    from autoresearch_mcp.server.search.embedding import EmbeddingsUnavailable, open_embedder

    embedder = open_embedder(patient.settings.embeddings)
    if embedder is None:
        cure = "pip install 'autoresearch-mcp[embeddings]', or see [embeddings] in the README, to search by meaning too."
        return [Finding("search", "ok" if patient.settings.embeddings.backend == "none" else "note", "by full text alone", cure)]
    try:
        began = time.perf_counter()
        size = embedder.embed(["a question"]).shape[1]
    except EmbeddingsUnavailable as error:
        return [Finding("search", "bad", str(error), "Until then search is by full text alone; notes are embedded later.")]
    took_ms = (time.perf_counter() - began) * 1e3
    return [Finding("search", "ok", f"by full text and by meaning: {embedder.name}, {size} dimensions, {took_ms:.0f} ms")]


CHECKS: list[Callable[[Patient], list[Finding]]] = [git, trainer, data, sandbox, modal, ledger, log, shared_log, search]
