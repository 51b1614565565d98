"""The answers that say how the search stands: parts of the status."""

from typing import Literal

from pydantic import Field

from autoresearch_mcp.server.models import Model

SearchStateName = Literal["searching", "stalled", "dry", "thrashing"]


class SearchState(Model):
    """Whether the search gets anywhere: numbers since the last promotion, the champion's own replicates not counted."""

    state: SearchStateName
    trainings: int
    commits: int
    device_hours: float
    failed: float = Field(description="share of the last 20 trainings that their own code failed")
    gain_left: float | None = Field(default=None, description="largest likely gain among undecided commits")
    novelty: float | None = Field(
        default=None, description="how far the last 20 ideas are from all before them, on average: 0 repeats, 1 resembles nothing"
    )
    decisive: float | None = Field(default=None, description="share of the trainings after which the gate's word on a commit was its last")
    repetitions: int | None = Field(default=None, description="trainings spared, as somebody was told of a twin, a result or a holder")


class Direction(Model):
    """What came of the ideas with one tag."""

    tag: str
    ideas: int
    tried: int | None = Field(default=None, description="proposals that were trained")
    failed: int | None = Field(default=None, description="of those, without a training that finished")
    promoted: int | None = None
    device_hours: float | None = None
    gain: float | None = Field(default=None, description="the largest: of what was promoted, or likely of what is open")
    se: float | None = None
    active_at: float | None = None
    who: list[str] = Field(default=[], description="who holds or trains one")


class ShareLeft(Model):
    """What the caller may still use, where lab.toml limits it."""

    device_s: float | None = None
    usd: float | None = None
    queued: int | None = None
