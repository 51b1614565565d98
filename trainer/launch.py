"""Starts supervisors of runs, cold or from a warm parent (fixed).

- `python -m autoresearch_mcp.trainer.launch RUNDIR` supervises one run and exits.
- `python -m autoresearch_mcp.trainer.launch --warm` imports torch once (with `--scripts` not at all, with `--predictions` scikit-learn
  instead), then forks a supervisor for each directory that it reads from stdin, one a line. It answers each with a line of JSON:
  {"run", "pid"} or {"run", "error"}. When its stdin ends it exits, and its supervisors live on.
- `--stage train` and `--stage score` split a run between two machines. `--stage compile` ends one at start(), and keeps what it compiled.

All ways meet in `supervise`, so there is one way to run. Every run ends with a result, unless its supervisor is killed by SIGKILL.
Then the kernel kills the trainer too, and the missing result says that the run was lost.
"""

import argparse
import gc
import json
import os
import signal
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import get_args

from autoresearch_mcp.trainer import files, machine, prepare, protocol, sandbox
from autoresearch_mcp.trainer.failures import Failure
from autoresearch_mcp.trainer.model_run import ModelRun
from autoresearch_mcp.trainer.protocol import OwnText, Result, Scoring, Spec
from autoresearch_mcp.trainer.sandbox import processes
from autoresearch_mcp.trainer.script_run import ScriptRun
from autoresearch_mcp.trainer.sources import CodeTooLarge
from autoresearch_mcp.trainer.supervisor import Stage, Supervisor

# A launcher keeps these of its environment. The rest may hold secrets, and forked children could read all of it.
_ENVIRONMENT = (
    "PATH",
    "HOME",
    "TMPDIR",
    "LANG",
    "LC_ALL",
    "PYTHONPATH",
    "VIRTUAL_ENV",
    "LD_LIBRARY_PATH",
    "CUDA_VISIBLE_DEVICES",
    "KERNELS_CACHE",
    *machine.PLACE,
    *machine.NODE,
    sandbox.PRIVATE,
)
_CLEAN = "AUTORESEARCH_CLEAN"
_OF_MODELS = ("numpy", "torch", "torch._dynamo", "safetensors.torch")  # _dynamo: the first optimizer would import it, in 1.6 s
_OF_PREDICTIONS = ("numpy", "scipy.stats", "sklearn.metrics")


def supervise(run: Path, stage: Stage = "all") -> None:
    """Take a run directory through to its result. Do nothing if another process has it, or if it is abandoned or done."""
    lock = os.open(run / protocol.LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if not _locked(lock):
        return
    ended = (run / protocol.RESULT).exists()
    if (run / protocol.ABANDONED).exists() or ended != (stage == "score"):
        os.close(lock)  # at once, not when this process has ended: others must see that nobody has the run
        return
    try:
        submitted = protocol.read_result(run)
    except protocol.ResultError as error:
        protocol.write_json(run / protocol.RESULT, _failed(str(error)))
        return
    if submitted is not None and submitted.state != protocol.SUBMITTED:
        return
    os.umask(0o077)  # a run's files are nobody else's
    signals: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: signals.append(received))
    os.ftruncate(lock, 0)
    os.write(lock, f"{os.getpid()}\n".encode())
    family = processes.Family()
    supervisor: Supervisor | None = None
    try:
        spec = _read_spec(run)
        if spec.visible:
            os.environ["CUDA_VISIBLE_DEVICES"] = spec.visible  # CUDA reads it at its first use, which no launcher makes
        place = run.resolve(), spec, family, signals
        supervisor = ScriptRun(*place) if spec.metric else ModelRun(*place)
        result = supervisor.run(stage) if submitted is None else supervisor.score(submitted)
    except prepare.PreparationError as error:
        result = replace(_failed(str(error)), fault="code" if isinstance(error, CodeTooLarge) else "machine")
    except Exception as error:
        blamed = supervisor is not None and supervisor.blames_code(error)
        result = replace(_failed(f"the launcher failed: {error!r}"), fault="code" if blamed else "machine")
    finally:
        family.kill()
    protocol.write_json(run / protocol.RESULT, result)


def _locked(lock: int, patience_s: float = 1.0) -> bool:
    """Take the lock, patiently: a process that looks whether a launcher lives holds it for a moment.

    Returns:
        Whether this process holds it now.
    """
    deadline = time.monotonic() + patience_s
    while not files.try_process_lock(lock):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def _failed(message: str) -> Result:
    """Make the result of a run that ended by the machine's fault."""
    return Result("crashed", failure=Failure("error", message).as_dict(), fault="machine")


def _read_spec(run: Path) -> Spec:
    spec = protocol.read_json(run / protocol.SPEC)
    if spec is None:
        raise prepare.PreparationError(f"{protocol.SPEC} is missing or no JSON object.")
    if own := spec.get("own_text"):
        spec["own_text"] = OwnText(**own)
    elif spec.get("profile") not in prepare.PROFILES:
        raise prepare.PreparationError(f"there is no profile {spec.get('profile')!r}; there are {', '.join(prepare.PROFILES)}.")
    spec.setdefault("compile_cache", spec.pop("graphs", ""))  # its name before version 0.2
    if scoring := spec.get("scoring"):
        spec["scoring"] = Scoring(**scoring)
    return Spec(**spec)


def _serve_warm(stage: Stage) -> None:
    """Fork a supervisor for each line of stdin. This process holds no data and runs nothing of torch: it is only forked."""
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        run = Path(line.rstrip("\n"))
        answer: dict[str, str | int] = {"run": str(run)}
        if not run.is_dir():
            answer["error"] = "there is no such directory."
        else:
            try:
                answer["pid"] = os.fork()
            except OSError as error:
                answer["error"] = f"no process could be forked: {error.strerror}."
            if answer.get("pid") == 0:
                _supervise_detached(run, stage)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _supervise_detached(run: Path, stage: Stage) -> None:
    """In a new supervisor: take a session of its own, drop the parent's pipes, supervise. Never returns."""
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(null, standard)
        supervise(run, stage)
    finally:
        os._exit(0)


def _preload(names: Iterable[str]) -> None:
    """Import what every run needs. If a package is missing, the run will say so."""
    try:
        for name in names:
            import_module(name)
    except ImportError:
        return


def _clean_environment() -> None:
    """Replace this process by one whose memory never held the rest of the environment."""
    if _CLEAN in os.environ:
        return
    kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    kept |= {_CLEAN: "1", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONUTF8": "1"}  # OpenMP reads its policy once, when torch loads
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], kept)  # noqa: S606


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m autoresearch_mcp.trainer.launch",
        description="Supervise the run in a directory that holds spec.json and code/; or, warm, those that stdin names.",
        epilog="example: python -m autoresearch_mcp.trainer.launch .autoresearch/runs/x-1",
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("run", nargs="?", type=Path, help="the run directory")
    which.add_argument("--warm", action="store_true", help="read run directories from stdin, one a line")
    parser.add_argument(
        "--scripts", action="store_true", help="with --warm: import no torch, as all runs are of scripts without the contract"
    )
    parser.add_argument("--predictions", action="store_true", help="with --warm: import what measures predictions, and no torch")
    parser.add_argument(
        "--stage",
        choices=get_args(Stage),
        default="all",
        help="train without scoring, or score what was trained; or compile, with trusted code, and end at start()",
    )
    arguments = parser.parse_args()
    if not arguments.warm and not arguments.run.is_dir():
        parser.exit(2, f"{arguments.run}: there is no such directory.\n")
    _clean_environment()
    scripts = arguments.scripts if arguments.warm else (protocol.read_json(arguments.run / protocol.SPEC) or {}).get("metric")
    if arguments.predictions:
        _preload(_OF_PREDICTIONS)
    elif not scripts:  # which import what they need by themselves
        _preload(_OF_MODELS)
    if arguments.warm:
        _serve_warm(arguments.stage)
    else:
        supervise(arguments.run, arguments.stage)


if __name__ == "__main__":
    main()
