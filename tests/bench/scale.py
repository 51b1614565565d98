"""How far one lab goes: a round of the runner beside many slots and a long queue, and a ledger after a year of 1,000 experiments a day.

`python -m tests.bench.scale` prints the table of docs/scale.md. Nothing is trained: runs hold their slots, or end at once.
"""

import os
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import anyio

from autoresearch_mcp.server import settings as lab_settings
from autoresearch_mcp.server.commands.init import create_lab
from autoresearch_mcp.server.compute.local.backend import LocalCompute
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.lake.embedded.store import EmbeddedLake
from autoresearch_mcp.server.ledger import Ledger
from autoresearch_mcp.server.models import Experiment, new_id
from autoresearch_mcp.server.paths import LabPaths
from autoresearch_mcp.server.proposals.repo import Repo
from autoresearch_mcp.server.runner.lock import runner_lock
from autoresearch_mcp.server.runner.loop import Runner

SLOTS = (64, 256)
QUEUED = 10_000
AGENTS = 100
DAY, MONTH, YEAR = 1_000, 30, 365
WINDOW_S = 10.0
AIM_MS = 20.0  # of a round, at the most slots
_REPEATED = {  # tables with a row for each experiment, and the columns whose values differ between those
    "ended": ("id", "commit"),
    "evidence": ("experiment", "weights", "answers"),
    "curves": ("experiment",),
    "starts": ("experiment", "commit"),
}
HERE = Path(__file__)
Row = tuple[str, str, str, str, str]


class Counted(LocalCompute):
    """Counts the rounds of the loop that asks it."""

    rounds = 0

    def troubles(self) -> list[str]:
        """Return none. The loop asks once a round."""
        self.rounds += 1
        return super().troubles()


def measure(scratch: Path) -> list[Row]:
    """Return the rows."""
    return [
        *(row for slots in SLOTS for row in _loop(scratch / f"scale-{slots}", slots)),
        *(row for days in (MONTH, YEAR) for row in _ledger_after(scratch / f"scale-{days}-days", days)),
    ]


def _loop(root: Path, slots: int) -> list[Row]:
    """Fill the slots of a long queue with runs that don't end; then see what a round costs, when nothing changes and when agents queue more."""
    create_lab(root, profile="tiny")
    text = (root / "lab.toml").read_text(encoding="utf-8").replace("slots = 0", f"slots = {slots}")
    (root / "lab.toml").write_text(text, encoding="utf-8")
    settings, state = lab_settings.load(root), LabPaths(root).state
    state.mkdir(exist_ok=True)
    ledger, repo, lake = Ledger(state / "ledger.sqlite"), Repo(root, settings.training.editable), EmbeddedLake(state / "lake")
    compute = Counted("tiny", 1, state / "runner.log", command=(sys.executable, str(HERE.with_name("holding_launcher.py"))))
    commits = _commits(root, repo.champion(), QUEUED // 4)
    launch = settings.launch()
    ledger.enqueue([_experiment(n, commits[n % len(commits)]) for n in range(QUEUED)], 1e12, None, "r", launch=launch)
    runner = Runner(settings, state, ledger, repo, lake, compute)
    took: dict[str, float] = {}

    async def rounds(name: str, busy: bool) -> None:
        before, cpu_s, until = compute.rounds, time.process_time(), time.monotonic() + WINDOW_S
        while time.monotonic() < until:
            await anyio.sleep(0.2)
            if busy:  # as 100 agents that queue 5 a second
                ledger.enqueue([_experiment(QUEUED, commits[0])], 1e12, None, "r", launch=launch)
        took[name] = (time.process_time() - cpu_s) / (compute.rounds - before)
        took[f"{name} of a core"] = (time.process_time() - cpu_s) / WINDOW_S

    async def drive() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(runner.run)
            began, cpu_s = time.monotonic(), time.process_time()
            while ledger.counts().get("running", 0) < slots:
                assert time.monotonic() < began + 300, ledger.counts()
                await anyio.sleep(0.1)
            took["start"] = (time.process_time() - cpu_s) / slots
            await rounds("still", False)
            await rounds("busy", True)
            runner.stopping.set()

    anyio.run(drive)
    lake.close()
    ledger.close()
    what, aim = f"{slots} slots, {QUEUED:,} queued", f"{AIM_MS:g} ms"
    return [
        (f"a round of the runner, {what}", f"{1e3 * took['still']:.1f} ms", "CPU, nothing changes", f"{took['still'] / (AIM_MS / 1e3):.2f}", aim),
        ("  while agents queue 5 a second", f"{1e3 * took['busy']:.1f} ms", "CPU", f"{took['busy'] / (AIM_MS / 1e3):.2f}", aim),
        ("  the runner's share of a core", f"{100 * took['still of a core']:.0f} %", f"{100 * took['busy of a core']:.0f} % while agents queue", "", ""),
        ("  CPU of a start", f"{1e3 * took['start']:.0f} ms", "files, launcher, ledger", "", ""),
    ]  # fmt: skip


def _experiment(number: int, commit: str) -> Experiment:
    return Experiment(
        id=new_id("e"), commit=commit, base=commit, author=f"agent-{number % AGENTS}", hypothesis="Another learning rate.", seed=number,
        device="cpu", created_at=float(number), reserved_s=1.0,
    )  # fmt: skip


def _commits(root: Path, champion: str, count: int) -> list[str]:
    """Make commits on the champion that differ in a line; returns their ids."""
    train = (root / "train.py").read_bytes()
    stream = []
    for number in range(count):
        code = train + f"\n# {number}\n".encode()
        head = f"reset refs/heads/scale\ncommit refs/heads/scale\nmark :{number + 1}\ncommitter x <x> 0 +0000\ndata 1\nx\nfrom {champion}\n"
        stream.append(head.encode() + f"M 100644 inline train.py\ndata {len(code)}\n".encode() + code + b"\n")
    marks = root.with_name(f"{root.name}.marks")
    command = ["git", "-C", str(root), "fast-import", "--quiet", "--force", f"--export-marks={marks}"]
    subprocess.run(command, input=b"".join(stream), check=True)
    return [line.split()[1] for line in marks.read_text(encoding="ascii").splitlines()]


def _ledger_after(root: Path, days: int) -> list[Row]:
    """See what a ledger weighs after so many days, and what is asked of it costs then."""
    create_lab(root, profile="tiny")
    text = (root / "lab.toml").read_text(encoding="utf-8").replace("device_hours = 8.0", "device_hours = 100000.0")
    (root / "lab.toml").write_text(text, encoding="utf-8")
    state = LabPaths(root).state
    state.mkdir(exist_ok=True)
    with closing(Ledger(state / "ledger.sqlite")) as ledger:
        champion = Repo(root, ["train.py"]).champion()
        for number in range(DAY):
            each = _experiment(number, champion if number % 8 == 0 else f"{number // 4:040x}")
            ledger.enqueue([each], 1e12, None, "r")
            ledger.start(each.id, 1e12)
            ledger.keep_evidence(each.id, "landlock-7+seccomp", 1.5, f"{number:064x}", f"{number:064x}")
            ledger.keep_curve(each.id, "s", [3.0 - 0.05 * n for n in range(20)])
            ended = {"state": "finished", "val_bpb": 1.5 + number % 97 / 1e3, "conditions": "c", "finished_at": time.time() - DAY + number}
            ledger.move(each.id, ["starting"], **ended)
            ledger.settle("experiments", {each.id: 1000})
    size = _multiply(state / "ledger.sqlite", days)
    rows: list[Row] = [
        (f"the ledger after {days} days of {DAY:,}", f"{size / 1e6:,.0f} MB", f"{size / DAY / days:,.0f} bytes an experiment", "", ""),
    ]
    began = time.process_time()
    with runner_lock(state), closing(Lab(root)) as lab:  # the lock: nothing of it trains
        rows.append(("  start of a server on it", f"{time.process_time() - began:.2f} s", "CPU", "", ""))
        asked: dict[str, Callable[[], object]] = {
            "get_status": lab.status,
            "launch_training, after which": lambda: lab.launch_training("champion", "ada", 1),
            "get_status again": lab.status,
        }
        for name, ask in asked.items():
            took = _took_s(ask)
            rows.append((f"  {name}", f"{1e3 * statistics.median(took):.0f} ms", f"{1e3 * took[0]:.0f} ms the first time; CPU", "", ""))
    return rows


def _took_s(ask: Callable[[], object]) -> list[float]:
    took = []
    for _ in range(5):
        began = time.process_time()
        ask()
        took.append(time.process_time() - began)
    return took


def _multiply(path: Path, days: int) -> int:
    """Repeat each row of a day's ledger for every day before it, under other ids; returns the bytes of the file."""
    with closing(sqlite3.connect(path)) as db:
        for table, keys in _REPEATED.items():
            columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
            columns = [name for name in columns if name != "seq"]
            earlier = {name: f'"{name}" - 86400.0 * (d - 99)' for name in columns if name == "at" or name.endswith("_at")}
            renamed = {name: f'd || substr("{name}", length(d) + 1)' for name in keys}
            chosen = ", ".join((earlier | renamed).get(name, f'"{name}"') for name in columns)
            names = ", ".join(f'"{name}"' for name in columns)
            every = f"WITH RECURSIVE days(d) AS (SELECT 100 UNION ALL SELECT d + 1 FROM days WHERE d < {days + 98})"
            db.execute(f"INSERT INTO {table} ({names}) {every} SELECT {chosen} FROM {table}, days")
        db.commit()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path.stat().st_size


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        for row in measure(Path(scratch)):
            print(*(cell for cell in row if cell), sep=" | ")
    print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB resident at most; load {os.getloadavg()[0]:.1f}")
