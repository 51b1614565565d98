"""Defines `[scorer]`: how the owner has code scored that keeps no contract, so that its metric is verified."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from autoresearch_mcp.server.settings.section import Section
from autoresearch_mcp.trainer.protocol import Scoring


class ScorerSection(Section):
    """Say how code without the contract is scored: by answers that no training can read. The metric is verified then, not reported."""

    kind: Literal["none", "predictions", "command"] = Field(
        default="none",
        description="`predictions`: the run leaves a file of them, and the lab measures `[metric] name`; `command`: the owner's own Python "
        "file does; `none`: the metric is what the code prints",
    )
    hidden: str = Field(
        default="",
        max_length=1000,
        description="the folder with the answers, in `validation` and `test`: an absolute path, or one that begins with `~/`. No training "
        "can read it, and it is never in the lab",
    )
    submission: str = Field(
        default="",
        max_length=200,
        pattern=r"^([A-Za-z0-9_][A-Za-z0-9_./-]*)?$",
        description="the file or folder that a run leaves; empty is `predictions` with the ending `.csv`, `.npy`, `.npz` or `.parquet`, and "
        "for a command the folder `submission`",
    )
    file: str = Field(
        default="",
        max_length=1000,
        description="of a command: the Python file, in a folder of its own, outside of the lab; a path as `hidden`",
    )
    timeout_s: float = Field(default=60.0, gt=0, le=3600, description="of a command: seconds for each of its two runs")
    memory_mb: int = Field(default=4096, ge=256, le=10**8, description="megabytes of memory for all of scoring")
    max_mb: int = Field(default=100, ge=1, le=100_000, description="megabytes that a run may submit")
    hide: list[Annotated[str, Field(min_length=1, max_length=400)]] = Field(
        default=[],
        max_length=20,
        description="what else trainings can't read, such as a public copy of the answers: absolute paths, or paths below the installed "
        "packages, such as `sklearn/datasets/data`",
    )

    @field_validator("hidden", "file")
    @classmethod
    def _is_absolute(cls, path: str) -> str:
        if path and not Path(path).expanduser().is_absolute():
            raise ValueError("be an absolute path, or begin with ~/")
        return path

    @field_validator("submission")
    @classmethod
    def _stays_inside(cls, path: str) -> str:
        if ".." in path.split("/"):
            raise ValueError("be a path inside the run's folder")
        return path

    @model_validator(mode="after")
    def _is_complete(self) -> "ScorerSection":
        if self.kind != "none" and not self.hidden:
            raise ValueError("name the folder with the answers: hidden")
        if (self.kind == "command") != bool(self.file):
            raise ValueError('name a file with kind = "command", and with no other')
        return self

    @property
    def folders(self) -> list[tuple[str, Path]]:
        """Return the keys that name something which trainings can't read, and the folder of each."""
        hidden, file = (Path(path).expanduser().resolve() for path in (self.hidden, self.file))
        return [("hidden", hidden)] * bool(self.hidden) + [("file", file.parent)] * bool(self.file)

    def scoring(self) -> Scoring | None:
        """Return what a launcher is told; None where the metric is what the code prints."""
        if self.kind == "none":
            return None
        hidden, file = (str(Path(path).expanduser()) if path else "" for path in (self.hidden, self.file))
        return Scoring(self.kind, hidden, self.submission, file, self.timeout_s, self.memory_mb, self.max_mb, tuple(self.hide))

    @property
    def longest_s(self) -> float:
        """Return how long scoring may take."""
        scoring = self.scoring()
        return scoring.longest_s if scoring else 0.0
