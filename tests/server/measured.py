"""A lab whose measurements are written into its ledger by the test, as the runner would."""

import contextlib
import itertools
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.ledger import Ledger
from autoresearch_mcp.server.models import Experiment, new_id
from autoresearch_mcp.server.paths import LabPaths
from autoresearch_mcp.server.runner.lock import runner_lock


class MeasuredLab:
    """A lab whose measurements are written into its ledger, as the runner would."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._clock = itertools.count(2.0)
        self._seeds = itertools.count(1)
        self.lab = Lab(root)
        self.ledger = Ledger(LabPaths(root).ledger)

    def close(self) -> None:
        self.lab.close()
        self.ledger.close()

    def propose(self, old: str, new: str, base: str | None = None) -> str:
        return self.lab.propose_patch(
            f"{old} to {new}", "ada", edits=[{"path": "train.py", "search": old, "replace": new}], base=base
        ).commit

    def measure(
        self,
        commit: str,
        values: list[float | None],
        conditions: str = "k",
        hidden: float = 0.0,
        sandbox: str = "landlock-7",
        device: str = "cpu",
        weights: str | None = None,
        scored: bool = True,
        reported: bool = False,
        reproduces: str = "",
        by_lab: bool | None = None,
        metrics: Sequence[dict[str, float]] = (),
        data: str = "",
    ) -> list[str]:
        """Record a replicate each, and return their ids.

        Args:
            commit: what was trained.
            values: a metric each, or None for a crash.
            conditions: of all of them.
            hidden: by how much they are worse on the hidden split.
            sandbox: what they were trained in.
            device: what they were trained on.
            weights: the hash of what all of them submitted; by default each has its own.
            scored: whether they have a score on the hidden split.
            reported: whether the code only printed the metric.
            reproduces: the experiment that they train again.
            by_lab: whether the lab launched them; by default what is trained of the champion.
            metrics: further numbers of each.
            data: the hash of the text that they were measured on.
        """
        by_lab = commit == self.lab.status().champion.commit if by_lab is None else by_lab
        ids = []
        for value, further in itertools.zip_longest(values, metrics):
            e = Experiment(
                id=new_id("e"),
                commit=commit,
                base=commit,
                author="ada",
                hypothesis="h",
                seed=next(self._seeds),
                device=device,
                created_at=time.time(),
                reserved_s=1.0,
                reproduces=reproduces,
                by_lab=by_lab and not reproduces,
            )
            ids.append(e.id)
            self.ledger.enqueue([e], 1e9, None, "r")
            self.ledger.move(e.id, ["queued"], state="starting", started_at=time.time())
            if value is not None:
                test_bpb = value + hidden if scored and not reported else None
                self.ledger.keep_evidence(e.id, sandbox, test_bpb, None if reported else weights or e.id)
            metric = "reported_bpb" if reported else "val_bpb"
            changes: dict[str, Any] = {"metrics": further or {}, "details": {"hashes": {"tokenizer": "t", "data": data}} if data else {}}
            changes |= {"state": "finished", metric: value} if value is not None else {"state": "crashed"}
            self.ledger.move(e.id, ["starting"], finished_at=next(self._clock), conditions=conditions, **changes)
        return ids

    def git(self, *args: str) -> str:
        return subprocess.run(["git", "-C", str(self.root), *args], capture_output=True, text=True, check=True).stdout.strip()


@contextlib.contextmanager
def without_runner(root: Path) -> Iterator[MeasuredLab]:
    """Open a lab that nobody runs: the test holds the runner's lock, and plays the runner."""
    lab = MeasuredLab(root)
    with runner_lock(root / ".autoresearch") as mine:
        assert mine
        yield lab
    lab.close()


def refusal(call: Callable[[], object]) -> LabError:
    """Return what a call is refused with."""
    with pytest.raises(LabError) as error:
        call()
    return error.value


def deeper(lab: Lab, depth: int = 3, **more: object) -> str:
    """Propose another number of layers. Returns the commit."""
    edits = [{"path": "train.py", "search": "DEPTH = 2", "replace": f"DEPTH = {depth}"}]
    return lab.propose_patch(f"depth {depth}", "ada", edits=edits, **more).commit  # type: ignore[arg-type]
