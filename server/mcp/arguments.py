"""The arguments that tools share, with their limits. The lab checks what only it can know; these stop what can never be right."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from autoresearch_mcp.server.lab.query import COMMIT, Commit, Tag

__all__ = ["COMMIT", "ID", "Author", "Commit", "Edit", "ExperimentId", "MemoryId", "Path", "Tag", "Tags", "Text"]

MAX_TEXT = 400_000  # characters of a diff or a file; the lab's own limits are finer

# No `\w{1,64}`: a repeated class takes milliseconds to compile, and each tool's model compiles its own.
ID = r"^[a-z]-[0-9a-z]{15}$"

Author = Annotated[str, Field(pattern=r"^[\w .@:/+-]+$", max_length=64, description="your name")]
ExperimentId = Annotated[str, Field(pattern=ID)]
MemoryId = Annotated[str, Field(pattern=ID)]
Path = Annotated[str, Field(min_length=1, max_length=300)]
Tags = Annotated[list[Tag], Field(max_length=16, description="letters, digits, _.:/+-")]
Text = Annotated[str, Field(max_length=MAX_TEXT)]


class Edit(BaseModel):
    """One search and replace."""

    model_config = ConfigDict(extra="forbid")

    path: Path
    search: Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
    replace: Text
