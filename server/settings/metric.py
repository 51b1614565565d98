"""Defines `[metric]`: what is compared, which way is better, where it is read, and what else may not get worse."""

import re
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from autoresearch_mcp.server.goal import WORDS, Goal
from autoresearch_mcp.server.settings.section import Section
from autoresearch_mcp.trainer.records import METRIC

_HIGHER = re.compile(
    r"(?<![a-z])(acc|accuracy|f1|auc|auroc|roc_auc|ap|map|score|reward|return|precision|recall|bleu|rouge|r2|iou|dice|psnr|ssim|elo|win|mrr|ndcg|mcc|kappa|pearson|spearman|success|top[0-9]*)(?![a-z])"
)
Name = Annotated[str, Field(max_length=80, pattern=r"^[^\x00-\x1f\x7f]*$")]


class Guard(Section):
    """Another metric that a candidate may not make worse, as a table `[[metric.guard]]`."""

    name: Name = Field(min_length=1, description="as the training code prints it; `peak_memory_mb` and `train_s` are measured by the lab")
    goal: Goal | None = Field(
        default=None,
        description="`min`: lower is better; `max`: higher is better; left out, `max` for names such as accuracy or f1, else `min`",
    )
    margin: float | None = Field(
        default=None, ge=0, description="a promoted commit is surely not worse than the champion by more than this"
    )
    bound: float | None = Field(default=None, description="a promoted commit's mean is surely not worse than this")

    @model_validator(mode="after")
    def _asks_something(self) -> "Guard":
        if self.margin is None and self.bound is None:
            raise ValueError(f"name a margin or a bound for the guard {self.name!r}")
        return self

    @property
    def better(self) -> Goal:
        """Which way is better, by its name where its goal is left out."""
        return self.goal or ("max" if looks_higher(self.name) else "min")


class MetricSection(Section):
    """Say what is compared. Left out, it is `val_bpb` of the profile, which the lab measures itself."""

    name: Name = Field(
        default="",
        description="of what the training code prints, in any words; empty is `val_bpb`, measured by the lab. Nobody verifies it",
    )
    goal: Goal | None = Field(default=None, description="`min`: lower is better, the default; `max`: higher is better")
    unit: Annotated[str, Field(max_length=20)] = Field(
        default="", description="of the metric, such as `%`: it may stand right behind the number"
    )
    pattern: str = Field(
        default="", max_length=500, description="a regular expression with one group, for output that the name alone doesn't find"
    )
    source: str = Field(
        default="output",
        max_length=200,
        pattern=r"^(output|tensorboard|[A-Za-z0-9_][A-Za-z0-9_./-]*\.jsonl?)$",
        description="`output`: what is printed; `tensorboard`: event files; or a file that the run leaves, such as `out/metrics.json` or "
        "`metrics.jsonl`. Names in nested objects are joined with dots",
    )
    guard: list[Guard] = Field(default=[], max_length=8, description="tables `[[metric.guard]]`: further metrics that may not get worse")

    @field_validator("pattern")
    @classmethod
    def _has_one_group(cls, pattern: str) -> str:
        try:
            groups = re.compile(pattern).groups if pattern else 1
        except re.error as error:
            raise ValueError(f"be a regular expression ({error})") from None
        if groups != 1:
            raise ValueError(f"have one group, which is the number, not {groups}; groups that are none begin with (?:")
        return pattern

    @field_validator("source")
    @classmethod
    def _stays_inside(cls, source: str) -> str:
        if ".." in source.split("/"):
            raise ValueError("be a path inside the run's folder")
        return source

    @model_validator(mode="after")
    def _fits_together(self) -> "MetricSection":
        if not self.name and (self.pattern or self.source != "output" or self.unit or self.goal == "max"):
            raise ValueError("have a name where it has a goal, a unit, a pattern or a source")
        if self.pattern and self.source != "output":
            raise ValueError('have a pattern only with source = "output"')
        return self

    @property
    def title(self) -> str:
        """The metric's name."""
        return self.name or METRIC

    @property
    def better(self) -> Goal:
        """Which way is better."""
        return self.goal or "min"

    @property
    def direction(self) -> str:
        """Which way is better, in words."""
        return WORDS[self.better]

    def doubt(self) -> str:
        """Ask about a goal that was not given and that the name speaks against; empty where there is none to ask."""
        if self.goal is not None or not looks_higher(self.name):
            return ""
        return (
            f"lab.toml doesn't say whether a higher {self.name} is better, so the lab promotes what lowers it. The owner can write "
            '[metric] goal = "max", or goal = "min" to end this warning.'
        )


def looks_higher(name: str) -> bool:
    """Return whether a metric of this name is usually better when it is higher."""
    return bool(_HIGHER.search(name.lower().replace("-", "_").replace("_", " ").replace("roc auc", "auc")))
