"""What the lab adds to Slurm: an experiment that trains nothing, from its hand-in to its result, and the hand-in alone, each beside a bare
`sbatch` of the same no-op, by turns, on a real Slurm of one node.

Both results are looked for every 10 ms. `sbatch --wait` is no yardstick: it looks after 2 s, after 10 s, and later still. A
runner looks twice a second (`SlurmCompute.poll_s`), which comes on top.
"""

import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import anyio

from autoresearch_mcp.server.compute.base import Job, write_files
from autoresearch_mcp.server.compute.slurm.backend import SlurmCompute
from autoresearch_mcp.server.compute.slurm.folder import RECORD
from autoresearch_mcp.server.models import new_id
from autoresearch_mcp.server.settings import SlurmSection
from autoresearch_mcp.trainer import protocol
from tests.standins.slurm import cluster, why_missing
from tests.waiting import until

EXPERIMENTS = 10
DRAWING = Path(__file__).with_name("drawing_launcher.py")


class Took(NamedTuple):
    """Seconds until Slurm had the job, and until its result was there."""

    handed_in: float
    ended: float


def measure(scratch: Path) -> list[tuple[str, str, str, str, str]]:
    if why := why_missing():
        return [("a no-op experiment on Slurm", f"skipped: {why}", "", "", "")]
    with tempfile.TemporaryDirectory() as place:
        with cluster(Path(place)) as conf, mock.patch.dict("os.environ", SLURM_CONF=str(conf)):
            ours, bare = anyio.run(_by_turns, scratch)
            until(lambda: not subprocess.run(["squeue", "--noheader"], check=True, capture_output=True).stdout)
        until(lambda: not list(Path(place).glob("*.pid")))  # its daemons write there until they end
    return [
        (what, f"{lab:.2f} s", f"{alone:.2f} s: bare sbatch", f"{lab / alone:.2f}", aim)
        for what, lab, alone, aim in (
            ("a no-op experiment on Slurm, until its result", ours.ended, bare.ended, "0.3 s more"),
            ("its hand-in, files included", ours.handed_in, bare.handed_in, "0.1 s more"),
        )
    ]


async def _by_turns(scratch: Path) -> tuple[Took, Took]:
    """Return the medians of the lab's jobs and of bare ones; the first of each warms up."""
    python = scratch / "slurm-python"  # what a job's script runs with `-m autoresearch_mcp.trainer.launch DIRECTORY`
    python.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, str(DRAWING), "0", "0"])} "$3"\n', encoding="utf-8")
    python.chmod(0o755)
    compute = SlurmCompute("tiny", 1, scratch / "slurm-state", scratch / "slurm.log", SlurmSection(python=str(python)))
    data, ours, bare = await compute.prepare(), list[Took](), list[Took]()
    for _ in range(1 + EXPERIMENTS):
        ours.append(await _lab(compute, _job(scratch, data)))
        bare.append(await _bare(_job(scratch, data), python))
    await compute.close()
    ours_took, bare_took = (Took(*map(statistics.median, zip(*each[1:]))) for each in (ours, bare))
    return ours_took, bare_took


async def _lab(compute: SlurmCompute, job: Job) -> Took:
    began, handed_in = time.monotonic(), 0.0
    await compute.submit(job)
    while (seen := await compute.observe(job)).phase not in ("ended", "lost", "refused"):
        if not handed_in and (job.directory / RECORD).exists():
            handed_in = time.monotonic()
        await anyio.sleep(0.01)
    assert seen.result is not None and seen.result.state == "finished", seen
    return Took((handed_in or time.monotonic()) - began, time.monotonic() - began)


async def _bare(job: Job, python: Path) -> Took:
    write_files(job)
    script = job.directory / "bare.sh"
    script.write_text(f"#!/bin/bash\nexec {python} -m autoresearch_mcp.trainer.launch {job.directory}\n", encoding="utf-8")
    given = ["--export=NIL", "--ntasks=1", "--cpus-per-task=1", "--time=5", f"--output={job.directory}/out", str(script)]
    began = time.monotonic()
    await anyio.run_process(["sbatch", *given])
    handed_in = time.monotonic()
    while not (job.directory / protocol.RESULT).exists():  # noqa: ASYNC110
        await anyio.sleep(0.01)
    return Took(handed_in - began, time.monotonic() - began)


def _job(scratch: Path, data: str) -> Job:
    id = new_id("e")
    return Job(id, 1, scratch / "slurm-runs" / id / "1", protocol.Spec(id, 1, "tiny", 20.0, 1, data), {"train.py": b""})


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        for row in measure(Path(folder)):
            print(*(cell for cell in row if cell), sep=" | ")
