"""Looks at a cluster as a lab's trainings would find it: the commands here or on its login node, the partition, and a node by a job of seconds."""

import asyncio
import contextlib
import inspect
import json
import secrets
import shlex
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath

from autoresearch_mcp.server.compute.line import there
from autoresearch_mcp.server.compute.line.setup import look, needed, unfit
from autoresearch_mcp.server.compute.line.transport import Ssh
from autoresearch_mcp.server.compute.slurm.client import QueueLine, Slurm, SlurmAway, SlurmRefused
from autoresearch_mcp.server.compute.slurm.folder import NotWritten
from autoresearch_mcp.server.compute.slurm.login import Login
from autoresearch_mcp.server.compute.slurm.script import asked_for
from autoresearch_mcp.server.compute.slurm.states import waits_or_runs
from autoresearch_mcp.server.installation import import_environment
from autoresearch_mcp.server.settings import Settings, SlurmSection
from autoresearch_mcp.server.untrusted import one_line

PATIENCE_S = 60.0  # for the job
_ON_THE_NODE = """
import json, platform, sys
import there
print(json.dumps({**there.check(sys.argv[2:], sys.argv[1]), "python": platform.python_version()}))
"""

Finding = tuple[str, str]
"""What was found, and what to do about it: empty where it is as it should be."""


class _Shared:
    """A folder of seconds on a file system that this machine shares with the nodes."""

    pause_s = 1.0  # between two looks

    def __init__(self, parent: Path) -> None:
        self._parent, self._folder = parent, parent

    async def python(self) -> str:
        return sys.executable

    async def put(self, files: Mapping[str, str]) -> PurePath:
        self._parent.mkdir(parents=True, exist_ok=True)
        self._folder = Path(tempfile.mkdtemp(dir=self._parent, prefix="doctor-"))
        for name, text in files.items():
            (self._folder / name).write_text(text, encoding="utf-8")
        return self._folder

    async def read(self, name: str) -> str:
        path = self._folder / name
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    async def remove(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


class _Far:
    """A folder of seconds that the login node shares with the nodes."""

    pause_s = 5.0

    def __init__(self, login: Login) -> None:
        self._login, self._name = login, f"doctor-{secrets.token_hex(4)}"

    async def python(self) -> str:
        return str((await self._login.ask())["python"])

    async def put(self, files: Mapping[str, str]) -> PurePath:
        return await self._login.put(self._name, {name: text.encode() for name, text in files.items()})

    async def read(self, name: str) -> str:
        return str((await self._login.ask(read={self._name: [name]}))["read"][f"{self._name}/{name}"])

    async def remove(self) -> None:
        await self._login.ask(remove=[self._name])


async def examine(settings: Settings, state: Path) -> list[Finding]:
    """Check the cluster of a lab. It takes the time of a short job."""
    section, name = settings.compute.slurm, settings.compute.login
    findings, slurm = list[Finding](), Slurm()
    place: _Shared | _Far = _Shared(section.shared or state)
    if name:
        findings = await look(name, section.python, trains=False)
        if any(hint for _, hint in findings):
            return findings
        login = Login(Ssh(name, section.python), "doctor", section, {})
        slurm, place = Slurm(run=login.run), _Far(login)
    elif missing := slurm.missing():
        hint = "Run the lab where sbatch works, such as a login node, or name that as [compute] login."
        return [(f"there is no {', '.join(missing)} on this machine", hint)]
    try:
        nodes = await slurm.partition(section.partition)
        if not nodes:
            hint = "Correct [compute.slurm] partition in lab.toml; `sinfo` lists them."
            return [*findings, (f"there is no partition {section.partition!r}", hint)]
        named = settings.training.python if name else settings.training.interpreter
        training = named if settings.is_script else ""
        findings.append((f"the nodes of the {section.partition or 'cluster'} are {nodes}", ""))
        return [*findings, await _ask_a_node(slurm, section, place, [training, *needed(settings)])]
    except SlurmRefused as error:
        return [*findings, (f"Slurm refuses a job: {one_line(str(error), 300)}", "Correct [compute.slurm] in lab.toml.")]
    except SlurmAway as error:
        return [*findings, (f"Slurm doesn't answer: {one_line(str(error), 300)}", "Try again later; what runs goes on.")]
    except NotWritten as error:
        return [*findings, (f"no run can be put on {one_line(str(error), 300)}", "Name another [compute.slurm] folder in lab.toml.")]


async def _ask_a_node(slurm: Slurm, section: SlurmSection, place: _Shared | _Far, wanted: Sequence[str]) -> Finding:
    python = section.python or await place.python()
    own = import_environment() if isinstance(place, _Shared) else {}
    exports = [f"export {key}='{value}'" for key, value in own.items()]
    ask = f'\'{python}\' "$here/look.py" {shlex.join(wanted)} > "$here/seen.part" 2> "$here/error" && mv "$here/seen.part" "$here/seen"'
    text = "\n".join(["#!/bin/bash", 'here="$PWD"', *section.before, *exports, ask, ""])
    try:
        here = await place.put({"look.py": _ON_THE_NODE, "there.py": inspect.getsource(there), "job.sh": text})
        given = [f"--job-name={here.name}", f"--chdir={here}", f"--output={here}/output", "--export=NIL", "--time=2", "--ntasks=1"]
        id = await slurm.submit(here / "job.sh", [*given, *asked_for(section), *section.options])
        line: QueueLine | None = None
        for _ in range(int(PATIENCE_S / place.pause_s)):
            if await place.read("seen"):
                break
            line = (await slurm.jobs(here.name)).get(here.name)
            if line is None or not waits_or_runs(line):
                break
            await asyncio.sleep(place.pause_s)
        await slurm.cancel(id, gently=False)
        return _finding(await place.read("seen"), await place.read("error"), line)
    finally:
        with contextlib.suppress(SlurmAway):
            await place.remove()


def _finding(text: str, error: str, line: QueueLine | None) -> Finding:
    try:
        seen = json.loads(text)
    except ValueError:
        if line is not None and waits_or_runs(line):
            why = line.reason or "no reason given"
            return f"a job of seconds still waits after {PATIENCE_S:.0f} s: {why}", "Trainings will wait as long. `squeue` tells more."
        if error:
            hint = "Name a Python with the trainer's packages in [compute.slurm] python, or load it with [compute.slurm] before."
            return f"a node can't run the trainer: {one_line(error, 300)}", hint
        hint = "Name a folder that this machine, or the login node, shares with the nodes in [compute.slurm] folder."
        return "a job ended, and left nothing where this machine looks", hint
    where = f"a node with Linux {seen['kernel']} and Python {seen['python']} sees the folder of runs"
    if seen["missing"]:
        return f"{where}, but lacks {', '.join(seen['missing'])}", "Install autoresearch-mcp[local] for the nodes' Python."
    if seen["unfit"]:
        return unfit(f"{where}, but there", seen["unfit"])
    if seen["sandbox"] == "unsandboxed":
        return f"{where}; trainings are not confined there", 'They count at the gate only with [promotion] unsandboxed = "allow".'
    return f"{where}, and confines trainings ({seen['sandbox']})", ""
