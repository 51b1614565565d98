"""Takes a run of code that keeps no contract to its result: a script as it is, by what it prints or leaves (fixed)."""

import time
from pathlib import Path

from autoresearch_mcp.trainer import machine, sandbox
from autoresearch_mcp.trainer.failures import Ended, of_crash
from autoresearch_mcp.trainer.own_scorer.scorer import OwnScorer
from autoresearch_mcp.trainer.protocol import Spec
from autoresearch_mcp.trainer.sandbox import processes
from autoresearch_mcp.trainer.script import Script, explained
from autoresearch_mcp.trainer.supervisor import TICK_S, Stage, Supervisor


class ScriptRun(Supervisor):
    """Runs a script for as long as its budget lasts, and reads its metric or has the owner's scorer measure it. See `Supervisor`."""

    def __init__(self, run: Path, spec: Spec, family: processes.Family, signals: list[int]) -> None:
        super().__init__(run, spec, family, signals)
        self._own = OwnScorer(spec, run, self._selector) if spec.scoring is not None else None
        self._hashes |= self._own.hashes if self._own else {}

    def _work(self, stage: Stage) -> tuple[str, float | None]:
        return "finished", self._run_script(stage)

    def _ended_in(self, fault: str) -> str:
        # A script that left something else was never measured: nothing of the answers shows in that.
        return "running" if self._own and fault == "code" else super()._ended_in(fault)

    def _run_script(self, stage: Stage) -> float | None:
        """Run code that keeps no contract.

        It runs in a copy of its files. Its budget runs from its first moment to its end. The metric is what it prints, or what the owner's
        scorer makes of what it leaves.

        Args:
            stage: at `train` what it leaves is looked at, and not scored.

        Returns:
            The owner's scorer's metric; None without one.
        """
        self._scratch.make()
        script = Script(self._spec, self._code, self._scratch.path)
        self._versions |= script.versions
        self._hashes |= {"packages": script.packages} if script.packages else {}
        script.lay_out()
        jail = script.jail(self._jail({}), self._run, self._profile.memory_mb)
        self._turn.begin()
        self._meter.start_script()
        self._trainer = sandbox.spawn(lambda: self._run_entry(script), jail)
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
        if self._own is not None:
            return self._score_script(script, stage)
        self._reported, self._scalars = script.read_metric(self._log)
        return None

    def _score_script(self, script: Script, stage: Stage) -> float | None:
        """Have what a script left scored by the owner's answers, unless this stage trains only."""
        assert self._own is not None
        self._turn.end()
        self._reported = self._log.reported_bpb()
        self._meter.phase = "scoring"
        self._show()
        began = time.monotonic()
        try:
            self._hashes["weights"] = self._own.take(script.start)
            if stage == "train":
                return None
            self._scratch.make()
            outcome = self._own.score(self._jail({}), script.jail, self._wait)
        finally:
            self._family.kill()
            self._own.remove()
            self._timings["score_s"] = time.monotonic() - began
        self._hashes["answers"] = outcome["answers"]
        self._scalars = outcome["metrics"]
        return float(outcome["metrics"][self._spec.metric])
