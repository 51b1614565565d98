"""Orders for drafts: what a process beside a server of many agents carries out in its place.

A draft takes a fifth of a second: processes of git, and a look through the files, most of it in the interpreter. Those who read would wait for it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from autoresearch_mcp.server.proposals.drafts import Conflict, Draft

LENGTH_BYTES = 8  # before each message between the two


@dataclass(frozen=True)
class Order:
    """A call of `Repo.build` or `Repo.rebase`.

    Attributes:
        root: the lab's directory.
        editable: the paths that may change.
        judges_imports: as for `Repo`.
        method: which of them.
        given: its arguments by name, which JSON can hold.
    """

    root: str
    editable: tuple[str, ...]
    judges_imports: bool
    method: Literal["build", "rebase"]
    given: dict[str, Any]


CarryOut = Callable[[Order], Draft | Conflict]
