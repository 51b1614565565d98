"""Trainings on machines that are reached by ssh, with the same launcher, sandbox and scorer there.

A run lives on its host in a folder of its own, detached from the line and from the lab: both may go away. Which host has a run is written
down here before the host hears of it, so that a run whose host is away waits for that host, and is never begun on another.
"""

import asyncio
import secrets
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from autoresearch_mcp.server.compute.base import Compute, ComputeError, Job, Observation, read_end, write_files
from autoresearch_mcp.server.compute.folders import Folder, folders_of, look
from autoresearch_mcp.server.compute.line.mirror import HELD
from autoresearch_mcp.server.compute.line.transport import HostAway, HostRefused, Patience, Ssh
from autoresearch_mcp.server.compute.ssh.host import ROUND_S, SPEC_OF_DATA, Host, Wanted
from autoresearch_mcp.server.compute.stopping import stop
from autoresearch_mcp.server.paths import StatePaths
from autoresearch_mcp.server.settings import Settings
from autoresearch_mcp.server.settings.ssh import HostSection
from autoresearch_mcp.server.untrusted import one_line
from autoresearch_mcp.trainer import protocol

ADOPT_S = 30.0  # for a host to say whether a run is there
RECORD = "ssh.json"  # in a run's folder here: {"host", "visible"}


def open_backend(settings: Settings, state: Path, log: Path) -> Compute:
    """Open the backend for a lab; see `open_compute`."""
    training, compute = settings.training, settings.compute
    drawn_with = StatePaths(state).secret if training.heldout == "secret" else None
    wanted = Wanted("", None) if settings.is_script else Wanted(training.profile, drawn_with, training.limits.own)
    return SshCompute(
        wanted, training.threads, state, compute.hosts, compute.ssh, leave=(compute.leave_above_mb, compute.leave_above_percent)
    )


class SshCompute:
    """Implements `Compute` with hosts behind ssh.

    Args:
        wanted: What each host prepares.
        threads: How many threads each training uses.
        state: The lab's state folder.
        hosts: As lab.toml names them, each with the numbers of its GPUs where those are handed out: `box`, `box:0,1`.
        sections: What lab.toml says of them, by name.
        command: The program ssh.
        round_s: Seconds between two requests to a host.
        leave: Megabytes in use and percent of use above which a GPU is somebody else's.
        patience: How long a line may be silent.
    """

    poll_s = 0.1

    def __init__(
        self,
        wanted: Wanted,
        threads: int,
        state: Path,
        hosts: Sequence[str],
        sections: Mapping[str, HostSection],
        command: str = "ssh",
        round_s: float = ROUND_S,
        leave: tuple[float, float] = (1000.0, 20.0),
        patience: Patience | None = None,
    ) -> None:
        self._wanted, self._record, self._command = wanted, StatePaths(state).ssh, command
        lab = _lab_id(self._record)
        self._hosts: dict[str, Host] = {}
        for named in hosts:
            name, _, devices = named.partition(":")
            section = sections.get(name, HostSection())
            ssh = Ssh(name, section.python, command, patience)
            self._hosts[name] = Host(ssh, lab, devices.split(",") if devices else [], threads, section, leave, round_s)
        self._waiting: dict[str, tuple[Job, list[Folder]]] = {}  # and what of the owner's they need
        self._places: dict[str, tuple[str, str]] = {}  # run -> host and device
        self._preparing: dict[str, asyncio.Task[None]] = {}
        self._over: dict[str, Observation] = {}

    def scored_beside(self, slots: int) -> int:
        """Return none: each run is scored on its host, and holds its place for that long."""
        return 0

    async def prepare(self) -> str:
        """Prepare the data on all hosts, and return when the first has it. The others follow, also those that are away now.

        Raises:
            ComputeError: No host can prepare it.
        """
        if not self._hosts:
            raise ComputeError('The job could not be started: name machines as [compute] hosts in lab.toml, such as ["box"].')
        await self._begin_preparing()
        pending: set[asyncio.Task[None]] = set(self._preparing.values())
        try:
            while not any(task.done() and task.exception() is None for task in self._preparing.values()):
                if not pending:
                    raise ComputeError(" ".join(str(task.exception()) for task in self._preparing.values()))
                _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await self._stop_preparing()
            raise
        return SPEC_OF_DATA

    async def submit(self, job: Job) -> None:
        """Keep the job's files, and start it on a host that has a place for it, or let it wait for one.

        Raises:
            ComputeError: The files can't be written here, or no host can be used.
        """
        if (job.directory / protocol.ABANDONED).exists():
            return
        if shutil.which(self._command) is None:
            await asyncio.to_thread(_forbid, job.directory)
            raise ComputeError("The job could not be started: there is no ssh on this machine.")
        try:
            await asyncio.to_thread(write_files, job)
            folders = await asyncio.to_thread(folders_of, job.spec)
            await self._begin_preparing()
        except OSError as error:
            raise ComputeError(f"The run's files could not be written: {error}. Is the disk full?") from error
        except ComputeError:
            await asyncio.to_thread(_forbid, job.directory)
            raise
        self._waiting[_run(job)] = job, folders
        await self._start_waiting()

    async def observe(self, job: Job) -> Observation:
        """Return what the last answer of the job's host told. The host is asked in the background."""
        run = _run(job)
        if run in self._over:
            return self._over[run]
        if (end := await asyncio.to_thread(_ended, job.directory)) is not None:
            self._let_go(run)
            return end
        if run in self._waiting:
            await self._start_waiting()
            return Observation("starting", device_s=0.0)
        host = await self._host_of(job)
        if host is None:
            return Observation("lost", device_s=0.0, never_started=True)
        if run in host.refusals:
            return self._end(run, Observation("refused", reason=one_line(host.refusals.pop(run), 400), device_s=0.0))
        seen = host.looks.get(run, {"begun": False, "alive": True, "forbidden": False, "exited": False})
        held_s = seen.get("held_s", 0.0)
        if seen["forbidden"] and not seen["begun"]:
            return self._end(run, Observation("lost", device_s=0.0, never_started=True))
        if seen["begun"] and not seen["alive"] and not seen.get("result"):
            reason = f"{host.name} was restarted in the run." if seen.get("rebooted") else ""
            return self._end(run, Observation("lost", reason=reason, device_s=held_s))
        if seen["exited"] and not seen["begun"]:
            why = one_line(seen.get("output") or "it printed nothing", 400)
            return self._end(run, Observation("refused", reason=f"The launcher ended on {host.name} before it began: {why}", device_s=0.0))
        progress = await asyncio.to_thread(protocol.read_json, job.directory / protocol.PROGRESS) or {"phase": "starting"}
        used = float(progress.get("used_s", 0.0))
        return Observation(progress["phase"], used_s=used, share=min(1.0, used / job.spec.budget_s), device_s=held_s)

    async def adopt(self, job: Job) -> bool:
        """Ask the job's host whether it was begun, and forbid it if not. One that no host has heard of is forbidden here.

        Returns:
            True also where it waits there for a GPU or for a folder, or where the host doesn't answer within `ADOPT_S`.
        """
        run = _run(job)
        if run in self._waiting or await asyncio.to_thread(_ended, job.directory) is not None:
            return True
        if run in self._over:
            return False
        host = await self._host_of(job)
        if host is None:
            await asyncio.to_thread(_forbid, job.directory)
            return False
        if host.waits(run):
            return True
        host.drop_launch(run)
        if await host.adopt(run, ADOPT_S):
            return True
        await asyncio.to_thread(_forbid, job.directory)
        return False

    async def cancel(self, job: Job) -> None:
        """Write down that the job is to end: its host hears it with each request until it has."""
        await asyncio.to_thread(_ask_to_end, job.directory)
        if self._waiting.pop(_run(job), None) is not None:
            await asyncio.to_thread(_forbid, job.directory)
        elif _run(job) not in self._over and await asyncio.to_thread(_ended, job.directory) is None and (host := await self._host_of(job)):
            host.hurry()

    async def orphans(self, active: Callable[[], Collection[tuple[str, int]]]) -> list[str]:
        """End and remove this lab's runs on its hosts that the runner doesn't need, and return them in words.

        Raises:
            ComputeError: A host doesn't answer.
        """
        ended, away = list[str](), list[str]()

        async def clear(host: Host) -> None:
            try:
                unneeded = await host.clear(lambda: {f"{id}/{attempt}" for id, attempt in active()})
                ended.extend(f"run {run} on {host.name}" for run in unneeded)
            except (HostAway, HostRefused) as error:
                away.append(f"{host.name} doesn't answer: {error}.")

        await asyncio.gather(*map(clear, self._hosts.values()))
        if away and not ended:
            raise ComputeError(" ".join(away))
        return ended

    async def cost(self, directory: Path) -> float | None:
        """Return None: nobody bills these machines."""
        return None

    def troubles(self) -> list[str]:
        """Return which hosts are away or can't be used, and why; and what trainings wait for."""
        closed = [host.closed for host in self._hosts.values() if host.prepared and not host.is_open] if self._waiting else []
        return [one_line(text, 400) for host in self._hosts.values() for text in host.troubles()] + closed

    async def close(self) -> None:
        """Stop following. Runs go on."""
        await self._stop_preparing()
        await asyncio.gather(*(host.close() for host in self._hosts.values()))

    async def _begin_preparing(self) -> None:
        """Begin to prepare all hosts that aren't, with one text for all.

        Raises:
            ComputeError: The owner's text can't be read.
        """
        own = self._wanted.own
        if own and own.text and self._wanted.text is None:
            self._wanted = replace(self._wanted, text=await asyncio.to_thread(look, "text", Path(own.text)))
        for name, host in self._hosts.items():
            if name not in self._preparing or (self._preparing[name].done() and not host.prepared):
                self._preparing[name] = asyncio.create_task(host.prepare(self._wanted, self._differing))
                self._preparing[name].add_done_callback(lambda task: task.cancelled() or task.exception())  # `troubles` tells it

    async def _stop_preparing(self) -> None:
        await stop(self._preparing.values())
        self._preparing.clear()

    async def _start_waiting(self) -> None:
        """Give free places of hosts that can be used to jobs that wait, in their order."""
        for run, (job, folders) in list(self._waiting.items()):
            free = [(host, visible) for host in self._hosts.values() if host.ready for visible in self._free(host)]
            if not free:
                return
            if run not in self._waiting:  # another call has taken it meanwhile
                continue
            host, visible = max(free, key=lambda place: len(self._free(place[0])))
            del self._waiting[run]
            self._places[run] = host.name, visible
            try:
                await asyncio.to_thread(protocol.write_json, job.directory / RECORD, {"host": host.name, "visible": visible})
            except OSError as error:
                self._end(run, Observation("refused", reason=f"Its record could not be written here: {error.strerror}.", device_s=0.0))
            else:
                host.launch(run, job, folders, visible)

    def _free(self, host: Host) -> list[str]:
        free = list(host.places)
        for name, visible in self._places.values():
            if name == host.name and visible in free:
                free.remove(visible)
        return free

    async def _host_of(self, job: Job) -> Host | None:
        """Return the host that has a job, and follow the job there; None where no host has heard of it.

        Raises:
            ComputeError: Its host is no longer in lab.toml.
        """
        run = _run(job)
        if run not in self._places:
            known = await asyncio.to_thread(protocol.read_json, job.directory / RECORD)
            if known is None:
                return None
            self._places[run] = str(known["host"]), str(known["visible"])
        name = self._places[run][0]
        if name not in self._hosts:
            raise ComputeError(
                f"The run {run} is on {name}, which is not among [compute] hosts in lab.toml any more. Name it there until then."
            )
        self._hosts[name].follow(run, job.directory)
        return self._hosts[name]

    def _end(self, run: str, end: Observation) -> Observation:
        """Remember how a job ended that left no result."""
        self._over[run] = end
        self._let_go(run)
        return end

    def _let_go(self, run: str) -> None:
        name, _ = self._places.pop(run, ("", ""))
        if name in self._hosts:
            self._hosts[name].over(run)

    def _differing(self, hashes: dict[str, str]) -> str:
        """Compare the hashes of a host's data with those that the lab's first host had, which are kept."""
        known = protocol.read_json(self._record) or {}
        expected = known.get("data", {}).get(self._wanted.name)
        if expected is None:
            protocol.write_json(self._record, {**known, "data": {**known.get("data", {}), self._wanted.name: hashes}})
            return ""
        return ", ".join(sorted(name for name in expected.keys() | hashes.keys() if expected.get(name) != hashes.get(name)))


def _run(job: Job) -> str:
    return f"{job.id}/{job.attempt}"


def _ended(directory: Path) -> Observation | None:
    """Return how a run ended whose result is here, with the seconds that it ran by its host's clock."""
    end = read_end(directory)
    if end is None or end.result is None:
        return end
    held = (protocol.read_json(directory / HELD) or {}).get("held_s")
    return Observation("ended", result=end.result, device_s=held)


def _forbid(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / protocol.ABANDONED).touch()


def _ask_to_end(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / protocol.CANCEL).touch()


def _lab_id(path: Path) -> str:
    """Return what tells this lab's runs from those of others on a host. It is drawn once, and kept in the state folder."""
    if (known := protocol.read_json(path)) is not None:
        return str(known["lab"])
    lab = secrets.token_hex(8)
    path.parent.mkdir(parents=True, exist_ok=True)
    protocol.write_json(path, {"lab": lab})
    return lab
