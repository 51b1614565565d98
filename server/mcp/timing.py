"""How often each tool is called, what comes of it, and how long it takes: counted in this process, for `/metrics`."""

import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext

BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)  # of the histogram; a wait takes up to 45 s
OTHER = "other"  # a name that no tool has

Sample = tuple[Mapping[str, str], float]


class CallTimes:
    """A middleware of the SDK's server that times calls. It works in the event loop's thread, as whoever reads it must.

    Args:
        tools: the names of the tools.
    """

    def __init__(self, tools: Sequence[str]) -> None:
        self._tools = {*tools}
        self._calls: Counter[tuple[str, str]] = Counter()  # by tool and outcome
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._within: defaultdict[str, list[int]] = defaultdict(lambda: [0] * (len(BOUNDS_S) + 1))

    async def __call__(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """Pass a request on, and note how long it took if it is a call of a tool."""
        if ctx.method != "tools/call":
            return await call_next(ctx)
        began, outcome = time.perf_counter(), "error"
        try:
            result = await call_next(ctx)
            outcome = "error" if isinstance(result, dict) and result.get("isError") else "ok"
            return result
        finally:
            name = (ctx.params or {}).get("name")
            self._add(name if isinstance(name, str) and name in self._tools else OTHER, outcome, time.perf_counter() - began)

    def _add(self, tool: str, outcome: str, seconds: float) -> None:
        self._calls[tool, outcome] += 1
        self._seconds[tool] += seconds
        self._within[tool][next((n for n, bound in enumerate(BOUNDS_S) if seconds <= bound), len(BOUNDS_S))] += 1

    def counts(self) -> list[Sample]:
        """Return how many calls there were, by tool and outcome."""
        return [({"tool": tool, "outcome": outcome}, float(count)) for (tool, outcome), count in sorted(self._calls.items())]

    def histogram(self) -> Iterator[tuple[str, Sample]]:
        """Yield the samples of a histogram in Prometheus' way, each with the end of its name."""
        for tool, within in sorted(self._within.items()):
            total = 0
            for bound, count in zip([*(f"{each:g}" for each in BOUNDS_S), "+Inf"], within, strict=True):
                total += count
                yield "_bucket", ({"tool": tool, "le": bound}, float(total))
            yield "_sum", ({"tool": tool}, self._seconds[tool])
            yield "_count", ({"tool": tool}, float(total))
