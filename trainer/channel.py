"""Talks with train.py over a socket: hears what the code reports, and hands the data over (fixed).

The agent's code sends what arrives here, so nothing of it decides more than the contract says.
"""

import array
import json
import os
import selectors
import socket
from pathlib import Path
from typing import Any

from autoresearch_mcp.trainer.failures import Ended, Failure
from autoresearch_mcp.trainer.meter import Meter
from autoresearch_mcp.trainer.records import Curve
from autoresearch_mcp.trainer.text import one_line

LINE_BYTES = 64 << 10
MOST_MB = 1e6  # that a model's size is believed
NOTES, NAME_CHARS, NOTE_CHARS = 8, 32, 80


class Channel:
    """One conversation with train.py.

    Attributes:
        theirs: the end that train.py gets. Close it here once it has.
        config: of the submitted model; None until it is submitted.
        weights_mb: of the model that trains, as the code says at its first step.
        notes: what the code itself says on how it ran.
        timings: seconds from spawn to each step of the contract.

    Args:
        tokens: file of the training tokens, handed over at start().
        budget_s: of the run's clock.
    """

    def __init__(self, selector: selectors.BaseSelector, meter: Meter, curve: Curve, tokens: Path, budget_s: float) -> None:
        self._selector, self._meter, self._curve, self._tokens, self._budget_s = selector, meter, curve, tokens, budget_s
        self._ours, self.theirs = socket.socketpair()
        self._ours.setblocking(False)
        self._inbox = b""
        self.config: dict[str, Any] | None = None
        self.weights_mb: float | None = None
        self.notes = dict[str, str]()
        self.timings = dict[str, float]()
        selector.register(self._ours, selectors.EVENT_READ, self.receive)

    def receive(self) -> bool:
        """Handle the messages that arrived.

        Returns:
            Whether there was anything.

        Raises:
            Ended: the code sent nonsense without end, or is over a limit as it submits.
        """
        if self._ours not in self._selector.get_map():
            return False
        try:
            data = self._ours.recv(LINE_BYTES)
        except BlockingIOError:
            return False
        except ConnectionError:
            data = b""
        if not data:
            self._selector.unregister(self._ours)
            return False
        *lines, self._inbox = (self._inbox + data).split(b"\n")
        if len(self._inbox) > LINE_BYTES:
            raise Ended("crashed", Failure("error", f"train.py sent the launcher a message of more than {LINE_BYTES} bytes."))
        for line in lines:
            try:
                message = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(message, dict):
                self._handle(message)
        return True

    def _handle(self, message: dict[str, Any]) -> None:
        operation, since_spawn = message.get("op"), self._meter.since_spawn_s
        if operation == "connect":
            self.timings.setdefault("spawn_s", since_spawn)
        elif operation == "start" and self._meter.started_at is None:
            self.timings["startup_s"] = since_spawn
            self._start()
        elif operation == "log" and self._meter.started_at is not None:
            self.timings.setdefault("first_step_s", since_spawn)
            self._curve.add(message, self._budget_s)
        elif operation == "weights":
            size = message.get("mb")
            self.weights_mb = round(float(size), 1) if isinstance(size, int | float) and 0 <= size < MOST_MB else None
        elif operation == "note":
            texts = {name: value for name, value in message.items() if name != "op" and isinstance(value, str)}
            self.notes |= {one_line(name, NAME_CHARS): one_line(value, NOTE_CHARS) for name, value in texts.items()}
            self.notes = dict(list(self.notes.items())[:NOTES])
        elif operation == "submit" and self._meter.started_at is not None and self.config is None:
            self._meter.look()
            self._meter.enforce_budget()
            self.timings["train_s"] = self._meter.wall_s
            config = message.get("config")
            self.config = _strict(config) if isinstance(config, dict) else {}

    def _start(self) -> None:
        """Hand the training tokens over as a descriptor; the budget runs from here."""
        data = os.open(self._tokens, os.O_RDONLY | os.O_CLOEXEC)
        self.timings["startup_cpu_s"] = self._meter.start_budget()
        self._ours.sendmsg([b"S"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [data]))])
        os.close(data)


def _strict(config: dict[str, Any]) -> dict[str, Any]:
    """Return a submitted config that every reader of JSON understands.

    Raises:
        Ended: it holds NaN or an infinite number, or is too deep.
    """
    try:
        json.dumps(config, allow_nan=False)
    except (ValueError, RecursionError):
        message = "the submitted config must be plain JSON: no NaN, no infinite numbers, not too deep."
        raise Ended("crashed", Failure("invalid_model", message)) from None
    return config
