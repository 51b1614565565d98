"""Takes one run from spawn to result: trains it in a sandboxed child, and has the model scored (fixed).

The agent's code is forked from this process, so it never holds validation text: scoring happens in a child that is
thrown away. All of its waiting is one loop without threads, which makes forking safe.
"""

import json
import math
import os
import runpy
import selectors
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from autoresearch_mcp.trainer import (
    client,
    compile_cache,
    device,
    legacy,
    machine,
    prepare,
    profiles,
    protocol,
    sandbox,
    sources,
    stream,
    submission,
)
from autoresearch_mcp.trainer.channel import Channel
from autoresearch_mcp.trainer.cores import Cores
from autoresearch_mcp.trainer.failures import Ended, Failure, of_crash
from autoresearch_mcp.trainer.meter import Meter
from autoresearch_mcp.trainer.own_scorer.scorer import OwnScorer
from autoresearch_mcp.trainer.protocol import Progress, Result, Spec
from autoresearch_mcp.trainer.quiet import Turn
from autoresearch_mcp.trainer.records import Curve, Log
from autoresearch_mcp.trainer.sandbox import processes
from autoresearch_mcp.trainer.sandbox.scratch import Scratch
from autoresearch_mcp.trainer.scorer import Scorer, explain
from autoresearch_mcp.trainer.script import Script, explained

Stage = Literal["all", "train", "score", "compile"]

SCRATCH = "scratch"  # the only directory that the agent's code can write
TOKENS = "train.bin"  # this run's share of the training tokens
SCRATCH_CHECKPOINTS = 16  # it may hold as much as this many of the largest checkpoint
TICK_S = 0.1  # how soon a cancellation or an end is noticed, and another run that waits for the machine
ASKING_S = 0.02  # between two tries to have the machine alone
SHOW_S = 1.0  # between two writes of progress.json


class Supervisor:
    """Takes one run to its result.

    Args:
        run: the run directory.
        family: this process's descendants. Make it before the first of them.
        signals: filled by the signal handlers. Anything in it means that the run is to end.

    Raises:
        PreparationError: the data is missing, or the code is too large.
    """

    def __init__(self, run: Path, spec: Spec, family: processes.Family, signals: list[int]) -> None:
        self._run, self._spec, self._family, self._signals = run, spec, family, signals
        profile = profiles.find(spec.profile, spec.own_text)
        self._profile = prepare.for_scripts(profile, spec.memory_mb) if spec.metric else profile
        folder = spec.own_text.text if spec.own_text else ""
        self._texts = (Path(folder).resolve(),) if folder else () if spec.own_text else sandbox.copies_of(profile.dataset)
        self._longest_s = profiles.max_wall_s(profile, spec.budget_s)
        self._data, self._code = Path(spec.data).resolve(), run / protocol.CODE
        self._scratch = Scratch(run / SCRATCH, spec.disk_mb or SCRATCH_CHECKPOINTS * self._profile.checkpoint_mb, spec.max_files)
        self._weights = run / client.WEIGHTS
        self._device = "cpu" if spec.device == "cpu" else "cuda"
        self._cache: compile_cache.CompileCache | None = None
        if self._device == "cuda" and not spec.metric:
            kept = Path(spec.compile_cache) if spec.compile_cache else compile_cache.kept_in(self._data.parent)
            self._cache = compile_cache.CompileCache(kept, self._scratch.path)
        self._device_facts = machine.DeviceFacts("")
        self._versions: dict[str, str] = {}  # of another interpreter, which runs a script
        self._weights_mb: float | None = None  # of what was submitted
        self._hashes = {"fixed": prepare.fixed_hash(), "code": sources.code_hash(self._code, bool(spec.metric))}
        self._hashes |= {} if spec.metric else prepare.data_hashes(self._data)
        self._log = Log(run / protocol.LOG, spec.metric, spec.unit, spec.pattern, spec.watched)
        self._curve = Curve(run / protocol.CURVE)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._log.reader, selectors.EVENT_READ, self._log.pump)
        self._own = OwnScorer(spec, run, self._selector) if spec.scoring else None
        self._hashes |= self._own.hashes if self._own else {}
        self._meter = Meter(spec, self._profile, family, self._scratch)
        self._cores = Cores(spec.threads if self._device == "cpu" else 0)
        self._turn = Turn(self._device == "cpu" and spec.quiet, family, self._meter, self._check_cancelled)
        self._channel = Channel(self._selector, self._meter, self._curve, run / TOKENS, spec.budget_s)
        self._timings = self._channel.timings
        self._trainer = 0
        self._shown = ("", 0.0)  # phase, and when, of the last progress.json
        self._config: dict[str, Any] = {}  # of the submitted model
        self._reported: float | None = None
        self._scalars: dict[str, float] = {}  # further numbers that a script left in files

    def blames_code(self, error: Exception) -> bool:
        """Return whether the agent's code may have provoked an error of this process: it ran, and the system did not refuse anything."""
        return self._trainer != 0 and not isinstance(error, OSError)

    def run(self, stage: Stage = "all") -> Result:
        """Train, and score what was submitted.

        Args:
            stage: `train` keeps the model, for another machine to score. `compile` ends at start(), and keeps what was compiled.
        """
        state, failure, fault, barred, val_bpb = "finished", None, "", False, None
        try:
            if self._spec.metric:
                val_bpb = self._run_script(stage)
            elif stage == "compile":
                self._compile()
            elif stage == "train":
                self._train()
                submission.keep(self._run, self._weights, self._config)
                state = protocol.SUBMITTED
            else:
                self._train()
                val_bpb = self._score()
        except Ended as end:
            state, failure, fault, barred = end.state, end.failure, end.fault, end.barred
        finally:
            self._tidy()
        meter = self._meter
        return Result(
            state=state,
            val_bpb=val_bpb,
            reported_bpb=self._reported,
            failure=failure.as_dict(bool(self._spec.metric), bool(self._spec.scoring)) if failure else None,
            fault=fault,
            barred=barred,
            # A script that left something else was never measured: nothing of the answers shows in that.
            ended_in="running" if self._own and fault == "code" else meter.phase,
            seed=self._spec.seed,
            device=self._spec.device,
            device_name=self._device_facts.name,
            device_id=self._device_facts.id,
            host=machine.host(),
            budget_s=self._spec.budget_s,
            used_s=round(meter.used_s, 3),
            wall_s=round(meter.wall_s, 3),
            cpu_s=round(meter.cpu_s, 3),
            cpu_share=round(meter.cpu_s / (meter.wall_s * self._spec.threads), 3) if meter.wall_s else None,
            pressure=None if meter.pressure is None else round(meter.pressure, 3),
            steps=self._curve.steps,
            tokens=self._curve.tokens,
            peak_memory_mb=round(meter.peak_mb(self._family.exits.get(self._trainer)), 1),
            weights_mb=self._weights_mb,
            notes=self._channel.notes,
            sandbox=sandbox.level(),
            hashes=self._hashes,
            versions={**machine.versions(), **self._versions},
            timings=self._channel.rounded_timings(),
            curve=self._curve.digest(),
            metrics={**self._log.scalars(), **self._scalars},
        )

    def score(self, submitted: Result) -> Result:
        """Score what another machine trained, under the same fixed files and data, and complete its result."""
        try:
            self._take_submission(submitted.hashes)
            val_bpb = self._score()
        except Ended as end:
            failure = end.failure.as_dict() if end.failure else None
            return replace(submitted, state=end.state, failure=failure, fault=end.fault, barred=end.barred, ended_in="scoring")
        finally:
            self._tidy()
        timings = {**submitted.timings, **self._channel.rounded_timings()}
        return replace(submitted, state="finished", val_bpb=val_bpb, ended_in="scoring", timings=timings, hashes=self._hashes)

    def _end_training(self) -> None:
        self._family.kill()
        self._turn.end()
        self._cores.release()

    def _tidy(self) -> None:
        self._end_training()
        self._log.close()
        self._curve.close()
        self._scratch.remove()
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
        compile_cache.CompileCache(self._run / protocol.COMPILE_CACHE, self._scratch.path).keep()

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
                    raise Ended("crashed", of_crash(self._log.tail, self._code, self._curve.losses, self._family.exits[self._trainer].code))

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

    def _run_entry(self, script: Script | None = None) -> None:
        """In the trainer: run the agent's file as `python train.py` would."""
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(self._spec.threads)
        if script is not None:
            script.run()
            return
        path = self._code / self._spec.entry
        sys.path.insert(0, str(self._code))
        legacy.alias_contract(self._code)
        sys.argv = [str(path), *self._spec.arguments]
        runpy.run_path(str(path), run_name="__main__")

    def _jail(self, environment: dict[str, str]) -> sandbox.Jail:
        home, threads = str(self._scratch.path), str(self._spec.threads)
        usual = {"HOME": home, "TMPDIR": home, "USER": "trainer", "LANG": "C.UTF-8", "PATH": "/usr/local/bin:/usr/bin:/bin"}
        cuda, kernels = self._device == "cuda", device.kernels_dir(self._data.parent)
        if cuda:
            usual |= device.cuda_environment(kernels)
        elif self._spec.visible:
            usual["CUDA_VISIBLE_DEVICES"] = self._spec.visible
        return sandbox.Jail(
            read=(self._code, kernels) if cuda else (self._code,),
            write=(self._scratch.path,),
            hidden=(*self._texts, self._data.parent, self._data, self._run),
            keep=(),
            output=self._log.writer,
            directory=self._scratch.path,
            environment={**usual, "OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE", **environment},
            file_mb=self._scratch.limit_mb,
            cpu_s=int(self._longest_s + 1) * (os.cpu_count() or 1),
            cuda=cuda,
            locks=cuda,  # of compile caches, in which several processes of a run may work
            counters=cuda or bool(self._spec.metric),  # a model server could tell a training by them what it is asked
        )

    def _wait(self, seconds: float) -> None:
        """Handle what arrives, until something does or the time is over.

        Raises:
            Ended: the run was cancelled, or is over a limit of the machine.
        """
        for key, _ in self._selector.select(seconds):
            key.data()
        self._family.reap()
        self._check_cancelled()
        if self._meter.phase != "scoring":
            self._turn.yield_to_scorers()
        self._meter.look_if_due()
        if self._meter.phase != self._shown[0] or time.monotonic() >= self._shown[1] + SHOW_S:
            self._show()

    def _check_cancelled(self) -> None:
        if self._signals or (self._run / protocol.CANCEL).exists():
            raise Ended("cancelled")

    def _show(self) -> None:
        self._shown = (self._meter.phase, time.monotonic())
        progress = Progress(self._meter.phase, round(self._meter.used_s, 2), self._curve.steps, self._curve.loss, self._channel.weights_mb)
        protocol.write_json(self._run / protocol.PROGRESS, progress)

    def _drain(self) -> None:
        """Handle what an ended trainer had still sent and printed."""
        while self._channel.receive():
            pass
        while self._log.pump():
            pass

    def _take_submission(self, hashes: dict[str, str]) -> None:
        """Take up the submitted model that the other machine's result vouches for.

        Raises:
            Ended: there is none, or it is another.
        """
        self._hashes["weights"], self._config = submission.take_up(self._run, self._weights)
        if differing := sorted(name for name in self._hashes.keys() | hashes.keys() if self._hashes.get(name) != hashes.get(name)):
            message = f"it was trained and would be scored with different {', '.join(differing)}."
            raise Ended("crashed", Failure("error", message, fault="machine"))

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
        model = submission.Submission(self._code, self._spec.entry, self._weights, self._config, self._spec.threads, self._device)
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
        began = 0.0
        try:
            while scorer.outcome is None:
                self._wait(ASKING_S if scorer.is_waiting else TICK_S)
                if scorer.is_waiting and self._turn.try_alone():
                    began = time.monotonic()
                    scorer.go_on()
                if began and time.monotonic() - began > self._profile.score_s + 1:
                    raise Ended("crashed", Failure("invalid_model", f"scoring the model took longer than {self._profile.score_s:.0f} s."))
        finally:
            self._family.kill()
            if began:
                grid = self._profile.score_grid_s
                elapsed = time.monotonic() - began
                self._timings["score_s"] = max(1, math.ceil(elapsed / grid)) * grid
                time.sleep(self._timings["score_s"] - elapsed)
            self._turn.end()
        return scorer.outcome
