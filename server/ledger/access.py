"""Who may call a lab over the network, and who changed what: tokens, and the record of acknowledged changes."""

import hashlib
import secrets
import time
from dataclasses import dataclass

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.ledger.database import Database
from autoresearch_mcp.server.roles import Role

_PREFIX = "armcp_"  # so that scanners for leaked secrets know one when they see it


@dataclass(frozen=True)
class Token:
    """A token without its secret.

    Attributes:
        name: of its holder, who signs with it.
        role: what the holder may do.
        created_at: Unix seconds.
        expires_at: Unix seconds; None for never.
        revoked_at: Unix seconds; None while it isn't.
    """

    name: str
    role: Role
    created_at: float
    expires_at: float | None
    revoked_at: float | None

    @property
    def valid(self) -> bool:
        """Return whether it opens anything now."""
        return self.revoked_at is None and (self.expires_at is None or time.time() < self.expires_at)


@dataclass(frozen=True)
class Change:
    """A change that was acknowledged.

    Attributes:
        at: Unix seconds.
        who: the name that signed it.
        role: under which it was made; empty where the lab has no roles.
        way: `stdio`, `http` or `command line`.
        origin: the client, and the address that it called from.
        action: a tool or command.
        subject: the commit, experiment or memory that changed.
    """

    at: float
    who: str
    role: str
    way: str
    origin: str
    action: str
    subject: str


class Access:
    """Tokens are stored as hashes. They are 256 random bits, so a plain hash is as good as a slow one."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add_token(self, name: str, role: Role, expires_at: float | None, replace: bool = False) -> str:
        """Make a token, and return its secret, which is kept nowhere.

        Args:
            name: of its holder. A name has one valid token.
            role: what the holder may do.
            expires_at: Unix seconds; None for never.
            replace: whether to revoke the holder's token of before in the same moment.

        Raises:
            LabError: `token_exists`, `unknown_token` where there is none to replace.
        """
        secret, now = _PREFIX + secrets.token_urlsafe(32), time.time()
        with self._database.write() as db:
            db.execute("UPDATE tokens SET revoked_at = expires_at WHERE revoked_at IS NULL AND expires_at <= ?", (now,))
            taken = db.execute("SELECT 1 FROM tokens WHERE name = ? AND revoked_at IS NULL", (name,)).fetchone() is not None
            if taken and not replace:
                raise LabError(f"{name} has a token. Replace it with `token rotate`, or revoke it. Nothing was changed.", "token_exists")
            if replace and not taken:
                raise LabError(f"{name} has no valid token to replace. Make one with `token create`.", "unknown_token")
            db.execute("UPDATE tokens SET revoked_at = ? WHERE name = ? AND revoked_at IS NULL", (now, name))
            db.execute("INSERT INTO tokens VALUES (?, ?, ?, ?, ?, NULL)", (digest(secret), name, role, now, expires_at))
        return secret

    def revoke_token(self, name: str) -> bool:
        """Make a holder's token open nothing from now on. Returns whether there was a valid one."""
        with self._database.write() as db:
            return db.execute("UPDATE tokens SET revoked_at = ? WHERE name = ? AND revoked_at IS NULL", (time.time(), name)).rowcount > 0

    def tokens(self) -> dict[str, Token]:
        """Return all tokens that there ever were, the oldest first, by the hashes of their secrets."""
        with self._database.read() as db:
            rows = db.execute("SELECT hash, name, role, created_at, expires_at, revoked_at FROM tokens ORDER BY created_at").fetchall()
        return {hash: Token(name, Role(role), *times) for hash, name, role, *times in rows}

    def tokens_version(self) -> tuple[int, int]:
        """Return what differs from the last answer when a token was added or revoked since. It costs microseconds."""
        count, revoked = self._database.glimpse("SELECT count(*), count(revoked_at) FROM tokens")
        return count, revoked

    def record_change(self, who: str, role: str, way: str, origin: str, action: str, subject: str) -> None:
        """Write down a change before it is acknowledged."""
        with self._database.write() as db:
            row = (time.time(), who, role, way, origin, action, subject)
            db.execute("INSERT INTO changes (at, who, role, way, origin, action, subject) VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def recorded_changes(self, who: str | None = None, since: float = 0.0, limit: int = 100) -> list[Change]:
        """List changes, the newest first.

        Args:
            who: whose; None for everybody's.
            since: Unix seconds.
            limit: how many at most; negative: all.
        """
        with self._database.read() as db:
            rows = db.execute(
                "SELECT at, who, role, way, origin, action, subject FROM changes "
                "WHERE at >= ? AND (? IS NULL OR who = ?) ORDER BY seq DESC LIMIT ?",
                (since, who, who, limit),
            ).fetchall()
        return [Change(*row) for row in rows]


def digest(secret: str) -> str:
    """Return the hash under which a secret is kept."""
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()
