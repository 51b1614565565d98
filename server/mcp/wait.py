"""`wait_for_experiments`: the one tool that waits."""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Annotated, Literal

import anyio
from mcp.shared.jsonrpc_dispatcher import progress_token_from_params
from pydantic import Field

from autoresearch_mcp.server import answers as a
from autoresearch_mcp.server.lab.awaited import Awaited
from autoresearch_mcp.server.mcp.arguments import ExperimentName
from autoresearch_mcp.server.mcp.bridge import Bridge, Ctx
from autoresearch_mcp.server.mcp.brief import brief_wait
from autoresearch_mcp.server.mcp.callers import CALLERS
from autoresearch_mcp.server.models import TERMINAL_STATES, Candidacy

REFRESH_S = 1.0  # between readings of progress, which changes without the ledger, and between progress notifications
REST_S = 5.0  # likewise where nobody asked for progress or for a line of a log
MOST_S = 45  # of one call: clients cut calls at about a minute
MOST_IDS = 50

Until = Literal["all", "any", "started"]
_NOTHING = "Nothing is open that {} launched, so no training is waited for. If yours are under another name, pass their ids."


def waiting(bridge: Bridge) -> Callable[..., Awaitable[a.WaitAnswer]]:
    """Return the tool, bound to a lab."""
    told = OrderedDict[str, set[str]]()  # by caller: what its last wait without ids said had ended; the next one waits for news

    async def wait_for_experiments(
        context: Ctx,
        ids: Annotated[list[ExperimentName] | None, Field(max_length=MOST_IDS, description="or commits; default: your open ones")] = None,
        timeout_s: Annotated[int, Field(ge=1, description=f"1 to {MOST_S}")] = 30,
        until: Until = "all",
        line: Annotated[str | None, Field(max_length=200, description="or until a log line holds this")] = None,
    ) -> a.WaitAnswer:
        """Wait up to timeout_s until experiments end. Without ids, news ends it too.

        Returns states with val_bpb or failure. Not done: call again.
        """
        started = anyio.current_time()
        allowed_s = min(timeout_s, MOST_S)
        caller = bridge.reader(context.request_context)
        waited_for = await named(bridge, ids) if ids else (await bridge.call(bridge.lab.open_of, caller))[:MOST_IDS]
        if not ids and told.get(caller, set()).issuperset(waited_for):
            waited_for = []
        watch = Watch(bridge, waited_for, until, line or "", None if ids else caller)
        asked = context.request_context
        is_told = asked.request is None or progress_token_from_params(asked.params) is not None  # over HTTP most clients don't listen
        report = (lambda waited: context.report_progress(waited, allowed_s, watch.summary())) if is_told else None
        await watch.until_done(started + allowed_s, report)
        if waited_for and not ids:
            told[caller] = {line.id for line in watch.lines if line.state in TERMINAL_STATES}
            told.move_to_end(caller)
            if len(told) > CALLERS:
                told.popitem(last=False)
        return await watch.answer(f" A call waits {MOST_S} s at most, not {timeout_s}." if timeout_s > MOST_S else "")

    return wait_for_experiments


async def named(bridge: Bridge, names: Sequence[str]) -> list[str]:
    """Return the ids to wait for, each once; a commit stands for all of it that is open.

    Raises:
        LabError: those of a look-up.
    """
    found = [[name] if name.startswith(("e-", "c-", "s-")) else await bridge.call(bridge.lab.open_named, name) for name in names]
    return list(dict.fromkeys(id for each in found for id in each))


class Watch:
    """What one call saw of its experiments so far.

    Args:
        bridge: to the lab.
        ids: of experiments and launches until decided.
        until: all or any of them have ended, or all have started.
        line: what a line of a log holds that ends the wait too; empty for none.
        listener: whom the wait is for, where whatever concerns it ends the wait too.
    """

    def __init__(self, bridge: Bridge, ids: list[str], until: Until, line: str = "", listener: str | None = None) -> None:
        self.bridge = bridge
        self.ids = ids
        self.until = until
        self.lines: list[a.ExperimentLine] = []
        self.candidacies: list[Candidacy] = []  # launches until decided, among what is waited for
        self.sweeps: list[a.SweepLine] = []  # likewise
        self.changed: list[str] = []
        self.counter: int | None = None
        self.watched: dict[str, str] | None = None
        self._words = line
        self._read: dict[str, int] = {}  # of each log, in bytes
        self._printed = ""  # the line that was waited for
        self._listener = listener
        self._first: Awaited | None = None  # what concerned the listener when the wait began
        self._concerns: list[str] = []  # what came up since

    @property
    def open(self) -> list[a.ExperimentLine]:
        """Those that have not ended."""
        return [line for line in self.lines if line.state not in TERMINAL_STATES]

    @property
    def done(self) -> bool:
        """Whether the call can answer. A launch until decided ends with the decision, a sweep with its last trial."""
        if not self.ids:
            return False
        undecided = self._undecided()
        if self._printed or not (self.open or undecided):
            return True
        if self.until == "started":
            return all(line.state != "queued" for line in self.lines)
        if self.until == "all":
            return False
        own = [line for line in self.lines if line.id in self.ids]
        return len(undecided) < len(self.candidacies) + len(self.sweeps) or any(line.state in TERMINAL_STATES for line in own)

    async def until_done(self, until: float, report: Callable[[float], Awaitable[None]] | None = None) -> None:
        """Wait until the call can answer, something else concerns the listener, or a time is reached.

        Args:
            until: of the event loop's clock.
            report: told at each look for how long this has waited.
        """
        started, refresh_s = anyio.current_time(), REFRESH_S if report is not None or self._words else REST_S
        await self.refresh()
        while not (self.done or self._concerns) and anyio.current_time() < until:
            if report is not None:
                await report(anyio.current_time() - started)
            await self.bridge.lookout.moved(self, min(until, anyio.current_time() + refresh_s))
            await self.refresh()

    async def refresh(self) -> None:
        """Read the states, and keep what changed."""
        before = {line.id: line.state for line in self.lines}
        await self.bridge.call(self._read_states)
        news = [line for line in self.lines if before.get(line.id, line.state) != line.state]
        self.changed += [f"{line.id}: {before[line.id]} -> {line.state}" for line in news]
        for each in self.lines if self._words and not self._printed else ():
            if each.state != "queued":
                self._printed, self._read[each.id] = await self.bridge.call(
                    self.bridge.lab.printed, each.id, self._words, self._read.get(each.id, 0)
                )
            if self._printed:
                break

    def _read_states(self) -> None:
        lab = self.bridge.lab
        # The counter is read before the states: a change in between is seen again, never missed.
        self.counter = lab.changes()
        self.candidacies = lab.candidacies([id for id in self.ids if id.startswith("c-")])
        self.sweeps = lab.sweeps([id for id in self.ids if id.startswith("s-")])
        self.lines = lab.states(self.ids)
        if self._listener is not None:
            now = lab.awaited(self._listener)
            self._first = self._first or replace(now, news=False)
            self._concerns = now.since(self._first)
        is_about_more = self._listener is not None or self.candidacies or self.sweeps
        self.watched = None if is_about_more else {line.id: line.state for line in self.lines}

    def _undecided(self) -> list[str]:
        """Return the launches until decided and the sweeps that go on."""
        launches = [each.id for each in self.candidacies if each.state == "open"]
        return [*launches, *(each.id for each in self.sweeps if each.state == "open")]

    async def answer(self, more: str = "") -> a.WaitAnswer:
        """Return the tool's answer, with more in its note."""
        lines = [brief_wait(each) for each in await self.bridge.glance(self.bridge.lab.marked, self.lines)]
        return a.WaitAnswer(done=self.done, experiments=lines, changed=self.changed, note=f"{self.note()}{more}")

    def summary(self) -> str:
        """Such as `2 of 4 ended; e-1a2b running 63%`."""
        swept = [f"sweep {each.id}: {each.ended} of {each.ended + each.running + each.left} trials ended" for each in self.sweeps]
        ended = f"{len(self.lines) - len(self.open)} of {len(self.lines)} ended"
        active = [line for line in self.open if line.state != "queued"][:3]
        return "; ".join([ended, *swept, *map(_progress, active)])

    def note(self) -> str:
        """Return what to do next."""
        concerns = "".join(f"{each} " for each in self._concerns)
        if not self.ids:
            nothing = "" if concerns else " Nothing else that concerns it happened."
            return f"{concerns}{_NOTHING.format(self._listener)}{nothing}"
        decisions = "".join(f"{each.id} ({each.commit[:12]}) {_decision(each)} " for each in self.candidacies)
        decisions += "".join(f"{_swept(each)} " for each in self.sweeps if each.state != "open")
        undecided = self._undecided()
        if not self.open and not undecided:
            return f"{concerns}{decisions}All have ended. Write down what you learned with write_memory."
        left = [line.done_in_s for line in self.open if line.done_in_s is not None]
        ready = f" What is queued of them has ended in about {max(left)} s." if left else ""
        rest = ", ".join([*undecided, *(line.id for line in self.open)])
        again = f"Still open: {rest}. Call again with these ids, or use the time to think of the next idea."
        return f"{self._printed}{concerns}{decisions}{self.summary()}.{ready} {again}"


def _decision(candidacy: Candidacy) -> str:
    state = candidacy.state.replace("_", " ")
    verdict = f" ({candidacy.verdict})" if candidacy.verdict else ""
    launched = "1 replicate" if candidacy.replicates == 1 else f"{candidacy.replicates} replicates"
    return f"is {state}{verdict}, with {launched} launched. {candidacy.note}".rstrip()


def _swept(sweep: a.SweepLine) -> str:
    values = ", ".join(f"{name} = {value}" for name, value in sweep.best_values.items())
    best = (
        f" Best: {sweep.best:.5g} of {(sweep.best_commit or '')[:12]} ({values}); only the gate says whether it is better."
        if values
        else ""
    )
    return f"{sweep.id} is {sweep.state}, {sweep.ended} trials. {sweep.note}{best}"


def _progress(line: a.ExperimentLine) -> str:
    share = f" {line.progress:.0%}" if line.progress is not None else ""
    return f"{line.id} {line.state}{share}" + (f" ({line.pace})" if line.pace else "")
