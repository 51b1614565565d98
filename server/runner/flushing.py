"""Writes what the ledger acknowledged to the lake, and lets go of it once it can be read back."""

import asyncio
import logging
import time
from pathlib import Path

from autoresearch_mcp.server.lake.base import Lake, LakeDamaged, LakeUnavailable
from autoresearch_mcp.server.lake.embedded.repair import repair
from autoresearch_mcp.server.lake.heldout import OTHER_TEXT, differ_lately
from autoresearch_mcp.server.ledger import Ledger
from autoresearch_mcp.server.models import Experiment, Record, Table
from autoresearch_mcp.server.paths import StatePaths
from autoresearch_mcp.server.retry import Backoff

FLUSH_EVERY_S = 5.0
FLUSH_ROWS = 500
LOOK_EVERY_S = 3600.0  # at the held-out text of other labs
LAKE_RETRY_S = (1.0, 60.0)  # first and longest wait after the lake was away

_log = logging.getLogger("autoresearch.runner")


class Flusher:
    """Empties the ledger's outbox into the lake, beside the runner's rounds: a slow lake keeps no slot waiting.

    Attributes:
        troubles: what is wrong with the log, as far as that was looked for.
        keeps_up: whether the lake took, and gave back, everything that it was given last time.
    """

    def __init__(self, state: Path, ledger: Ledger, lake: Lake) -> None:
        self._state = state
        self._ledger = ledger
        self._lake = lake
        self._due = 0.0
        self._under_way: asyncio.Task[None] | None = None
        self._backoff = Backoff(LAKE_RETRY_S)
        self._repaired = False
        self._look_at = 0.0
        self.troubles: list[str] = []
        self.keeps_up = True

    @property
    def busy(self) -> bool:
        """Whether a flush is under way."""
        return self._under_way is not None and not self._under_way.done()

    async def start_if_due(self) -> None:
        """Start a flush if one is due and none is under way.

        Raises:
            LabError: the flush before it failed; the next round tries again.
        """
        if time.monotonic() >= self._due and not self.busy:
            await self.wait()
            self._under_way = asyncio.create_task(self.flush())

    async def wait(self) -> None:
        """Wait for the flush under way.

        Raises:
            LabError: it failed.
        """
        flush, self._under_way = self._under_way, None
        if flush is not None:
            await flush

    async def flush(self) -> None:
        """Write the outbox to the lake in batches. A lake that is away is tried again later."""
        self._due = time.monotonic() + FLUSH_EVERY_S
        if not self._ledger.unflushed():
            return
        try:
            for table in ("promotions", "memories", "experiments"):
                await asyncio.to_thread(self._flush_table, table)
            self._backoff.succeeded()
            self.keeps_up = not self._ledger.unflushed()
        except LakeDamaged as error:
            await self._repair(str(error))
        except LakeUnavailable as error:
            self._postpone(str(error))

    def close(self) -> None:
        """Close the lake, so that a flush that waits for a service gives up: its rows stay in the ledger."""
        self._lake.close()

    def _postpone(self, why: str) -> None:
        wait_s = self._backoff.failed()
        _log.warning("the lake is away, next try in %.0f s: %s", wait_s, why)
        self._due = time.monotonic() + wait_s
        self.keeps_up = False

    async def _repair(self, why: str) -> None:
        """Rebuild a damaged lake, once: if that doesn't help, the disk is failing, and a person has to look."""
        self._postpone(why)
        if self._repaired:
            return
        self._repaired = True
        try:
            for each in await asyncio.to_thread(repair, StatePaths(self._state).lake, {"promotions": self._ledger.promotions()}):
                if each.fault:
                    _log.warning("%s: %d records rebuilt; the damaged files are in %s", each.table, each.rows, each.set_aside)
        except (LakeUnavailable, OSError) as error:
            _log.error("the lake could not be rebuilt: %s", error)
        self._due = time.monotonic()

    def _flush_table(self, table: Table) -> None:
        while rows := self._ledger.outbox(table, FLUSH_ROWS):
            ids = [row.id for row in rows]
            versions = {row.id: row.version for row in rows}
            stored = self._lake.present(table, ids)
            missing = [row for row in rows if stored.get(row.id, -1) < row.version]
            if missing:
                self._lake.append(table, missing)
                stored = self._lake.present(table, ids)
            settled = {id: version for id, version in stored.items() if version >= versions[id]}
            self._ledger.settle(table, settled)
            self._look_at_others(rows[-1])
            if len(settled) < len(rows):
                return  # not readable yet: the next flush looks again

    def _look_at_others(self, last: Record) -> None:
        """Look from time to time whether labs that share the log measure on other held-out text.

        Args:
            last: a record that was written to the log.
        """
        if isinstance(last, Experiment) and last.metric is not None and time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + LOOK_EVERY_S
            differ = differ_lately(self._lake, last, self._ledger.ended)
            self.troubles = [f"Labs of this log are not comparable. {OTHER_TEXT}"] if differ else []
