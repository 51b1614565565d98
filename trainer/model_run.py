"""Takes a run of code that keeps the contract to its result: it trains a model, submits it, and has it scored (fixed)."""

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from autoresearch_mcp.trainer import client, compile_cache, machine, patience, prepare, protocol, sandbox, stream, submission
from autoresearch_mcp.trainer.channel import Channel
from autoresearch_mcp.trainer.compile_cache import CompileCache
from autoresearch_mcp.trainer.failures import Ended, Failure, of_crash
from autoresearch_mcp.trainer.protocol import Spec
from autoresearch_mcp.trainer.sandbox import processes
from autoresearch_mcp.trainer.scorer import Scorer, explain
from autoresearch_mcp.trainer.submission import Submission
from autoresearch_mcp.trainer.supervisor import TICK_S, Stage, Supervisor

TOKENS = "train.bin"  # this run's share of the training tokens
ASKING_S = 0.02  # between two tries to have the machine alone


class ModelRun(Supervisor):
    """Trains a model in its budget, and has what it submits scored. See `Supervisor`."""

    def __init__(self, run: Path, spec: Spec, family: processes.Family, signals: list[int]) -> None:
        super().__init__(run, spec, family, signals)
        self._hashes |= prepare.data_hashes(self._data)
        self._weights = run / client.WEIGHTS
        self._cache: CompileCache | None = None
        if self._device == "cuda":
            kept = Path(spec.compile_cache) if spec.compile_cache else compile_cache.kept_in(self._data.parent)
            self._cache = CompileCache(kept, self._scratch.path)
        self._channel = Channel(self._selector, self._meter, self._curve, run / TOKENS, spec.budget_s)
        self._timings = self._channel.timings
        self._config: dict[str, Any] = {}  # of the submitted model

    def _notes(self) -> dict[str, str]:
        return self._channel.notes

    def _sent_mb(self) -> float | None:
        return self._channel.weights_mb

    def _work(self, stage: Stage) -> tuple[str, float | None]:
        if stage == "compile":
            self._compile()
            return "finished", None
        self._train()
        if stage == "train":
            submission.keep(self._run, self._weights, self._config)
            return protocol.SUBMITTED, None
        return "finished", self._score()

    def _score_submitted(self, hashes: Mapping[str, str]) -> float:
        self._hashes["weights"], self._config = submission.take_up(self._run, self._weights)
        self._refuse_others(hashes, self._hashes.keys() | hashes.keys())
        return self._score()

    def _tidy(self) -> None:
        super()._tidy()
        for leftover in (self._weights, self._run / TOKENS):
            leftover.unlink(missing_ok=True)

    def _train(self) -> None:
        self._begin()
        self._await(lambda: self._channel.config is not None)
        self._end_training()
        self._drain()
        self._reported = self._log.reported_bpb()
        self._config = self._channel.config or {}
        limit_mb = self._profile.checkpoint_mb
        self._hashes["weights"], self._weights_mb = submission.take_weights(self._scratch.path, self._weights, limit_mb)
        if self._cache and compile_cache.is_stock(self._code):
            self._cache.keep()

    def _compile(self) -> None:
        """Keep what the code compiles before start(). Use it for trusted code only: other runs will execute what it leaves."""
        self._begin()
        self._await(lambda: self._meter.started_at is not None)
        self._family.kill()
        CompileCache(self._run / protocol.COMPILE_CACHE, self._scratch.path).keep()

    def _begin(self) -> None:
        """Start train.py."""
        self._scratch.make()
        environment = dict[str, str]()
        if self._cache:
            began = time.monotonic()
            if self._cache.restore():
                self._timings["restore_s"] = time.monotonic() - began
            environment = {compile_cache.VARIABLE: str(self._cache.own)}
        config = {name: getattr(self._profile, name) for name in ("vocab_size", "seq_len", "clock", "free_cpu_s")}
        config |= {name: getattr(self._spec, name) for name in ("seed", "threads", "budget_s", "attention")}
        config |= {"device": self._device, "profile": self._profile.base}
        theirs = self._channel.theirs
        jail = self._jail({client.CHANNEL: str(theirs.fileno()), client.CONFIG: json.dumps(config), **environment})
        self._turn.begin()
        self._meter.note_spawn()
        self._trainer = sandbox.spawn(self._run_entry, replace(jail, keep=(theirs.fileno(),), cores=self._cores.claim()))
        theirs.close()
        # Both while train.py starts
        stream.write(self._data / "train.bin", self._run / TOKENS, self._profile.vocab_size - 1, self._spec.seed)
        self._device_facts = machine.device_facts(self._device)

    def _await(self, reached: Callable[[], bool]) -> None:
        """Let train.py run until it got there.

        Raises:
            Ended: it ended before, or was ended.
        """
        while not reached():
            self._wait(TICK_S)
            self._meter.enforce_budget()
            if self._trainer in self._family.exits and not reached():
                self._family.kill()  # or a helper could go on sending, and this would go on reading
                self._drain()
                if not reached():
                    self._reported = self._log.reported_bpb()
                    code = self._family.exits[self._trainer].code
                    raise Ended("crashed", of_crash(self._log.tail, self._code, self._curve.losses, code))

    def _drain(self) -> None:
        """Handle what an ended trainer had still sent and printed."""
        while self._channel.receive():
            pass
        while self._log.pump():
            pass

    def _score(self) -> float:
        """Have the submitted model scored, and keep what the hidden split says in a file of its own.

        Returns:
            Its val_bpb.

        Raises:
            Ended: there is no number to give.
        """
        self._meter.phase = "scoring"
        self._show()
        self._log.reset_tail()
        self._scratch.make()
        model = Submission(self._code, self._spec.entry, self._weights, self._config, self._spec.threads, self._device)
        jail = self._jail({})
        scorer = Scorer(self._selector, self._log, self._meter)
        scorer.start(model, self._data, self._profile, replace(jail, read=(*jail.read, self._weights), locks=False))
        outcome = self._await_outcome(scorer)
        if "val_bpb" in outcome:
            self._hashes["answers"] = outcome["answers"]
            protocol.write_hidden(self._run, outcome["test_bpb"])
            return float(outcome["val_bpb"])
        if finding := outcome.get("finding"):
            protocol.write_finding(self._run, finding)
        raise Ended("crashed", explain(outcome, self._log, self._code))

    def _await_outcome(self, scorer: Scorer) -> dict[str, Any]:
        """Give the scorer the machine to itself until it has an outcome, and keep it until the profile's grid has a line.

        Raises:
            Ended: the run was cancelled, or its scoring is over a limit.
        """
        began, longest_s = 0.0, patience.longest_s(self._profile, self._spec.threads)
        try:
            while scorer.outcome is None:
                self._wait(ASKING_S if scorer.is_waiting else TICK_S)
                if scorer.is_waiting and self._turn.try_alone():
                    began = time.monotonic()
                    scorer.go_on()
                if began and time.monotonic() - began > longest_s:
                    raise Ended("crashed", _gave_up(self._profile, longest_s))
        finally:
            self._family.kill()
            if began:
                grid = self._profile.score_grid_s
                elapsed = time.monotonic() - began
                self._timings["score_s"] = max(1, math.ceil(elapsed / grid)) * grid
                time.sleep(self._timings["score_s"] - elapsed)
            self._turn.end()
        return scorer.outcome


def _gave_up(profile: prepare.Profile, seconds: float) -> Failure:
    if patience.excuses_waiting(profile):
        message = (
            f"other programs kept the machine so busy that the model was not scored within {seconds:.0f} s. That is no fault of the code."
        )
        return Failure("killed", message, fault="machine")
    return Failure("invalid_model", f"scoring the model took longer than {profile.score_s:.0f} s.")
