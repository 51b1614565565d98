"""The batch script of a job, and the options that it is handed in with."""

import json
import math
import shlex
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import PurePath

from autoresearch_mcp.server.compute.slurm.there import CLAIM, OUTPUT
from autoresearch_mcp.server.settings import SlurmSection
from autoresearch_mcp.trainer import profiles
from autoresearch_mcp.trainer.protocol import OwnText, Spec

SCRIPT = "job.sh"
START_LIMIT_S = 300.0  # on the node, before the launcher begins: the owner's lines, and Python's imports over a network

MakeScript = Callable[[PurePath], str]
"""Makes the script of a job for its folder, as the nodes see it."""


def script(directory: PurePath, section: SlurmSection, variables: Mapping[str, str], python: str) -> str:
    """Return the script of a job that supervises the run in `directory`.

    A job and a runner that gives it up both make the file `claim`, which only one of them can: no lock is needed, which
    a shared file system may not have.
    """
    claim = shlex.quote(str(directory / CLAIM))
    lines = [
        "#!/bin/bash",
        f'( set -C; echo "$SLURM_JOB_ID" > {claim} ) 2>/dev/null || exit 0',
        *section.before,
        _export(variables),
        f"exec {shlex.quote(python)} -m autoresearch_mcp.trainer.launch {shlex.quote(str(directory))}",
    ]
    return "\n".join(lines) + "\n"


def preparing_script(
    directory: PurePath, profile: str, secret: str, own: OwnText | None, section: SlurmSection, variables: Mapping[str, str], python: str
) -> str:
    """Return the script of a job that prepares data, and leaves `status`, `out` and `err` in `directory`.

    Args:
        directory: As the nodes see it.
        profile: What to prepare.
        secret: The name of the file there with the lab's secret; empty for the public split.
        own: What the profile is made of, where it is of the owner's own text, with the paths of the nodes.
        section: What lab.toml says of the cluster.
        variables: What it gets beside the node's own environment.
        python: On the nodes.
    """
    given = [*(["--secret", secret] if secret else []), *(["--own", json.dumps(asdict(own))] if own else [])]
    command = shlex.join([python, "-m", "autoresearch_mcp.trainer.prepare", profile, *given])
    lines = [
        "#!/bin/bash",
        f"cd {shlex.quote(str(directory))}",
        *section.before,
        _export(variables),
        f"cd {shlex.quote(str(directory))}",
        f"{command} > out 2> err",
        "echo $? > status.part && mv status.part status",
    ]
    return "\n".join(lines) + "\n"


def _export(variables: Mapping[str, str]) -> str:
    return "export " + " ".join(f"{name}={shlex.quote(value)}" for name, value in sorted(variables.items()))


def options(name: str, comment: str, directory: PurePath, spec: Spec, section: SlurmSection) -> list[str]:
    """Return sbatch's options for a job."""
    limits = profiles.find(spec.profile, spec.own_text)
    scoring_s = spec.scoring.longest_s if spec.scoring else 0.0
    longest_s = profiles.max_wall_s(limits, spec.budget_s, script=bool(spec.metric)) + scoring_s + START_LIMIT_S
    return common_options(name, comment, directory, section.time_limit_min or math.ceil(longest_s / 60), spec.threads, section)


def common_options(name: str, comment: str, directory: PurePath, minutes: int, threads: int, section: SlurmSection) -> list[str]:
    """Return sbatch's options: ours, then those of lab.toml, then the owner's own."""
    return [
        f"--job-name={name}",
        f"--comment={comment}",
        f"--output={directory / OUTPUT}",
        "--open-mode=append",
        "--export=NIL",  # nothing of the server's environment, which may hold secrets
        "--no-requeue",  # a job that Slurm starts again would find its run begun
        "--ntasks=1",
        f"--cpus-per-task={threads}",
        f"--time={minutes}",
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
