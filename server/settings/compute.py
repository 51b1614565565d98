"""Defines `[compute]` of `lab.toml`: where trainings run, and how many at once."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from autoresearch_mcp.server import devices
from autoresearch_mcp.server.settings.modal import ModalSection
from autoresearch_mcp.server.settings.section import Section
from autoresearch_mcp.server.settings.slurm import SlurmSection
from autoresearch_mcp.server.settings.ssh import HOST, HOST_AND_GPUS, HostSection

Backend = Literal["local", "modal", "slurm", "ssh"]


class ComputeSection(Section):
    """Say where trainings run, and how many at once."""

    backend: Backend = Field(
        default="local",
        description="`local`: processes of this machine; `modal`: rented, after `autoresearch-mcp setup modal`; `slurm`: jobs of a cluster; `ssh`: "
        "the machines that `hosts` names. "
        "What was launched before a change runs where it was launched for, first",
    )
    slots: int = Field(
        default=0,
        ge=0,
        le=1024,
        description="trainings at once; 0 is physical cores over threads, as many as GPUs where those of this machine train, 4 on Modal and Slurm, one a GPU "
        "or host over ssh. With 1 "
        "nothing trains beside a scoring either",
    )
    devices: Literal["auto"] | list[Annotated[str, Field(max_length=80, pattern=r"^[A-Za-z0-9/_-]+$")]] = Field(
        default="auto",
        description="GPUs of this machine that trainings are given, one each: `auto` finds them, for profiles that train on a GPU; or their UUIDs, or their "
        "numbers as nvidia-smi lists them. Only those of one kind are used, and none that somebody else uses",
    )
    per_device: int = Field(
        default=1, ge=1, le=16, description="trainings that share a device; more than 1 only where the budget isn't wall time"
    )
    leave_above_mb: float = Field(
        default=1000.0, ge=0, le=1e7, description="megabytes in use on a GPU that no training holds; above it the GPU is left alone"
    )
    leave_above_percent: float = Field(default=20.0, ge=0, le=100, description="the same for its use in percent")
    quiet: bool = Field(
        default=True,
        description="on this machine's CPUs: whether trainings stop while a neighbour's model is scored, so that it can't tell them held-out text "
        "by timing. docs/metric.md says what either costs",
    )
    gpus: list[str] = Field(
        default=[],
        max_length=8,
        description="on Modal: kinds that `launch_training(device=...)` may choose. The first is the reference, which alone ranks and "
        'promotes. Empty is the profile\'s own: `["H100"]` or `["CPU"]`',
    )
    environment: str = Field(
        default="autoresearch",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$",
        description="on Modal: the environment of everything that the lab makes",
    )
    app: str = Field(
        default="autoresearch",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$",
        description="on Modal: the app of everything that the lab makes",
    )
    prices: dict[str, Annotated[float, Field(gt=0, le=1)]] = Field(
        default={},
        description="on Modal, as a table `[compute.prices]`: USD a second by kind, such as `H100 = 0.0012`, for GPU, CPU and memory together. "
        "A kind that is not there has its list price",
    )
    may_try: bool = Field(
        default=True,
        alias="try",
        description="whether agents may train code for some seconds before they propose it, one at a time and beside the queue (`autoresearch-mcp try`)",
    )
    hosts: list[Annotated[str, Field(pattern=HOST_AND_GPUS)]] = Field(
        default=[],
        max_length=64,
        description="over ssh: the machines, as `ssh` knows them, each with the numbers of its GPUs where trainings get one each, such as "
        '`["box", "gpu2:0,1"]`',
    )
    login: str = Field(
        default="",
        pattern=rf"^$|{HOST}",
        description="on Slurm: the cluster's login node, as `ssh` knows it, where this machine has no `sbatch`; empty is this machine",
    )
    modal: ModalSection = ModalSection()
    slurm: SlurmSection = SlurmSection()
    ssh: dict[str, HostSection] = Field(default={}, description="over ssh: what is particular to a host, as a table `[compute.ssh.NAME]`")

    @field_validator("hosts")
    @classmethod
    def _named_once(cls, hosts: list[str]) -> list[str]:
        names = [host.partition(":")[0] for host in hosts]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"name {twice[0]} once, with all of its GPUs")
        return hosts

    @field_validator("gpus", "prices")
    @classmethod
    def _known(cls, names: Any) -> Any:
        if unknown := sorted(set(names) - set(devices.GPUS)):
            raise ValueError(f"name kinds out of {', '.join(devices.GPUS)}; {unknown[0]!r} is not one")
        return names
