"""Compares an experiment with a second training of the same commit with the same seed.

A reproduction is not a replicate. It shows whether a result can be had again, and says nothing about another seed. It counts nowhere.
"""

import math
from dataclasses import dataclass
from typing import Any

from autoresearch_mcp.server.models import Experiment
from autoresearch_mcp.server.untrusted import one_line

TAG = "reproduction"
_NUMBERS = ("steps", "tokens", "used_s", "wall_s", "cpu_share", "peak_memory_mb")
_TRAINED = ("hashes.weights", "hashes.answers")
_FACTS = ("device", "device_name", "sandbox", "budget_s", "seed", "notes", "hashes", "versions")


@dataclass(frozen=True)
class Reproduction:
    """An experiment and its second training.

    Attributes:
        original: the experiment.
        again: the second training.
        noise: standard deviation between seeds under the original's conditions; None where there are too few replicates.
    """

    original: Experiment
    again: Experiment
    noise: float | None

    @property
    def difference(self) -> float | None:
        """The second metric minus the first; None where one is missing."""
        before, after = self.original.metric, self.again.metric
        return None if before is None or after is None else after - before

    @property
    def holds(self) -> bool | None:
        """Whether it came out as before; None where that can't be told.

        Two runs agree if they differ by at most 2 standard deviations of a difference between seeds, or if they failed alike.
        """
        if self.difference is None:
            kinds = [e.failure.kind if e.failure else None for e in (self.original, self.again)]
            return (self.original.state, kinds[0]) == (self.again.state, kinds[1])
        if self.difference == 0:
            return True
        return None if self.noise is None else abs(self.difference) <= 2 * math.sqrt(2) * self.noise

    def lines(self) -> list[str]:
        """Return the comparison in sentences, for a terminal."""
        before, after = self.original, self.again
        lines = [f"{before.id} {_outcome(before)}", f"{after.id} {_outcome(after)}"]
        if self.difference is not None:
            part = f", {abs(self.difference) / self.noise:.1f} of the noise between seeds ({self.noise:.4f})" if self.noise else ""
            lines.append(f"difference {self.difference:+.6f}{part}")
        weights = [e.details.get("hashes", {}).get("weights") for e in (before, after)]
        if weights[0] and weights[0] == weights[1]:
            lines.append("the trained weights are the same, bit for bit")
        lines += [f"{name} {was} -> {now}" for name, was, now in _changes(before, after, _NUMBERS)]
        differing = [f"differs: {name} {was} -> {now}" for name, was, now in _changes(before, after, _FACTS) if name not in _TRAINED]
        lines += differing or ["nothing else differs: device, versions, and hashes of code, data, tokenizer and fixed files are the same"]
        verdict = {
            True: "Reproduced.",
            False: "Not reproduced.",
            None: "It can't be judged: the lab has no two replicates of one commit under these conditions, so its noise is unknown.",
        }
        return [*lines, verdict[self.holds]]


def _outcome(e: Experiment) -> str:
    if e.metric is not None:
        return f"val_bpb {e.val_bpb:.6f}" if e.val_bpb is not None else f"reported metric {e.metric:.6f}"
    return e.state.replace("_", " ") + (f", {e.failure.kind}: {one_line(e.failure.message, 200)}" if e.failure else "")


def _changes(before: Experiment, after: Experiment, names: tuple[str, ...]) -> list[tuple[str, str, str]]:
    """Return what differs between two results, nested values one by one."""
    was, now = ({key: value for name in names for key, value in _flat(name, e.details.get(name))} for e in (before, after))
    differing = (key for key in dict.fromkeys([*was, *now]) if was.get(key) != now.get(key))
    return [(one_line(key, 80), one_line(str(was.get(key)), 200), one_line(str(now.get(key)), 200)) for key in differing]


def _flat(name: str, value: Any) -> list[tuple[str, Any]]:
    return [(f"{name}.{key}", item) for key, item in value.items()] if isinstance(value, dict) else [(name, value)]
