"""One host of a lab: what is to be asked of it, asked in one request a round, and what its last answer said of its runs."""

import asyncio
import base64
import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from autoresearch_mcp.server.compute.base import ComputeError, Job
from autoresearch_mcp.server.compute.folders import Folder
from autoresearch_mcp.server.compute.line import given_there, mirror
from autoresearch_mcp.server.compute.line import there as common
from autoresearch_mcp.server.compute.line.sending import send
from autoresearch_mcp.server.compute.line.transport import HostAway, HostRefused, Ssh
from autoresearch_mcp.server.compute.ssh import there
from autoresearch_mcp.server.compute.ssh.there import IN_USE, LACKS
from autoresearch_mcp.server.compute.stopping import stop
from autoresearch_mcp.server.retry import Backoff, Pauses, woken
from autoresearch_mcp.server.secret import ensure
from autoresearch_mcp.server.settings.ssh import HostSection
from autoresearch_mcp.trainer import prepare, protocol
from autoresearch_mcp.trainer.protocol import OwnText

ROUND_S = 0.1  # between two requests, after something new
SLOWEST = 50  # times as long, while a run only goes on: each request takes the host a tenth of a CPU second
RETRY_S: Pauses = (1.0, 30.0)
SENT = (common, given_there, there)  # what runs there, sent with each request
SPEC_OF_DATA = "prepared there"  # the `data` of a job's spec until it is known which host takes it

Checked = Callable[[dict[str, str]], str]
"""Takes the hashes of a host's data, and returns which differ from the lab's; empty where none do."""


@dataclass(frozen=True)
class Wanted:
    """What a lab wants prepared on a host.

    Attributes:
        profile: Its name; empty where code brings its own data.
        secret: The file that draws the lab's own split; None for the public one.
        own: What the profile is made of, where it is of the owner's own text.
        text: The folder with that text; None where it comes from the hub.
    """

    profile: str
    secret: Path | None
    own: OwnText | None = None
    text: Folder | None = None

    @property
    def name(self) -> str:
        """Tells this data from what was prepared with another text, or otherwise."""
        if self.own is None:
            return self.profile
        recipe = {**asdict(self.own), "text": self.text.name if self.text else ""}
        return f"{self.profile}-{hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:12]}"


class Host:
    """Speaks with one host for the backend.

    Args:
        ssh: The line to it.
        lab: Tells this lab's folder there from others.
        devices: The numbers of the GPUs that trainings are given; empty for a CPU.
        threads: Of a training.
        section: What lab.toml says of it.
        leave: Megabytes in use and percent of use above which a GPU is somebody else's.
        round_s: Seconds between two requests.
    """

    def __init__(
        self,
        ssh: Ssh,
        lab: str,
        devices: list[str],
        threads: int,
        section: HostSection,
        leave: tuple[float, float],
        round_s: float = ROUND_S,
    ) -> None:
        self.name, self._ssh, self._lab, self._section, self._round_s = ssh.host, ssh, lab, section, round_s
        self.devices, self._threads = devices, threads
        self.places: list[str] = devices
        self.looks: dict[str, dict[str, Any]] = {}  # by run, of the last answer
        self.refusals: dict[str, str] = {}  # runs that can't be started there, with the reason
        self._leave = leave
        self.held_back: dict[str, str] = {}  # runs that wait there for a GPU that somebody else uses, and which
        self.trouble = ""  # of the line, now
        self.unusable = ""  # until its owner has done something
        self._data, self._hashes, self.prepared = "", dict[str, str](), False
        self._ahead_s = 0.0  # its wall clock, as seconds of a day, less ours
        self._fixed = ""
        self._followed: dict[str, Path] = {}
        self._launching: dict[str, dict[str, Any]] = {}
        self._folders: dict[str, dict[str, Folder]] = {}  # that runs which are to be launched need, by key
        self._sending: dict[tuple[str, str], asyncio.Task[None]] = {}  # by key and name of the folder
        self._adopting: dict[str, asyncio.Future[bool]] = {}
        self._removing: set[str] = set()
        self._wake = asyncio.Event()
        self._rounds: asyncio.Task[None] | None = None

    def waits(self, run: str) -> bool:
        """Return whether a run waits there, for a GPU or for what is being sent."""
        return run in self.held_back or any(folder in self._sending for folder in self._needed(run))

    def troubles(self) -> list[str]:
        """Return, in sentences, what the lab's owner should know of the host now."""
        gpus = ", ".join(sorted(set(self.held_back.values())))
        busy = f"{self.name}: somebody else uses GPU {gpus}. Trainings wait for it." if gpus else ""
        coming = [f"{self.name} is being sent the folder of {key}. Trainings wait for it." for key, _ in self._sending]
        return [text for text in (self.unusable, self.trouble, busy, *coming) if text]

    @property
    def ready(self) -> bool:
        """Whether a training may begin there now."""
        return self.prepared and not self.trouble and self.is_open

    @property
    def is_open(self) -> bool:
        """Whether its clock is within the hours that its owner allows, once it has told its clock."""
        return self._section.allows(int((time.time() + self._ahead_s) % 86400 / 60))

    @property
    def closed(self) -> str:
        """What the lab's owner should know where trainings wait for its hours."""
        return f"{self.name} takes trainings at {self._section.allowed} by its clock. Those that wait for it begin then."

    async def prepare(self, wanted: Wanted, differing: Checked) -> None:
        """Prepare the data there, again and again while the host is away. Cancelling the call ends the work.

        Args:
            wanted: What to prepare.
            differing: Compares the data's hashes with the lab's.

        Raises:
            ComputeError: It can't be prepared there.
        """
        secret = base64.b64encode(await asyncio.to_thread(ensure(wanted.secret).read_bytes)).decode() if wanted.secret else ""
        own, text = asdict(wanted.own) if wanted.own else None, wanted.text.name if wanted.text else ""
        request = {"profile": wanted.profile, "name": wanted.name, "secret": secret, "own": own, "text": text, "again": True, "stop": False}
        backoff = Backoff(RETRY_S)
        try:
            while True:
                try:
                    answer = await self._ask({"prepare": request})
                    if "lacks" in answer and wanted.text:
                        await send(self._ask, wanted.text)
                        answer = await self._ask({"prepare": request})
                    backoff.succeeded()
                    self.trouble = ""
                except HostAway as error:
                    self.trouble = f"{self.name} is away: {error}."
                    await asyncio.sleep(backoff.failed())
                    continue
                if "failed" in answer:
                    raise ComputeError(f"The training data could not be prepared on {self.name}: {answer['failed'][:400]}.")
                if "hashes" in answer:
                    break
                request["again"] = not answer.get("goes_on")
        except HostRefused as error:
            self.unusable = f"{self.name} can't be used: {error}."
            raise ComputeError(self.unusable) from error
        except asyncio.CancelledError:
            with contextlib.suppress(HostAway, HostRefused):
                await asyncio.shield(self._ask({"prepare": {**request, "again": False, "stop": True}}))
            raise
        if names := differing(answer["hashes"]):
            self.unusable = f"{self.name} can't be used: its {names} differs from the lab's. Remove the prepared data there."
            raise ComputeError(self.unusable)
        self._ahead_s = answer["clock"] - time.time()
        self._data, self._hashes, self.unusable, self.prepared = answer["data"], answer["hashes"], "", True
        self.places = self.devices or [""] * max(1, int(answer["cores"]) // self._threads)

    def launch(self, run: str, job: Job, folders: Sequence[Folder], visible: str) -> None:
        """Start a run there with the next request, and repeat that until the host has answered. It is given the folders before."""
        files = {path: base64.b64encode(content).decode() for path, content in job.files.items()}
        spec = asdict(replace(job.spec, data=self._data, visible=visible))
        section = {"before": self._section.before, "nice": self._section.nice, "leave": self._leave}
        self._folders[run] = {folder.key: folder for folder in folders}
        names = {folder.key: folder.name for folder in folders}
        self._launching[run] = {"run": run, "spec": spec, "files": files, "hashes": self._hashes, "given": names, **section}
        self.follow(run, job.directory)

    def follow(self, run: str, directory: Path) -> None:
        """Ask about a run in every round, and write what it leaves into its folder here."""
        if run not in self._followed or self._rounds is None or self._rounds.done():
            self._followed[run] = directory
            self.hurry()

    def hurry(self) -> None:
        """Begin the next round now."""
        self._wake.set()
        if self._rounds is None or self._rounds.done():
            self._rounds = asyncio.create_task(self._go_round())

    async def adopt(self, run: str, patience_s: float) -> bool:
        """Ask whether a run was begun, and forbid it if not. Returns true also where the host doesn't answer in time."""
        answer = self._adopting.setdefault(run, asyncio.get_running_loop().create_future())
        self.hurry()
        done, _ = await asyncio.wait([answer], timeout=patience_s)
        return not done or answer.result()

    def drop_launch(self, run: str) -> None:
        """Start a run no more that is not known to have been started."""
        self._launching.pop(run, None)
        self._folders.pop(run, None)
        self.held_back.pop(run, None)

    def over(self, run: str) -> None:
        """Follow a run no more, and have its files removed there."""
        if self._followed.pop(run, None) is not None:
            self._removing.add(run)
            self.looks.pop(run, None)
            self.drop_launch(run)
            self.hurry()

    async def clear(self, active: Callable[[], set[str]]) -> list[str]:
        """End and remove runs there that nobody needs, and return them.

        Raises:
            HostAway: It doesn't answer.
            HostRefused: It can't be used.
        """
        known = (await self._ask(_round(list=True)))["there"]
        needed = active() | self._followed.keys()
        unneeded = [run for run in known if run not in needed]
        if unneeded:
            await self._ask(_round(cancel=unneeded, remove=unneeded))
        return [run for run in unneeded if run not in self._removing]

    async def close(self) -> None:
        """Stop following."""
        await stop([*self._sending.values(), *([self._rounds] if self._rounds is not None else [])])

    def _needed(self, run: str) -> list[tuple[str, str]]:
        return [(folder.key, folder.name) for folder in self._folders.get(run, {}).values()]

    async def _send(self, folder: Folder) -> None:
        """Send a folder, again and again while the host is away. Without it, the runs that need it can't be started there."""
        backoff = Backoff(RETRY_S)
        try:
            while True:
                try:
                    return await send(self._ask, folder)
                except HostAway:
                    await asyncio.sleep(backoff.failed())
        except (ComputeError, HostRefused) as error:
            for run in [run for run in self._launching if (folder.key, folder.name) in self._needed(run)]:
                self.refusals[run] = f"It could not be started on {self.name}: {error}"
                self.drop_launch(run)
        finally:
            del self._sending[folder.key, folder.name]
            self.hurry()

    async def _go_round(self) -> None:
        """Ask in rounds while there is something to ask: soon after something new, and less often where a run only goes on."""
        backoff, pause_s = Backoff(RETRY_S), self._round_s
        while self._followed or self._adopting or self._removing:
            self._wake.clear()
            try:
                more = await self._round()
                backoff.succeeded()
                self.trouble = ""
                pause_s = self._round_s if more else min(pause_s * 1.5, SLOWEST * self._round_s)
            except (HostAway, HostRefused, OSError, ValueError, KeyError) as error:
                runs = f"{len(self._followed)} {'run' if len(self._followed) == 1 else 'runs'}"
                self.trouble = f"{self.name} is away: {error}. What became of its {runs} is known when it is back."
                pause_s = backoff.failed()
            if await woken(self._wake, pause_s):
                if self.trouble:
                    await asyncio.sleep(RETRY_S[0])
                pause_s = self._round_s

    async def _round(self) -> bool:
        """Ask everything that is to be asked, and take in the answer.

        Returns:
            Whether a file there has more than one answer holds.
        """
        directories = dict(self._followed)
        look = await asyncio.to_thread(mirror.sizes, directories)
        cancel = await asyncio.to_thread(_to_end, directories)
        launching = {run: launch for run, launch in self._launching.items() if self._sending.keys().isdisjoint(self._needed(run))}
        adopting, removing = list(self._adopting), set(self._removing)
        launch = list(launching.values())
        answer = await self._ask(_round(launch=launch, adopt=adopting, cancel=cancel, look=look, remove=sorted(removing)))
        self._ahead_s = answer["clock"] - time.time()
        self._removing -= removing
        for run, reason in answer["launched"].items():
            if reason == IN_USE:
                if run in self._launching:  # it is asked again with each request
                    self.held_back[run] = launching[run]["spec"]["visible"]
                continue
            if reason.startswith(LACKS):
                folder = self._folders.get(run, {}).get(reason.removeprefix(LACKS))
                if folder is not None and (folder.key, folder.name) not in self._sending:
                    self._sending[folder.key, folder.name] = asyncio.create_task(self._send(folder))
                continue
            self.drop_launch(run)
            if reason:
                self.refusals[run] = f"It could not be started on {self.name}: {reason}"
        for run, known in answer["adopted"].items():
            if not (waiting := self._adopting.pop(run)).done():
                waiting.set_result(known)
        await asyncio.to_thread(mirror.take_in, directories, answer["looks"])
        self.looks |= {run: seen for run, seen in answer["looks"].items() if run in self._followed}
        return any(seen["more"] for seen in answer["looks"].values())

    async def _ask(self, request: dict[str, Any], timeout_s: float | None = None) -> dict[str, Any]:
        self._fixed = self._fixed or await asyncio.to_thread(prepare.fixed_hash)
        about = {"lab": self._lab, "folder": self._section.folder, "fixed": self._fixed}
        return await self._ssh.ask({**about, **request}, timeout_s, SENT)


def _round(**parts: Any) -> dict[str, Any]:
    return {"launch": [], "adopt": [], "cancel": [], "look": {}, "remove": [], "list": False, **parts}


def _to_end(directories: dict[str, Path]) -> list[str]:
    """Return which runs are to end."""
    return [run for run, directory in directories.items() if (directory / protocol.CANCEL).exists()]
