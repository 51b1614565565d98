"""The page of a long campaign: what its server computes at first and after a change, and what a browser takes to draw it.

`python -m tests.bench.page` prints the numbers of docs/page.md.
"""

import contextlib
import json
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from autoresearch_mcp.server.commands.init import create_lab
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.ledger import Ledger
from autoresearch_mcp.server.ledger.database import Database
from autoresearch_mcp.server.models import Experiment, Proposal, new_id
from autoresearch_mcp.server.page.charts import progress_data
from autoresearch_mcp.server.page.serving import served_page
from autoresearch_mcp.server.page.views import VIEWS, Asked
from autoresearch_mcp.server.paths import LabPaths
from autoresearch_mcp.server.proposals.repo import Repo
from autoresearch_mcp.server.roles import ANYBODY
from autoresearch_mcp.server.runner.lock import runner_lock

if TYPE_CHECKING:
    from playwright.sync_api import Page

SIZES = (2_000, 100_000)
AGAIN = 5  # changes after which the same is asked again
REPLICATES = 3  # of a commit
_AUTHORS, _DEVICES, _TAGS = 12, ("cpu", "cpu", "cpu", "gpu"), ("width", "depth", "rate", "batch")
_DAY_S = 86_400.0
Row = tuple[str, str, str, str, str]


def measure(scratch: Path) -> list[Row]:
    """Return the rows."""
    return [row for size in SIZES for row in _page_of(scratch / f"page-{size}", size)]


def long_campaign(root: Path, experiments: int) -> None:
    """Make a lab with so many ended experiments, three of each commit, of which every fourth fails; the level falls as it goes on."""
    create_lab(root, profile="tiny")
    state = LabPaths(root).state
    state.mkdir(exist_ok=True)
    rng, began = random.Random(1), time.time() - 60.0 * experiments
    champion = Repo(root, ["train.py"]).champion()
    with contextlib.closing(Database(state / "ledger.sqlite")) as database, database.write() as db:
        for number in range(experiments):
            commit = champion if number < 8 or number % 500 < 2 else f"{number // REPLICATES:040x}"
            at, is_failed = began + 60.0 * number, number % 4 == 3
            if number % REPLICATES == 0:
                proposal = Proposal(
                    commit=f"{number // REPLICATES:040x}", base=champion, author=f"agent-{number % _AUTHORS}", fingerprint=f"{number}",
                    hypothesis=f"A wider layer {number} learns faster at this budget, as its steps are worth more.",
                    title=f"A wider layer {number}", tags=[_TAGS[number % 4]], created_at=at, files_changed=1, insertions=1, deletions=1,
                )  # fmt: skip
                db.execute(
                    "INSERT INTO proposals VALUES (?, ?, ?, ?, ?)",
                    (proposal.commit, champion, proposal.fingerprint, at, proposal.model_dump_json()),
                )
            metric = None if is_failed else 1.5 - 0.3 * number / experiments + abs(rng.gauss(0, 0.02))
            row = (
                f"e-{number:015d}", commit, "c", _DEVICES[number % 4], "crashed" if is_failed else "finished", metric, 1, at + 50, number,
                f"agent-{number % _AUTHORS}", f"A wider layer {number} learns faster.", "oom: too large" if is_failed else None, at, at,
                commit == champion,
            )  # fmt: skip
            db.execute(
                'INSERT INTO ended (id, "commit", conditions, device, state, val_bpb, started, finished_at, seed, author, hypothesis, failure, '
                f"created_at, started_at, by_lab) VALUES ({', '.join('?' * len(row))})",
                row,
            )
    with contextlib.closing(Ledger(state / "ledger.sqlite")) as ledger:
        ledger.recount()  # as whoever ends an experiment does


def _page_of(root: Path, size: int) -> Iterator[Row]:
    long_campaign(root, size)
    state = LabPaths(root).state
    with runner_lock(state), contextlib.closing(Lab(root)) as lab, contextlib.closing(Ledger(state / "ledger.sqlite")) as ledger:
        asked = Asked(lab, ANYBODY, {})
        parts: dict[str, Callable[[], object]] = {
            "the campaign as points": lab.overview,
            "the status": lab.status,
            "the chart's numbers": lambda: json.dumps(progress_data(lab.overview(), {})),
            "the rest of the campaign's view": lambda: VIEWS["campaign"](asked),
            "its agents": lab.agents,
        }
        took: dict[str, list[float]] = {name: [_cpu_s(part)] for name, part in parts.items()}
        for number in range(AGAIN):
            _end_one(ledger, lab.champion(), number)
            for name, part in parts.items():
                took[name].append(_cpu_s(part))
        for name, (first, *later) in took.items():
            yield (
                f"{size:,} experiments: {name}",
                f"{1e3 * first:.0f} ms",
                f"{1e3 * statistics.median(later):.0f} ms after a change; CPU",
                "",
                "",
            )
        yield "  sent to draw it", f"{len(json.dumps(progress_data(lab.overview(), {}))) / 1e3:.0f} kB", "", "", ""
    if shutil.which("chromium"):
        with runner_lock(state), served_page(root) as address:
            yield from _drawn(address, size)


def _end_one(ledger: Ledger, commit: str, number: int) -> None:
    e = Experiment(
        id=new_id("e"), commit=commit, base=commit, author="agent-1", hypothesis="Again.", seed=number, device="cpu",
        created_at=time.time(), reserved_s=1.0,
    )  # fmt: skip
    ledger.enqueue([e], 1e12, None, "r")
    ledger.start(e.id, 1e12)
    ledger.move(e.id, ["starting"], state="finished", val_bpb=1.2, conditions="c", finished_at=time.time(), started_at=time.time() - 1)


def _cpu_s(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def _drawn(address: str, size: int) -> Iterator[Row]:
    """Open the page twice: the second time, the server has read the campaign."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        for which in ("first", "again"):
            began = time.perf_counter()
            page.goto(address if which == "first" else address.partition("/login")[0])
            opened = time.perf_counter() - began
            page.locator("#progress[data-points]").wait_for()
            drawn = time.perf_counter() - began
            page.locator("[data-live=leaders] table, [data-live=leaders] .hint").wait_for()
            whole = time.perf_counter() - began
            yield (
                f"{size:,} experiments in a browser, {which}",
                f"{opened:.2f} s",
                f"{drawn:.2f} s with its chart, {whole:.2f} s whole",
                "",
                "",
            )
        yield "  the browser's own work", f"{_drawing_s(page):.2f} s", "to make the chart of what was sent", "", ""
        browser.close()


def _drawing_s(page: "Page") -> float:
    took: float = page.evaluate(
        "async () => { drawn = ''; const t = performance.now(); await drawProgress(); return performance.now() - t; }"
    )
    return took / 1e3


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        for row in measure(Path(scratch)):
            print(*(cell for cell in row if cell), sep=" | ")
