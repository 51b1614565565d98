"""Checks a lab's needs one by one, and says how to mend each fault. Reads only; shows no secret. Or measures this machine's GPU.

A check is a function from the lab to a finding; `CHECKS` is the list, in the order in which things depend on each other.
"""

import argparse
import asyncio
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import get_args

from autoresearch_mcp.server import secret
from autoresearch_mcp.server import settings as lab_settings
from autoresearch_mcp.server.commands import account as lab_account
from autoresearch_mcp.server.commands import check as short_training
from autoresearch_mcp.server.commands import client_check
from autoresearch_mcp.server.commands.arguments import add_lab, find_lab
from autoresearch_mcp.server.commands.findings import show
from autoresearch_mcp.server.editable import Editable
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.installation import import_environment, is_installed
from autoresearch_mcp.server.lab.findings import Finding
from autoresearch_mcp.server.lake import KEY, is_managed, open_lake
from autoresearch_mcp.server.lake.base import LakeUnavailable
from autoresearch_mcp.server.models import Table
from autoresearch_mcp.server.paths import LabPaths

EXAMPLES = ("autoresearch-mcp doctor my-lab", "autoresearch-mcp doctor --train my-lab", "autoresearch-mcp doctor --measure")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    add_lab(parser)
    parser.add_argument("--train", action="store_true", help="also train the champion for a few seconds, as `check` does")
    text = "measure this machine's GPU instead, without a lab: about ten minutes, or three with --quick; leaves gpu-check/"
    parser.add_argument("--measure", action="store_true", help=text)
    parser.add_argument("--quick", action="store_true", help="with --measure: do less")
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda", help="with --measure: cpu tries it in miniature (default: cuda)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Show every finding.

    Returns:
        1 where one is a fault.
    """
    if arguments.measure:
        return _measure(arguments.device, arguments.quick)
    root = find_lab(arguments.dir)
    findings = examine(root)
    if len(findings) > 1:  # the settings could be read
        findings += client_check.examine(root.resolve())
    if arguments.train and not any(finding.bad for finding in findings):
        try:
            findings += short_training.examine(root)
        except LabError as error:
            findings.append(Finding("training", "bad", str(error)))
    return show(findings)


def _measure(device: str, quick: bool) -> int:
    """Check this machine's GPU in a process of its own, which needs none of the server's packages. Ctrl-C reaches it too."""
    command = [sys.executable, "-m", "autoresearch_mcp.trainer.gpu_check", "--device", device, *(["--quick"] if quick else [])]
    with subprocess.Popen(command, env={**os.environ, **import_environment()}) as check:
        while True:
            try:
                return check.wait()
            except KeyboardInterrupt:  # it ends its runs, then itself
                continue


class LabUnderTest:
    """A lab, as far as it can be opened."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.paths = LabPaths(root)
        self.state = self.paths.state

    @cached_property
    def settings(self) -> lab_settings.Settings:
        """Its settings.

        Raises:
            LabError: they can't be read.
        """
        return lab_settings.load(self.root)


def examine(root: Path) -> list[Finding]:
    """Return all findings. A check that can't even look is a finding too."""
    lab = LabUnderTest(root)
    findings = [_settings(lab)]
    if findings[0].bad:
        return findings
    for check in CHECKS:
        try:
            findings += check(lab)
        except (LabError, LakeUnavailable) as error:
            findings.append(Finding(check.__name__.replace("_", " "), "bad", str(error)))
    return findings


def _settings(lab: LabUnderTest) -> Finding:
    try:
        name = lab.settings.lab.name
        return Finding("settings", "ok", f"{lab.root} is the lab {name}")
    except LabError as error:
        return Finding("settings", "bad", str(error))


def git(lab: LabUnderTest) -> list[Finding]:
    """Check that git is there, and the champion, and that nobody's work tree undoes a promotion."""
    from autoresearch_mcp.server.proposals.repo import Repo

    if shutil.which("git") is None:
        return [Finding("git", "bad", "there is no git in PATH", "Install git 2.34 or newer.")]
    version = subprocess.run(["git", "--version"], capture_output=True, text=True, check=False).stdout.split()
    training = lab.settings.training
    repo = Repo(lab.root, training.editable)
    champion = repo.champion()
    sound = f"{version[2] if len(version) > 2 else 'of unknown version'}; the champion is {champion[:12]}"
    runs = Editable([*training.editable, *training.files])
    warnings = [*repo.owners.ahead(champion, runs), *repo.owners.unmatched(champion, training.files), *repo.behind()]
    return [Finding("git", "ok", sound), *(Finding("git", "note", warning) for warning in warnings)]


def trainer(lab: LabUnderTest) -> list[Finding]:
    """Check for the packages that trainings on this machine need."""
    from autoresearch_mcp.server.lab.preflight import missing_packages

    if not lab.settings.shares_files:
        return []
    if not lab.settings.is_script and (missing := missing_packages()):
        return [Finding("trainer", "bad", f"trainings need {', '.join(missing)}", "pip install 'autoresearch-mcp[local]'")]
    findings = [Finding("trainer", "ok", "all packages are here")]
    if not hasattr(os, "sched_setaffinity"):
        text = "this system can't keep a training's threads on cores of their own, so neighbours move each other about"
        findings.append(Finding("cores", "note", text, "Leave slots = 1 in lab.toml where runs are disturbed."))
    return findings


def data(lab: LabUnderTest) -> list[Finding]:
    """Check whether this machine has the data to train on."""
    from autoresearch_mcp.trainer import prepare

    if not lab.settings.is_script and (lab.settings.rents or not lab.settings.shares_files):
        return []
    training = lab.settings.training
    if lab.settings.is_script:
        folders = [("[training] data", Path(training.data).expanduser())] if training.data else []
        folders += [(f"[scorer] {key}", folder) for key, folder in lab.settings.scorer.folders]
        gone = [
            Finding("data", "bad", f"there is no folder {folder}", f"Make it, or correct {key}.")
            for key, folder in folders
            if not folder.is_dir()
        ]
        read = f"the training code may read {training.data}" if training.data else "the training code is given none"
        return gone or [Finding("data", "ok", read + ("; it can't read the answers" if lab.settings.scorer.folders else ""))]
    profile = training.profile
    try:
        folder = prepare.data_dir(profile, training.limits.own)
    except prepare.PreparationError as error:
        return [Finding("data", "bad", str(error), "Correct [profile.NAME] in lab.toml.")]
    if (folder / prepare.META).is_file():
        return [Finding("data", "ok", f"the profile {profile} is prepared in {folder}")]
    return [Finding("data", "note", f"the profile {profile} is not prepared yet", "The first training does it, in seconds to minutes.")]


def sandbox(lab: LabUnderTest) -> list[Finding]:
    """Check how far this machine confines trainings."""
    from autoresearch_mcp.trainer.sandbox import abi, level

    if lab.settings.compute.backend != "local":
        return []
    if (confinement := level()) != "unsandboxed":
        if abi() >= 6:
            return [Finding("sandbox", "ok", f"Landlock and seccomp confine trainings ({confinement})")]
        hint = "Linux 6.12 or newer adds them."
        return [Finding("sandbox", "note", f"Landlock and seccomp confine trainings ({confinement}), but for signals", hint)]
    counts = lab.settings.promotion.unsandboxed == "allow"
    hint = "Use Linux 5.13 or newer with Landlock and seccomp, or train only code that you trust. " + (
        'Results say `unsandboxed` and count at the gate: [promotion] unsandboxed = "allow".'
        if counts
        else 'Results say `unsandboxed` and count at the gate only with [promotion] unsandboxed = "allow".'
    )
    return [Finding("sandbox", "note" if counts else "bad", "trainings are not confined here", hint)]


def modal(lab: LabUnderTest) -> list[Finding]:
    """Check what costs nothing to ask: package, deployment, token, and whether Modal has what `setup modal` made."""
    from autoresearch_mcp.server.commands.modal import inspect, missing_prerequisite
    from autoresearch_mcp.server.lab.preflight import preflight_error

    if not lab.settings.rents:
        return []
    if (missing := missing_prerequisite()) is not None:
        return [Finding("modal", "bad", *missing)]
    if why := preflight_error(lab.settings, lab.state):
        return [Finding("modal", "bad", why)]
    sentences, bare = inspect(lab.state, lab.settings.devices)
    findings = [Finding("modal", "ok", text) for text in sentences]
    if bare:
        text = f"there is no compile cache for {', '.join(bare)}: each training there compiles for itself, in an estimated 20 to 40 s"
        findings.append(Finding("modal", "note", text, "autoresearch-mcp setup modal"))
    return findings


def slurm(lab: LabUnderTest) -> list[Finding]:
    """Check Slurm's commands and partition, and by a short job what a node has: the run's folder, its kernel, the trainer's packages."""
    if lab.settings.compute.backend != "slurm":
        return []
    from autoresearch_mcp.server.compute.slurm.probe import examine as ask

    return [Finding("slurm", "ok" if not hint else "bad", text, hint) for text, hint in asyncio.run(ask(lab.settings, lab.state))]


def ssh(lab: LabUnderTest) -> list[Finding]:
    """Check each machine behind ssh: the line, our program there, the trainer's packages, and its kernel."""
    if lab.settings.compute.backend != "ssh":
        return []
    from autoresearch_mcp.server.compute.line.setup import examine as ask

    return [Finding("ssh", "ok" if not hint else "bad", text, hint) for text, hint in asyncio.run(ask(lab.settings))]


def ledger(lab: LabUnderTest) -> list[Finding]:
    """Check the ledger, and how long records have been waiting in it."""
    from autoresearch_mcp.server.ledger import Ledger

    path = lab.paths.ledger
    if not path.exists():
        return [Finding("ledger", "ok", "none yet; the first call makes it")]
    opened = Ledger(path)
    try:
        if fault := opened.fault():
            return [Finding("ledger", "bad", f"{path} is damaged: {fault}", "Stop all servers, and restore .autoresearch/ from a backup.")]
        waiting, since = opened.unflushed(), opened.waiting_since()
        late = since is not None and time.time() - since > 60
        text = f"sound; {waiting} records wait for the log" + (
            f", the oldest for {(time.time() - since) / 60:.0f} min" if late and since else ""
        )
        hint = "The findings on the log, or .autoresearch/runner.log, say why." if late else ""
        return [Finding("ledger", "note" if late else "ok", text, hint)]
    finally:
        opened.close()


def log(lab: LabUnderTest) -> list[Finding]:
    """Check every record of the log in the lab's folder."""
    from autoresearch_mcp.server.lake.embedded.repair import fault

    if not is_installed("deeplake"):
        hint = "pip install deeplake; it has wheels for Linux (glibc) on x86-64 and arm64, and for macOS on arm64, Python 3.11 to 3.13."
        return [Finding("log", "bad", "the package deeplake is not installed", hint)]
    faults = [text for table in get_args(Table) if (text := fault(lab.paths.lake, table))]
    if faults:
        return [Finding("log", "bad", text, "autoresearch-mcp repair") for text in faults]
    lake = open_lake(lab.settings.model_copy(update={"lake": lab_settings.LakeSection(backend="embedded")}), lab.state)
    rows = {table: lake.count(table)[""] for table in get_args(Table)}
    lake.close()
    return [Finding("log", "ok", "sound; " + ", ".join(f"{n} {table}" for table, n in rows.items()))]


def shared_log(lab: LabUnderTest) -> list[Finding]:
    """Check Deeplake's service: token, workspace, tables, latency."""
    if not is_managed(lab.settings):
        return [Finding("shared log", "ok", f"none: the log is a folder of this machine (set {KEY} to share it)")]
    from autoresearch_mcp.server.lake.managed.service import ServiceError
    from autoresearch_mcp.server.lake.managed.store import ManagedLake

    lake = open_lake(lab.settings, lab.state)
    assert isinstance(lake, ManagedLake)
    try:
        took = [lake.service.ping() for _ in range(3)]
        rows = lake.shared_rows()
    except ServiceError as error:
        return [Finding("shared log", "bad", str(error), "Records are safe in the ledger until then.")]
    finally:
        lake.close()
    tables = ", ".join("no table of " + table if n is None else f"{n} {table}" for table, n in rows.items())
    text = f"workspace {lake.service.workspace}, {statistics.median(took) * 1e3:.0f} ms a query; {tables}"
    hint = "The first record makes the tables." if None in rows.values() else ""
    return [Finding("shared log", "ok", text, hint), *_held_out(lab)]


def _held_out(lab: LabUnderTest) -> list[Finding]:
    """Name the held-out text of a lab that shares its log: with another one, results look alike and aren't compared."""
    if lab.settings.training.heldout == "public" or lab.settings.is_script:
        return []
    own = secret.fingerprint(lab.paths.secret)
    text = f"drawn with this lab's own secret, fingerprint {own}" if own else "this lab's secret isn't made yet"
    hint = (
        "Labs of one log compare results only where `autoresearch-mcp secret show` says the same; `secret export` and `import` make it so."
    )
    return [Finding("held-out text", "note", text, hint)]


def search(lab: LabUnderTest) -> list[Finding]:
    """Check whether memories are found by meaning too."""
    from autoresearch_mcp.server.search.embedding import EmbeddingsUnavailable, open_embedder

    embedder = open_embedder(lab.settings.embeddings)
    if embedder is None:
        hint = "pip install 'autoresearch-mcp[embeddings]', or set [embeddings] in lab.toml, to search by meaning too."
        return [Finding("search", "ok" if lab.settings.embeddings.backend == "none" else "note", "by full text alone", hint)]
    try:
        began = time.perf_counter()
        size = embedder.embed(["a question"]).shape[1]
    except EmbeddingsUnavailable as error:
        return [Finding("search", "bad", str(error), "Until then search is by full text alone; notes are embedded later.")]
    took_ms = (time.perf_counter() - began) * 1e3
    return [Finding("search", "ok", f"by full text and by meaning: {embedder.name}, {size} dimensions, {took_ms:.0f} ms")]


def account(lab: LabUnderTest) -> list[Finding]:
    """Say against whom the lab's promises hold here."""
    return [lab_account.account(lab.root)]


CHECKS: list[Callable[[LabUnderTest], list[Finding]]] = [
    git,
    trainer,
    data,
    sandbox,
    account,
    modal,
    slurm,
    ssh,
    ledger,
    log,
    shared_log,
    search,
]
