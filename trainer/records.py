"""Records a run as it goes: the capped log of what it printed, and the loss curve of what it reported (fixed)."""

import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from autoresearch_mcp.trainer.metrics import NamedMetric, OutputReader, Reading

LOG_BYTES, TAIL_BYTES, CURVE_BYTES = 5 << 20, 64 << 10, 5 << 20
MEASURED_BYTES = 96 << 10  # of the log where the metric is measured: a log can carry weights out, for the next source
METRIC = "val_bpb"  # as the original prints it
POINTS = 60
_ABSURD = 1e9  # a loss beyond this is left out of the digest, whose sums must stay finite


class Log:
    """The output of the run. Its beginning goes into the file at once; of an output that outgrows the cap, the end does too.

    Args:
        path: of the file.
        metric: the name of what a script without the contract prints; empty where the run is measured.
        unit: of that metric.
        pattern: how it is found, instead of by its name.
        others: names of further metrics to follow.
    """

    def __init__(self, path: Path, metric: str = "", unit: str = "", pattern: str = "", others: Iterable[str] = ()) -> None:
        self._reader = OutputReader(NamedMetric(metric or METRIC, unit, pattern), {name: NamedMetric(name) for name in others})
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)
        self._file = path.open("wb", buffering=0)
        self._limit = LOG_BYTES if metric else MEASURED_BYTES
        self._written = self._lost = 0
        self._muted = False
        self._tail = bytearray()

    def pump(self) -> bool:
        """Move what was printed from the pipe to the file.

        Returns:
            False when there is nothing more for now.
        """
        try:
            data = os.read(self.reader, TAIL_BYTES)
        except BlockingIOError:
            return False
        if self._muted:
            return bool(data)
        self._reader.feed(data)
        self._tail = (self._tail + data)[-TAIL_BYTES:]
        kept = data[: max(0, self._limit - TAIL_BYTES - self._written)]
        self._written += self._file.write(kept) or 0
        self._lost += len(data) - len(kept)
        return bool(data)

    @property
    def tail(self) -> str:
        """The end of the output."""
        return self._tail.decode("utf-8", "replace")

    def reset_tail(self) -> None:
        """Let `tail` show only what is printed from now on."""
        self._tail.clear()

    def mute(self) -> None:
        """Drop what is printed from now on. Keeps what the pipe holds, and doesn't wait for code that goes on printing."""
        self.pump()
        self._muted = True

    def reported(self) -> Reading | None:
        """Return what the output says of the metric so far, its last line included; None where no line names it."""
        self._reader.end()
        return self._reader.metric.last

    def reported_bpb(self) -> float | None:
        """Return the metric that the code claims, where it is a finite number."""
        reading = self.reported()
        return reading.value if reading else None

    def scalars(self) -> dict[str, float]:
        """Return the further numbers that the code printed."""
        return self._reader.all_scalars()

    def close(self) -> None:
        """Write the rest, and close the file."""
        while self.pump():
            pass
        if self._lost:
            end = self._tail[-min(self._lost, TAIL_BYTES) :]
            self._file.write(f"\n[{self._lost - len(end)} bytes left out: the log is capped]\n".encode() + end)
        self._file.close()
        os.close(self.reader)


class Curve:
    """The reports of the run: `curve.jsonl`, and a digest of means over equal shares of the budget.

    Attributes:
        losses: the first and the last.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8", buffering=1)
        self._sums: dict[int, tuple[float, float, int]] = {}
        self._written = 0
        self.losses: list[float] = []
        self.steps = self.tokens = 0

    def add(self, message: dict[str, Any], budget_s: float) -> None:
        """Record a report. It comes from the agent's code: what isn't a number is dropped, and `share` is its own claim."""
        values = {name[:32]: value for name, value in list(message.items())[:20] if isinstance(value, float)}
        share = min(max(0.0, values.pop("share", 0.0)), 1.0)  # in this order NaN is 0
        self.steps, self.tokens = _count(values.get("step"), self.steps), _count(values.get("tokens"), self.tokens)
        loss = values.get("loss")
        if loss is not None:
            self.losses = [*self.losses[:1], loss]
            if abs(loss) < _ABSURD:
                bucket = min(int(share * POINTS), POINTS - 1)
                shares, losses, count = self._sums.get(bucket, (0.0, 0.0, 0))
                self._sums[bucket] = shares + share, losses + loss, count + 1
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        line = json.dumps({"t": round(share * budget_s, 3), "share": round(share, 5), **finite})
        if self._written + len(line) < CURVE_BYTES:
            self._written += self._file.write(line + "\n")

    @property
    def loss(self) -> float | None:
        """The last loss, where it is a number."""
        return self.losses[-1] if self.losses and math.isfinite(self.losses[-1]) else None

    def digest(self) -> list[list[float]]:
        """Return at most `POINTS` pairs of (share of the budget, loss)."""
        return [[round(shares / count, 4), round(losses / count, 4)] for _, (shares, losses, count) in sorted(self._sums.items())]

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _count(value: float | None, otherwise: int) -> int:
    return int(value) if value is not None and 0 <= value < 1e18 else otherwise
