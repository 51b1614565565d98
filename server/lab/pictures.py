"""The pictures of a lab: its campaign, and the curves of a few commits."""

from collections.abc import Sequence

from autoresearch_mcp.server import answers as a
from autoresearch_mcp.server import runs
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lab.campaigns import Campaigns
from autoresearch_mcp.server.lab.core import LabCore
from autoresearch_mcp.server.lab.curve_plot import MOST_RUNS, CommitCurves, draw_curves
from autoresearch_mcp.server.lab.other_labs import OtherLabs
from autoresearch_mcp.server.lab.query import conditions as conditions_of
from autoresearch_mcp.server.lab.status import LabStatus
from autoresearch_mcp.server.lab.titles import title
from autoresearch_mcp.server.lake.base import Query
from autoresearch_mcp.server.models import ACTIVE_STATES, Experiment
from autoresearch_mcp.trainer import protocol


class Pictures:
    """The use cases that draw."""

    def __init__(self, core: LabCore, status: LabStatus, campaigns: Campaigns) -> None:
        self._core = core
        self._status = status
        self._other_labs = OtherLabs(core, campaigns)

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

        overview, progress = self._other_labs.beside()
        return draw(progress, overview.campaign.title)

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
