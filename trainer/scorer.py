"""Forks the scorer of a submitted model, and hears from it how far it is and what it measured (fixed).

The scorer is a child that is thrown away: the only process that ever reads validation text.
"""

import json
import os
import selectors
import socket
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn, get_args

from autoresearch_mcp.trainer import sandbox, score
from autoresearch_mcp.trainer.failures import Failure, read_traceback
from autoresearch_mcp.trainer.meter import Meter
from autoresearch_mcp.trainer.model_server import ScoreError
from autoresearch_mcp.trainer.prepare import Profile
from autoresearch_mcp.trainer.records import Log
from autoresearch_mcp.trainer.sandbox import processes
from autoresearch_mcp.trainer.submission import Submission

ACKNOWLEDGED = b"!"  # what the scorer waits for when it has told a stage


class Scorer:
    """One scoring in a child process.

    Attributes:
        outcome: the fields of `score.Scores`, or `kind`, `message` and `finding` of a failure. Empty if the scorer died; None while it
            works.
        is_waiting: whether it has all but the agent's code, and waits for `go_on`.

    Args:
        log: of the run. It is muted as soon as a model server may know evaluation text.
        meter: it watches how long a model server builds.
    """

    def __init__(self, selector: selectors.BaseSelector, log: Log, meter: Meter) -> None:
        self._log, self._meter = log, meter
        self.is_waiting = False
        self._ours, self._theirs = socket.socketpair()
        self._received = bytearray()
        self.outcome: dict[str, Any] | None = None
        selector.register(self._ours, selectors.EVENT_READ, self._listen)

    def start(self, submission: Submission, data: Path, profile: Profile, jail: sandbox.Jail) -> None:
        """Fork the child that scores. The arguments are those of `score.score`."""
        parent = os.getpid()
        if os.fork() == 0:
            self._score_and_exit(submission, data, profile, jail, parent)
        self._theirs.close()

    def go_on(self) -> None:
        """Let the model servers run the agent's code."""
        self.is_waiting = False
        self._ours.sendall(ACKNOWLEDGED)

    def _listen(self) -> None:
        self._received.extend(self._ours.recv(4096) or b"\n")
        stage = self._received.decode("ascii", "replace")
        if stage in get_args(score.Stage):
            self._received.clear()
            if stage == "loaded":
                self.is_waiting = True
                return
            if stage == "rehearsed":
                self._log.mute()
            else:
                self._meter.note_building(stage == "building")
            self._ours.sendall(ACKNOWLEDGED)
        elif stage.endswith("\n") and self.outcome is None:
            self.outcome = json.loads(stage) if stage.strip() else {}

    def _score_and_exit(self, submission: Submission, data: Path, profile: Profile, jail: sandbox.Jail, parent: int) -> NoReturn:
        def tell(stage: score.Stage) -> None:
            self._theirs.sendall(stage.encode())
            self._theirs.recv(len(ACKNOWLEDGED))

        outcome: dict[str, Any] = {}
        try:
            processes.die_with(parent)
            outcome = asdict(score.score(submission, data, profile, jail, tell))
        except ScoreError as error:
            outcome = {"kind": error.kind, "message": str(error), "finding": error.finding}
        except BaseException as error:
            outcome = {"kind": "error", "message": f"the scorer failed: {error!r}"}
        finally:
            self._theirs.sendall(json.dumps(outcome).encode() + b"\n")
            os._exit(0)


def explain(outcome: dict[str, Any], log: Log, code: Path) -> Failure:
    """Say why a scorer gave no number, with what the model's own code printed."""
    if not outcome:
        return Failure("invalid_model", "the scorer died while the model was answering.", fault="scorer")
    while log.pump():
        pass
    cause, message, lines = read_traceback(log.tail, code)
    reason = f" {cause}: {message}" if cause else ""
    fault = "scorer" if outcome["kind"] == "error" else "code"
    return Failure(outcome["kind"], outcome["message"] + reason, lines, fault, bool(outcome.get("finding")))
