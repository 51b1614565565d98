"""A cluster whose login node is reached by ssh: its commands run there, and its file system is written and read there.

Each request brings back what all runs have left since the last one, so that one look at the queue serves for that too. Nothing stays
on the login node: data is prepared by a job.
"""

import asyncio
import base64
import contextlib
import hashlib
import json
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from autoresearch_mcp.server.compute.base import ComputeError, Job, Observation, write_files
from autoresearch_mcp.server.compute.folders import Folder, folders_of, look
from autoresearch_mcp.server.compute.line import given_there, mirror
from autoresearch_mcp.server.compute.line import there as common
from autoresearch_mcp.server.compute.line.sending import send
from autoresearch_mcp.server.compute.line.transport import HostAway, HostRefused, Ssh
from autoresearch_mcp.server.compute.slurm import there
from autoresearch_mcp.server.compute.slurm.client import Slurm, SlurmAway, SlurmRefused
from autoresearch_mcp.server.compute.slurm.folder import NotWritten, RunFolder
from autoresearch_mcp.server.compute.slurm.queue import Queue
from autoresearch_mcp.server.compute.slurm.script import SCRIPT, common_options, preparing_script, script
from autoresearch_mcp.server.compute.slurm.states import waits_or_runs
from autoresearch_mcp.server.secret import ensure
from autoresearch_mcp.server.settings import SlurmSection
from autoresearch_mcp.server.untrusted import one_line
from autoresearch_mcp.trainer import prepare, protocol
from autoresearch_mcp.trainer.protocol import OwnText, Spec

SENT = (common, given_there, there)  # what runs there, sent with each request
FOLDER = "~/.autoresearch-mcp/labs"  # there, where lab.toml names none
PREPARE_MIN = 120  # that a job may prepare data for
_GONE = 2  # looks after which a job that left nothing is believed to have left nothing: a file system may be late


class Login:
    """Reaches a cluster by its login node.

    Args:
        ssh: The line to it.
        lab: Tells this lab's folder and jobs there from others.
        section: What lab.toml says of the cluster.
        variables: What each launcher gets beside the node's own environment.
        own: What the profile is made of, where it is of the owner's own text.
    """

    def __init__(self, ssh: Ssh, lab: str, section: SlurmSection, variables: Mapping[str, str], own: OwnText | None = None) -> None:
        self.name, self._ssh, self._lab, self._section, self._given, self._own = ssh.host, ssh, lab, section, variables, own
        self._turn = asyncio.Lock()  # what is here is counted, asked for and added to by one request at a time
        self._followed: dict[str, Path] = {}
        self._removing: set[str] = set()
        self._sender = asyncio.Lock()  # one folder of the owner's is sent at a time
        self._sending = ""  # its key
        self._preparing = ""  # the folder there of the data's preparation, until it is known how that went
        self._prepared: dict[str, Any] = {}
        self._runs, self._python = PurePosixPath(), ""  # there, known from the first answer on
        self._fixed = ""
        self.there: list[str] = []  # runs whose files the last answer told of

    def missing(self, slurm: Slurm) -> str:
        """Return why no job can be started from here; empty where one can."""
        return "" if shutil.which(self._ssh.command) else "there is no ssh on this machine"

    def folder(self, job: Job) -> "FarFolder":
        """Return a job's folder."""
        return FarFolder(job, self)

    async def run(self, command: Sequence[str]) -> tuple[int, str, str]:
        """Run a command of Slurm's there; see `client.Run`."""
        status, out, err = (await self.ask(command=list(command)))["done"]
        if status == there.LATE:
            raise SlurmAway(f"{command[0]} did not answer within {there.COMMAND_S:g} s on {self.name}")
        if status in (126, 127):
            raise SlurmRefused(f"{command[0]} can't be run on {self.name}: {one_line(err, 200)}")
        return status, out, err

    async def deliver(self, run: str, job: Job, folders: Sequence[Folder]) -> PurePath:
        """Put a run's files and its script there, once, and before them what of the owner's it needs. Returns its folder there.

        Raises:
            SlurmAway: They may not have arrived.
            NotWritten: They can't be written there.
        """
        if not self._python:
            await self.ask()
        text = script(self._runs / run, self._section, self._variables(), self._section.python or self._python)
        files = {f"{protocol.CODE}/{path}": content for path, content in job.files.items()}
        return await self.put(run, {SCRIPT: text.encode(), **files}, job.spec, folders)

    async def put(self, name: str, files: Mapping[str, bytes], spec: Spec | None = None, folders: Sequence[Folder] = ()) -> PurePath:
        """Make a folder there, unless it is there. Returns where.

        Args:
            name: Its path below the lab's runs.
            files: What it holds, by path.
            spec: Of the run, where it is one's.
            folders: What of the owner's that run needs; each is sent if it isn't there, or is not what it was.

        Raises:
            SlurmAway: It may not be there.
            NotWritten: It can't be written there.
        """
        contents = {path: base64.b64encode(content).decode() for path, content in files.items()}
        needed = {folder.key: folder for folder in folders}
        given = {key: folder.name for key, folder in needed.items()}
        whole = {"contents": contents, "spec": asdict(spec) if spec else None, "given": given}
        while (answer := await self.ask(put={name: whole}))["lacks"]:
            await self._send(needed[answer["lacks"]])
        if answer["failed"]:
            raise NotWritten(f"{self.name}: {one_line(str(answer['failed']), 300)}")
        return self._runs / name

    def troubles(self) -> list[str]:
        """Return, in a sentence, what trainings wait for that is on its way there."""
        return [f"{self.name} is being sent the folder of {self._sending}. Trainings wait for it."] if self._sending else []

    async def _send(self, folder: Folder) -> None:
        """Send a folder of the owner's, but for what has come there.

        Raises:
            SlurmAway: The line broke. Call it again.
            NotWritten: It can't be kept there, or it changes while it is sent.
        """
        async with self._sender:
            self._sending = folder.key
            try:
                await send(self._request, folder)
            except ComputeError as error:
                raise NotWritten(f"{self.name}: {error}") from error
            finally:
                self._sending = ""

    def follow(self, run: str, directory: Path) -> None:
        """Bring back what a run leaves, with each request, into its folder here."""
        self._followed[run] = directory

    def over(self, run: str) -> None:
        """Follow a run no more, and have its files removed there."""
        if self._followed.pop(run, None) is not None:
            self._removing.add(run)

    async def tidy(self, needed: Collection[str]) -> None:
        """Have the files of runs removed there that an earlier runner left, and that nobody needs."""
        self._removing |= {run for run in self.there if run not in needed and run not in self._followed}
        if self._removing:
            with contextlib.suppress(SlurmAway):
                await self.ask()

    async def prepare(self, profile: str, secret: Path | None, slurm: Slurm, queue: Queue) -> str:
        """Have a job prepare the data, unless one has, and return its directory there. Cancelling the call ends the job.

        Raises:
            ComputeError: It can't be prepared.
        """
        drawn_with = await asyncio.to_thread(ensure(secret).read_bytes) if secret else b""
        text = await asyncio.to_thread(look, "text", Path(self._own.text)) if self._own and self._own.text else None
        own = json.dumps({**asdict(self._own), "text": text.name if text else ""}) if self._own else ""
        about = (profile.encode(), prepare.fixed_hash().encode(), drawn_with, own.encode())
        key = hashlib.sha256(b"%s %s %s %s" % about).hexdigest()[:12]
        self._preparing, self._prepared = f"prepare-{key}", {}
        name, job, gone = f"ar-{self._lab}-{self._preparing}", "", 0
        try:
            with contextlib.suppress(SlurmAway):
                await self.ask()
            while not (data := self._prepared.get("data")):
                lines = await queue.fresh(2 * queue.every_s + there.COMMAND_S, shared_s=0.0)
                if lines is None:
                    await self._check_usable()
                elif "failed" in self._prepared and job:
                    why = one_line(str(self._prepared["failed"]), 400)
                    raise ComputeError(f"The training data could not be prepared by a job on {self.name}: {why}.")
                elif name in lines and waits_or_runs(lines[name]):
                    job = lines[name].id
                elif job and not self._prepared:
                    gone += 1
                    if gone > _GONE:
                        raise ComputeError(f"The training data could not be prepared: the job {job} on {self.name} ended and left nothing.")
                elif "data" not in self._prepared:
                    with contextlib.suppress(SlurmAway):
                        job = await self._hand_in_preparation(profile, drawn_with, text, name, slurm)
        except (SlurmRefused, NotWritten) as error:
            raise ComputeError(f"The training data could not be prepared on {self.name}: {one_line(str(error), 400)}.") from error
        except asyncio.CancelledError:
            if job:
                with contextlib.suppress(SlurmAway):
                    await asyncio.shield(slurm.cancel(job, gently=False))
            raise
        self._preparing = ""
        return str(data)

    async def _hand_in_preparation(self, profile: str, secret: bytes, text: Folder | None, name: str, slurm: Slurm) -> str:
        await self.ask(remove=[self._preparing])
        self._prepared, own = {}, self._own
        if own and text:
            await self._send(text)
            own = replace(own, text=f"{self._runs.parent}/given/text/{text.name}")
        directory, secret_file = self._runs / self._preparing, "secret" if secret else ""
        python = self._section.python or self._python
        lines = preparing_script(directory, profile, secret_file, own, self._section, self._variables(), python)
        await self.put(self._preparing, {SCRIPT: lines.encode(), **({secret_file: secret} if secret else {})})
        comment = f"autoresearch-mcp lab {self._lab} prepares data"
        return await slurm.submit(directory / SCRIPT, common_options(name, comment, directory, PREPARE_MIN, 1, self._section))

    async def _check_usable(self) -> None:
        """Find out why Slurm doesn't answer.

        Raises:
            ComputeError: Its owner has to do something on the login node.
        """
        try:
            await self.ask()
        except SlurmAway as error:
            if isinstance(error.__cause__, HostRefused):
                raise ComputeError(f"{error}.") from error

    async def ask(self, **parts: Any) -> dict[str, Any]:
        """Send a request, and take in what runs have left; the rest of a long log at once after it.

        Raises:
            SlurmAway: No answer came. What was asked may have been done.
        """
        answer = await self._ask(dict(self._followed), parts)
        looks = answer["looks"]
        with contextlib.suppress(SlurmAway):  # the next request goes on there
            while more := [run for run, seen in looks.items() if seen["more"]]:
                looks = (await self._ask({run: self._followed[run] for run in more if run in self._followed}, {}))["looks"]
        return answer

    async def _ask(self, directories: dict[str, Path], parts: Mapping[str, Any]) -> dict[str, Any]:
        nothing: dict[str, Any] = {"remove": [], "put": {}, "forbid": [], "cancel": [], "command": [], "read": {}}
        async with self._turn:
            sizes, removing = await asyncio.to_thread(mirror.sizes, directories), set(self._removing)
            asked = {**nothing, **parts, "look": sizes, "prepared": self._preparing}
            asked["remove"] = [*asked["remove"], *sorted(removing)]
            answer = await self._request({"slurm": asked})
            try:
                await asyncio.to_thread(mirror.take_in, directories, answer["looks"], (there.CLAIM, there.OUTPUT))
                self._runs, self._python = PurePosixPath(answer["runs"]), str(answer["python"])
                self._prepared, self.there = answer["prepared"], answer["there"]
            except (OSError, ValueError, KeyError) as error:
                raise SlurmAway(f"what {self.name} answered could not be kept here: {error}") from error
            self._removing -= removing
            return answer

    async def _request(self, parts: Mapping[str, Any], timeout_s: float | None = None) -> dict[str, Any]:
        """Send parts of a request there.

        Raises:
            SlurmAway: No answer came.
        """
        self._fixed = self._fixed or await asyncio.to_thread(prepare.fixed_hash)
        about = {"lab": self._lab, "folder": self._section.folder or FOLDER, "fixed": self._fixed}
        try:
            return await self._ssh.ask({**about, **parts}, timeout_s, SENT)
        except HostAway as error:
            raise SlurmAway(f"{self.name} is away: {error}") from error
        except HostRefused as error:
            raise SlurmAway(f"{self.name} can't be used: {error}") from error
        except ValueError as error:
            raise SlurmAway(f"what {self.name} answered can't be read: {error}") from error

    def _variables(self) -> dict[str, str]:
        cache = {"AUTORESEARCH_CACHE": str(self._runs.parents[1] / "cache")} if self._section.folder else {}
        return {**cache, **self._given}


class FarFolder(RunFolder):
    """A run's folder on the cluster's file system, of which the lab has a copy.

    Args:
        job: The job.
        login: Reaches that file system.
    """

    def __init__(self, job: Job, login: Login) -> None:
        super().__init__(job, job.directory, login.name)
        self._login, self._run = login, f"{job.id}/{job.attempt}"
        self._folders: list[Folder] = []

    async def write(self) -> None:
        """Write the job's files into the lab, and see which folders of the owner's it needs.

        Raises:
            ComputeError: One of those can't be sent. The job is forbidden.
        """
        await asyncio.to_thread(write_files, self.job)
        try:
            self._folders = await asyncio.to_thread(folders_of, self.job.spec)
        except ComputeError:
            self.abandon()
            raise

    async def deliver(self) -> PurePath:
        """Put the job's files there, and before them what of the owner's is not there."""
        self.keep({})
        self._login.follow(self._run, self._own)
        return await self._login.deliver(self._run, self.job, self._folders)

    async def forbid(self) -> bool:
        """Make the job's claim there; here alone where nobody was asked to take it."""
        return await self._forbid()

    async def ask_to_end(self) -> bool:
        """Mark the run here and there, and make its claim."""
        self._own.mkdir(parents=True, exist_ok=True)
        (self._own / protocol.CANCEL).touch()
        return not await self._forbid(cancel=[self._run])

    async def end(self) -> Observation | None:
        """Return how the job ended, as far as answers have told; they come with each look at the queue."""
        self.check_place()
        if (end := await asyncio.to_thread(self.ended)) is not None:
            self._login.over(self._run)
        elif self.record:
            self._login.follow(self._run, self._own)
        return end

    async def _forbid(self, **parts: Any) -> bool:
        if self.record:
            self._login.follow(self._run, self._own)
            answer = await self._login.ask(forbid=[self._run], **parts)
            if answer["failed"]:
                raise SlurmAway(f"{self._login.name}: {answer['failed']}")
            if not answer["forbidden"][self._run]:
                return False
        self.abandon()
        return True
