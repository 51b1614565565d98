"""What a lake promises: append-only tables of finished experiments, memories and promotions, shared by every reader.

- One process a host writes (the runner); any number read at the same time.
- `append` is idempotent: a row is known by its id, and its newest `version` is the one that readers see.
- A row that `append` acknowledged may take seconds to be readable (managed tables); `present` tells.
- Reads raise `LakeUnavailable` when the store is away; nothing is lost, because the ledger keeps what was not read back.

`Query` is small on purpose: every store and the ledger's overlay must answer it in the same way.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from ..models import Record, Table

Operator = Literal["=", ">=", "<=", "in", "contains", "has"]  # contains: substring, any case; has: the list column holds the value


class LakeUnavailable(Exception):
    """The store could not be reached or opened; the text says why and holds no secret."""


@dataclass(frozen=True)
class Condition:
    column: str
    op: Operator
    value: Any


@dataclass(frozen=True)
class Query:
    """Filter, order and page. Rows whose order column is null come last; ties are broken by id, in the same direction.

    `after` is the (order value, id) of the last row of the page before.
    """

    where: tuple[Condition, ...] = ()
    order_by: str = "created_at"
    descending: bool = True
    limit: int = 20
    after: tuple[Any, str] | None = None


class Lake(Protocol):
    def append(self, table: Table, records: Sequence[Record]) -> None: ...
    def present(self, table: Table, ids: Sequence[str]) -> dict[str, int]:
        """The newest stored version of each id that is readable now."""
        ...

    def get(self, table: Table, ids: Sequence[str]) -> list[Record]: ...
    def select(self, table: Table, query: Query) -> list[Record]: ...
    def count(self, table: Table, where: tuple[Condition, ...] = (), group_by: str | None = None) -> dict[str, int]:
        """Rows by the group column's value as text; without `group_by`, one entry under the empty string."""
        ...

    def search(self, text: str, where: tuple[Condition, ...] = (), limit: int = 10) -> list[tuple[Record, float]]:
        """Memories ranked by full-text relevance, best first, the newest first on ties."""
        ...

    def close(self) -> None: ...
