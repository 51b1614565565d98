"""Following experiments: where they are, what came of them, and what they printed."""

from collections.abc import Sequence
from typing import Any

from autoresearch_mcp.server import answers as a
from autoresearch_mcp.server import runs
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lab.amending import in_words
from autoresearch_mcp.server.lab.commits import Commits
from autoresearch_mcp.server.lab.comparison import Comparison
from autoresearch_mcp.server.lab.core import LabCore
from autoresearch_mcp.server.lab.curves import thinned
from autoresearch_mcp.server.lab.limits import used_in_words
from autoresearch_mcp.server.lab.masking import mask_paths, without_paths
from autoresearch_mcp.server.lab.status import LabStatus, ended_line
from autoresearch_mcp.server.lab.titles import shorten
from autoresearch_mcp.server.lake.base import Condition, Query
from autoresearch_mcp.server.models import ACTIVE_STATES
from autoresearch_mcp.server.untrusted import fence
from autoresearch_mcp.trainer import protocol

LATEST = 8  # trials of a sweep
LAST = 5  # experiments of an author of whom nothing goes on


class Experiments:
    """The use cases that read experiments by their ids."""

    def __init__(self, core: LabCore, status: LabStatus) -> None:
        self._core = core
        self._status = status
        self._commits = Commits(core, status)
        self._comparison = Comparison(core, status)

    def changes(self) -> int:
        """Return a number that differs from the last answer when the ledger changed since.

        It costs microseconds: poll it, then call `states`.
        """
        return self._core.ledger.changes()

    def is_training(self) -> bool:
        """Return whether anything runs now."""
        return bool(self._core.ledger.open_experiments(*ACTIVE_STATES, limit=1))

    def states(self, ids: Sequence[str]) -> list[a.ExperimentLine]:
        """Return these experiments in one line each, in the order asked. Starts the runner if one of them waits for it.

        For a launch until decided there are the lines of its experiments so far, for a sweep those of its latest.

        Raises:
            LabError: `bad_id`, `unknown_experiment`, or `lake_unavailable`.
        """
        goes_on = any(id.startswith(("c-", "s-")) for id in ids)  # perhaps, with nothing in the queue now
        ids = list(dict.fromkeys(each for id in ids for each in self._trained_for(id)))
        open_ = {e.id: e for e in self._core.ledger.open_experiments()}
        ended = self._core.ledger.ended([id for id in ids if id not in open_])
        ahead = self._status.forecast(list(open_.values())) if open_ else None
        lines = []
        for id in ids:
            if id in open_:
                lines.append(self._status.line(open_[id], ahead))
            elif id in ended:
                lines.append(ended_line(ended[id], self._core.root))
            else:
                lines.append(a.ExperimentLine.of(without_paths(self._core.experiment(id), self._core.root)))
        if goes_on or any(id in open_ for id in ids):
            self._core.wake()
        return lines

    def states_now(self, ids: Sequence[str]) -> dict[str, str]:
        """Return the states of those of these experiments that the ledger knows. It costs one look-up."""
        return self._core.ledger.states(ids)

    def _trained_for(self, id: str) -> list[str]:
        """Return the experiments that an id stands for."""
        if id.startswith("c-"):
            return self._core.ledger.trainings_of(id)
        if id.startswith("s-"):
            return [each.experiment for each in self._core.ledger.trials(id)[-LATEST:] if each.experiment]
        return [id]

    def marked(self, lines: Sequence[a.ExperimentLine]) -> list[a.ExperimentLine]:
        """Return the lines with a mark on each run that finished and whose steps fall out of its commit's own."""
        disturbed: dict[str, str] = {}
        for commit in {line.commit for line in lines if line.state == "finished"}:
            disturbed |= self._comparison.disturbances(commit)
        return [line.model_copy(update={"disturbed": disturbed.get(line.id, "").partition(" against")[0]}) for line in lines]

    def get_experiment(self, id: str) -> a.ExperimentAnswer:
        """Return all that is known of one experiment; for a running one, as far as it got.

        Raises:
            LabError: `bad_id`, `unknown_experiment`, or `lake_unavailable`.
        """
        e = without_paths(self._core.experiment(id), self._core.root)
        directory = runs.locate(self._core.state, e)
        running = e.state in ACTIVE_STATES
        tail = runs.read_log(directory / protocol.LOG, "tail", 15, None, None)[0] if running and (directory / protocol.LOG).exists() else ""
        text = tail or "\n".join(e.log_tail.splitlines()[-15:])
        line = self._status.line(e)
        steps = e.details.get("steps") if e.steps is None else e.steps
        return a.ExperimentAnswer(
            experiment=line,
            against_champion=self._comparison.against_champion(e),
            pace=line.pace,
            steps=steps if isinstance(steps, int) else None,
            cpu_share=e.cpu_share,
            used=used_in_words(e, self._core.settings),
            disturbed=self._comparison.disturbed(e),
            base=e.base,
            remarks=[in_words(remark) for remark in self._core.ledger.remarks(e.commit)],
            tags=e.tags,
            attempt=e.attempt,
            cost_s=round(e.cost_s, 1),
            cost_usd=round(e.cost_usd + self._status.accrued_usd(e), 4),
            created_at=e.created_at,
            started_at=e.started_at,
            finished_at=e.finished_at,
            curve=runs.read_curve(directory / protocol.CURVE) if running else e.curve,
            details=e.details,
            failure=e.failure,
            log_tail=self._fenced(text, f"end of the log of {e.id}, printed by the training code of {e.author}", 4000) if text else "",
        )

    def find(self, name: str) -> str:
        """Return the id of an experiment that is named by its id, or by its commit, launch until decided or sweep: then the newest one of it.

        Raises:
            LabError: `unknown_experiment`, or the repository's own.
        """
        if name.startswith("e-"):
            return name
        if name.startswith(("c-", "s-")) and (trainings := self._trained_for(name)):
            return trainings[-1]
        sha = self._core.commit(name)
        newest = self._core.view.select("experiments", Query((Condition("commit", "=", sha),), limit=1)).value
        if not newest:
            raise LabError(f"{sha[:12]} has no experiment yet. launch_training queues one.", "unknown_experiment")
        return newest[0].id

    def open_of(self, author: str) -> list[str]:
        """Return the ids of all that an author launched and that goes on; where nothing does, of what ended last.

        A launch until decided and a sweep stand for their trainings.
        """
        launches = {each.id for each in self._core.ledger.open_candidacies() if each.author == author}
        launches |= {each.id for each in self._core.ledger.open_sweeps() if each.author == author}
        open_ = self._core.ledger.open_experiments()
        own = [e.id for e in open_ if e.author == author and launches.isdisjoint([e.candidacy, *e.tags]) and not e.by_lab]
        return [*sorted(launches), *own] or [id for id, _ in self._core.ledger.recent_of(author, LAST)]

    def open_named(self, name: str) -> list[str]:
        """Return the ids of all that goes on of the commit that a name stands for, else of its newest experiment.

        Raises:
            LabError: those of `find`.
        """
        sha = self._core.commit(name)
        launches = [each.id for each in self._core.ledger.open_candidacies() if each.commit == sha]
        open_ = [e.id for e in self._core.ledger.open_experiments() if e.commit == sha and e.candidacy not in launches]
        return [*launches, *open_] or [self.find(sha)]

    def printed(self, id: str, words: str, offset: int) -> tuple[str, int]:
        """Look for words in what an experiment has printed since.

        Args:
            id: of the experiment.
            words: plain text in any case, alternatives separated by `|`.
            offset: of its log, in bytes, up to which it was looked at.

        Returns:
            The first line that holds them, fenced, or nothing; and the offset from which to go on.

        Raises:
            LabError: `bad_id`, `unknown_experiment`, or `lake_unavailable`.
        """
        e = self._core.experiment(id)
        line, offset = runs.find_line(runs.locate(self._core.state, e) / protocol.LOG, words, offset)
        return (self._fenced(line, f"line of {id}, printed by the training code of {e.author}", 600) + "\n" if line else ""), offset

    def side_by_side(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """Return a row for each experiment or commit, in the order asked: a commit's is over all its replicates.

        Raises:
            LabError: those of `find` and `get_experiment`.
        """
        rows = []
        for name in names:
            if not name.startswith("e-"):
                sha = self._core.commit(name)
                count = self._core.view.count("experiments", (Condition("commit", "=", sha),)).value.get("", 0)
                (row,) = self._commits.rows({sha: count})
                newest = self.get_experiment(self.find(sha)) if count else None
                rows.append(row | ({"curve": thinned(newest.curve)} if newest else {}))
                continue
            answer = self.get_experiment(name)
            line = answer.experiment
            assert line is not None
            shown = line.model_dump(include={"id", "commit", "state", "val_bpb", "reported_bpb", "progress", "failure"}, exclude_none=True)
            shown |= {"idea": shorten(line.hypothesis), "steps": answer.steps, "cpu_share": answer.cpu_share, "cost_s": answer.cost_s}
            rows.append(shown | {"disturbed": answer.disturbed, "curve": thinned(answer.curve)})
        return rows

    def read_log(
        self, id: str, mode: runs.Mode = "tail", lines: int = 60, pattern: str | None = None, first_line: int | None = None
    ) -> str:
        """Return part of an experiment's log, with line numbers, fenced as data.

        Args:
            id: the experiment.
            mode: the log's end, its beginning, the lines that match `pattern`, or those from `first_line` on.
            lines: at most.
            pattern: plain text, alternatives separated by `|`.
            first_line: counted from 1.

        Raises:
            LabError: `no_pattern`, `bad_id`, `unknown_experiment`, or `lake_unavailable`.
        """
        if mode == "grep" and not (pattern or "").strip("|"):
            raise LabError("mode='grep' needs a pattern: plain text, alternatives separated by |.", "no_pattern")
        e = self._core.experiment(id)
        path = runs.locate(self._core.state, e) / protocol.LOG
        if e.state == "queued":
            return f"{e.id} is queued and has no log yet. wait_for_experiments tells when it starts."
        if path.exists():
            text, what = runs.read_log(path, mode, lines, pattern, first_line)
        else:
            text, what = e.log_tail, "the end of the log; the whole log is not on this machine"
        return self._fenced(text or "(no lines)", f"log of {e.id}, {what}, printed by the training code of {e.author}")

    def _fenced(self, text: str, heading: str, limit: int = 20_000) -> str:
        return fence(mask_paths(text, self._core.root), heading, limit)
