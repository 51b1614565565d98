"""The pictures of a lab: its campaign, and the curves of a few commits."""

from collections.abc import Sequence
from typing import Any

from autoresearch_mcp.server import answers as a
from autoresearch_mcp.server import runs
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lab.core import LabCore
from autoresearch_mcp.server.lab.curve_plot import MOST_RUNS, CommitCurves, draw_curves
from autoresearch_mcp.server.lab.progress import Campaign
from autoresearch_mcp.server.lab.query import conditions as conditions_of
from autoresearch_mcp.server.lab.status import LabStatus
from autoresearch_mcp.server.lab.titles import title
from autoresearch_mcp.server.lake.base import Query
from autoresearch_mcp.server.models import ACTIVE_STATES, Experiment, Record
from autoresearch_mcp.trainer import protocol


class Pictures:
    """The use cases that draw."""

    def __init__(self, core: LabCore, status: LabStatus) -> None:
        self._core = core
        self._status = status

    def plot_progress(self, commits: Sequence[str] = ()) -> a.ProgressPicture:
        """Draw every experiment as a point and the champion's metric as a line; of some commits, their curves beside the champion's.

        Args:
            commits: whose curves are drawn; none for the campaign.

        Raises:
            LabError: `missing_package`, where matplotlib is not installed, and the repository's own.
        """
        try:
            return self._curves(commits) if commits else self._campaign()
        except ModuleNotFoundError as error:
            raise LabError(
                f"The picture needs the package {error.name}, which is not installed here: pip install {error.name}. "
                "The numbers are in get_status and query_experiments.",
                "missing_package",
            ) from None

    def _campaign(self) -> a.ProgressPicture:
        from autoresearch_mcp.server.lab.progress_plot import draw

        settings, conditions, ledger = self._core.settings, self._status.conditions(), self._core.ledger
        champion, apart = self._core.repo.champion(), ledger.measurements() | ledger.withdrawn()
        asked = ledger.undecided(champion, conditions)
        return draw(
            Campaign(
                experiments=[e for e in self._all_experiments() if e.commit not in apart],
                promotions=ledger.promotions(),
                title=settings.lab.name,
                champion=self._status.summary(champion, conditions),
                undecided={*asked, *(candidacy.commit for candidacy in ledger.open_candidacies())},
                conditions=conditions,
                reported=settings.metric.name if settings.trust == "reported" else "",
                measured=settings.metric.title,
                goal=settings.metric.better,
                reference=settings.reference,
                noise=self._status.noise(conditions),
            )
        )

    def curves(self, commits: Sequence[str] = ()) -> list[CommitCurves]:
        """Return the champion's curves, then those of some commits.

        Raises:
            LabError: the repository's own.
        """
        champion = self._core.repo.champion()
        shas = dict.fromkeys([champion, *map(self._core.commit, commits)])
        return [self._curves_of(sha, sha == champion) for sha in shas]

    def _curves(self, commits: Sequence[str]) -> a.ProgressPicture:
        return draw_curves(self.curves(commits), self._core.settings.lab.name)

    def _curves_of(self, commit: str, is_champion: bool) -> CommitCurves:
        """Return the curves of a commit's newest replicates, also of those that run, under the champion's conditions where they are known."""
        ledger, conditions = self._core.ledger, self._status.conditions()
        same = list(dict.fromkeys([commit, ledger.proposal_of(commit)]))
        where = conditions_of(("commit", "in", same), ("state", "=", "finished"), ("conditions", "=", conditions or None))
        ended = self._core.view.select("experiments", Query(where, limit=MOST_RUNS)).value
        curves = [e.curve for e in ended if isinstance(e, Experiment) and e.curve and not e.reproduces]
        live = [
            curve
            for e in ledger.open_experiments(*ACTIVE_STATES)
            if e.commit in same and (curve := runs.read_curve(runs.locate(self._core.state, e) / protocol.CURVE))
        ]
        proposal = ledger.proposal(ledger.proposal_of(commit))
        return CommitCurves(commit, title(proposal) if proposal else "baseline", curves, live, is_champion)

    def _all_experiments(self) -> list[Experiment]:
        experiments: list[Record] = []
        after: tuple[Any, str] | None = None
        while True:
            page = self._core.view.select("experiments", Query(order_by="created_at", descending=False, limit=1000, after=after)).value
            experiments += page
            if len(page) < 1000:
                return [e for e in experiments if isinstance(e, Experiment)]
            after = (page[-1].created_at, page[-1].id)
