"""Defines `[promotion]`: what a commit must show before it becomes the champion."""

from typing import Annotated, Literal

from pydantic import Field, PrivateAttr

from autoresearch_mcp.server.settings.metric import MetricSection
from autoresearch_mcp.server.settings.section import Section


class PromotionSection(Section):
    """Say what a commit must show before it becomes the champion."""

    level: float = Field(
        default=0.005, ge=1e-9, lt=0.5, description="the chance that a candidate that is no better is promoted, however often anybody asks"
    )
    max_replicates: int = Field(
        default=16,
        ge=3,
        le=64,
        description="replicates of a candidate that count, the first in order of their starts; with all it is decided",
    )
    min_replicates: int | None = Field(
        default=None,
        ge=2,
        le=100,
        description="of the gate before 0.2: it counts for nothing, but `level` is read as a tenth of itself then",
    )
    approval: Literal["none", "human"] = Field(
        default="none",
        description="`human`: a person has to agree to every promotion, with `autoresearch-mcp approve COMMIT` or in a named client",
    )
    approval_clients: list[Annotated[str, Field(min_length=1, max_length=64)]] = Field(
        default=[], max_length=50, description="names of MCP clients at which a person answers; the others' answers count for nothing"
    )
    unsandboxed: Literal["refuse", "allow"] = Field(
        default="refuse",
        description="whether results count that were trained without a sandbox; `init` writes `allow`, and says so, on a machine that has none",
    )
    reported: Literal["refuse", "allow"] = Field(
        default="refuse", description="whether a metric counts that only the training code itself prints"
    )

    _metric: MetricSection = PrivateAttr(default_factory=MetricSection)

    @property
    def metric(self) -> MetricSection:
        """What the gate compares, which way is better, and what may not get worse: `[metric]`."""
        return self._metric

    def comparing(self, metric: MetricSection) -> "PromotionSection":
        """Return these rules for a metric."""
        copy = self.model_copy()
        copy._metric = metric
        return copy

    @property
    def level_per_candidate(self) -> float:
        """The chance that a candidate that is no better is ever promoted. The level of the gate before 0.2 was that of one question."""
        return self.level if self.min_replicates is None else self.level / 10

    def notice(self) -> str:
        """Return how settings of the gate before 0.2 are read; empty where there are none."""
        if self.min_replicates is None:
            return ""
        return (
            f"lab.toml has settings of the gate before 0.2: [promotion] min_replicates counts for nothing now, and level = {self.level:g} is "
            f"read as {self.level_per_candidate:g}, the chance per candidate however often anybody asks. The owner can remove "
            f"min_replicates and write level = {self.level_per_candidate:g}."
        )
