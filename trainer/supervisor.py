"""One run, from spawn to result: trains in a sandboxed child, owns the clock, has the model scored (fixed).

The agent's code is forked from this process, so it never holds validation text: scoring happens in a child that is
thrown away. All of its waiting is one loop without threads, which makes forking safe.
"""

import array
import contextlib
import hashlib
import json
import os
import platform
import runpy
import selectors
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args

from autoresearch_mcp.trainer import client, compile_cache, device, legacy, prepare, protocol, sandbox, score, stream
from autoresearch_mcp.trainer.compile_cache import CompileCache
from autoresearch_mcp.trainer.failures import Failure, of_crash, read_traceback
from autoresearch_mcp.trainer.protocol import Progress, Result, Spec
from autoresearch_mcp.trainer.records import Curve, Log
from autoresearch_mcp.trainer.sandbox import processes
from autoresearch_mcp.trainer.sandbox.scratch import Scratch
from autoresearch_mcp.trainer.score import Scores

Stage = Literal["all", "train", "score", "compile"]

SCRATCH = "scratch"  # the only directory that the agent's code can write
TOKENS = "train.bin"  # this run's share of the training tokens
CONFIG = "config.json"  # of a submitted model, beside its weights
SCRATCH_CHECKPOINTS = 16  # it may hold as much as this many of the largest checkpoint
THREADS = 1024  # of all processes of a run together
DESCRIPTORS = sandbox.DESCRIPTORS  # the same: a pair of sockets holds 400 KB that are in no process's memory
CODE_BYTES, SCRIPT_BYTES, LINE_BYTES = 256 << 10, 16 << 20, 64 << 10
NOTED = b"!"  # what the scorer waits for when it told a stage
TICK_S = 0.1  # how soon a cancellation or an end is noticed
LOOK_S = 0.5  # between two looks at CPU time and memory, unless the budget may end before
SHOW_S = 1.0  # between two writes of progress.json


class Ended(Exception):
    """The run is over without a metric."""

    def __init__(self, state: str, failure: Failure | None = None) -> None:
        super().__init__(state)
        self.state = state
        self.failure = failure


class Supervisor:
    """Args:
    family: this process's descendants, made before any.
    signals: filled by the signal handlers; anything in it means that the run is to end.
    """

    def __init__(self, run: Path, spec: Spec, family: processes.Family, signals: list[int]) -> None:
        self._run, self._spec, self._family, self._signals = run, spec, family, signals
        self._profile = prepare.for_scripts(prepare.PROFILES[spec.profile]) if spec.metric else prepare.PROFILES[spec.profile]
        self._data, self._code = Path(spec.data).resolve(), run / protocol.CODE
        self._scratch = Scratch(run / SCRATCH, SCRATCH_CHECKPOINTS * self._profile.checkpoint_mb)
        self._weights = run / client.WEIGHTS
        self._device = "cpu" if spec.device == "cpu" else "cuda"
        self._cache: CompileCache | None = None
        if self._device == "cuda" and not spec.metric:
            kept = Path(spec.compile_cache) if spec.compile_cache else compile_cache.kept_in(self._data.parent)
            self._cache = CompileCache(kept, self._scratch.path)
        self._device_name = ""
        self._hashes = {"fixed": prepare.fixed_hash(), "code": code_hash(self._code, SCRIPT_BYTES if spec.metric else CODE_BYTES)}
        self._hashes |= {} if spec.metric else prepare.data_hashes(self._data)
        self._log, self._curve = Log(run / protocol.LOG, spec.metric), Curve(run / protocol.CURVE)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._log.reader, selectors.EVENT_READ, self._log.pump)
        self._phase, self._timings = "starting", dict[str, float]()
        self._trainer = 0
        self._spawned_at = time.monotonic()
        self._started_at: float | None = None
        self._cpu_at_start = self._cpu_s = self._used_s = self._wall_s = self._peak_mb = 0.0
        self._look_at = self._show_at = 0.0
        self._building_since: float | None = None  # by the budget's clock, while a model server has not answered yet
        self._inbox = b""
        self._config: dict[str, Any] | None = None  # of the model, once it is submitted
        self._reported: float | None = None
        self._notes: dict[str, str] = {}

    def run(self, stage: Stage = "all") -> Result:
        """Train, and score what was submitted; or keep it, for another machine to score. Or compile only, for other runs to begin with."""
        state, failure, scores = "finished", None, None
        try:
            if self._spec.metric:
                self._run_script()
            elif stage == "compile":
                self._compile()
            elif stage == "train":
                self._train()
                self._keep_submission()
                state = protocol.SUBMITTED
            else:
                self._train()
                scores = self._score()
        except Ended as end:
            state, failure = end.state, end.failure
        finally:
            self._tidy()
        trainer = self._family.exits.get(self._trainer)
        return Result(
            state=state,
            val_bpb=scores.val_bpb if scores else None,
            reported_bpb=self._reported,
            failure=failure.as_dict() if failure else None,
            seed=self._spec.seed,
            device=self._spec.device,
            device_name=self._device_name,
            budget_s=self._spec.budget_s,
            used_s=round(self._used_s, 3),
            wall_s=round(self._wall_s, 3),
            cpu_s=round(self._cpu_s, 3),
            cpu_share=round(self._cpu_s / (self._wall_s * self._spec.threads), 3) if self._wall_s else None,
            steps=self._curve.steps,
            tokens=self._curve.tokens,
            peak_memory_mb=round(max(self._peak_mb, trainer.peak_mb if trainer else 0.0), 1),
            notes=self._notes,
            sandbox=sandbox.level(),
            hashes=self._hashes,
            versions=_versions(),
            timings=self._rounded_timings(),
            curve=self._curve.digest(),
        )

    def score(self, submitted: Result) -> Result:
        """Score what another machine trained, under the same fixed files and data, and complete its result."""
        try:
            self._take_submission(submitted.hashes)
            scores = self._score()
        except Ended as end:
            return replace(submitted, state=end.state, failure=end.failure.as_dict() if end.failure else None)
        finally:
            self._tidy()
        timings = {**submitted.timings, **self._rounded_timings()}
        return replace(submitted, state="finished", val_bpb=scores.val_bpb, timings=timings)

    def _rounded_timings(self) -> dict[str, float]:
        return {name: round(seconds, 3) for name, seconds in self._timings.items()}

    def _tidy(self) -> None:
        self._family.kill()
        self._log.close()
        self._curve.close()
        self._scratch.remove()
        for leftover in (self._weights, self._run / TOKENS):
            leftover.unlink(missing_ok=True)

    def _train(self) -> None:
        channel = self._begin()
        self._await(channel, lambda: self._config is not None)
        self._family.kill()
        self._drain(channel)
        self._reported = self._log.reported_bpb()
        self._take_weights()
        if self._cache and compile_cache.is_stock(self._code):
            self._cache.keep()

    def _compile(self) -> None:
        """Whoever asks for this answers for the code: others will run what it leaves. Everything is compiled before start()."""
        self._await(self._begin(), lambda: self._started_at is not None)
        self._family.kill()
        CompileCache(self._run / protocol.COMPILE_CACHE, self._scratch.path).keep()

    def _begin(self) -> socket.socket:
        """Start train.py; our end of its channel."""
        self._scratch.make()
        environment = dict[str, str]()
        if self._cache:
            began = time.monotonic()
            if self._cache.restore():
                self._timings["restore_s"] = time.monotonic() - began
            environment = {compile_cache.VARIABLE: str(self._cache.own)}
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self._selector.register(ours, selectors.EVENT_READ, lambda: self._receive(ours))
        config = {name: getattr(self._profile, name) for name in ("vocab_size", "seq_len", "clock", "free_cpu_s")}
        config |= {name: getattr(self._spec, name) for name in ("seed", "threads", "budget_s", "profile", "attention")}
        config["device"] = self._device
        jail = self._jail({client.CHANNEL: str(theirs.fileno()), client.CONFIG: json.dumps(config), **environment})
        self._spawned_at = time.monotonic()
        self._trainer = sandbox.spawn(self._run_entry, replace(jail, keep=(theirs.fileno(),)))
        theirs.close()
        # Both while train.py starts
        stream.write(self._data / "train.bin", self._run / TOKENS, self._profile.vocab_size - 1, self._spec.seed)
        self._device_name = device_name(self._device)
        return ours

    def _await(self, channel: socket.socket, reached: Callable[[], bool]) -> None:
        """Let train.py run until it got there."""
        while not reached():
            self._wait(TICK_S)
            self._enforce_limits()
            if self._trainer in self._family.exits and not reached():
                self._family.kill()  # or a helper could go on sending, and this would go on reading
                self._drain(channel)
                if not reached():
                    self._reported = self._log.reported_bpb()
                    code = self._family.exits[self._trainer].code
                    raise Ended("crashed", of_crash(self._log.tail, self._code, self._curve.losses, code))

    def _run_script(self) -> None:
        """Code that keeps no contract: it runs in a copy of its files, has the budget from its first moment to its end, and only its own
        word for the metric."""
        self._scratch.make()
        shutil.copytree(self._code, self._scratch.path, dirs_exist_ok=True)
        readable = Path(self._spec.readable).resolve() if self._spec.readable else None
        if readable is not None and Path(self._spec.readable).is_relative_to(Path.home()):  # ~/.cache/x leads there, as it does outside
            link = self._scratch.path / Path(self._spec.readable).relative_to(Path.home())
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(readable)
        jail = self._jail({"AUTORESEARCH_SEED": str(self._spec.seed)})
        jail = replace(jail, read=() if readable is None else (readable,), hidden=(self._run,))
        self._spawned_at = self._started_at = time.monotonic()
        self._phase = "running"
        self._trainer = sandbox.spawn(self._run_entry, jail)
        self._device_name = device_name(self._device)
        while self._trainer not in self._family.exits:
            self._wait(TICK_S)
            self._enforce_limits()
        self._look()
        self._family.kill()
        while self._log.pump():
            pass
        self._reported, code = self._log.reported_bpb(), self._family.exits[self._trainer].code
        if code != 0:
            raise Ended("crashed", of_crash(self._log.tail, self._scratch.path, [], code))
        if self._reported is None:
            message = f"{self._spec.entry} ended without printing a line `{self._spec.metric}: NUMBER`, with a number of 0 or more."
            raise Ended("crashed", Failure("error", message, self._log.tail.strip().splitlines()[-5:]))

    def _run_entry(self) -> None:
        """In the trainer: the agent's file, as `python train.py` would run it."""
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(self._spec.threads)
        entry = (self._scratch.path if self._spec.metric else self._code) / self._spec.entry
        sys.path.insert(0, str(entry.parent if self._spec.metric else self._code))
        if not self._spec.metric:
            legacy.alias_contract(self._code)
        sys.argv = [str(entry), *self._spec.arguments]
        runpy.run_path(str(entry), run_name="__main__")

    def _jail(self, environment: dict[str, str]) -> sandbox.Jail:
        home, threads = str(self._scratch.path), str(self._spec.threads)
        usual = {"HOME": home, "TMPDIR": home, "USER": "trainer", "LANG": "C.UTF-8", "PATH": "/usr/local/bin:/usr/bin:/bin"}
        cuda, kernels = self._device == "cuda", device.kernels_dir(self._data.parent)
        if cuda:
            usual |= device.cuda_environment(kernels)
        return sandbox.Jail(
            read=(self._code, kernels) if cuda else (self._code,),
            write=(self._scratch.path,),
            hidden=(*sandbox.copies_of(self._profile.dataset), self._data.parent, self._data, self._run),
            keep=(),
            output=self._log.writer,
            directory=self._scratch.path,
            environment={**usual, "OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE", **environment},
            file_mb=self._scratch.limit_mb,
            cpu_s=int(prepare.max_wall_s(self._spec.profile, self._spec.budget_s) + 1) * (os.cpu_count() or 1),
            cuda=cuda,
            locks=cuda,  # of compile caches, in which several processes of a run may work
        )

    def _wait(self, seconds: float) -> None:
        """Handle what arrives, until something does or the time is over."""
        for key, _ in self._selector.select(seconds):
            key.data()
        self._family.reap()
        if self._signals or (self._run / protocol.CANCEL).exists():
            raise Ended("cancelled")
        now = time.monotonic()
        if now >= self._look_at:
            self._look()
        if now >= self._show_at:
            self._show()

    def _look(self) -> None:
        """Read the clock of everything that runs, and what it takes of the machine."""
        usage = self._family.usage()
        now = time.monotonic()
        self._look_at = now + LOOK_S
        if self._phase == "running" and self._started_at is not None:
            self._cpu_s, self._wall_s = usage.cpu_s - self._cpu_at_start, now - self._started_at
            self._used_s = self._cpu_s if self._profile.clock == "cpu" else self._wall_s
            left = self._spec.budget_s + self._profile.grace_s(self._spec.budget_s) - self._used_s
            self._look_at = now + min(LOOK_S, max(0.02, left / (os.cpu_count() or 1)))
        if self._phase != "scoring":
            self._peak_mb = max(self._peak_mb, usage.resident_mb)
        if usage.resident_mb > self._profile.memory_mb:
            message = f"the run used {usage.resident_mb:.0f} MB of memory, {self._profile.memory_mb} MB are allowed."
            raise Ended("crashed", Failure("oom", message))
        if usage.threads > THREADS:
            message = f"the run had {usage.threads} processes and threads, {THREADS} are allowed."
            raise Ended("crashed", Failure("sandbox_violation", message))
        if usage.descriptors > DESCRIPTORS:
            message = f"the run had {usage.descriptors} files, sockets and pipes open, {DESCRIPTORS} are allowed."
            raise Ended("crashed", Failure("sandbox_violation", message))
        if self._building_since is not None and self._now() - self._building_since > self._profile.build_s:
            message = (
                f"a model server took more than {self._profile.build_s:g} s up to its first answer: what trains belongs before submit()."
            )
            raise Ended("crashed", Failure("invalid_model", message))
        if complaint := self._scratch.complaint(usage.pids):
            raise Ended("crashed", Failure("sandbox_violation", complaint))

    def _show(self) -> None:
        self._show_at = time.monotonic() + SHOW_S
        protocol.write_json(
            self._run / protocol.PROGRESS, Progress(self._phase, round(self._used_s, 2), self._curve.steps, self._curve.loss)
        )

    def _enforce_limits(self) -> None:
        budget = self._spec.budget_s
        if self._started_at is None:
            if time.monotonic() - self._spawned_at > self._profile.startup_s:
                raise Ended("timed_out", Failure("timeout", f"train.py did not call start() within {self._profile.startup_s:.0f} s."))
            return
        if self._used_s > budget + self._profile.grace_s(budget):
            raise Ended(
                "timed_out",
                Failure(
                    "timeout",
                    f"{self._spec.entry} used {self._used_s:.1f} s of a budget of {budget:g} s without {'ending' if self._spec.metric else 'submitting'}.",
                ),
            )
        if self._wall_s > budget * self._profile.wall_cap:
            message = f"{self._wall_s:.0f} s passed, and only {self._used_s:.1f} of {budget:g} CPU seconds were used: train.py waits, or the machine is busy."
            raise Ended("timed_out", Failure("timeout", message))

    def _receive(self, channel: socket.socket) -> bool:
        """Handle the messages that arrived; False when there are none for now."""
        try:
            data = channel.recv(LINE_BYTES)
        except BlockingIOError:
            return False
        except ConnectionError:
            data = b""
        if not data:
            self._selector.unregister(channel)
            return False
        *lines, self._inbox = (self._inbox + data).split(b"\n")
        if len(self._inbox) > LINE_BYTES:
            raise Ended("crashed", Failure("error", f"train.py sent the launcher a message of more than {LINE_BYTES} bytes."))
        for line in lines:
            try:
                message = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(message, dict):
                self._handle(channel, message)
        return True

    def _handle(self, channel: socket.socket, message: dict[str, Any]) -> None:
        operation, since_spawn = message.get("op"), time.monotonic() - self._spawned_at
        if operation == "connect":
            self._timings.setdefault("spawn_s", since_spawn)
        elif operation == "start" and self._started_at is None:
            self._timings["startup_s"] = since_spawn
            self._start_clock(channel)
        elif operation == "log" and self._started_at is not None:
            self._timings.setdefault("first_step_s", since_spawn)
            self._curve.add(message, self._spec.budget_s)
        elif operation == "note":
            told = {_text(name)[:32]: _text(value)[:80] for name, value in message.items() if name != "op" and isinstance(value, str)}
            self._notes |= told
            self._notes = dict(list(self._notes.items())[:8])
        elif operation == "submit" and self._started_at is not None and self._config is None:
            self._look()
            self._enforce_limits()
            self._timings["train_s"] = self._wall_s
            config = message.get("config")
            self._config = config if isinstance(config, dict) else {}

    def _start_clock(self, channel: socket.socket) -> None:
        """Hand the training tokens over as a descriptor; the budget runs from here."""
        data = os.open(self._run / TOKENS, os.O_RDONLY | os.O_CLOEXEC)
        self._timings["startup_cpu_s"] = self._family.usage().cpu_s
        self._cpu_at_start = min(self._timings["startup_cpu_s"], self._profile.free_cpu_s)
        self._started_at, self._phase = time.monotonic(), "running"
        self._look_at = self._show_at = 0.0
        channel.sendmsg([b"S"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [data]))])
        os.close(data)

    def _drain(self, channel: socket.socket) -> None:
        """Handle what an ended trainer had still sent and printed."""
        while channel in self._selector.get_map() and self._receive(channel):
            pass
        while self._log.pump():
            pass

    def _take_weights(self) -> None:
        """Move the submitted file out of the agent's reach: nobody lives who could change it."""
        submitted = self._scratch.path / client.WEIGHTS
        try:
            info = submitted.lstat()
        except FileNotFoundError:
            raise Ended("crashed", Failure("invalid_model", "train.py submitted no weights.")) from None
        if not stat.S_ISREG(info.st_mode) or info.st_size > self._profile.checkpoint_mb << 20:
            message = f"the submitted weights must be a plain file of at most {self._profile.checkpoint_mb} MB, got {info.st_size / 2**20:.1f} MB."
            raise Ended("crashed", Failure("invalid_model", message))
        submitted.rename(self._weights)
        self._weights.chmod(0o644)
        self._hashes["weights"] = prepare.file_hash(self._weights)[:16]

    def _keep_submission(self) -> None:
        submission = self._run / protocol.SUBMISSION
        submission.mkdir()
        protocol.write_json(submission / CONFIG, self._config or {})
        self._weights.rename(submission / client.WEIGHTS)

    def _take_submission(self, hashes: dict[str, str]) -> None:
        """What the other machine's result vouches for, or nothing."""
        submission = self._run / protocol.SUBMISSION
        try:
            shutil.copyfile(submission / client.WEIGHTS, self._weights)
            self._weights.chmod(0o644)
        except FileNotFoundError:
            raise Ended("crashed", Failure("error", "the submitted weights are missing.")) from None
        self._hashes["weights"] = prepare.file_hash(self._weights)[:16]
        if differing := sorted(name for name in self._hashes.keys() | hashes.keys() if self._hashes.get(name) != hashes.get(name)):
            raise Ended("crashed", Failure("error", f"it was trained and would be scored with different {', '.join(differing)}."))
        self._config = protocol.read_json(submission / CONFIG)

    def _score(self) -> Scores:
        self._phase = "scoring"
        self._show()
        self._log.forget_tail()
        self._scratch.make()
        began = time.monotonic()
        ours, theirs = socket.socketpair()
        parent = os.getpid()
        if os.fork() == 0:
            self._score_and_exit(theirs, parent)
        theirs.close()
        answer = bytearray()

        def listen() -> None:
            answer.extend(ours.recv(4096) or b"\n")
            stage = answer.decode("ascii", "replace")
            if stage in get_args(score.Stage):
                self._note_stage(stage)
                answer.clear()
                ours.sendall(NOTED)

        self._selector.register(ours, selectors.EVENT_READ, listen)
        while not answer.endswith(b"\n"):
            self._wait(TICK_S)
            if time.monotonic() - began > self._profile.score_s + 1:
                raise Ended("crashed", Failure("invalid_model", f"scoring the model took longer than {self._profile.score_s:.0f} s."))
        self._timings["score_s"] = time.monotonic() - began
        return self._read_score(answer.decode())

    def _note_stage(self, stage: str) -> None:
        if stage == "rehearsed":
            self._log.hush()
            return
        self._look()
        self._building_since = self._now() if stage == "building" else None

    def _now(self) -> float:
        """The budget's clock."""
        return self._family.usage().cpu_s if self._profile.clock == "cpu" else time.monotonic()

    def _score_and_exit(self, answer: socket.socket, parent: int) -> NoReturn:
        """In the scorer, a child that is thrown away: the only process that reads validation text."""

        def tell(stage: score.Stage) -> None:
            answer.sendall(stage.encode())
            answer.recv(len(NOTED))

        try:
            processes.die_with(parent)
            submission = score.Submission(
                self._code, self._spec.entry, self._weights, self._config or {}, threads=self._spec.threads, device=self._device
            )
            jail = self._jail({})
            jail = replace(jail, read=(*jail.read, self._weights), locks=False)
            outcome: dict[str, Any] = asdict(score.score(submission, self._data, self._profile, jail, tell))
        except score.ScoreError as error:
            outcome = {"kind": error.kind, "message": str(error)}
        except BaseException as error:
            outcome = {"kind": "error", "message": f"the scorer failed: {error!r}"}
        finally:
            answer.sendall(json.dumps(outcome).encode() + b"\n")
            os._exit(0)

    def _read_score(self, answer: str) -> Scores:
        if not answer.strip():
            raise Ended("crashed", Failure("invalid_model", "the scorer died while the model was answering."))
        outcome = json.loads(answer)
        if "val_bpb" in outcome:
            scores = Scores(**outcome)
            protocol.write_hidden(self._run, scores.test_bpb)
            return scores
        self._family.kill()
        while self._log.pump():
            pass
        cause, message, lines = read_traceback(self._log.tail, self._code)
        reason = f" {cause}: {message}" if cause else ""
        raise Ended("crashed", Failure(outcome["kind"], outcome["message"] + reason, lines))


def code_hash(code: Path, limit: int = CODE_BYTES) -> str:
    """Hash of the agent's files, names and contents.

    Raises:
        PreparationError: they are so large that a text could be hidden in them.
    """
    digest, size = hashlib.sha256(), 0
    for path in sorted(path for path in code.rglob("*") if path.is_file()):
        content = path.read_bytes()
        size += len(content)
        if size > limit:
            raise prepare.PreparationError(f"the files in {protocol.CODE}/ hold more than {limit >> 10} KB.")
        digest.update(f"{path.relative_to(code)}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:16]


def _text(told: str) -> str:
    """JSON can hold halves of characters, which no file can."""
    return told.encode("utf-8", "replace").decode("utf-8")


def device_name(kind: str) -> str:
    """What the machine calls its device; `kind` is a torch device type. Asks the GPU's driver, not CUDA, which no process could use after a fork."""
    if kind == "cuda":
        command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        try:
            listing = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
        except (OSError, subprocess.SubprocessError):
            return "unknown"
        return ", ".join(dict.fromkeys(line.strip() for line in listing.splitlines()))
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "platform": platform.platform()}
    for package in ("torch", "numpy", "safetensors", "kernels"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions
