"""Defines the keys of `lab.toml`: what they mean, their defaults and their limits.

Secrets (DEEPLAKE_API_KEY, AUTORESEARCH_EMBEDDINGS_KEY, Modal's token) are no settings. They come from the environment only, are read
where they are used, and are never kept here.
"""

import functools
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from autoresearch_mcp.server import devices
from autoresearch_mcp.server.editable import Editable
from autoresearch_mcp.server.models import Metric, Model
from autoresearch_mcp.server.settings.alerts import AlertsSection
from autoresearch_mcp.server.settings.auth import AuthSection
from autoresearch_mcp.server.settings.compute import Backend, ComputeSection
from autoresearch_mcp.server.settings.metric import Guard, MetricSection
from autoresearch_mcp.server.settings.profile import ProfileSection
from autoresearch_mcp.server.settings.promotion import PromotionSection
from autoresearch_mcp.server.settings.scorer import ScorerSection
from autoresearch_mcp.server.settings.section import Section
from autoresearch_mcp.server.settings.swarm import SwarmSection
from autoresearch_mcp.server.settings.training import OF_SCRIPTS, Training
from autoresearch_mcp.trainer import measures
from autoresearch_mcp.trainer.profiles import BASES, PROFILES, max_wall_s

SCHEMA = 1
SMOKE_FROM_S = 20.0  # of a training: for shorter ones, waiting for a smoke start isn't worth it


class LabSection(Section):
    """Name the lab, and say how long its runs are kept."""

    name: str = Field(min_length=1, max_length=80, description="the lab's name; machines whose labs have one name share a managed log")
    schema_version: int = Field(default=SCHEMA, alias="schema", ge=1, description="version of this file and of `.autoresearch/`; leave it")
    keep_runs_days: float = Field(
        default=90.0, gt=0, le=36_500, description="days after which the files of a run are removed; never those that a promotion rests on"
    )
    keep_runs_mb: float = Field(
        default=20_000.0, gt=0, le=1e9, description="megabytes of run files; above it the oldest are removed, by the same rule"
    )


class BudgetSection(Section):
    """Limit what the whole lab may use."""

    device_hours: float = Field(
        default=8.0, gt=0, le=1_000_000, description="device hours of the whole lab; a training that could pass them doesn't start"
    )
    usd: float = Field(
        default=25.0,
        gt=0,
        le=1_000_000,
        description="money of the whole lab, where devices are rented. What starts reserves the most that it can cost; at the cap everything is stopped",
    )


class LakeSection(Section):
    """Say where the log of ended experiments is. A change takes effect when a server or runner starts."""

    backend: Literal["auto", "embedded", "managed"] = Field(
        default="auto",
        description="`embedded`: a folder of the lab; `managed`: Deeplake's service; `auto`: the service where DEEPLAKE_API_KEY is set",
    )
    workspace: str = Field(
        default="", pattern=r"^[A-Za-z0-9_-]{0,64}$", description="of the service; empty is DEEPLAKE_WORKSPACE, else `default`"
    )
    tables: str = Field(
        default="",
        pattern=r"^([a-z][a-z0-9_]{0,39})?$",
        description="prefix of the service's tables; empty is made from the lab's name. Labs with one prefix in one workspace share one log",
    )


class EmbeddingsSection(Section):
    """Say how notes are searched by meaning. A change takes effect when a server or runner starts."""

    backend: Literal["auto", "local", "endpoint", "none"] = Field(
        default="auto",
        description="`local`: the extra `embeddings`; `endpoint`: a service, which gets the notes; `none`: words only; `auto`: local where installed",
    )
    url: str = Field(
        default="", max_length=300, description="of an endpoint that speaks OpenAI's protocol, such as `https://api.openai.com/v1`"
    )
    model: str = Field(
        default="", max_length=100, pattern=r"^[A-Za-z0-9_./:@-]*$", description="of the endpoint, such as `text-embedding-3-small`"
    )

    @model_validator(mode="after")
    def _is_complete(self) -> "EmbeddingsSection":
        if (self.backend == "endpoint") != bool(self.url and self.model):
            raise ValueError('name a url and a model for backend "endpoint", and for no other')
        return self


class LaunchSettings(Model):
    """Keep the settings of an experiment's launch. It runs under these, even if `lab.toml` changes before it starts."""

    backend: Backend
    training: Training
    metric: MetricSection = MetricSection()
    scorer: ScorerSection = ScorerSection()

    @model_validator(mode="after")
    def _knows_the_old_name(self) -> "LaunchSettings":
        if self.training.reported_metric and not self.metric.name:
            self.metric = self.metric.model_copy(update={"name": self.training.reported_metric})
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what labs before 0.2 didn't have, so that their launches still count as launched under equal settings."""
        values: dict[str, Any] = serialize(self)
        for key in (*OF_SCRIPTS, "smoke"):
            if not values["training"][key]:
                del values["training"][key]
        metric = self.metric.model_dump(exclude_defaults=True)
        if metric.get("name", "") == self.training.reported_metric:
            metric.pop("name", None)
        values |= {"metric": metric, "scorer": self.scorer.model_dump(exclude_defaults=True)}
        return {name: value for name, value in values.items() if value or name not in ("metric", "scorer")}


class Settings(Model):
    """Hold a whole, valid `lab.toml`. Every section but `[lab]` may be left out."""

    lab: LabSection
    training: Training = Training()
    metric: MetricSection = MetricSection()
    scorer: ScorerSection = ScorerSection()
    profile: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,39}$")], ProfileSection] = {}
    compute: ComputeSection = ComputeSection()
    budget: BudgetSection = BudgetSection()
    promotion: PromotionSection = PromotionSection()
    swarm: SwarmSection = SwarmSection()
    auth: AuthSection = AuthSection()
    alerts: AlertsSection = AlertsSection()
    lake: LakeSection = LakeSection()
    embeddings: EmbeddingsSection = EmbeddingsSection()

    @model_validator(mode="before")
    @classmethod
    def _own_profile(cls, given: Any) -> Any:
        """Give `[training]` the profile of the owner's own text that it names."""
        training, profiles = (given.get(name) for name in ("training", "profile")) if isinstance(given, dict) else (None, None)
        if not isinstance(training, dict):
            return given
        if "own_profile" in training:
            raise ValueError("[training] own_profile is not a setting: write a section [profile.NAME], and name it in [training] profile")
        name = training.get("profile")
        if not isinstance(profiles, dict) or not isinstance(own := profiles.get(name), dict) or name in [*PROFILES]:
            return given
        budget_s = own.get("budget_s") or PROFILES[BASES.get(own.get("device", "cpu"), "cpu")].budget_s
        return {**given, "training": {"budget_s": budget_s, **training, "own_profile": own}}

    @model_validator(mode="after")
    def _profiles_are_new(self) -> "Settings":
        if taken := sorted(set(self.profile) & set(PROFILES)):
            raise ValueError(f"[profile.{taken[0]}] must have another name: {taken[0]} is a built-in profile")
        return self

    @model_validator(mode="after")
    def _device_fits_profile(self) -> "Settings":
        if self.device == "mps" and self.compute.backend != "local":
            raise ValueError(f"[compute] backend must be local: the profile {self.training.profile!r} is for this machine's Apple GPU")
        if self.compute.backend == "ssh" and self.device == "cuda" and (bare := [host for host in self.compute.hosts if ":" not in host]):
            raise ValueError(f'[compute] hosts must name the GPUs that trainings get, such as "{bare[0]}:0"')
        if self.rents and any((name == "CPU") != (self.device == "cpu") for name in self.gpus):
            kinds = '"CPU"' if self.device == "cpu" else "GPUs"
            raise ValueError(f"[compute] gpus must be {kinds}, which the profile {self.training.profile!r} is made for")
        return self

    @model_validator(mode="after")
    def _shares_no_clock(self) -> "Settings":
        if self.compute.per_device > 1 and (self.training.limits.clock == "wall" or self.is_script):
            raise ValueError(
                "[compute] per_device must be 1: the budget is wall time, which trainings on one device would take from each other"
            )
        return self

    @model_validator(mode="after")
    def _entry_is_there(self) -> "Settings":
        training = self.training
        if training.file not in Editable([*training.editable, *training.files]):
            raise ValueError(f'[training] editable must contain "{training.file}", which is run, unless [training] files does')
        return self

    @model_validator(mode="after")
    def _metric_is_told(self) -> "Settings":
        old = self.training.reported_metric
        if old and self.metric.name not in ("", old):
            raise ValueError("[metric] name and [training] reported_metric must be the same; [metric] name alone is enough")
        if old and not self.metric.name:
            self.metric = self.metric.model_copy(update={"name": old})
        self._judge_by_scorer()
        if self.rents and self.training.python:
            raise ValueError("[training] python must be left out on Modal, whose containers have one Python: list [compute.modal] packages")
        if self.compute.modal.packages and not self.is_script:
            raise ValueError("[compute.modal] packages must be left out unless [metric] name is set: they are for code that runs as it is")
        if self.training.data and not self.is_script:
            raise ValueError(
                "[training] data must be left out unless [metric] name is set: a metric can only be verified on data that the lab hands out itself"
            )
        if not self.is_script and (given := [key for key in OF_SCRIPTS if getattr(self.training, key)]):
            raise ValueError(f"[training] must have no {given[0]} unless [metric] name is set: it is for code that runs as it is")
        self.promotion = self.promotion.comparing(self.metric)
        return self

    def _judge_by_scorer(self) -> None:
        """Take the goal from what the lab's own scorer measures, and refuse a metric that no scorer gives."""
        metric, kind = self.metric, self.scorer.kind
        if kind == "none":
            return
        if not metric.name:
            raise ValueError("[scorer] needs [metric] name, which says what is compared")
        if metric.pattern or metric.source != "output":
            raise ValueError("[metric] pattern and source must be left out beside [scorer], which measures the metric itself")
        if kind == "command":
            return
        known = measures.known(metric.name)
        if known is None:
            raise ValueError(f'[metric] name must be one of {", ".join(measures.MEASURES)} beside [scorer] kind = "predictions"')
        goal = measures.MEASURES[known].goal
        if metric.goal not in (None, goal):
            raise ValueError(f'[metric] goal must be "{goal}" for {metric.name}')
        self.metric = metric.model_copy(update={"goal": goal})

    @property
    def is_script(self) -> bool:
        """Return whether the code keeps no contract: it runs as it is."""
        return bool(self.metric.name)

    @property
    def smokes(self) -> bool:
        """Return whether a new proposal is started for a moment."""
        training = self.training
        if self.compute.backend != "local" or training.smoke is not None:
            return self.compute.backend == "local" and bool(training.smoke)
        return not self.is_script and training.limits.device == "cpu" and training.budget_s >= SMOKE_FROM_S

    @property
    def trust(self) -> Metric:
        """How far the lab's metric can be trusted."""
        return "reported" if self.is_script and self.scorer.kind == "none" else "verified"

    def launch(self) -> LaunchSettings:
        """Return what belongs to an experiment that is launched now."""
        guards = [Guard(name=guard.name, margin=0) for guard in self.metric.guard]
        metric = self.metric.model_copy(update={"goal": None, "guard": guards})  # what is read; how it is judged is no part of a launch
        # One launch, whichever key names the metric, and whatever was started before it
        training = self.training.model_copy(update={"reported_metric": self.metric.name, "smoke": None})
        return LaunchSettings(backend=self.compute.backend, training=training, metric=metric, scorer=self.scorer)

    def under(self, launch: LaunchSettings) -> "Settings":
        """Return these settings with the backend, the training, the metric and the scorer of an earlier launch."""
        compute = self.compute.model_copy(update={"backend": launch.backend})
        earlier = {"compute": compute, "training": launch.training, "metric": launch.metric, "scorer": launch.scorer}
        return self.model_copy(update=earlier)

    def changed_since(self, launch: LaunchSettings) -> list[str]:
        """Return the keys that differ from those of a launch, as `[section] key`."""
        now = self.launch()
        keys = [
            f"[{section}] {key}"
            for section in ("training", "metric", "scorer")
            for key in type(getattr(now, section)).model_fields
            if key != "reported_metric" and getattr(getattr(now, section), key) != getattr(getattr(launch, section), key)
        ]
        return keys + (["[compute] backend"] if self.compute.backend != launch.backend else [])

    @property
    def slots(self) -> int:
        """Return how many trainings run at once.

        Where lab.toml sets no number, it is 4 on Modal and on Slurm, one a GPU or host over ssh, and the number of GPUs where those of this
        machine train. Else it is the physical cores over the threads of one training, but at least 1.
        """
        if self.compute.slots:
            return self.compute.slots
        if self.compute.backend == "ssh":
            return max(1, sum(1 + host.count(",") for host in self.compute.hosts))
        if self.compute.backend != "local":
            return 4
        if self.hands_out_devices:
            named = len(self.compute.devices) if self.compute.devices != "auto" else gpus_here()
            return max(1, named) * self.compute.per_device
        return 1 if self.device != "cpu" else max(1, physical_cores() // self.training.threads)

    @property
    def hands_out_devices(self) -> bool:
        """Return whether each training is given a GPU of this machine."""
        return self.compute.backend == "local" and bool(self.compute.devices) and (self.compute.devices != "auto" or self.device == "cuda")

    @property
    def device(self) -> str:
        """Return what the profile is trained on: `cpu`, `cuda` or `mps`."""
        return self.training.limits.device

    @property
    def rents(self) -> bool:
        """Return whether a second of training costs money."""
        return self.compute.backend == "modal"

    @property
    def shares_files(self) -> bool:
        """Return whether trainings use what lies on this machine: its packages, the prepared data, the files that lab.toml names."""
        return self.compute.backend == "local" or (self.compute.backend == "slurm" and not self.compute.login)

    @property
    def has_packages(self) -> bool:
        """Return whether what the training code may import can be told by this machine's packages."""
        return not self.training.python and (self.shares_files or not self.is_script)

    @property
    def gpus(self) -> list[str]:
        """Return the kinds that experiments may use on Modal, the reference first. By default it is the one that the profile is made for."""
        return self.compute.gpus or ["CPU" if self.device == "cpu" else "H100"]

    @property
    def devices(self) -> tuple[str, ...]:
        """Return the kinds of device that experiments may use, the reference first."""
        return tuple(devices.kind(name) for name in self.gpus) if self.rents else (self.device,)

    @property
    def reference(self) -> str:
        """Return the kind of device that ranks and promotes commits. Results of other kinds serve for screening only."""
        return self.devices[0]

    def usd_per_s(self, device: str) -> float:
        """Return the price of a second on a kind of device; 0 where no device is rented."""
        return devices.usd_per_s(device, self.compute.prices) if self.rents else 0.0

    def longest_s(self) -> float:
        """Return the most device seconds that an attempt can use."""
        if self.rents:
            return devices.longest_s(self.training.limits, self.training.budget_s, self.is_script, self.scorer.longest_s)
        return max_wall_s(self.training.limits, self.training.budget_s, script=self.is_script) + self.scorer.longest_s


def gpus_here() -> int:
    """Return how many NVIDIA GPUs the driver of this machine lists; 0 without one."""
    try:
        return len(list(Path("/proc/driver/nvidia/gpus").iterdir()))
    except OSError:
        return 0


def physical_cores() -> int:
    """Return how many physical cores this process may use. Counts logical cores where the platform does not tell them apart."""
    try:
        usable = os.sched_getaffinity(0)
    except AttributeError:
        return os.cpu_count() or 1
    return _physical(frozenset(usable))


@functools.cache
def _physical(usable: frozenset[int]) -> int:
    """Count the cores that these logical ones are. The platform tells it of each in a file of its own, which never changes."""
    siblings = set()
    for cpu in usable:
        try:
            siblings.add(Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text(encoding="ascii"))
        except OSError:
            siblings.add(str(cpu))
    return len(siblings)
