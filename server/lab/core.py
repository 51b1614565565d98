"""An opened lab's stores, and the look-ups that every use case needs."""

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from autoresearch_mcp.server import settings as lab_settings
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.gate.gate import Gate
from autoresearch_mcp.server.lab.known import newest
from autoresearch_mcp.server.lake import is_managed, open_lake
from autoresearch_mcp.server.lake.view import MergedView
from autoresearch_mcp.server.ledger import Ledger
from autoresearch_mcp.server.models import Experiment
from autoresearch_mcp.server.paths import LabPaths, StatePaths
from autoresearch_mcp.server.proposals.orders import CarryOut
from autoresearch_mcp.server.proposals.repo import TELLING, Repo
from autoresearch_mcp.server.runner.lock import runner_alive
from autoresearch_mcp.server.runner.start import ensure_runner
from autoresearch_mcp.server.search.embedding import open_embedder
from autoresearch_mcp.server.untrusted import clean

_MARK = re.compile(r"-[0-9a-f]{4}$")
_EXPERIMENT_ID = re.compile(r"e-[0-9a-z]{15}")


class LabCore:
    """The stores of the lab in `root`: its settings, ledger, repository, and the lake with the ledger laid over it. Thread-safe.

    Raises:
        LabError: `not_a_lab`, `newer_lab`, `bad_settings`, `read_only`, and the ledger's and the repository's own.
    """

    def __init__(self, root: Path, carry_out: CarryOut | None = None, starts_runner: bool = True) -> None:
        self._carry_out = carry_out
        self._starts_runner = starts_runner
        self.root = root.resolve()
        self.settings_file = lab_settings.SettingsFile(self.root)
        paths = LabPaths(self.root)
        self.state = paths.state
        _make_state(self.state)
        self.ledger = Ledger(paths.ledger)
        self._opened = settings = self.settings
        self.gate = Gate(self.ledger, lambda: self.settings)
        self._repo = self._opened_repo()
        self.embedder = open_embedder(settings.embeddings)
        self.view = MergedView(open_lake(settings, self.state, self.embedder), self.ledger.pending, self.embedder)

    @property
    def settings(self) -> lab_settings.Settings:
        """The settings of now: `lab.toml` is read again when it changes."""
        return self.settings_file.current()

    @property
    def repo(self) -> Repo:
        """The lab's repository, with the paths that may be edited now."""
        if self._repo.editable.patterns != tuple(self.settings.training.editable):
            self._repo = self._opened_repo()
        return self._repo

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """Have this thread read one state of the ledger and one champion while a block runs. It is for what only reads."""
        with self.ledger.snapshot(), self.repo.steady():
            yield

    def _opened_repo(self) -> Repo:
        # Imports of packages that lie elsewhere can't be judged
        editable, judges_imports = self.settings.training.editable, lambda: self.settings.has_packages
        return Repo(self.root, editable, judges_imports=judges_imports, carry_out=self._carry_out)

    def settings_warnings(self) -> list[str]:
        """Return what to know of the last edit of `lab.toml`: that it is not valid, or that this process uses it only once it starts again."""
        now, opened, warnings = self.settings, self._opened, []
        if problem := self.settings_file.problem():
            warnings.append(f"The last edit of lab.toml is not valid, so the settings from before it still hold. {problem}")
            if self.stalled():
                warnings.append("No runner is at work, and none can start with lab.toml as it is: nothing starts until it is corrected.")
        if notice := now.promotion.notice():
            warnings.append(notice)
        changed = [f"[{section}]" for section in ("lake", "embeddings") if getattr(now, section) != getattr(opened, section)]
        if now.lab.name != opened.lab.name and not opened.lake.tables and is_managed(opened):
            changed.append("[lab] name")  # it names the shared tables
        if changed:
            names = " and ".join(changed)
            warnings.append(
                f"{names} changed in lab.toml after this server opened the log. Restart the server to use the log that it names now."
            )
        return warnings

    @property
    def opened_log(self) -> str:
        """A hash of the settings that the log was opened by."""
        opened = self._opened
        name = opened.lab.name if is_managed(opened) and not opened.lake.tables else ""  # it names the shared tables
        return hashlib.sha256(repr((opened.lake, opened.embeddings, name)).encode()).hexdigest()[:16]

    def stalled(self) -> bool:
        """Return whether nothing that is queued starts before lab.toml is corrected.

        A runner at work keeps the settings from before an edit that is not valid; none can start after it.
        """
        return bool(self.settings_file.problem()) and not runner_alive(self.state)

    def close(self) -> None:
        """Close the stores."""
        self.view.close()
        self.ledger.close()

    def wake(self, has_work: bool | None = None) -> bool:
        """Start the runner if there is work for it and none is alive, where this process may.

        Args:
            has_work: what the ledger says now, for a caller that has just read it; None reads it.

        Returns:
            Whether a runner is alive.
        """
        if not self._starts_runner:
            return runner_alive(self.state)
        if has_work is None:
            has_work = bool(self.ledger.open_experiments(limit=1) or self.ledger.unflushed())
        has_work = has_work or bool(self.ledger.open_candidacies() or self.ledger.open_sweeps(limit=1))
        if has_work:
            return ensure_runner(self.root, self.state)
        return runner_alive(self.state)

    def commit(self, text: str | None) -> str:
        """Return the full id of a commit that is named in any way git knows; without a name, the champion's.

        Raises:
            LabError: the repository's own, for a name that is unknown or ambiguous.
        """
        if text is None:
            return self.repo.champion()
        name = text.strip().lower()
        if len(name) >= TELLING and len(named := self.ledger.named(name)) == 1:
            return named[0]  # git takes two processes to tell
        try:
            return self.repo.resolve(text)
        except LabError as error:
            proposals = [proposal.commit[:12] for _, proposal in reversed(self.ledger.proposals_after(0, 3))]
            if error.code != "unknown_commit" or not proposals:
                raise
            raise LabError(f"{error} The newest proposals are {', '.join(proposals)}.", error.code) from None

    def was_champion(self, sha: str) -> bool:
        """Return whether the commit is the champion or was on the way to it."""
        champion = self.repo.champion()
        return sha == champion or self.repo.is_ancestor(sha, champion)

    def experiment(self, id: str) -> Experiment:
        """Return the whole record of an experiment, from the ledger or the lake.

        Raises:
            LabError: `bad_id`, `unknown_experiment`, or `lake_unavailable` where it can't be looked up now.
        """
        record = self.ledger.experiment(experiment_id(id))
        if record is not None:
            return record
        # Ended experiments leave the ledger only after they were read back from the lake, so it is there or nowhere.
        page = self.view.get("experiments", [id])
        if not page.value:
            if page.warning:
                raise LabError(f"{id} cannot be looked up now: {page.warning} Try again later.", "lake_unavailable")
            raise LabError(
                f"There is no experiment {id}. Find ids with query_experiments.{newest(self.view, 'experiments')}", "unknown_experiment"
            )
        (stored,) = page.value
        assert isinstance(stored, Experiment)
        return stored


def experiment_id(id: str) -> str:
    """Return the id if it has the form of an experiment's.

    Raises:
        LabError: `bad_id`.
    """
    return checked_id(id, _EXPERIMENT_ID, "an experiment")


def checked_id(id: str, form: re.Pattern[str], what: str) -> str:
    """Return the id if it has this form.

    Raises:
        LabError: `bad_id`.
    """
    if not form.fullmatch(id):
        raise LabError(f"{clean(id)[:60]!r} is not the id of {what}; those look like {form.pattern[0]}-01h2xk3m4n5p6q7.", "bad_id")
    return id


def without_mark(author: str) -> str:
    """Return an author's name without the mark of a session: a call that is repeated after a restart comes from another one."""
    return _MARK.sub("", author)


def clean_tags(tags: Sequence[str] | None) -> list[str]:
    """Return the tags sorted, each once, printable and at most 40 characters long."""
    return sorted({tag for raw in tags or [] if (tag := clean(raw).strip()[:40])})


def _make_state(state: Path) -> None:
    try:
        state.mkdir(exist_ok=True)
        ignore = StatePaths(state).ignore
        if not ignore.exists():
            ignore.write_text("*\n", encoding="utf-8")
        if not os.access(state, os.W_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise LabError(
            f"The lab's folder {state} cannot be written ({error.strerror}). Make it writable; nothing was changed.", "read_only"
        ) from None
