"""How far one lab goes: a round of the runner beside many slots and a long queue, and a ledger after a year of 1,000 experiments a day.

`python -m tests.bench.scale` prints the table of docs/scale.md. Nothing is trained: runs hold their slots, or end at once.
"""

import asyncio
import json
import os
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
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
from autoresearch_mcp.server.models import Experiment, Proposal, Verdict, new_id
from autoresearch_mcp.server.paths import LabPaths
from autoresearch_mcp.server.proposals.repo import Repo
from autoresearch_mcp.server.runner.lock import runner_lock
from autoresearch_mcp.server.runner.loop import Runner
from tests.bench import http_calls

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
    "proposals": ("commit", "fingerprint"),
    "canonicals": ("commit", "canonical"),
    "decisions": ("commit", "ticket"),
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
            took["start"], took["starting"] = ((time.process_time() - cpu_s) / each for each in (slots, compute.rounds))
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
        ("  while it starts trainings", f"{1e3 * took['starting']:.1f} ms", "CPU", f"{took['starting'] / (AIM_MS / 1e3):.2f}", aim),
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


def ledger_after(root: Path, days: int) -> int:
    """Make a lab whose ledger is as after so many days, with `QUEUED` experiments open; returns the bytes of its ledger.

    Each day has 250 commits of its own with three or four replicates, half of them decided; the champion is the last month's.
    """
    create_lab(root, profile="tiny")
    text = (root / "lab.toml").read_text(encoding="utf-8").replace("device_hours = 8.0", "device_hours = 1000000.0")
    (root / "lab.toml").write_text(text, encoding="utf-8")
    state, now = LabPaths(root).state, time.time()
    state.mkdir(exist_ok=True)
    with closing(Ledger(state / "ledger.sqlite")) as ledger:
        champion = Repo(root, ["train.py"]).champion()
        for number in range(DAY):
            each, commit = _experiment(number, champion if number % 8 == 0 else f"{number // 4:040x}"), f"{number // 4:040x}"
            each = each.model_copy(update={"by_lab": number % 8 == 0, "commit": each.commit, "base": champion})
            if number % 4 == 0:
                ledger.add_proposal(_proposal(commit, champion, number, now - DAY + number), f"canonical {number}")
            ledger.enqueue([each], 1e12, None, "r")
            ledger.start(each.id, 1e12)
            ledger.keep_evidence(each.id, "landlock-7+seccomp", 1.5 + number / 1e6, f"{number:064x}", f"{number:064x}")
            ledger.keep_curve(each.id, "s", [3.0 - 0.05 * n for n in range(20)])
            ended = {"state": "finished", "val_bpb": 1.5 + number % 97 / 1e3, "conditions": "c", "finished_at": now - DAY + number}
            ledger.move(each.id, ["starting"], **ended)
            ledger.settle("experiments", {each.id: 1000})
            if number % 8 == 3:
                verdict = Verdict(promote=False, code="futile", final=True, reason="Worse. " * 20, p=0.7, level=0.005)
                ledger.keep_decision(champion, "c", commit, commit, "r", verdict)
    _multiply(state / "ledger.sqlite", days, champion)
    with closing(Ledger(state / "ledger.sqlite")) as ledger:
        ledger.recount()
        queue = [_experiment(n, f"{n // 4:040x}") for n in range(QUEUED)]
        ledger.enqueue(queue, 1e12, None, "r", launch=lab_settings.load(root).launch())
    return (state / "ledger.sqlite").stat().st_size


def _proposal(commit: str, base: str, number: int, at: float) -> Proposal:
    return Proposal(
        commit=commit, base=base, fingerprint=f"{number:064x}", author=f"agent-{number % AGENTS}", title=f"A wider layer {number}",
        hypothesis=f"A wider layer {number} learns faster at this budget, as its steps are worth more.", tags=["width"], files_changed=1,
        insertions=1, deletions=1, created_at=at, sets={"WIDTH": str(number)}, novelty=0.5,
    )  # fmt: skip


def _ledger_after(root: Path, days: int) -> list[Row]:
    """See what a ledger weighs after so many days, and what is asked of it costs then."""
    size = ledger_after(root, days)
    rows: list[Row] = [
        (f"the ledger after {days} days of {DAY:,}", f"{size / 1e6:,.0f} MB", f"{size / DAY / days:,.0f} bytes an experiment", "", ""),
    ]
    code = f"import sys; from tests.bench import scale; scale.ask({str(root)!r})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # another process: imports count
    return [*rows, *(tuple(row) for row in json.loads(run.stdout)), *_agents(root)]


def _agents(root: Path) -> list[Row]:
    """See how long agents wait for the status over HTTP when all ask at once, and when somebody launches a training each second meanwhile."""
    with runner_lock(LabPaths(root).state), http_calls.serving(root) as port, closing(Lab(root)) as lab:
        asyncio.run(http_calls.ask(port, "get_status", 1))  # who comes first waits until all is read
        still = asyncio.run(http_calls.ask(port, "get_status", AGENTS))
        ended = threading.Event()
        launching = threading.Thread(target=_launch_each_second, args=(lab, ended))
        launching.start()
        busy = asyncio.run(http_calls.ask(port, "get_status", AGENTS))
        ended.set()
        launching.join()
    rows = (("nothing changes", still), ("a launch a second", busy))
    return [
        (f"  get_status by {AGENTS} agents at once, {what}", f"{1e3 * s:.0f} ms", f"{rate:.0f}/s by the clock", "", "")
        for what, (s, rate) in rows
    ]


def _launch_each_second(lab: Lab, ended: threading.Event) -> None:
    while not ended.wait(1.0):
        lab.launch_training("champion", "ada", 1)


def ask(root: str) -> None:
    """Print what a server's questions cost in a lab, as rows."""
    rows = []
    with runner_lock(LabPaths(Path(root)).state):  # nothing of it trains
        began = time.process_time()
        lab = Lab(Path(root))
        rows.append(("  start of a server on it", f"{1e3 * (time.process_time() - began):.0f} ms", "CPU", "", ""))
        asked: dict[str, Callable[[], object]] = {
            "get_status": lab.status,
            "its advice": lambda: lab.next_steps("agent-1"),
            "launch_training, after which": lambda: lab.launch_training("champion", "ada", 1),
            "get_status again": lab.status,
            "launch_training, another": lambda: lab.launch_training("champion", "ada", 1),
            "get_status and advice again": lambda: (lab.status(), lab.next_steps("agent-1")),
            "similar proposals": lambda: lab.search_memory("a wider layer learns faster"),
            "the page's campaign": lab.overview,
            "launch_training, a third": lambda: lab.launch_training("champion", "ada", 1),
            "the page's campaign again": lab.overview,
            "the page's agents": lab.agents,
            "the page's leaderboard": lambda: lab.leaderboard(25),
            "plot_progress": lab.plot_progress,
        }
        for name, question in asked.items():
            took, wall = _took_s(question, 1 if "launch" in name else 3)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            later = f", then {1e3 * statistics.median(took[1:]):.0f} ms" if len(took) > 1 else ""
            rows.append((f"  {name}", f"{1e3 * took[0]:.0f} ms", f"CPU{later}; {1e3 * wall:.0f} ms by the clock; {peak:.0f} MB", "", ""))
        lab.close()
    print(json.dumps(rows))


def _took_s(question: Callable[[], object], times: int) -> tuple[list[float], float]:
    """Return the CPU seconds of each time, and how long the first one took."""
    took, wall = [], 0.0
    for number in range(times):
        began, clock = time.process_time(), time.monotonic()
        question()
        took.append(time.process_time() - began)
        wall = wall if number else time.monotonic() - clock
    return took, wall


def _multiply(path: Path, days: int, champion: str) -> None:
    """Repeat each row of a day's ledger for every day before it, under other ids."""
    with closing(sqlite3.connect(path)) as db:
        for table, keys in _REPEATED.items():
            columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
            columns = [name for name in columns if name != "seq"]
            earlier = {name: f'"{name}" - 86400.0 * (d - 99)' for name in columns if name == "at" or name.endswith("_at")}
            renamed = {name: f'd || substr("{name}", length(d) + 1)' for name in keys}
            lasting = f'CASE WHEN "commit" = \'{champion}\' AND d < {99 + MONTH} THEN "commit" ELSE {renamed.get("commit")} END'
            renamed |= {"commit": lasting} if "commit" in renamed else {}
            chosen = ", ".join((earlier | renamed).get(name, f'"{name}"') for name in columns)
            names = ", ".join(f'"{name}"' for name in columns)
            every = f"WITH RECURSIVE days(d) AS (SELECT 100 UNION ALL SELECT d + 1 FROM days WHERE d < {days + 98})"
            db.execute(f"INSERT INTO {table} ({names}) {every} SELECT {chosen} FROM {table}, days")
        db.execute("UPDATE proposals SET record = json_set(record, '$.commit', \"commit\", '$.fingerprint', fingerprint)")
        db.commit()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        for row in measure(Path(scratch)):
            print(*(cell for cell in row if cell), sep=" | ")
    print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB resident at most; load {os.getloadavg()[0]:.1f}")
