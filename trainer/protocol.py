"""Defines the files through which server and trainer meet: one directory a run. Standard library only.

The server writes `spec.json` and the files of the commit into `code/`, then starts the launcher on the directory.
The launcher holds a POSIX lock on `launcher.lock` (with its process id inside) for as long as it lives, keeps
`progress.json` current, and writes `result.json` once, atomically, as its last act. No result after the lock is free
means that the run was lost, whatever the exit code was. A process that takes the lock first and writes `abandoned` into
the directory forbids the run for good: a launcher that finds it exits at once.

The score on the hidden split never stands in the result, which agents see. It has a file of its own, `hidden.json`, which
only the lab's user can read. The launcher writes it before the result, and the runner moves it into the ledger.

A run may be taken in two stages, on two machines. The first leaves the submitted model in `submission/` and a result
whose state is `submitted`. The second scores it, next to the data that the first never sees, and replaces the result.
"""

import contextlib
import hashlib
import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from autoresearch_mcp.trainer import files

SPEC = "spec.json"
CODE = "code"  # directory with the files of the commit that lab.toml names: the editable ones, and those that they need
PROGRESS = "progress.json"
RESULT = "result.json"
HIDDEN = "hidden.json"  # {"test_bpb"} or {"finding"}: the score on the hidden split, or where a check failed; never for an agent
LOG = "run.log"  # stdout and stderr of train.py, capped
CURVE = "curve.jsonl"  # one line a report: {"t": used budget in s, "share": 0..1, "step": int, "loss": nats a token, ...}
LOCK = "launcher.lock"
ABANDONED = "abandoned"  # the server creates this file: a run that has not begun never will
BEGUN = "begun"  # in the folder that a sandbox leaves its results in: {"sandbox", "begun", "jobs"}, then "ended": it was not abandoned
SUBMISSION = "submission"  # directory with the weights and the config of a model that waits for its score
COMPILE_CACHE = "compile_cache.zip"  # what trusted code compiled before start(), where the launcher was asked for that alone
UNREADABLE = "unreadable"  # the only key of a result in whose place a backend got something else, with the reason
SUBMITTED = "submitted"  # the state of a result without a score yet
HIDDEN_SCORE = "test_bpb"  # the key in HIDDEN, and in results of before version 0.2
FINDING = "finding"  # the key in HIDDEN: which held-out row and position a check failed at, and by how much
FAULTS = ("code", "scorer", "machine", "cancel")  # the agent's code; our scorer; the machine or the launcher; somebody stopped it
STATES = ("finished", "crashed", "timed_out", "cancelled", SUBMITTED)
CANCEL = "cancel"  # the server creates this file, then sends SIGTERM: end the run, write a `cancelled` result


@dataclass(frozen=True)
class Scoring:
    """Says how the owner has code scored that keeps no contract: see own_scorer.py."""

    kind: str  # predictions or command
    hidden: str  # directory with the answers, which no training reads: `validation` and `test` in it
    submission: str = ""  # file or folder that a run leaves; empty: by the kind
    file: str = ""  # of a command: the owner's Python file
    timeout_s: float = 60.0  # of each of its two runs
    memory_mb: int = 4096  # of all of scoring
    max_mb: int = 100  # that a run may submit
    hide: tuple[str, ...] = ()  # what else no training reads: absolute paths, or paths below the interpreter's packages

    @property
    def longest_s(self) -> float:
        """How long scoring may take."""
        return 60.0 + (2 * self.timeout_s if self.kind == "command" else 60.0)


@dataclass(frozen=True)
class OwnText:
    """Says what a profile of an owner's own text is made of: see own_text.py."""

    text: str = ""  # folder with it; or
    dataset: str = ""  # owner/name on the Hugging Face hub
    files: str = "*"  # which files: a pattern on paths below the folder, or of the data set
    column: str = "text"  # of JSON lines and Parquet
    device: str = "cpu"
    vocab_size: int = 2048
    seq_len: int = 256
    budget_s: float = 0.0  # 0: as the built-in profile of its device
    eval_bytes: int = 200_000  # of validation; half as many of the hidden split
    max_mb: int = 1000  # of text to read


@dataclass(frozen=True)
class Spec:
    """Says what to run. The server writes it; the code that runs under it never does."""

    experiment: str
    seed: int
    profile: str  # a name in trainer.prepare.PROFILES: cpu, tiny, gpu, h100; or the owner's own
    budget_s: float  # of the profile's clock: CPU seconds on cpu, wall seconds on h100
    threads: int
    data: str  # directory that `autoresearch_mcp.trainer.prepare` filled, as text
    device: str = "cpu"
    visible: str = ""  # of the machine's GPUs, the one that the run is given, by UUID; empty: what the launcher sees
    entry: str = "train.py"
    arguments: tuple[str, ...] = ()  # of the entry, on its command line
    metric: str = ""  # what a script without the contract prints of itself, such as val_bpb; empty: the scorer measures what is submitted
    unit: str = ""  # that may stand behind the number
    pattern: str = ""  # a regular expression with one group that finds it; empty: its name does
    source: str = ""  # file that such a script leaves the metric in, or `tensorboard`; empty: its output
    watched: tuple[str, ...] = ()  # names of further metrics to read
    readable: str = ""  # directory that such a script may read
    below_home: str = ""  # where below its home such a script finds that directory too
    others: str = ""  # hash of the files in code/ that no proposal can change
    attention: str = "auto"  # see trainer.device.attention_backend
    module: str = ""  # of a script: run as with `python -m`, in place of the entry
    python: str = ""  # of a script: the interpreter that runs it; empty: the launcher's own
    cwd: str = ""  # of a script: the folder in code/ where it starts
    env: dict[str, str] = field(default_factory=dict)  # of a script
    memory_mb: int = 0  # of a script; 0: the profile's
    disk_mb: int = 0  # of a script; 0: the profile's
    max_files: int = 0  # of a script: how many it may have; 0: as many as any run
    commit: str = ""  # of the code, which a script may ask git for
    scoring: Scoring | None = None  # of a script; None: its metric is what it prints
    own_text: OwnText | None = None  # of a profile that is not built in
    compile_cache: str = ""  # archive that the run begins with a copy of; empty: what its machine keeps, see trainer.compile_cache
    quiet: bool = True  # whether the run stops while a neighbour's model is scored, and has the machine alone for its own: see quiet.py


_OF_SCRIPTS = ("pattern", "source", "module", "python", "cwd", "env", "memory_mb", "disk_mb", "max_files")  # conditions, where they are set


@dataclass(frozen=True)
class Progress:
    """Says where a run is. `phase` is starting, running or scoring; `used_s` is of the budget's clock."""

    phase: str
    used_s: float = 0.0
    step: int = 0
    loss: float | None = None
    weights_mb: float | None = None  # of the model in training, as its code says at the first step


@dataclass(frozen=True)
class Result:
    """Says how a run ended. `val_bpb` is the scorer's measurement or None; `reported_bpb` is what train.py printed."""

    state: str  # one of STATES
    val_bpb: float | None = None
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
    steps: int = 0  # the last step that the training code reported: it may be forged
    tokens: int = 0  # likewise
    peak_memory_mb: float = 0.0  # resident, of training; a GPU's own memory is not in it
    weights_mb: float | None = None  # submitted; None where none were
    notes: dict[str, str] = field(default_factory=dict)  # what the code itself says on how it ran: dtype, attention
    sandbox: str = "unsandboxed"  # or what `autoresearch_mcp.trainer.sandbox.level` says
    hashes: dict[str, str] = field(default_factory=dict)  # fixed, data, tokenizer, code, weights, answers; scorer, where it is the owner's
    versions: dict[str, str] = field(default_factory=dict)  # python, torch, numpy, platform
    timings: dict[str, float] = field(default_factory=dict)  # restore_s, spawn_s, startup_s, startup_cpu_s, first_step_s, train_s, score_s
    curve: list[list[float]] = field(default_factory=list)  # at most 60 points of (share of budget, loss)
    metrics: dict[str, float] = field(default_factory=dict)  # further numbers: claims of the training code, or the owner's scorer's
    device_s: float | None = None  # for which it held a rented device, as its backend counts; None where nothing is rented
    fault: str = ""  # whose the failure is, one of FAULTS; empty without one
    barred: bool = False  # a check of the model failed: its answers depend on later tokens, other rows or earlier calls
    ended_in: str = ""  # the phase in which it ended: starting, running or scoring
    host: str = ""  # names the machine without telling its name: see machine.host
    device_id: str = ""  # of the GPU, as its driver says; empty without one
    pressure: float | None = (
        None  # share of the wall seconds in which something on the machine waited for a core; None where it doesn't tell
    )


class ResultError(ValueError):
    """A result that this version can't read; the text says what is wrong with it."""


def write_json(path: Path, value: object) -> None:
    """Write JSON so that a reader sees the old file or the new one, never a part, and a power cut keeps one of them."""
    data = json.dumps(asdict(value) if hasattr(value, "__dataclass_fields__") else value, allow_nan=False)  # type: ignore[call-overload]
    files.write_atomically(path, data.encode())


def read_json(path: Path) -> dict[str, Any] | None:
    """Read the object in `path`.

    Returns:
        None if there is no such file, or it holds no JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def parse_result(value: object) -> Result:
    """Read a result that was sent or stored as JSON. Every field must be there, and of its type.

    Args:
        value: the decoded JSON. A hidden score in it, where earlier versions had it, is left out: see `read_hidden`.

    Raises:
        ResultError: something in it is missing, unknown, or of another type.
    """
    if not isinstance(value, dict):
        raise ResultError("the result is no JSON object.")
    kinds = get_type_hints(Result)
    optional = (
        "metrics",
        "device_s",
        "fault",
        "barred",
        "ended_in",
        "host",
        "device_id",
        "pressure",
        "weights_mb",
    )  # added later, or by a backend
    if missing := [name for name in kinds if name not in value and name not in optional]:
        raise ResultError(f"the result lacks {', '.join(missing)}.")
    if unknown := sorted(value.keys() - kinds.keys() - {HIDDEN_SCORE}):
        raise ResultError(f"the result has unknown fields: {', '.join(unknown)}.")
    for name, kind in kinds.items():
        if name in value and not _fits(value[name], kind):
            raise ResultError(f"the result's {name} is not of its type.")
    if value["state"] not in STATES:
        raise ResultError(f"the result's state is none of {', '.join(STATES)}.")
    if any(len(point) != 2 for point in value["curve"]):
        raise ResultError("the result's curve is not made of pairs.")
    return Result(**{name: value[name] for name in kinds if name in value})


def read_result(directory: Path) -> Result | None:
    """Read the result in a run directory.

    Returns:
        The result, or None if there is none yet.

    Raises:
        ResultError: there is one that can't be read.
    """
    try:
        value = json.loads((directory / RESULT).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        raise ResultError("the result is not valid JSON.") from None
    if isinstance(value, dict) and UNREADABLE in value:
        raise ResultError(str(value[UNREADABLE]))
    return parse_result(value)


def write_hidden(directory: Path, test_bpb: float) -> None:
    """Keep the score on the hidden split in a run directory, for the lab's user alone. Write it before the result.

    Raises:
        OSError: it was not written.
    """
    write_json(directory / HIDDEN, {HIDDEN_SCORE: test_bpb})


def write_finding(directory: Path, finding: str) -> None:
    """Keep where a check of the model failed in a run directory, for the lab's owner alone. Write it before the result.

    Raises:
        OSError: it was not written.
    """
    write_json(directory / HIDDEN, {FINDING: finding})


def read_finding(directory: Path) -> str:
    """Read where a check of the model failed; empty where none did."""
    finding = (read_json(directory / HIDDEN) or {}).get(FINDING)
    return finding if isinstance(finding, str) else ""


def read_hidden(directory: Path) -> float | None:
    """Read the score on the hidden split from a run directory, or from its result, where earlier versions left it."""
    for name in (HIDDEN, RESULT):
        if (score := hidden_score(read_json(directory / name))) is not None:
            return score
    return None


def remove_hidden(directory: Path) -> None:
    """Remove the score on the hidden split from a run directory, wherever `read_hidden` would find it. Keeps it where the disk is full."""
    with contextlib.suppress(OSError):
        (directory / HIDDEN).unlink(missing_ok=True)
        if HIDDEN_SCORE in (result := read_json(directory / RESULT) or {}):
            write_json(directory / RESULT, {name: value for name, value in result.items() if name != HIDDEN_SCORE})


def hidden_score(value: object) -> float | None:
    """Find the score on the hidden split in decoded JSON: what `HIDDEN` holds, or a result of an earlier version.

    Returns:
        The score, or None if there is no finite one.
    """
    score = value.get(HIDDEN_SCORE) if isinstance(value, dict) else None
    return float(score) if isinstance(score, int | float) and not isinstance(score, bool) and math.isfinite(score) else None


def _fits(value: Any, kind: Any) -> bool:
    """Return whether decoded JSON is of a field's type."""
    outer, inner = get_origin(kind), get_args(kind)
    if outer is UnionType:
        return any(_fits(value, each) for each in inner)
    if outer is dict:
        return isinstance(value, dict) and all(_fits(each, inner[1]) for each in value.values())
    if outer is list:
        return isinstance(value, list) and all(_fits(each, inner[0]) for each in value)
    if kind is Any:
        return True
    if kind in (int, float):
        return isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
    return isinstance(value, kind)


def conditions(result: Result, spec: dict[str, Any]) -> str:
    """Return a short hash of all that must be equal for two metrics to be compared.

    In it are what the metric measures (profile, data, tokenizer, fixed files), what the training could do in its budget
    (kind of device, model of a GPU, budget, threads, torch), and whether it was confined. A CPU's name and the kernel are not,
    because a lab whose machines differ a little would compare nothing. Both are in the result.
    """
    parts = [
        spec["profile"],
        spec["device"],
        spec["budget_s"],
        spec["threads"],
        result.sandbox != "unsandboxed",
        result.versions.get("torch"),
        spec.get("attention"),
    ]
    parts += [result.hashes.get(name) for name in ("fixed", "data", "tokenizer")]
    parts += [spec.get(name) for name in ("entry", "arguments", "metric", "readable", "others")]
    parts += [[name, spec[name]] for name in _OF_SCRIPTS if spec.get(name)]
    if packages := result.hashes.get("packages"):
        parts.append(packages)
    if spec["device"] != "cpu":
        parts.append(result.device_name)
    if own := spec.get("own_text"):
        parts.append([own["seq_len"], own["eval_bytes"]])
    if scoring := spec.get("scoring"):
        parts.append([scoring["kind"], result.hashes.get("scorer")])
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]
