"""Takes one run from spawn to result: what runs of models and of scripts have in common (fixed).

The agent's code is forked from this process, so it never holds validation text: scoring happens in a child that is
thrown away. All of its waiting is one loop without threads, which makes forking safe.
"""

import abc
import os
import runpy
import selectors
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from autoresearch_mcp.trainer import device, legacy, machine, prepare, profiles, protocol, sandbox, sources
from autoresearch_mcp.trainer.cores import Cores
from autoresearch_mcp.trainer.failures import Ended, Failure
from autoresearch_mcp.trainer.meter import Meter
from autoresearch_mcp.trainer.protocol import Progress, Result, Spec
from autoresearch_mcp.trainer.quiet import Turn
from autoresearch_mcp.trainer.records import Curve, Log
from autoresearch_mcp.trainer.sandbox import processes
from autoresearch_mcp.trainer.sandbox.scratch import Scratch
from autoresearch_mcp.trainer.script import Script

Stage = Literal["all", "train", "score", "compile"]

SCRATCH = "scratch"  # the only directory that the agent's code can write
SCRATCH_CHECKPOINTS = 16  # it may hold as much as this many of the largest checkpoint
TICK_S = 0.1  # how soon a cancellation or an end is noticed, and another run that waits for the machine
SHOW_S = 1.0  # between two writes of progress.json


class Supervisor(abc.ABC):
    """Takes one run to its result. A subclass does the work: `ModelRun`, or `ScriptRun` for code that keeps no contract.

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
        self._device = profiles.device_type(spec.device)
        self._device_facts = machine.DeviceFacts("")
        self._versions: dict[str, str] = {}  # of another interpreter, which runs a script
        self._hashes = {"fixed": prepare.fixed_hash(), "code": sources.code_hash(self._code, bool(spec.metric))}
        self._log = Log(run / protocol.LOG, spec.metric, spec.unit, spec.pattern, spec.watched)
        self._curve = Curve(run / protocol.CURVE)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._log.reader, selectors.EVENT_READ, self._log.pump)
        self._meter = Meter(spec, self._profile, family, self._scratch)
        self._cores = Cores(spec.threads if self._device == "cpu" else 0)
        self._turn = Turn(self._device == "cpu" and spec.quiet, family, self._meter, self._check_cancelled)
        self._timings: dict[str, float] = {}
        self._trainer = 0
        self._shown = ("", 0.0)  # phase, and when, of the last progress.json
        self._reported: float | None = None
        self._weights_mb: float | None = None  # of what was submitted
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
            state, val_bpb = self._work(stage)
        except Ended as end:
            state, failure, fault, barred = end.state, end.failure, end.fault, end.barred
        finally:
            self._tidy()
        meter = self._meter
        return Result(
            state=state,
            val_bpb=val_bpb,
            reported_bpb=self._reported,
            failure=self._in_words(failure),
            fault=fault,
            barred=barred,
            ended_in=self._ended_in(fault),
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
            notes=self._notes(),
            sandbox=sandbox.level(),
            hashes=self._hashes,
            versions={**machine.versions(), **self._versions},
            timings=self._rounded_timings(),
            curve=self._curve.digest(),
            metrics={**self._log.scalars(), **self._scalars},
        )

    def score(self, submitted: Result) -> Result:
        """Score what another machine trained, under the same fixed files, and complete its result."""
        self._meter.phase = "scoring"
        try:
            val_bpb = self._score_submitted(submitted.hashes)
        except Ended as end:
            failure = self._in_words(end.failure)
            return replace(
                submitted, state=end.state, failure=failure, fault=end.fault, barred=end.barred, ended_in=self._ended_in(end.fault)
            )
        finally:
            self._tidy()
        return replace(
            submitted,
            state="finished",
            val_bpb=val_bpb,
            ended_in="scoring",
            timings={**submitted.timings, **self._rounded_timings()},
            hashes={**submitted.hashes, **self._hashes},
            metrics={**submitted.metrics, **self._scalars},
        )

    @abc.abstractmethod
    def _work(self, stage: Stage) -> tuple[str, float | None]:
        """Do what is asked for.

        Returns:
            The state of the result, and what was measured.

        Raises:
            Ended: it ended otherwise.
        """

    @abc.abstractmethod
    def _score_submitted(self, hashes: Mapping[str, str]) -> float:
        """Take up what the run directory holds for scoring, and measure it.

        Args:
            hashes: of what the other machine trained.

        Raises:
            Ended: there is no number.
        """

    def _refuse_others(self, hashes: Mapping[str, str], names: Iterable[str]) -> None:
        """Refuse to score what was trained from, or with, something else.

        Raises:
            Ended: one of these hashes differs here.
        """
        if differing := sorted(name for name in names if self._hashes.get(name) != hashes.get(name)):
            message = f"it was trained and would be scored with different {', '.join(differing)}."
            raise Ended("crashed", Failure("error", message, fault="machine"))

    def _in_words(self, failure: Failure | None) -> dict[str, Any] | None:
        return failure.as_dict(bool(self._spec.metric), bool(self._spec.scoring)) if failure else None

    def _notes(self) -> dict[str, str]:
        """Return what the code itself says on how it ran."""
        return {}

    def _sent_mb(self) -> float | None:
        """Return how large a model is that the code announced while it trains; None before it did."""
        return None

    def _ended_in(self, fault: str) -> str:
        """Return the phase that a run ended in, by whose fault."""
        return self._meter.phase

    def _rounded_timings(self) -> dict[str, float]:
        return {name: round(seconds, 3) for name, seconds in self._timings.items()}

    def _end_training(self) -> None:
        self._family.kill()
        self._turn.end()
        self._cores.release()

    def _tidy(self) -> None:
        self._end_training()
        self._log.close()
        self._curve.close()
        self._scratch.remove()

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
        progress = Progress(self._meter.phase, round(self._meter.used_s, 2), self._curve.steps, self._curve.loss, self._sent_mb())
        protocol.write_json(self._run / protocol.PROGRESS, progress)
