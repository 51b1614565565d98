"""Defines `[compute.ssh.HOST]` of `lab.toml`: what is particular to a machine that trainings run on."""

from typing import Annotated

from pydantic import Field

from autoresearch_mcp.server.settings.section import Section

HOST = r"^[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,250}$"
HOST_AND_GPUS = r"^[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,250}(:[0-9]+(,[0-9]+)*)?$"


class HostSection(Section):
    """Say what is particular to a host."""

    python: str = Field(
        default="",
        max_length=500,
        pattern=r"^[^\x00\n\r\\]*$",
        description="the Python there, with autoresearch-mcp installed; empty is `~/.autoresearch-mcp/venv/bin/python`, else `python3`",
    )
    folder: str = Field(
        default="~/.autoresearch-mcp/labs", min_length=1, max_length=500, pattern=r"^[^\x00\n\r]*$", description="where runs lie there"
    )
    before: list[Annotated[str, Field(max_length=1000, pattern=r"^[^\x00\n\r]*$")]] = Field(
        default=[], max_length=50, description='shell lines that run before each training, such as `"module load cuda"`'
    )
    nice: int = Field(default=0, ge=0, le=19, description="nice level of trainings there")
    allowed: str = Field(
        default="",
        pattern=r"^(([01][0-9]|2[0-3]):[0-5][0-9]-([01][0-9]|2[0-3]):[0-5][0-9])?$",
        description='hours of its own clock in which trainings may begin there, such as `"19:00-08:00"`; empty is always',
    )

    def allows(self, minute: int) -> bool:
        """Return whether a training may begin at this minute of the host's day."""
        if not self.allowed:
            return True
        start, end = (int(text[:2]) * 60 + int(text[3:]) for text in self.allowed.split("-"))
        return start <= minute < end if start <= end else minute >= start or minute < end
