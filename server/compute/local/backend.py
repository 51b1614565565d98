"""Trainings as processes of this machine, supervised by `autoresearch_mcp.trainer.launch`, which outlives the runner that started it.

A warm parent with torch imported forks each supervisor (0.4 s to the first step instead of 2.2 s). For scripts, which import what
they need by themselves, it imports nothing. Where forking after importing torch is not safe (macOS), each launcher starts cold. The
launcher's POSIX lock on its run directory tells whether it lives. A process id could by now belong to another process; a lock can't.
"""

import asyncio
import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

from autoresearch_mcp.server.compute.base import ComputeError, Job, Observation, read_end, write_files
from autoresearch_mcp.server.compute.preparation import hint, prepare_data
from autoresearch_mcp.server.installation import import_environment
from autoresearch_mcp.server.paths import StatePaths
from autoresearch_mcp.server.settings import Settings, physical_cores
from autoresearch_mcp.trainer import files, protocol
from autoresearch_mcp.trainer.profiles import find
from autoresearch_mcp.trainer.protocol import OwnText

_ENVIRONMENT = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "XDG_CACHE_HOME",
    "AUTORESEARCH_CACHE",
    "LD_LIBRARY_PATH",
    "CUDA_VISIBLE_DEVICES",
)
_WARM_START_S = 120.0
_LEAVES_S = 30.0  # after it was told that there is no more to start
_TOGETHER = 8  # jobs that one thread looks at: to change threads takes longer than a look
_DETACH = "import os, sys; os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)"  # asyncio kills its own children when it forgets them


def environment(threads: int) -> dict[str, str]:
    """Return the variables that a training inherits: a few by name, so that no secret of the server's reaches agents' code.

    Args:
        threads: How many threads the training may use.
    """
    kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    return kept | import_environment() | {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE", "PYTHONUNBUFFERED": "1"}


LAUNCHER = (sys.executable, "-m", "autoresearch_mcp.trainer.launch")
_CAN_BE_WARM = sys.platform == "linux"


def open_local(
    settings: Settings, state: Path, log: Path, command: tuple[str, ...] = LAUNCHER, *, warm: bool = _CAN_BE_WARM
) -> "LocalCompute":
    """Open what runs processes for a lab, on whatever device they find; see `LocalCompute`."""
    drawn_with = StatePaths(state).secret if settings.training.heldout == "secret" else None
    training = settings.training
    return LocalCompute(training.profile, training.threads, log, command, warm, drawn_with, training.limits.own)


class LocalCompute:
    """Implements `Compute` with processes.

    Args:
        profile: What is trained, a name in `autoresearch_mcp.trainer.prepare`.
        threads: How many threads each training uses.
        log: Where the launcher's own messages go.
        command: Starts the launcher. Tests and benchmarks put another in its place.
        warm: Whether to fork from a warm parent.
        secret: The file with the lab's secret, made if it is missing; None for the public split.
        own: What the profile is made of, where it is of the owner's own text.
    """

    poll_s = 0.05

    def __init__(
        self,
        profile: str,
        threads: int,
        log: Path,
        command: tuple[str, ...] = LAUNCHER,
        warm: bool = _CAN_BE_WARM,
        secret: Path | None = None,
        own: OwnText | None = None,
    ) -> None:
        self._profile, self._own = profile, own
        self._threads = threads
        self._environment = environment(threads)
        self._log = log
        self._command = command
        self._warm = warm
        self._secret = secret
        self._parent: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()
        self._asked: list[tuple[Job, asyncio.Future[Observation]]] = []

    def scored_beside(self, slots: int) -> int:
        """Return how many runs can be scored on cores that no training uses: none beside a GPU, and none with a single slot."""
        if find(self._profile, self._own).clock == "wall":
            return 0  # the device is the training's alone: its clock runs while others use it
        if slots == 1:
            return 0  # one at a time, as the owner wants: then nothing trains that a model could tell what it is scored on
        return max(0, physical_cores() // self._threads - slots)

    async def prepare(self) -> str:
        """Prepare the data while the warm parent imports torch, which takes as long: the first job waits for neither twice.

        Returns:
            The directory of the data.

        Raises:
            ComputeError: The data can't be prepared, or no process can be started.
        """
        if self._warm:
            async with self._turn:
                await self._ensure_parent()
        return await prepare_data(self._profile, self._secret, self._environment, self._log, self._own)

    async def submit(self, job: Job) -> None:
        """Write the job's files and start its launcher.

        Raises:
            ComputeError: The files can't be written, or the launcher does not start.
        """
        try:
            await asyncio.to_thread(write_files, job)
        except OSError as error:
            raise ComputeError(f"The run's files could not be written: {error}. Is the disk full?") from error
        if self._warm:
            async with self._turn:
                await self._ask_parent(job)
        else:
            starter = await self._spawn(sys.executable, "-I", "-S", "-c", _DETACH, *self._command, str(job.directory))
            if await starter.wait() != 0:
                raise ComputeError(f"The launcher could not be started. {hint(self._log)}")

    async def observe(self, job: Job) -> Observation:
        """Return what the run directory and the launcher's lock tell of the job. Jobs that are asked for at once share threads."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Observation] = loop.create_future()
        self._asked.append((job, answer))
        if len(self._asked) == 1:
            loop.call_soon(self._look, loop)  # after all that ask in this turn of the event loop
        return await answer

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look at all jobs that were asked for."""
        asked, self._asked = self._asked, []
        for first in range(0, len(asked), _TOGETHER):
            some = asked[first : first + _TOGETHER]
            looking = loop.run_in_executor(None, _observe_each, [job for job, _ in some])
            looking.add_done_callback(functools.partial(_answer, [answer for _, answer in some]))

    async def adopt(self, job: Job) -> bool:
        """Return whether a launcher holds the job's lock, or left a result. If neither, forbid the job under that lock."""
        return await asyncio.to_thread(_adopt, job)

    async def cancel(self, job: Job) -> None:
        """Mark the job as cancelled and send SIGTERM to its launcher, if that lives."""
        await asyncio.to_thread(_cancel, job)

    async def orphans(self, active: Callable[[], Collection[tuple[str, int]]]) -> list[str]:
        """Return no orphans: a launcher ends by its own clock, and costs nothing."""
        return []

    async def cost(self, directory: Path) -> float | None:
        """Return None: nobody bills this machine."""
        return None

    def troubles(self) -> list[str]:
        """Return none: what is wrong with this machine shows in the trainings."""
        return []

    async def close(self) -> None:
        """End the warm parent. Its launchers run on."""
        if self._parent is not None and self._parent.returncode is None:
            assert self._parent.stdin is not None
            self._parent.stdin.close()
            try:
                async with asyncio.timeout(_LEAVES_S):
                    await self._parent.wait()
            except TimeoutError:
                self._parent.kill()

    async def _ensure_parent(self, *options: str) -> asyncio.subprocess.Process:
        if self._parent is None or self._parent.returncode is not None:
            self._parent = await self._spawn(*self._command, "--warm", *options, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return self._parent

    async def _ask_parent(self, job: Job) -> None:
        """Ask the warm parent for a run with one line, and read one line as the answer. Replace a parent that died, once a call."""
        directory = job.directory
        for _ in range(2):
            parent = await self._ensure_parent(*(["--scripts"] if job.spec.metric else []))
            assert parent.stdin is not None and parent.stdout is not None
            try:
                parent.stdin.write(f"{directory}\n".encode())
                await parent.stdin.drain()
                async with asyncio.timeout(_WARM_START_S):
                    line = await parent.stdout.readline()
            except (ConnectionError, TimeoutError):
                line = b""
            if line:
                answer = json.loads(line)
                if "error" in answer:
                    raise ComputeError(f"The launcher could not start the run: {answer['error']}")
                return
            with contextlib.suppress(ProcessLookupError):
                parent.kill()
            await parent.wait()
            if await asyncio.to_thread(_begun, directory):
                return
        raise ComputeError(f"The launcher does not start. {hint(self._log)}")

    async def _spawn(self, *command: str, stdin: int = subprocess.DEVNULL, stdout: int | None = None) -> asyncio.subprocess.Process:
        try:
            with self._log.open("ab") as log:
                return await asyncio.create_subprocess_exec(
                    *command,
                    stdin=stdin,
                    stdout=log if stdout is None else stdout,
                    stderr=log,
                    env=self._environment,
                    cwd="/",
                    start_new_session=True,
                )
        except OSError as error:
            raise ComputeError(f"The launcher could not be started: {error}.") from error


def _observe(job: Job) -> Observation:
    # The order matters: a launcher locks, writes its id into the lock, works, writes the result, lets go.
    forbidden = (job.directory / protocol.ABANDONED).exists()  # and if so, what is begun is so for good
    begun = files.size(job.directory / protocol.LOCK) > 0
    alive = files.is_process_locked(job.directory / protocol.LOCK)
    end = read_end(job.directory)
    if end is not None:
        return end
    if begun and not alive:
        return Observation("lost")
    if forbidden and not begun:
        return Observation("lost", device_s=0.0, never_started=True)
    progress = protocol.read_json(job.directory / protocol.PROGRESS) or {"phase": "starting"}
    used = float(progress.get("used_s", 0.0))
    return Observation(progress["phase"], used_s=used, share=min(1.0, used / job.spec.budget_s))


def _observe_each(jobs: Iterable[Job]) -> list[Observation | Exception]:
    """Observe jobs. One that can't be observed costs no other its observation."""
    found = list[Observation | Exception]()
    for job in jobs:
        try:
            found.append(_observe(job))
        except Exception as error:
            found.append(error)
    return found


def _answer(answers: Sequence[asyncio.Future[Observation]], looking: asyncio.Future[list[Observation | Exception]]) -> None:
    """Tell those who still wait what was found."""
    failure = asyncio.CancelledError() if looking.cancelled() else looking.exception()
    for answer, found in zip(answers, [failure] * len(answers) if failure else looking.result(), strict=True):
        if answer.done():
            continue
        if isinstance(found, Observation):
            answer.set_result(found)
        else:
            answer.set_exception(found)


def _adopt(job: Job) -> bool:
    job.directory.mkdir(parents=True, exist_ok=True)
    with (job.directory / protocol.LOCK).open("a+b") as lock:
        if not files.try_process_lock(lock):
            return True
        if (job.directory / protocol.RESULT).exists():
            return True
        (job.directory / protocol.ABANDONED).touch()
    return False


def _cancel(job: Job) -> None:
    (job.directory / protocol.CANCEL).touch()
    lock = job.directory / protocol.LOCK
    if files.is_process_locked(lock):
        with contextlib.suppress(ProcessLookupError, ValueError):
            os.kill(int(lock.read_text(encoding="ascii")), signal.SIGTERM)


def _begun(directory: Path) -> bool:
    """Return whether a launcher has taken the lock or even ended, after a warm parent died without answering."""
    return (directory / protocol.RESULT).exists() or files.is_process_locked(directory / protocol.LOCK)
