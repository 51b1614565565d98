"""Defines `[compute.slurm]` of `lab.toml`: what is asked of a Slurm cluster."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from autoresearch_mcp.server.settings.section import Section

_WORD = r"^[A-Za-z0-9_.,:|&!*()\[\]@=-]*$"
_OURS = (
    "job-name",
    "comment",
    "output",
    "error",
    "open-mode",
    "export",
    "wrap",
    "array",
    "requeue",
    "chdir",
    "parsable",
    "wait",
    "hold",
    "test-only",
)


class SlurmSection(Section):
    """Say what is asked of a Slurm cluster."""

    partition: str = Field(default="", max_length=200, pattern=_WORD, description="sbatch's `--partition`; empty is the cluster's default")
    account: str = Field(default="", max_length=200, pattern=_WORD, description="sbatch's `--account`")
    qos: str = Field(default="", max_length=200, pattern=_WORD, description="sbatch's `--qos`")
    gres: str = Field(default="", max_length=200, pattern=_WORD, description="sbatch's `--gres`, such as `gpu:h100:1`")
    constraint: str = Field(default="", max_length=200, pattern=_WORD, description="sbatch's `--constraint`")
    memory_mb: int = Field(default=0, ge=0, le=4_000_000, description="sbatch's `--mem` in megabytes; 0 is the partition's default")
    time_limit_min: int = Field(
        default=0, ge=0, le=100_000, description="minutes that a job may take; 0 is what its budget, its start and its scoring may need"
    )
    before: list[Annotated[str, Field(max_length=1000, pattern=r"^[^\x00\n\r]*$")]] = Field(
        default=[], max_length=50, description='shell lines that a job runs first, such as `"module load cuda"`'
    )
    options: list[Annotated[str, Field(max_length=300, pattern=r"^--[a-z][a-z-]*(=[^\x00\n\r]*)?$")]] = Field(
        default=[], max_length=50, description='further options of sbatch, such as `"--exclude=node7"`'
    )
    folder: str = Field(
        default="",
        max_length=500,
        description="a folder that this machine and the nodes share, for runs and data; empty where the lab and your home are shared",
    )
    python: str = Field(
        default="", max_length=500, description="the Python on the nodes, with the trainer's packages; empty is the server's own"
    )

    @field_validator("options")
    @classmethod
    def _leave_ours(cls, given: list[str]) -> list[str]:
        if ours := [text for text in given if text[2:].partition("=")[0] in _OURS]:
            raise ValueError(f"{ours[0]!r} belongs to the lab: leave it out")
        return given

    @field_validator("folder")
    @classmethod
    def _is_absolute(cls, given: str) -> str:
        if given and not Path(given).expanduser().is_absolute():
            raise ValueError(f"must be an absolute path, got {given!r}")
        return given

    @property
    def shared(self) -> Path | None:
        """The folder that this machine and the nodes share, where it is not the lab's own."""
        return Path(self.folder).expanduser() if self.folder else None
