"""A whole campaign through the real ledger, gate and runner: ideas whose gains are known, trainings that are drawn, slots that are timed.

    python -m tests.bench.lab_campaign [IDEAS SLOTS SECONDS DRIFT]

Of the ideas, 80 % change nothing, 10 % are worse by 1 or 2 standard deviations, and 10 % are better by 1, 2 or 3. Everything is launched at once,
until it is decided; what the gate lets through is promoted at once.
"""

import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import anyio

from autoresearch_mcp.server import settings as lab_settings
from autoresearch_mcp.server.commands.init import create_lab
from autoresearch_mcp.server.compute.local.backend import LocalCompute
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.lake.embedded.store import EmbeddedLake
from autoresearch_mcp.server.ledger import Ledger
from autoresearch_mcp.server.paths import LabPaths
from autoresearch_mcp.server.proposals.repo import Repo
from autoresearch_mcp.server.runner.lock import runner_lock
from autoresearch_mcp.server.runner.loop import Runner

LAUNCHER = Path(__file__).with_name("drawing_launcher.py")
SHORT = 40, 8, 1.0, 0.7  # ideas, slots, seconds of a training, share of the variance that drifts


@dataclass(frozen=True)
class Yield:
    """What came of a campaign.

    Attributes:
        gain: true gain of the champion over the first, in standard deviations.
        promoted: promotions.
        false: promotions of ideas that are no better.
        trainings: of ideas.
        champions: trainings of the champion.
        busy: share of the slots' time that a training held them, until nothing waited any more.
        doubled: replicates that ran twice.
    """

    gain: float
    promoted: int
    false: int
    trainings: int
    champions: int
    busy: float
    doubled: int


def gain_of(number: int) -> float:
    dice = random.Random(f"idea {number}").random()
    return (
        0.0 if dice < 0.8 else random.Random(number).choice([-1.0, -2.0]) if dice < 0.9 else random.Random(number).choice([1.0, 2.0, 3.0])
    )


def campaign(root: Path, ideas: int, slots: int, seconds: float, drift: float) -> Yield:
    """Run a campaign in a new lab."""
    create_lab(root, profile="tiny", budget_s=1.0)
    text = (
        (root / "lab.toml")
        .read_text(encoding="utf-8")
        .replace("slots = 0", f"slots = {slots}")
        .replace("device_hours = 8.0", "device_hours = 1e5")
    )
    (root / "lab.toml").write_text(text.replace('editable = ["train.py"]', 'editable = ["train.py", "ideas/**"]'), encoding="utf-8")
    settings, state = lab_settings.load(root), LabPaths(root).state
    lab = Lab(root)
    launched = {}
    with runner_lock(state):  # so that a call starts no runner
        for number in range(ideas):
            files = {f"ideas/idea_{number}.py": f'GAIN = {gain_of(number)}\nNAME = "idea {number}"\nprint(NAME, GAIN)\n'}
            commit = lab.propose_patch(f"Idea number {number} is another one.", f"agent-{number % 5}", files=files).commit
            answer = lab.launch_until_decided(commit, f"agent-{number % 5}")
            assert answer.until_decided
            launched[answer.until_decided] = number
        promoted = anyio.run(_drive, lab, settings, state, launched, seconds, drift)
    ledger = Ledger(state / "ledger.sqlite")
    rows = list(ledger.ended([start.experiment for start in ledger.starts(10**6)]).values())
    lab.close()
    ledger.close()
    return Yield(
        gain=sum(map(gain_of, promoted)),
        promoted=len(promoted),
        false=sum(gain_of(number) <= 0 for number in promoted),
        trainings=sum(not row["by_lab"] for row in rows),
        champions=sum(row["by_lab"] for row in rows),
        busy=_busy(rows, slots),
        doubled=len(rows) - len({(row["commit"], row["seed"]) for row in rows}),
    )


async def _drive(
    lab: Lab, settings: lab_settings.Settings, state: Path, launched: dict[str, int], seconds: float, drift: float
) -> list[int]:
    """Be the runner and the agents until everything is decided. Returns the ideas that were promoted."""
    ledger, lake = Ledger(state / "ledger.sqlite"), EmbeddedLake(state / "lake")
    command = (sys.executable, str(LAUNCHER), str(seconds), str(drift))
    compute = LocalCompute("tiny", 1, state / "runner.log", command=command)
    runner = Runner(settings, state, ledger, Repo(lab.root, settings.training.editable), lake, compute)
    promoted: list[int] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(runner.run, 1e9)
        while launched:
            await anyio.sleep(0.2)
            for id in [each for each in launched if lab.candidacies([each])[0].state != "open"]:
                number = launched.pop(id)
                promoted += await anyio.to_thread.run_sync(_promote, lab, id, number, launched)
        runner.stopping.set()
    lake.close()
    ledger.close()
    return promoted


def _promote(lab: Lab, id: str, number: int, launched: dict[str, int]) -> list[int]:
    """Promote what was decided; launch it again where the champion moved meanwhile. Returns the idea if it was promoted."""
    (ended,) = lab.candidacies([id])
    if ended.verdict != "promote":
        return []
    answer = lab.promote_commit(ended.commit, ended.author)
    if answer.retrain:
        try:
            again = lab.launch_until_decided(answer.retrain, ended.author)
        except LabError:
            return []
        assert again.until_decided
        launched[again.until_decided] = number
    return [number] if answer.promoted else []


def _busy(rows: list[dict[str, float]], slots: int) -> float:
    """Return the share of the slots' time in which they were held, while ideas waited that nobody had started."""
    first: dict[object, float] = {}
    for row in sorted(rows, key=lambda row: row["started_at"]):
        first.setdefault(str(row["hypothesis"]).split(" is ")[0], row["started_at"])  # also of an idea that was rebased
    began, over = min(first.values()), max(first.values())
    held = sum(min(row["finished_at"], over) - row["started_at"] for row in rows if row["started_at"] < over)
    return held / (slots * (over - began))


def measure(scratch: Path) -> list[tuple[str, str, str, str, str]]:
    """Return rows for the table of `make bench`."""
    ideas, slots, seconds, drift = SHORT
    came = campaign(scratch / "campaign", ideas, slots, seconds, drift)
    of = f"{ideas} ideas, {came.trainings} trainings, {came.champions} of the champion"
    return [
        ("campaign: true gain of what was promoted", f"{came.gain:.0f} sd", of, "", ""),
        ("campaign: false promotions", f"{came.false} of {came.promoted}", "with drift", "", "<= 0.5 per 100 ideas"),
        (f"campaign: {slots} slots are held", f"{100 * came.busy:.1f} %", "while work waits", "", "97 %"),
    ]


def main(run: Callable[..., Yield] = campaign) -> None:
    ideas, slots, seconds, drift = [float(text) for text in sys.argv[1:5]] or SHORT
    with tempfile.TemporaryDirectory() as scratch:
        began = time.monotonic()
        print(run(Path(scratch) / "campaign", int(ideas), int(slots), seconds, drift), f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
