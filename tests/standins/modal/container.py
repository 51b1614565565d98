"""One sandbox of the stand-in: a process in a session of its own, its output, and how it ended."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modal_proto import api_pb2

Result = api_pb2.GenericResult


@dataclass
class Container:
    id: str
    app: str
    name: str
    tags: dict[str, str]
    argv: list[str]
    directory: Path
    environment: dict[str, str]
    timeout_s: float
    asked: dict[str, Any]  # what a test may want to see of the request
    created_at: float = field(default_factory=time.time)
    placed: bool = False
    started_at: float = 0.0
    finished_at: float = 0.0
    result: Result | None = None
    output: bytearray = field(default_factory=bytearray)
    process: asyncio.subprocess.Process | None = None
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def run(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            *self.argv,
            cwd=self.directory,
            env=self.environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=(self.directory / "stderr").open("wb"),
            start_new_session=True,
        )
        await self._notify(started_at=time.time())
        reading = asyncio.create_task(self._read())
        try:
            code = await asyncio.wait_for(self.process.wait(), self.timeout_s)
            ended = Result(status=Result.GENERIC_STATUS_FAILURE if code else Result.GENERIC_STATUS_SUCCESS, exitcode=code % 256)
        except TimeoutError:
            ended = Result(status=Result.GENERIC_STATUS_TIMEOUT)
        self.kill()
        await reading
        await self.finish(ended)

    async def _read(self) -> None:
        assert self.process is not None and self.process.stdout is not None
        while chunk := await self.process.stdout.read(1 << 16):
            self.output += chunk
            await self._notify()

    def kill(self) -> None:
        """The container and all in it, as a container's end does: the session, and what left it but descends from it."""
        if self.process is None or self.process.returncode is not None:
            return  # its id may be another process' by now
        for pid in [self.process.pid, *_descendants(self.process.pid)]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    async def preempt(self) -> None:
        """As the service does to make room: the container dies, whatever it is at."""
        self.kill()
        if self.process is None:
            await self.finish(Result(status=Result.GENERIC_STATUS_FAILURE, exitcode=137))

    async def terminate(self) -> None:
        if self.finished_at:
            return
        self.result = Result(status=Result.GENERIC_STATUS_TERMINATED)
        if self.process is None:
            await self.finish(self.result)
        self.kill()

    async def finish(self, result: Result) -> None:
        if not self.finished_at:
            self.result = self.result or result
            await self._notify(finished_at=time.time())

    async def _notify(self, **changes: float) -> None:
        async with self.changed:
            for name, value in changes.items():
                setattr(self, name, value)
            self.changed.notify_all()

    async def wait(self, timeout_s: float) -> None:
        async def ended() -> None:
            async with self.changed:
                await self.changed.wait_for(lambda: self.finished_at)

        try:
            await asyncio.wait_for(ended(), max(timeout_s, 0.001))
        except TimeoutError:
            return

    async def stream(self, start: int, timeout_s: float) -> AsyncIterator[tuple[bytes | None, int]]:
        """(bytes, position after them) from a position on, as they come; None at the end."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if len(self.output) > start:
                chunk = bytes(self.output[start : start + (1 << 16)])
                cut = chunk.rfind(b"\n") + 1 or len(chunk)  # logs are text: no character is cut in two
                start += cut
                yield chunk[:cut], start
            elif self.finished_at:
                yield None, start
                return
            else:
                async with self.changed:
                    try:
                        await asyncio.wait_for(self.changed.wait(), 0.5)
                    except TimeoutError:
                        continue

    def described(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "name": self.name,
            "tags": self.tags,
            "argv": self.argv,
            "directory": str(self.directory),
            "running": not self.finished_at,
            "created_at": self.created_at,
            "started_at": self.started_at,
            "finished_at": self.finished_at,
            "environment": self.environment,
            **self.asked,
        }


def _descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
            except (OSError, ValueError):
                continue
            children.setdefault(parent, []).append(int(entry.name))
    below, stack = [], [pid]
    while stack:
        for child in children.get(stack.pop(), []):
            below.append(child)
            stack.append(child)
    return below
