"""The batch script of a job, and the options that it is handed in with."""

import math
import shlex
from collections.abc import Mapping
from pathlib import Path

from autoresearch_mcp.server.settings import SlurmSection
from autoresearch_mcp.trainer import profiles
from autoresearch_mcp.trainer.protocol import Spec

CLAIM = "claim"  # made once: by the job as it begins, or by a runner that forbids it
OUTPUT = "slurm.log"
SCRIPT = "job.sh"
START_LIMIT_S = 300.0  # on the node, before the launcher begins: the owner's lines, and Python's imports over a network


def script(directory: Path, section: SlurmSection, variables: Mapping[str, str], python: str) -> str:
    """Return the script of a job that supervises the run in `directory`.

    A job and a runner that gives it up both make the file `claim`, which only one of them can: no lock is needed, which
    a shared file system may not have.
    """
    claim = shlex.quote(str(directory / CLAIM))
    exports = " ".join(f"{name}={shlex.quote(value)}" for name, value in sorted(variables.items()))
    lines = [
        "#!/bin/bash",
        f'( set -C; echo "$SLURM_JOB_ID" > {claim} ) 2>/dev/null || exit 0',
        *section.before,
        f"export {exports}",
        f"exec {shlex.quote(python)} -m autoresearch_mcp.trainer.launch {shlex.quote(str(directory))}",
    ]
    return "\n".join(lines) + "\n"


def options(name: str, comment: str, directory: Path, spec: Spec, section: SlurmSection) -> list[str]:
    """Return sbatch's options for a job: ours, then those of lab.toml, then the owner's own."""
    limits = profiles.find(spec.profile, spec.own_text)
    scoring_s = spec.scoring.longest_s if spec.scoring else 0.0
    longest_s = profiles.max_wall_s(limits, spec.budget_s, script=bool(spec.metric)) + scoring_s + START_LIMIT_S
    return [
        f"--job-name={name}",
        f"--comment={comment}",
        f"--output={directory / OUTPUT}",
        "--open-mode=append",
        "--export=NIL",  # nothing of the server's environment, which may hold secrets
        "--no-requeue",  # a job that Slurm starts again would find its run begun
        "--ntasks=1",
        f"--cpus-per-task={spec.threads}",
        f"--time={section.time_limit_min or math.ceil(longest_s / 60)}",
        *asked_for(section),
        *section.options,
    ]


def asked_for(section: SlurmSection) -> list[str]:
    """Return the options of lab.toml that say where a job may run, and with what."""
    given = {
        "partition": section.partition,
        "account": section.account,
        "qos": section.qos,
        "gres": section.gres,
        "constraint": section.constraint,
        "mem": f"{section.memory_mb}M" if section.memory_mb else "",
    }
    return [f"--{key}={value}" for key, value in given.items() if value]
