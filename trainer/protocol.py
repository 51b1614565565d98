"""The files through which server and trainer meet: one directory a run. Standard library only.

The server writes `spec.json` and the files of the commit into `code/`, then starts the launcher on the directory.
The launcher holds a POSIX lock on `launcher.lock` (with its process id inside) for as long as it lives, keeps
`progress.json` current, and writes `result.json` once, atomically, as its last act. No result after the lock is free
means that the run was lost, whatever the exit code was. Whoever takes the lock first and writes `abandoned` into the
directory forbids the run for good: a launcher that finds it exits at once.

A run may be taken in two stages, on two machines: the first leaves the submitted model in `submission/` and a result
whose state is `submitted`; the second scores it, next to the data that the first never sees, and replaces the result.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from autoresearch_mcp.trainer import files

SPEC = "spec.json"
CODE = "code"  # directory with the files of the commit that lab.toml names: the editable ones, and those that they need
PROGRESS = "progress.json"
RESULT = "result.json"
LOG = "run.log"  # stdout and stderr of train.py, capped
CURVE = "curve.jsonl"  # one line a report: {"t": used budget in s, "share": 0..1, "step": int, "loss": nats a token, ...}
LOCK = "launcher.lock"
ABANDONED = "abandoned"  # the server creates this file: a run that has not begun never will
BEGUN = "begun"  # in the folder that a sandbox leaves its results in: {"sandbox", "begun", "jobs"}, then "ended": it was not abandoned
SUBMISSION = "submission"  # directory with the weights and the config of a model that waits for its score
COMPILE_CACHE = "compile_cache.zip"  # what trusted code compiled before start(), where the launcher was asked for that alone
SUBMITTED = "submitted"  # the state of a result without a score yet
CANCEL = "cancel"  # the server creates this file, then sends SIGTERM: end the run, write a `cancelled` result


@dataclass(frozen=True)
class Spec:
    """What to run. Written by the server; the code that runs under it never writes it."""

    experiment: str
    seed: int
    profile: str  # a name in trainer.prepare.PROFILES: cpu, tiny, h100
    budget_s: float  # of the profile's clock: CPU seconds on cpu, wall seconds on h100
    threads: int
    data: str  # directory that `autoresearch_mcp.trainer.prepare` made, as text
    device: str = "cpu"
    entry: str = "train.py"
    arguments: tuple[str, ...] = ()  # of the entry, on its command line
    metric: str = ""  # what a script without the contract prints of itself, such as val_bpb; empty: the scorer measures what is submitted
    readable: str = ""  # directory that such a script may read
    others: str = ""  # hash of the files in code/ that no proposal can change
    attention: str = "auto"  # see trainer.device.attention_backend
    compile_cache: str = ""  # archive that the run begins with a copy of; empty: what its machine keeps, see trainer.compile_cache


@dataclass(frozen=True)
class Progress:
    """Where a run is. `phase` is starting, running or scoring; `used_s` of the budget's clock."""

    phase: str
    used_s: float = 0.0
    step: int = 0
    loss: float | None = None


@dataclass(frozen=True)
class Result:
    """How a run ended. `val_bpb` is the scorer's measurement or None; `reported_bpb` is what train.py printed."""

    state: str  # finished, crashed, timed_out, cancelled; or submitted
    val_bpb: float | None = None
    test_bpb: float | None = None  # of the hidden split: for the gate and the owner, never for an agent
    reported_bpb: float | None = None
    failure: dict[str, Any] | None = None  # kind, message, lines, advice: see server.models.Failure
    seed: int = 0
    device: str = "cpu"  # kind
    device_name: str = ""
    budget_s: float = 0.0
    used_s: float = 0.0  # of the budget's clock
    wall_s: float = 0.0  # from start() to submit()
    cpu_s: float = 0.0  # in that time, of all processes of the run
    cpu_share: float | None = None  # CPU seconds used / (wall seconds * threads)
    steps: int = 0
    tokens: int = 0
    peak_memory_mb: float = 0.0  # resident, of training; a GPU's own memory is not in it
    notes: dict[str, str] = field(default_factory=dict)  # the code's own word on how it ran: dtype, attention
    sandbox: str = "unsandboxed"  # or what `autoresearch_mcp.trainer.sandbox.level` says
    hashes: dict[str, str] = field(default_factory=dict)  # fixed, data, tokenizer, code, weights
    versions: dict[str, str] = field(default_factory=dict)  # python, torch, numpy, platform
    timings: dict[str, float] = field(default_factory=dict)  # restore_s, spawn_s, startup_s, startup_cpu_s, first_step_s, train_s, score_s
    curve: list[list[float]] = field(default_factory=list)  # at most 60 points of (share of budget, loss)


def write_json(path: Path, value: object) -> None:
    """Write JSON so that a reader sees the old file or the new one, never a part, and a power cut keeps one of them."""
    data = json.dumps(asdict(value) if hasattr(value, "__dataclass_fields__") else value, allow_nan=False)  # type: ignore[call-overload]
    files.write_atomically(path, data.encode())


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in `path`, or None if there is no such file or it holds no JSON object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def conditions(result: dict[str, Any], spec: dict[str, Any]) -> str:
    """A short hash of all that must be equal for two metrics to be compared.

    In it: what the metric measures (profile, data, tokenizer, fixed files), what the training could do in its budget
    (kind of device, budget, threads, torch), and whether it was confined. Not in it: the device's name and the kernel,
    because a lab whose machines differ a little would compare nothing; they are in the result for whoever wonders.
    """
    hashes, versions = result["hashes"], result["versions"]
    parts = [
        spec["profile"],
        spec["device"],
        spec["budget_s"],
        spec["threads"],
        result["sandbox"] != "unsandboxed",
        versions.get("torch"),
        spec.get("attention"),
    ]
    parts += [hashes.get(name) for name in ("fixed", "data", "tokenizer")]
    parts += [spec.get(name) for name in ("entry", "arguments", "metric", "readable", "others")]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]
