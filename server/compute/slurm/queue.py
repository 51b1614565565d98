"""One look at Slurm's queue for all jobs of a lab together, and never more often than every few seconds."""

import asyncio
import math
import time
from collections import Counter

from autoresearch_mcp.server.compute.slurm.client import WAITING, QueueLine, Slurm, SlurmAway, SlurmRefused
from autoresearch_mcp.server.compute.stopping import stop
from autoresearch_mcp.server.untrusted import one_line

LONG_S = 600.0  # of waiting, before it is worth a word
SHARED_S = 1.0  # that a look may be old for those who ask for a new one: a job that comes later finds its claim made


class Queue:
    """Knows how the lab's jobs stand in Slurm, as of the last look.

    Args:
        slurm: Its commands.
        prefix: Of the lab's job names.
        every_s: Seconds between two looks.
    """

    def __init__(self, slurm: Slurm, prefix: str, every_s: float) -> None:
        self._slurm, self._prefix, self.every_s = slurm, prefix, every_s
        self._lines: dict[str, QueueLine] = {}
        self._asked_at = -math.inf
        self._looking: asyncio.Task[None] | None = None
        self._waits_since: dict[str, float] = {}
        self.seen_at = -math.inf  # when the look began that the lines are from, on the monotonic clock
        self.error = ""  # why the last look failed

    def line(self, name: str) -> QueueLine | None:
        """Return what the last look showed of a job, and see to it that the next look comes."""
        self.look_if_due()
        return self._lines.get(name)

    def look_if_due(self) -> None:
        """Begin to look in the background, where the last look is old enough."""
        if self._looking is None and time.monotonic() - self._asked_at >= self.every_s:
            self._looking = asyncio.create_task(self._look())

    async def fresh(self, patience_s: float, shared_s: float = SHARED_S) -> dict[str, QueueLine] | None:
        """Return the lab's jobs by name from a look that begins when one is due.

        Args:
            patience_s: How long to wait for it.
            shared_s: How many seconds old a look may be in place of a new one.

        Returns:
            None where Slurm doesn't answer in time.
        """
        began = time.monotonic()
        while self.seen_at < began - shared_s:
            left_s = began + patience_s - time.monotonic()
            if self._looking is None and (wait_s := self._asked_at + self.every_s - time.monotonic()) > 0:
                if wait_s > left_s:
                    return None
                await asyncio.sleep(wait_s)
                continue
            self.look_if_due()
            if self._looking is None:
                continue
            done, _ = await asyncio.wait([self._looking], timeout=max(0.0, left_s))
            if not done or self.error:
                return None
        return self._lines

    async def close(self) -> None:
        """Stop looking."""
        if self._looking is not None:
            await stop([self._looking])

    def troubles(self) -> list[str]:
        """Return what the lab's owner should know of the queue: that Slurm is away, or that jobs have waited for long, and why."""
        if self.error:
            return [f"Slurm doesn't answer: {self.error}. Trainings go on; what became of them is known when it is back."]
        now = time.monotonic()
        long = [name for name, since in self._waits_since.items() if now - since > LONG_S and name in self._lines]
        if not long:
            return []
        reasons = Counter(self._lines[name].reason or "no reason given" for name in long)
        oldest = max(now - self._waits_since[name] for name in long) / 60
        text = ", ".join(f"{reason} ({n})" for reason, n in reasons.most_common(3))
        waiting = "training waits" if len(long) == 1 else "trainings wait"
        return [f"{len(long)} {waiting} in Slurm, for up to {oldest:.0f} min. Slurm's reasons: {one_line(text, 200)}."]

    async def _look(self) -> None:
        self._asked_at = began = time.monotonic()
        try:
            self._lines = await self._slurm.jobs(self._prefix)
            self.seen_at, self.error = began, ""
            waiting = {name for name, line in self._lines.items() if line.state in WAITING}
            self._waits_since = {name: self._waits_since.get(name, began) for name in waiting}
        except (SlurmAway, SlurmRefused) as error:
            self.error = str(error)
        finally:
            self._looking = None
