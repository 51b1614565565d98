"""Takes a run of code that keeps no contract to its result: a script as it is, by what it prints or leaves (fixed)."""

import time
from collections.abc import Mapping
from pathlib import Path

from autoresearch_mcp.trainer import machine, protocol, sandbox
from autoresearch_mcp.trainer.failures import Ended, Failure, of_crash
from autoresearch_mcp.trainer.own_scorer.scorer import OwnScorer
from autoresearch_mcp.trainer.prepare import PreparationError
from autoresearch_mcp.trainer.protocol import Spec
from autoresearch_mcp.trainer.sandbox import processes
from autoresearch_mcp.trainer.script import Script, explained
from autoresearch_mcp.trainer.supervisor import TICK_S, Stage, Supervisor


class ScriptRun(Supervisor):
    """Runs a script for as long as its budget lasts, and reads its metric or has the owner's scorer measure it. See `Supervisor`."""

    def __init__(self, run: Path, spec: Spec, family: processes.Family, signals: list[int]) -> None:
        super().__init__(run, spec, family, signals)
        self._own = OwnScorer(spec, run, self._selector) if spec.scoring is not None else None

    def _work(self, stage: Stage) -> tuple[str, float | None]:
        if self._own is not None and stage != "train":  # where something is only trained the answers may be out of reach
            self._hashes |= self._own.read_hashes()
        script = self._run_script()
        if self._own is None:
            self._reported, self._scalars = script.read_metric(self._log)
            return "finished", None
        return self._submit(self._own, script, stage)

    def _score_submitted(self, hashes: Mapping[str, str]) -> float:
        assert self._own is not None
        try:
            self._hashes |= self._own.read_hashes()
        except PreparationError as error:
            raise Ended("crashed", Failure("error", str(error), fault="machine")) from None
        self._hashes["weights"] = self._own.take_up()
        self._refuse_others(hashes, ("fixed", "code", "weights"))
        return self._score(self._own, Script(self._spec, self._code, self._scratch.path))

    def _ended_in(self, fault: str) -> str:
        # A script that left something else was never measured: nothing of the answers shows in that.
        return "running" if self._own and fault == "code" else super()._ended_in(fault)

    def _run_script(self) -> Script:
        """Run code that keeps no contract, in a copy of its files. Its budget runs from its first moment to its end."""
        self._scratch.make()
        script = Script(self._spec, self._code, self._scratch.path)
        self._versions |= script.versions
        self._hashes |= {"packages": script.packages} if script.packages else {}
        script.lay_out()
        jail = script.jail(self._jail({}), self._run, self._profile.memory_mb)
        sandbox.shut(place for place in jail.hidden if place != self._run)
        has_keepers = jail.world is not None and sandbox.counts_its_own()  # asked before its clock runs; it inherits the answer
        self._turn.begin()
        self._meter.start_script()
        self._trainer = sandbox.spawn(lambda: self._run_entry(script), jail)
        if has_keepers:
            self._family.overlook(self._trainer)
        self._device_facts = machine.device_facts(self._device)
        while self._trainer not in self._family.exits:
            self._wait(TICK_S)
            self._meter.enforce_budget()
        self._meter.look()
        self._family.kill()
        while self._log.pump():
            pass
        code = self._family.exits[self._trainer].code
        if code != 0:
            self._reported = self._log.reported_bpb()
            failure = of_crash(self._log.tail, self._scratch.path, [], code, self._spec.module or self._spec.entry)
            raise Ended("crashed", explained(failure, self._log.tail, self._scratch.limit_mb))
        return script

    def _submit(self, own: OwnScorer, script: Script, stage: Stage) -> tuple[str, float | None]:
        """Take what a script left, and have it scored by the owner's answers, unless this stage trains only."""
        self._turn.end()
        self._reported = self._log.reported_bpb()
        self._meter.phase = "scoring"
        try:
            self._hashes["weights"] = own.take(script.start)
            if stage == "train":
                own.keep()
                return protocol.SUBMITTED, None
            return "finished", self._score(own, script)
        finally:
            own.remove()

    def _score(self, own: OwnScorer, script: Script) -> float:
        """Have what was submitted scored by the owner's answers."""
        self._show()
        self._scratch.make()
        began = time.monotonic()
        try:
            outcome = own.score(self._jail({}), script.jail, self._wait)
        finally:
            self._family.kill()
            own.remove()
            self._timings["score_s"] = time.monotonic() - began
        self._hashes["answers"] = outcome["answers"]
        self._scalars = outcome["metrics"]
        return float(outcome["metrics"][self._spec.metric])
