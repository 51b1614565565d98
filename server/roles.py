"""Who may do what in a lab: four roles, each of which may do all that the one before it may."""

from dataclasses import dataclass
from enum import StrEnum

TOKEN = "AUTORESEARCH_TOKEN"  # noqa: S105 the variable of the owner's own, by its name


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


@dataclass(frozen=True)
class Identity:
    """Whom a server works for, or who sent a request.

    Attributes:
        name: the one agent that it signs as. Empty: each call names its author, and the lab believes it.
        role: what it may do. None: all but to cancel what others launched.
    """

    name: str = ""
    role: Role | None = None

    @property
    def rules_others(self) -> bool:
        """Return whether it may cancel what others launched. Without a name anyone could say so."""
        return self.role is not None and bool(self.name) and self.role.covers(Role.ORCHESTRATOR)


ANYBODY = Identity()
