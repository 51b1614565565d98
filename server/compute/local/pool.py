"""Which GPU of this machine a training gets: one of one kind, that nobody else uses, and that still answers."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from autoresearch_mcp.server.compute.local.nvml import Gpu, GpuLost, GpuState


class Driver(Protocol):
    """Tells of GPUs; see `Nvml`."""

    def find(self) -> list[Gpu]:
        """Return the devices."""
        ...

    def state(self, gpu: Gpu) -> GpuState:
        """Return how a device is.

        Raises:
            GpuLost: It doesn't answer any more.
        """
        ...


@dataclass(frozen=True)
class Limits:
    """When a GPU that no training of ours holds counts as somebody else's.

    Attributes:
        memory_mb: Megabytes of its memory in use; more is somebody's.
        busy_percent: Its use; more is somebody's.
    """

    memory_mb: float = 1000.0
    busy_percent: float = 20.0


class Pool:
    """Hands devices to jobs, and remembers who holds which. Every method that asks the driver may block for a moment.

    Args:
        driver: Tells of the GPUs.
        chosen: UUIDs, or indices in the driver's order, that may be used; None for all.
        per_device: How many jobs may share a device.
        limits: When a free GPU is somebody else's.
    """

    def __init__(self, driver: Driver, chosen: Sequence[str] | None, per_device: int, limits: Limits) -> None:
        self._driver, self._per_device, self._limits = driver, per_device, limits
        every = driver.find()
        own = every if chosen is None else [gpu for index, gpu in enumerate(every) if str(index) in chosen or _named(gpu, chosen)]
        self.kind = Counter(gpu.name for gpu in own).most_common(1)[0][0] if own else ""
        self.gpus = [gpu for gpu in own if gpu.name == self.kind]
        self._others = sorted({gpu.name for gpu in own} - {self.kind})
        self._holders: dict[str, set[str]] = {gpu.uuid: set() for gpu in self.gpus}
        self._resting: set[str] = set()  # devices that don't answer
        self._taken: set[str] = set()  # devices that somebody else uses

    def take(self, holder: str) -> tuple[Gpu, GpuState] | None:
        """Give a job the device with the fewest holders; None where each is held, used by somebody else, or lost.

        Args:
            holder: Names the job.
        """
        for gpu in sorted(self.gpus, key=lambda gpu: len(self._holders[gpu.uuid])):
            holders = self._holders[gpu.uuid]
            if len(holders) >= self._per_device:
                continue
            try:
                state = self._driver.state(gpu)
            except GpuLost:
                self._resting.add(gpu.uuid)
                continue
            self._resting.discard(gpu.uuid)
            if not holders and self._is_used(state):
                self._taken.add(gpu.uuid)
                continue
            self._taken.discard(gpu.uuid)
            holders.add(holder)
            return gpu, state
        return None

    def keep(self, holder: str, uuid: str) -> None:
        """Note that a job of an earlier runner holds a device."""
        self._holders.setdefault(uuid, set()).add(holder)

    def release(self, holder: str) -> None:
        """Take a job's device back."""
        for holders in self._holders.values():
            holders.discard(holder)

    def look(self, uuid: str) -> GpuState | None:
        """Return how a device is; None where it doesn't answer any more, after which it rests until it does."""
        gpu = next((gpu for gpu in self.gpus if gpu.uuid == uuid), Gpu(uuid, "", uuid))
        try:
            state = self._driver.state(gpu)
        except GpuLost:
            self._resting.add(uuid)
            return None
        self._resting.discard(uuid)
        return state

    def troubles(self) -> list[str]:
        """Return what the lab's owner should know: which GPUs are left alone, and why."""
        reasons = [
            (self._resting, "{} of {} GPUs don't answer any more and rest: {}. What ran there is trained again."),
            (self._taken - self._resting, "{} of {} GPUs are used by somebody else and left alone: {}."),
        ]
        texts = [text.format(len(uuids), len(self.gpus), ", ".join(sorted(uuids)[:4])) for uuids, text in reasons if uuids]
        if self._others:
            texts.append(f"Only the {self.kind} are used. Results of other kinds can't be compared: {', '.join(self._others)}.")
        return texts

    def _is_used(self, state: GpuState) -> bool:
        return (state.memory_mb or 0) > self._limits.memory_mb or (state.busy_percent or 0) > self._limits.busy_percent


def _named(gpu: Gpu, chosen: Sequence[str]) -> bool:
    return any(len(name) > 4 and gpu.uuid.startswith(name) for name in chosen) or gpu.parent in chosen
