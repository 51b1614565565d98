"""Who may do what in a lab: four roles, each of which may do all that the one before it may."""

from enum import StrEnum


class Role(StrEnum):
    """What a token, or a server that was started for one agent, lets its holder do."""

    VIEWER = "viewer"  # reads
    WORKER = "worker"  # proposes, launches, claims ideas, writes memories, cancels its own
    ORCHESTRATOR = "orchestrator"  # promotes, sweeps, and cancels what others launched
    OWNER = "owner"

    def covers(self, needed: "Role") -> bool:
        """Return whether this role may do what another is needed for."""
        ranks = list(Role)
        return ranks.index(self) >= ranks.index(needed)
