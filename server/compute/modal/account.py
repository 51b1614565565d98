"""How long a job's sandbox held its device, which is what an attempt is billed at first.

This never waits for the service. The container says on stdout, and writes on the volume, which sandbox it is in and when it began
and ended. A container that left no end is billed up to now, or to its time limit. One that never began but got a place is billed
from then on.
"""

import time
from typing import Any

from autoresearch_mcp.server.compute.modal.context import BOOT_S

_KNOWN = {"sandbox": str, "begun": float, "ended": float}


class SandboxAccount:
    """What is known of one sandbox's time: by its own clock where it spoke, else by this machine's.

    Args:
        limit_s: The sandbox's time limit, in seconds.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._own: dict[str, Any] = {}
        self._placed_at = self._over_at = 0.0

    @property
    def sandbox(self) -> str | None:
        """The sandbox's id, as its container named it, or None."""
        return self._own.get("sandbox")

    @property
    def started(self) -> bool:
        """Whether the container ever spoke."""
        return bool(self._own)

    @property
    def ended(self) -> bool:
        """Whether the container noted its end."""
        return "ended" in self._own

    def learn(self, message: dict[str, Any]) -> None:
        """Take over what a message of the container says of its sandbox and its times."""
        self._own.update({key: message[key] for key, kind in _KNOWN.items() if isinstance(message.get(key), kind)})

    def place(self, at: float) -> None:
        """Note when the sandbox got its place. Only the first call counts."""
        self._placed_at = self._placed_at or at

    def close(self) -> None:
        """Note that the sandbox is over. Only the first call counts."""
        self._over_at = self._over_at or time.time()

    def device_s(self) -> float:
        """Return the seconds that the sandbox ran, boot included; the most that it can be where that isn't known."""
        over = self._over_at or time.time()
        held_s = over - self._placed_at if self._placed_at else 0.0
        if "begun" in self._own:
            own_s = BOOT_S + max(0.0, self._own.get("ended", over) - self._own["begun"])
            held_s = own_s if "ended" in self._own else max(held_s, own_s)
        return min(held_s, BOOT_S + self._limit_s)
