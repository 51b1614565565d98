"""What agents read, as they are answered: by threads of the server, or by a process beside it.

A question may be asked twice, where the process ended before it answered. So none of them does anything that may not be done twice.
"""

import threading
import time
from collections.abc import Sequence

from autoresearch_mcp.server import answers as a
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.lab.query import ExperimentQuery
from autoresearch_mcp.server.mcp.brief import Part, brief, brief_experiment
from autoresearch_mcp.server.models import MemoryKind
from autoresearch_mcp.server.runs import Mode
from autoresearch_mcp.server.untrusted import safe_rows

SHOWN_DIFF = 2_000  # characters of a diff beside an experiment
STATUS_S = 0.2  # for which an answer of get_status is given again: progress and the runner's health change without the ledger


class Reads:
    """The questions of agents. Every method blocks for a moment. Thread-safe.

    Args:
        lab: what they are about.
    """

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._reading = threading.Lock()  # one reads for all who ask meanwhile
        # What the last status was read from, when, and the answer; by caller the same with what to do next, whole and shortened.
        self._status: tuple[object, float, a.StatusAnswer, dict[str, tuple[a.StatusAnswer, a.StatusAnswer]]] | None = None

    def warm_up(self) -> None:
        """Load what the first questions need."""
        self._lab.warm_up_reading()

    def status(self, caller: str, asked_at: float, whole: bool = False) -> a.StatusAnswer:
        """Return the lab at a glance, for a caller.

        A swarm asks all the time: an answer is given to all who asked before it was read, and again for a moment if nothing changed.

        Args:
            caller: whose work comes first in what to do next.
            asked_at: when, by this machine's monotonic clock.
            whole: whether not to shorten it.

        Raises:
            LabError: the ledger's.
        """
        with self._reading:
            stamp, now = self._lab.stamp(), time.monotonic()
            known = self._status
            is_fresh = known is not None and (known[1] >= asked_at or (known[0] == stamp is not None and now <= known[1] + STATUS_S))
            if known is None or not is_fresh or caller not in known[3]:
                with self._lab.snapshot():
                    if known is None or not is_fresh:
                        known = self._status = stamp, now, self._lab.status(False), {}
                    known[3][caller] = self._of_caller(known[2], caller)
            own, short = known[3][caller]
            return own if whole else short

    def _of_caller(self, whole: a.StatusAnswer, caller: str) -> tuple[a.StatusAnswer, a.StatusAnswer]:
        """Return the status with what the caller may do next, whole and shortened."""
        steps, share = self._lab.next_steps(caller), self._lab.share_left(caller)
        own = whole.model_copy(update={"next": [*whole.next, *steps], "share": share})
        return own, brief(own)

    def status_of_all(self) -> a.StatusAnswer:
        """Return the lab at a glance, whole, for nobody in particular."""
        return self._lab.status()

    def file(self, path: str | None, commit: str | None, first_line: int, max_lines: int) -> a.FileAnswer:
        """Return lines of a file at a commit. See `Reading.read_file`."""
        return self._lab.read_file(path, commit, first_line, max_lines)

    def diff(self, commit: str, against: str = "base") -> str:
        """Return a commit's diff, fenced. See `Reading.diff`."""
        return self._lab.diff(commit, against)

    def experiment(self, names: Sequence[str], parts: Sequence[Part]) -> a.ExperimentAnswer:
        """Return an experiment or a sweep with those parts, or several experiments side by side."""
        if len(names) > 1:
            return a.ExperimentAnswer(rows=safe_rows(self._lab.side_by_side(names)))
        if names[0].startswith("s-"):
            (sweep,) = self._lab.sweeps(names)
            return a.ExperimentAnswer(sweep=sweep)
        whole = self._lab.get_experiment(self._lab.find(names[0]))
        assert whole.experiment is not None
        diff = self._lab.diff(whole.experiment.commit, limit=SHOWN_DIFF) if "diff" in parts else ""
        return brief_experiment(whole, parts).model_copy(update={"diff": diff})

    def whole_experiment(self, id: str) -> a.ExperimentAnswer:
        """Return all that is known of an experiment."""
        return self._lab.get_experiment(id)

    def log(self, name: str, mode: Mode = "tail", lines: int = 60, pattern: str | None = None, first_line: int | None = None) -> str:
        """Return lines of an experiment's log, fenced. See `Experiments.read_log`."""
        return self._lab.read_log(self._lab.find(name), mode, lines, pattern, first_line)

    def query(self, query: ExperimentQuery, caller: str) -> a.QueryAnswer:
        """Return the experiments that match. See `History.query_experiments`."""
        answer = self._lab.query_experiments(query, caller)
        return answer.model_copy(update={"rows": safe_rows(answer.rows)})

    def memories(
        self,
        query: str,
        kind: MemoryKind | None,
        tag: str | None,
        author: str | None,
        experiment: str | None,
        since: float | None,
        until: float | None,
        limit: int,
        free_for: str | None,
    ) -> a.SearchAnswer:
        """Return memories, and proposals like the query. See `Memories.search_memory`."""
        about = self._lab.find(experiment) if experiment else None
        return self._lab.search_memory(query, kind, tag, author, about, since, until, limit, free_for)
