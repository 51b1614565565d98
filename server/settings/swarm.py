"""Defines `[swarm]`: what one agent may take of a lab that many share."""

from pydantic import Field

from autoresearch_mcp.server.settings.section import Section


class SwarmSection(Section):
    """Limit what one agent may use, by the name that it signs with."""

    device_hours: float = Field(
        default=0.0, ge=0, le=1_000_000, description="device hours that one agent may use, its queued trainings included; 0: no limit"
    )
    usd: float = Field(default=0.0, ge=0, le=1_000_000, description="the same in money, where devices are rented; 0: no limit")
    queued: int = Field(default=0, ge=0, le=100_000, description="trainings that one agent may have queued; 0: no limit")
    claims: int = Field(default=4, ge=1, le=1_000, description="ideas that one agent may claim at a time")
