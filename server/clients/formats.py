"""Defines what a format of configuration files offers: reading the servers, adding one, removing one. Other bytes stay as they are."""

from pathlib import Path
from typing import Any, Protocol

from autoresearch_mcp.server.clients.entries import target
from autoresearch_mcp.server.errors import LabError

UNSAFE = "it has a form that can't be edited safely"  # why an edit was not made


class ConfigFormat(Protocol):
    """Edits configurations of one format as text.

    Each edit is read back before it is returned: the result holds what was there and the one change, or there is no result.
    """

    def servers(self, text: str, section: str) -> dict[str, Any]:
        """Return the servers of a configuration, by name.

        Raises:
            ValueError: a sentence without its full stop, when the text has another form.
        """

    def put(self, text: str, section: str, name: str, server: dict[str, Any]) -> str:
        """Return the text with a server added, or replaced in its place.

        Raises:
            ValueError: as above.
        """

    def remove(self, text: str, section: str, name: str) -> str:
        """Return the text without a server that it has.

        Raises:
            ValueError: as above.
        """

    def snippet(self, section: str, name: str, server: dict[str, Any]) -> str:
        """Return a configuration that holds this server alone, for a person to copy."""


def merged(kind: ConfigFormat, text: str, section: str, name: str, server: dict[str, Any], folder: Path) -> str:
    """Add a server to a configuration, unless its name is taken.

    Args:
        kind: the configuration's format.
        text: the configuration.
        section: the part that holds servers.
        name: of the server in it.
        server: its entry.
        folder: what relative paths in the configuration start from.

    Returns:
        The new text; the same one, where the entry is there already.

    Raises:
        ValueError: a sentence without its full stop, when the text has another form.
        LabError: `name_taken`, when the name serves another lab.
    """
    present = kind.servers(text, section).get(name)
    if present == server:
        return text
    if present is not None and target(present, folder) != target(server, folder):
        raise LabError(
            f"Its entry {name!r} serves another lab. Choose another name (--name {name}-2), or remove that entry first.", "name_taken"
        )
    return kind.put(text, section, name, server)


def newline_of(text: str) -> str:
    """Return how lines of a text end."""
    return "\r\n" if "\r\n" in text else "\n"
