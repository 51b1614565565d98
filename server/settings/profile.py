"""Defines `[profile.NAME]`: a profile of the owner's own text, scored as the built-in ones are."""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from autoresearch_mcp.server.settings.section import Section
from autoresearch_mcp.trainer.protocol import OwnText

_CELLS = 1 << 24  # positions times vocabulary, of a row whose logits a CPU holds in float32
_BYTES_A_POSITION = 64  # of validation text at least, so that there are rows enough to check


class ProfileSection(Section):
    """Train language models on text of your own: `[training] profile = "NAME"`. It is measured by the scorer of the built-in profiles."""

    text: str = Field(
        default="",
        max_length=1000,
        description="a folder of `.txt`, `.md`, `.jsonl`, `.ndjson` or `.parquet`: an absolute path, or one that begins with `~/`. No training reads it",
    )
    dataset: str = Field(
        default="",
        pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*)?$",
        max_length=200,
        description="instead: a public data set of the Hugging Face hub, as `owner/name`",
    )
    files: str = Field(default="*", min_length=1, max_length=200, description="which of the files, such as `data/train-*.parquet`")
    column: str = Field(default="text", min_length=1, max_length=200, description="the column of JSON lines or Parquet that holds the text")
    device: Literal["cpu", "cuda", "gpu", "mps"] = Field(
        default="cpu",
        description="`cpu` has the clock and the limits of the profile `cpu`, `cuda` those of `h100`,"
        "`gpu` those of `gpu`, for cards of 8 to 24 GB, and `mps` those of `mps`",
    )
    vocab_size: int = Field(default=2048, ge=300, le=65_536, description="tokens, learned from the training text")
    seq_len: int = Field(default=256, ge=16, le=16_384, description="tokens of context")
    budget_s: float = Field(default=0.0, ge=0, le=86_400, description="seconds of one experiment; 0 is 60 on a CPU, 300 on a GPU")
    eval_bytes: int = Field(
        default=200_000,
        ge=10_000,
        le=10**9,
        description="bytes of validation text; half as many are hidden. The text must have five times as many",
    )
    max_mb: int = Field(default=1000, ge=1, le=100_000, description="megabytes of text to read at most, in the order of the files' names")

    @field_validator("text")
    @classmethod
    def _is_absolute(cls, path: str) -> str:
        if path and not Path(path).expanduser().is_absolute():
            raise ValueError("be an absolute path, or begin with ~/")
        return path

    @model_validator(mode="after")
    def _is_whole(self) -> "ProfileSection":
        if bool(self.text) == bool(self.dataset):
            raise ValueError("name a text or a dataset, and not both")
        if self.device == "cpu" and self.vocab_size * self.seq_len > _CELLS:
            raise ValueError(f"have a vocab_size times seq_len of at most {_CELLS:,} on a CPU")
        if self.eval_bytes < _BYTES_A_POSITION * self.seq_len:
            raise ValueError(f"have an eval_bytes of at least {_BYTES_A_POSITION} times seq_len")
        return self

    def own_text(self) -> OwnText:
        """Return what a launcher is told."""
        values = self.model_dump()
        return OwnText(**values | {"text": str(Path(self.text).expanduser().resolve()) if self.text else ""})
