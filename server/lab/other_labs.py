"""The campaign beside what other labs measured: those that share the log, and those whose records were imported."""

import threading

from autoresearch_mcp.server.lab.campaigns import Campaigns, Overview
from autoresearch_mcp.server.lab.core import LabCore
from autoresearch_mcp.server.lab.progress import Course, Foreign, Progress, in_order
from autoresearch_mcp.server.lake.base import Condition, LakeUnavailable
from autoresearch_mcp.server.models import TERMINAL_STATES

_ENDED = (Condition("state", "in", TERMINAL_STATES),)
_COLUMNS = Foreign._fields


class OtherLabs:
    """Finds in the log what isn't this lab's own, and reads it again only when there is more of it. Thread-safe."""

    def __init__(self, core: LabCore, campaigns: Campaigns) -> None:
        self._core = core
        self._campaigns = campaigns
        self._lock = threading.Lock()
        self._found: tuple[int, list[Foreign]] = 0, []  # how many the log has more than the ledger, and what they are
        self._drawn: tuple[Overview, list[Foreign], Progress] | None = None

    def beside(self) -> tuple[Overview, Progress]:
        """Return the campaign, and its points with those of other labs among them. Where the log is away, the lab's own are all there is."""
        with self._lock:
            others = self._others()
            overview = self._campaigns.overview()
            if not others:
                return overview, overview.progress
            if self._drawn is None or self._drawn[0] is not overview or self._drawn[1] is not others:
                self._drawn = overview, others, self._merged(overview, others)
            return overview, self._drawn[2]

    def _others(self) -> list[Foreign]:
        before = self._campaigns.ended()
        in_log = self._core.view.count("experiments", _ENDED)
        more = in_log.value[""] - before
        if in_log.warning or (more == 0 and self._campaigns.ended() == before):
            return []
        if more != self._found[0]:
            try:
                found = [Foreign._make(row) for row in self._core.view.cells("experiments", _COLUMNS).value]
            except LakeUnavailable:
                return []
            own = self._campaigns.among_ended(each.id for each in found)  # afterwards: what of it is the lab's is known there by now
            self._found = more, [each for each in found if each.id not in own and each.state in TERMINAL_STATES]
        return self._found[1]

    def _merged(self, overview: Overview, others: list[Foreign]) -> Progress:
        campaign, ledger = overview.campaign, self._core.ledger
        apart = ledger.measurements() | ledger.withdrawn()
        course = Course(campaign.conditions, campaign.reference, campaign.reported)
        course.add_among(sorted([*overview.ended.rows(), *(each for each in others if each.commit not in apart)], key=in_order))
        return course.progress(campaign)
