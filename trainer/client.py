"""Connects train.py with the launcher: `connect()`, then `start()`, `progress()`, `log()`, `note()` and `submit()` on the run.

The contract: build and warm up what you like after `connect()`. There is no data before `start()`, and the budget
runs from there to `submit()`. `submit()` ends the process: nothing after it runs, and nothing printed decides anything.
This module runs inside the sandbox, so nobody trusts what it says: the launcher keeps its own clock.
"""

import array
import contextlib
import json
import mmap
import os
import resource
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    import numpy as np
    import torch

CHANNEL = "AUTORESEARCH_CHANNEL"  # file descriptor of the socket to the launcher
CONFIG = "AUTORESEARCH_CONFIG"  # JSON, see Run.config
WEIGHTS = "model.safetensors"  # in the scratch directory


class Run:
    """One training under a budget.

    Attributes:
        config: `vocab_size`, `seq_len` (tokens a row, as scored), `seed`, `threads`, `device` (a torch device type),
            `clock` (`cpu` or `wall`), `budget_s` (seconds of that clock), `free_cpu_s` (before `start()`; more of them count, on the
            `cpu` clock), `profile` (its name) and `attention` (as in lab.toml).
    """

    def __init__(self, channel: socket.socket, config: dict[str, Any]) -> None:
        self.config = config
        self._channel = channel
        self._started_at = 0.0
        self._measured = False  # whether the size of the model was told
        self._send(op="connect")

    def start(self) -> "np.ndarray[tuple[int], np.dtype[np.uint16]]":
        """Start the budget's clock and return the training tokens: one read-only stream, each document opened by BOS.

        Fifteen in sixteen of the documents, in an order of the lab's seed: each replicate trains on another share.
        """
        import numpy as np

        self._send(op="start")
        _, ancillary, _, _ = self._channel.recvmsg(1, socket.CMSG_SPACE(array.array("i", [0]).itemsize))
        (data,) = array.array("i", ancillary[0][2])
        self._started_at = self._clock() if self.config["clock"] == "wall" else min(self._clock(), self.config["free_cpu_s"])
        tokens = np.frombuffer(mmap.mmap(data, 0, access=mmap.ACCESS_READ), dtype=np.uint16)
        os.close(data)
        return tokens

    def progress(self) -> float:
        """Return the share of the budget that is used. 1.0 is the end; a little later the launcher kills the run."""
        return float((self._clock() - self._started_at) / self.config["budget_s"])

    def log(self, **values: float) -> None:
        """Report `step`, `loss` (nats a token), `tokens` (seen so far) and any other number: the run's loss curve."""
        if not self._measured:
            self._measured = True
            with contextlib.suppress(Exception):  # it is a hint, which must end no training
                self._send(op="weights", mb=_largest_model(sys._getframe(1)) / 2**20)
        self._send(op="log", share=self.progress(), **{name: float(value) for name, value in values.items()})

    def note(self, **facts: str) -> None:
        """Say how this run was done, such as `attention="sdpa"`. Its result keeps it, as what the code says of itself."""
        self._send(op="note", **facts)

    def submit(self, weights: "Mapping[str, torch.Tensor]", config: Mapping[str, Any]) -> NoReturn:
        """Hand in the model that `build_model(config)` and `load_state_dict(weights)` rebuild. Ends the process.

        Args:
            weights: the state dict, tensors only.
            config: what `build_model` needs, as JSON values.
        """
        from safetensors.torch import save_file

        # A copy each: safetensors refuses tensors that share memory, such as tied embeddings.
        save_file({name: value.detach().to("cpu", copy=True).contiguous() for name, value in weights.items()}, WEIGHTS)
        self._send(op="submit", config=dict(config))
        while self._channel.recv(1):
            pass
        raise SystemExit(0)

    def _send(self, **message: Any) -> None:
        self._channel.sendall(json.dumps(message).encode() + b"\n")

    def _clock(self) -> float:
        if self.config["clock"] == "wall":
            return time.monotonic()
        helpers = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.process_time() + helpers.ru_utime + helpers.ru_stime


def _largest_model(frame: FrameType) -> int:
    """Return the bytes of the largest model that the code at work has at hand, as `submit` would store it; 0 where none is in sight."""
    torch = sys.modules.get("torch")
    if torch is None:
        return 0
    models = {id(each): each for each in _at_hand(frame) if isinstance(each, torch.nn.Module)}
    return max((sum(tensor.nbytes for tensor in model.state_dict().values()) for model in models.values()), default=0)


def _at_hand(frame: FrameType | None) -> Iterator[object]:
    """Yield what a frame, and those that called it, have by name, and what hangs directly on that."""
    while frame is not None:
        for value in [*frame.f_locals.values()]:
            yield value
            if not isinstance(value, type | ModuleType):
                yield from [*getattr(value, "__dict__", {}).values()]
        frame = frame.f_back


def profile() -> str:
    """Name the profile that is trained, on import already: use it to choose constants. It is "" where nothing trains, as in scoring."""
    return str(json.loads(os.environ.get(CONFIG, "{}")).get("profile", ""))


def connect() -> Run:
    """Return the run that this process was started for.

    Raises:
        RuntimeError: no launcher started it. Training goes through the lab, which owns data, clock and metric.
    """
    if CHANNEL not in os.environ:
        raise RuntimeError(
            "train.py has no data and no clock of its own: train it with `python -m autoresearch_mcp.trainer.launch RUNDIR`, or through the lab."
        )
    Path(WEIGHTS).unlink(missing_ok=True)
    return Run(socket.socket(fileno=int(os.environ[CHANNEL])), json.loads(os.environ[CONFIG]))
