"""The lab's use cases, one method a tool. Knows no MCP: whoever calls it gets models back or a `LabError`.

Every method is synchronous, thread-safe and short (it waits for disks, never for trainings); callers with an event
loop run them in a worker thread. What a method acknowledged is durable before it returns.
"""

import base64
import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from autoresearch_mcp.server import answers as a
from autoresearch_mcp.server import runs
from autoresearch_mcp.server import settings as lab_settings
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.gate.promotion import Promoter
from autoresearch_mcp.server.lab.reproduction import TAG, Reproduction
from autoresearch_mcp.server.lab.similar import Precedents
from autoresearch_mcp.server.lab.status import Overview, ended_line, obstacle
from autoresearch_mcp.server.lake import open_lake
from autoresearch_mcp.server.lake.base import Condition, LakeUnavailable, Operator, Query
from autoresearch_mcp.server.lake.view import View
from autoresearch_mcp.server.ledger import Ledger
from autoresearch_mcp.server.models import ACTIVE_STATES, Experiment, Memory, MemoryKind, Proposal, Record, Table, new_id
from autoresearch_mcp.server.proposals.repo import Repo
from autoresearch_mcp.server.runner.process import ensure_runner, runner_alive
from autoresearch_mcp.server.search.embedding import open_embedder
from autoresearch_mcp.server.untrusted import clean, fence
from autoresearch_mcp.trainer import protocol

MAX_REPLICATES = 16
_EXPERIMENT_ID = re.compile(r"e-[0-9a-z]{15}")
_MEMORY_ID = re.compile(r"m-[0-9a-z]{15}")
_ROW_COLUMNS = ("id", "commit", "state", "val_bpb", "author", "hypothesis", "seed", "created_at")
_FILE_CHARS = 100_000  # of one answer of read_file


class Lab:
    """An opened lab.

    Raises:
        LabError: `not_a_lab`, `newer_lab`, `bad_settings`, `read_only` and the ledger's and the repository's own: with what to do.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.settings = lab_settings.load(self.root)
        self._state = self.root / lab_settings.STATE
        _make_state(self._state)
        self._ledger = Ledger(self._state / "ledger.sqlite")
        self._repo = Repo(self.root, self.settings.training.editable)
        embedder = open_embedder(self.settings.embeddings)
        self._view = View(open_lake(self.settings, self._state, embedder), self._ledger.pending, embedder)
        self._promoter = Promoter(self.settings.promotion, self.settings.reference, self._state, self._ledger, self._repo)
        self._promoter.recover()
        self._overview = Overview(self.settings, self._state, self._ledger, self._repo)
        self._precedents = Precedents(self._ledger, embedder, self._overview.conditions)

    def close(self) -> None:
        self._view.close()
        self._ledger.close()

    # Looking

    def status(self) -> a.StatusAnswer:
        """The lab at a glance. Reads the ledger, and a note of how far the shared log is: fast at any size."""
        answer = self._overview.status(self._wake())
        behind = self._view.warning()
        return answer.model_copy(update={"warnings": [*answer.warnings, behind]}) if behind else answer

    def read_file(self, path: str | None = None, commit: str | None = None, first_line: int = 1, max_lines: int = 800) -> a.FileAnswer:
        """A text file at a commit, by lines; by default the one that is run."""
        path = path or self.settings.training.file
        sha = self._commit(commit)
        paths = self._repo.paths(sha)
        if path not in paths:
            raise LabError(f"There is no file {clean(path)[:200]!r} at {sha[:12]}. Its files are: {', '.join(paths[:40])}.", "unknown_path")
        try:
            lines = self._repo.read(sha, path).decode("utf-8").removesuffix("\n").split("\n")  # as patches count them
        except UnicodeDecodeError:
            raise LabError(f"{path} is not a text file, so it can't be shown.", "not_text") from None
        part = lines[first_line - 1 : first_line - 1 + max_lines]
        while len(part) > 1 and sum(map(len, part)) > _FILE_CHARS:
            part = part[: len(part) // 2]
        cut = bool(part) and len(part[0]) > _FILE_CHARS
        part = [part[0][:_FILE_CHARS]] if cut else part
        return a.FileAnswer(
            path=path,
            commit=sha,
            text="\n".join(part) + "\n" if part else "",
            lines=len(lines),
            first_line=first_line,
            truncated=first_line > 1 or len(part) < len(lines) or cut,
            cut=cut,
            editable=path in self._repo.editable,
            files=paths[:200],
        )

    def diff(self, commit: str) -> str:
        """The unified diff of a commit against its base, fenced."""
        sha = self._commit(commit)
        proposal = self._ledger.proposal(sha)
        if proposal is None:
            return f"{sha} is no proposal; it has no base to compare with."
        return fence(self._repo.diff(proposal.base, sha), f"diff of {sha[:12]} by {proposal.author}, against {proposal.base[:12]}", 50_000)

    # Proposing and training

    def propose_patch(
        self,
        hypothesis: str,
        author: str,
        diff: str | None = None,
        edits: list[dict[str, str]] | None = None,
        files: dict[str, str] | None = None,
        base: str | None = None,
        tags: list[str] | None = None,
    ) -> a.ProposalAnswer:
        """A commit from a change to editable files: exactly one of a unified `diff`, search/replace `edits` ({path, search, replace}),
        or whole new `files` (path -> text). The same code is the same proposal: then the answer is its twin's, with its results."""
        hypothesis = clean(hypothesis).strip()
        if not hypothesis:
            raise LabError("The hypothesis is empty. Say in a sentence what the change should do and why.", "no_hypothesis")
        sha = self._commit(base)
        if self._ledger.proposal(sha) is None and not self._was_champion(sha):
            raise LabError(f"{sha[:12]} is neither a proposal nor a champion. Leave base out to build on the champion.", "bad_base")
        draft = self._repo.build(sha, hypothesis, author, diff=diff, edits=edits, files=files)
        if draft.fingerprint == self._repo.fingerprint(sha):
            raise LabError(
                f"The change leaves the code of {sha[:12]} as it is (comments and layout don't count), so there is nothing to test.",
                "no_change",
            )
        twin = self._ledger.twin(draft.fingerprint)
        champion = self._repo.champion()
        if twin is None and draft.fingerprint == self._repo.fingerprint(champion):
            raise LabError(
                f"This is the code of the champion {champion[:12]} itself. Launch that commit to measure it again.", "is_champion"
            )
        if twin is None:
            self._repo.keep(draft.commit)
            proposal = Proposal(
                commit=draft.commit,
                base=draft.base,
                fingerprint=draft.fingerprint,
                author=author,
                hypothesis=hypothesis,
                tags=_tags(tags),
                files_changed=draft.files_changed,
                insertions=draft.insertions,
                deletions=draft.deletions,
                created_at=time.time(),
            )
            twin = self._ledger.add_proposal(proposal)
            if twin is proposal or twin.commit == proposal.commit:
                note = f"Train it: launch_training(commit={twin.commit[:12]!r})."
                if similar := self._precedents.near(hypothesis, but=twin.commit):
                    note += f" First see `similar`: {len(similar)} earlier hypotheses much like this one, and what became of them."
                return self._proposal_answer(twin, draft.stat, False, note, similar)
        stat = f"{twin.files_changed} file(s) changed, {twin.insertions} insertions(+), {twin.deletions} deletions(-)"
        note = f"This code was proposed before, by {twin.author}: use its results, or launch more replicates of {twin.commit[:12]}. Nothing new was made."
        return self._proposal_answer(twin, stat, True, note)

    def launch_training(
        self,
        commit: str,
        author: str,
        replicates: int = 1,
        device: str | None = None,
        idempotency_key: str | None = None,
        tags: list[str] | None = None,
    ) -> a.LaunchAnswer:
        """Queue replicates of a proposal or champion, each with a seed of the server's choosing, and reserve the most they can cost."""
        sha = self._commit(commit)
        proposal = self._ledger.proposal(sha)
        if proposal is None and not self._was_champion(sha):
            raise LabError(
                f"{sha[:12]} is neither a proposal nor a champion, so it can't be trained. Make a proposal of it with propose_patch.",
                "not_a_proposal",
            )
        if not 1 <= replicates <= MAX_REPLICATES:
            raise LabError(f"replicates must be 1 to {MAX_REPLICATES}, got {replicates}. Nothing was queued.", "bad_replicates")
        reserved = self._reserved(device)
        self._repo.check(sha)
        now = time.time()
        queued = [
            Experiment(
                id=new_id("e"),
                commit=sha,
                base=proposal.base if proposal else sha,
                author=author,
                hypothesis=proposal.hypothesis if proposal else "baseline",
                tags=sorted({*_tags(tags), *(proposal.tags if proposal else [])}),
                seed=secrets.randbelow(2**31),
                created_at=now + i * 1e-6,
                **reserved,
            )
            for i in range(replicates)
        ]
        request = hashlib.sha256(json.dumps([sha, replicates, device, author, _tags(tags)]).encode()).hexdigest()
        made = self._enqueue(queued, idempotency_key, request)
        if made is None:
            ids = self._ledger.answer(idempotency_key or "", request) or []
            return self._launched(sha, ids, [line.seed for line in self.states(ids)], 0.0, True)
        return self._launched(sha, [e.id for e in made], [e.seed for e in made], sum(e.reserved_s for e in made), False)

    def reproduce(self, id: str, author: str) -> str:
        """Queue an experiment again: the same commit, seed and kind of device. Returns the id of the new one, which is nobody's evidence."""
        original = self._experiment(id)
        if not original.terminal:
            raise LabError(f"{id} has not ended yet, so there is nothing to reproduce. Nothing was queued.", "not_ended")
        again = Experiment(
            id=new_id("e"),
            commit=self._commit(original.commit),
            base=original.base,
            author=author,
            hypothesis=f"Reproduction of {original.id}.",
            tags=[TAG],
            seed=original.seed,
            created_at=time.time(),
            reproduces=original.id,
            **self._reserved(original.device),
        )
        self._enqueue([again], None, "")
        return again.id

    def is_reproduction(self, id: str) -> bool:
        return bool(self._experiment(id).reproduces)

    def reproduction(self, id: str) -> Reproduction | None:
        """How an experiment that `reproduce` queued compares with its original; None while it has not ended."""
        again = self._experiment(id)
        if not again.reproduces:
            raise LabError(f"{id} reproduces no other experiment. `autoresearch-mcp reproduce {id}` trains it again.", "no_reproduction")
        original = self._experiment(again.reproduces)
        return Reproduction(original, again, self._overview.noise(original.conditions)) if again.terminal else None

    def changes(self) -> int:
        """A number that differs from the last answer when the ledger changed since. Costs microseconds: poll it, then call `states`."""
        return self._ledger.changes()

    def states(self, ids: Sequence[str]) -> list[a.ExperimentLine]:
        """Where these experiments are, in the order asked. Wakes the runner if one of them waits for it."""
        open_ = {e.id: e for e in self._ledger.open_experiments()}
        ended = self._ledger.ended([id for id in ids if id not in open_])
        lines = []
        for id in ids:
            if id in open_:
                lines.append(self._overview.line(open_[id]))
            elif id in ended:
                lines.append(ended_line(ended[id]))
            else:
                lines.append(a.ExperimentLine.of(self._experiment(id)))
        if any(id in open_ for id in ids):
            self._wake()
        return lines

    def get_experiment(self, id: str) -> a.ExperimentAnswer:
        """All that is known of one experiment; for a running one, as far as it got."""
        e = self._experiment(id)
        directory = runs.locate(self._state, e)
        running = e.state in ACTIVE_STATES
        tail = runs.read_log(directory / protocol.LOG, "tail", 15, None, None)[0] if running and (directory / protocol.LOG).exists() else ""
        text = tail or "\n".join(e.log_tail.splitlines()[-15:])
        return a.ExperimentAnswer(
            experiment=self._overview.line(e),
            against_champion=self._overview.against_champion(e),
            base=e.base,
            tags=e.tags,
            attempt=e.attempt,
            cost_s=round(e.cost_s, 1),
            cost_usd=round(e.cost_usd + self._overview.accrued_usd(e), 4),
            created_at=e.created_at,
            started_at=e.started_at,
            finished_at=e.finished_at,
            curve=runs.read_curve(directory / protocol.CURVE) if running else e.curve,
            details=e.details,
            failure=e.failure.model_copy(update={"lines": [clean(line) for line in e.failure.lines]}) if e.failure else None,
            log_tail=fence(text, f"end of the log of {e.id}, printed by the training code of {e.author}", 4000) if text else "",
        )

    def read_log(
        self, id: str, mode: runs.Mode = "tail", lines: int = 60, pattern: str | None = None, first_line: int | None = None
    ) -> str:
        """Part of an experiment's log, with line numbers, fenced as data."""
        if mode == "grep" and not (pattern or "").strip("|"):
            raise LabError("mode='grep' needs a pattern: plain text, alternatives separated by |.", "no_pattern")
        e = self._experiment(id)
        path = runs.locate(self._state, e) / protocol.LOG
        if e.state == "queued":
            return f"{e.id} is queued and has no log yet. wait_for_experiments tells when it starts."
        if path.exists():
            text, what = runs.read_log(path, mode, lines, pattern, first_line)
        else:
            text, what = e.log_tail, "the end of the log; the whole log is not on this machine"
        return fence(text or "(no lines)", f"log of {e.id}, {what}, printed by the training code of {e.author}")

    def cancel_experiment(self, id: str, author: str) -> a.CancelAnswer:
        """Stop an experiment; one that has ended stays as it is."""
        changed = self._ledger.request_cancel(_checked_id(id, _EXPERIMENT_ID, "an experiment"))
        if changed is None:
            e = self._experiment(id)
            return a.CancelAnswer(id=id, state=e.state, note="It had ended before; nothing was changed.")
        self._wake()
        if changed.terminal:
            return a.CancelAnswer(id=id, state=changed.state, note="It was still queued; it will not start, and its budget is free again.")
        return a.CancelAnswer(id=id, state=changed.state, note="It is being stopped; wait_for_experiments tells when it has ended.")

    # The log of the lab

    def query_experiments(
        self,
        state: list[str] | None = None,
        commit: str | None = None,
        author: str | None = None,
        tag: str | None = None,
        min_val_bpb: float | None = None,
        max_val_bpb: float | None = None,
        text: str | None = None,
        since: float | None = None,
        until: float | None = None,
        order_by: str = "created_at",
        descending: bool = True,
        columns: list[str] | None = None,
        group_by: Literal["state", "commit", "author", "device", "failure"] | None = None,
        limit: int = 20,
        cursor: str | None = None,
        sql: str | None = None,
    ) -> a.QueryAnswer:
        """Experiments that match all filters, in pages; with `group_by`, how many match by group; with `sql`, its rows."""
        if sql is not None:
            return self._query_sql(sql, limit)
        wanted = _conditions(
            ("state", "in", state),
            ("author", "=", author),
            ("tags", "has", tag),
            ("val_bpb", ">=", min_val_bpb),
            ("val_bpb", "<=", max_val_bpb),
            ("hypothesis", "contains", text),
            ("created_at", ">=", since),
            ("created_at", "<=", until),
        )
        if commit is not None:
            wanted = (*wanted, Condition("commit", "=", self._commit(commit)))
        if group_by:
            counted = self._view.count("experiments", wanted, group_by)
            rows = [{group_by: key, "count": n} for key, n in sorted(counted.value.items(), key=lambda item: -item[1])]
            return a.QueryAnswer(rows=rows[:limit], matched=sum(counted.value.values()), note=counted.warning)
        after = _read_cursor(cursor, order_by, descending) if cursor else None
        page = self._view.select("experiments", Query(wanted, order_by, descending, limit + 1, after))
        found = [e for e in page.value if isinstance(e, Experiment)]
        more = len(found) > limit
        more_columns = ["reported_bpb"] if self.settings.training.metric == "reported" else []
        more_columns += ["device"] if len(self.settings.devices) > 1 else []
        names = tuple(columns or (*_ROW_COLUMNS, *more_columns))
        unknown = set(names) - set(Experiment.model_fields)
        if unknown:
            raise LabError(f"Unknown columns {sorted(unknown)}. Known: {', '.join(Experiment.model_fields)}.", "unknown_column")
        return a.QueryAnswer(
            rows=[e.model_dump(include={"id", *names}) for e in found[:limit]],
            next_cursor=_write_cursor(found[limit - 1], order_by, descending) if more else None,
            note=page.warning,
        )

    def write_memory(
        self,
        kind: MemoryKind,
        text: str,
        author: str,
        tags: list[str] | None = None,
        experiments: list[str] | None = None,
        commits: list[str] | None = None,
        supersedes: list[str] | None = None,
        contradicts: list[str] | None = None,
    ) -> a.MemoryAnswer:
        """Append a note. References must exist."""
        text = clean(text).strip()
        if not text:
            raise LabError("The memory is empty. Write what was learned, in a sentence or more.", "empty_memory")
        for id in experiments or []:
            self._experiment(id)
        older = [_checked_id(id, _MEMORY_ID, "a memory") for id in [*(supersedes or []), *(contradicts or [])]]
        known = {m.id for m in self._view.get("memories", older).value} if older else set()
        if missing := [id for id in older if id not in known]:
            raise LabError(f"There is no memory {missing[0]}. Find ids with search_memory. Nothing was written.", "unknown_memory")
        memory = Memory(
            id=new_id("m"),
            kind=kind,
            text=text,
            author=author,
            tags=_tags(tags),
            experiments=experiments or [],
            commits=[self._commit(c) for c in commits or []],
            supersedes=supersedes or [],
            contradicts=contradicts or [],
            created_at=time.time(),
        )
        self._ledger.remember(memory)
        self._wake()
        return a.MemoryAnswer(id=memory.id, note="Written down for good. To correct it later, write another that supersedes it.")

    def search_memory(
        self,
        query: str = "",
        kind: MemoryKind | None = None,
        tag: str | None = None,
        author: str | None = None,
        experiment: str | None = None,
        since: float | None = None,
        until: float | None = None,
        limit: int = 10,
    ) -> a.SearchAnswer:
        """Memories by relevance to `query`, the newest first on ties, and proposals that resemble it; without a query, the newest memories."""
        where = _conditions(
            ("kind", "=", kind),
            ("tags", "has", tag),
            ("author", "=", author),
            ("experiments", "has", experiment),
            ("created_at", ">=", since),
            ("created_at", "<=", until),
        )
        found = self._view.search(query, where, limit)
        return a.SearchAnswer(
            memories=self._hits([(memory, score) for memory, score in found.value.hits if isinstance(memory, Memory)]),
            ranking=found.value.ranking,
            proposed=self._precedents.near(query) if query.strip() else [],
            note=found.warning,
        )

    def champion(self) -> str:
        return self._repo.champion()

    def records(self, table: Table) -> Iterator[Record]:
        """Everything in the log, unflushed and running included.

        Raises:
            LabError: `lake_unavailable`.
        """
        try:
            yield from self._view.records(table)
        except LakeUnavailable as error:
            raise LabError(f"The log can't be read whole: {error}", "lake_unavailable") from None

    def take_in(self, table: Table, records: Sequence[Record]) -> int:
        """Add records that were made elsewhere to the log, and to nothing else. Returns how many were new.

        Raises:
            LabError: `lake_unavailable`: which are known can't be told now.
        """
        known = self._view.get(table, [record.id for record in records])
        if known.warning:
            raise LabError(f"Nothing was imported: {known.warning}", "lake_unavailable")
        there = {record.id for record in known.value}
        new = list({record.id: record for record in records if record.id not in there}.values())
        self._ledger.take_in(table, new)
        self._wake()
        return len(new)

    # Promotion and the picture

    def promote_commit(self, commit: str, author: str, approved_by: str | None = None) -> a.PromoteAnswer:
        """Ask the gate, and move the champion if it says yes. `approved_by` names who said yes where lab.toml wants a person's approval."""
        answer = self._promoter.promote(self._commit(commit), author, approved_by)
        self._wake()
        return answer

    def plot_progress(self) -> a.ProgressPicture:
        """Every experiment as a point, the champion's metric as a line."""
        from autoresearch_mcp.server.lab.progress_plot import draw

        experiments = [e for e in self._all_experiments() if e.terminal]
        try:
            settings = self.settings
            return draw(experiments, self._ledger.promotions(), settings.lab.name, settings.training.reported_metric, settings.reference)
        except ModuleNotFoundError as error:
            raise LabError(
                f"The picture needs the package {error.name}, which is not installed here: pip install {error.name}. "
                "The numbers are in get_status and query_experiments.",
                "missing_package",
            ) from None

    # Inside

    def _query_sql(self, sql: str, limit: int) -> a.QueryAnswer:
        from autoresearch_mcp.server.lake.sql import select

        warnings: dict[str, None] = {}

        def load(table: Table, columns: Sequence[str]) -> list[tuple[Any, ...]]:
            read = self._view.cells(table, columns)
            if read.warning:
                warnings[read.warning] = None
            return read.value

        rows, more = select(sql, load, limit)
        notes = [*warnings, *(["There are more rows: raise limit, or add LIMIT and OFFSET to the SQL."] if more else [])]
        return a.QueryAnswer(rows=rows, note=" ".join(notes))

    def _all_experiments(self) -> list[Experiment]:
        found: list[Record] = []
        after: tuple[Any, str] | None = None
        while True:
            page = self._view.select("experiments", Query(order_by="created_at", descending=False, limit=1000, after=after)).value
            found += page
            if len(page) < 1000:
                return [e for e in found if isinstance(e, Experiment)]
            after = (page[-1].created_at, page[-1].id)

    def _wake(self) -> bool:
        """Start the runner if there is work for it and none is there. Returns whether one is alive."""
        if self._ledger.open_experiments() or self._ledger.unflushed():
            return ensure_runner(self.root, self._state)
        return runner_alive(self._state)

    def _commit(self, text: str | None) -> str:
        return self._repo.champion() if text is None else self._repo.resolve(text)

    def _was_champion(self, sha: str) -> bool:
        return self._repo.is_ancestor(sha, self._repo.champion())

    def _experiment(self, id: str) -> Experiment:
        found = self._ledger.experiment(_checked_id(id, _EXPERIMENT_ID, "an experiment"))
        if found is None:
            # Ended experiments leave the ledger only after they were read back from the lake, so it is there or nowhere.
            page = self._view.get("experiments", [id])
            if not page.value:
                if page.warning:
                    raise LabError(f"{id} cannot be looked up now: {page.warning} Try again later.", "lake_unavailable")
                raise LabError(f"There is no experiment {id}. Find ids with query_experiments.", "unknown_experiment")
            (record,) = page.value
            assert isinstance(record, Experiment)
            found = record
        return found

    def _reserved(self, device: str | None) -> dict[str, Any]:
        """An experiment's kind of device, and the most that it can cost there."""
        kinds = self.settings.devices
        if device is not None and device not in kinds:
            raise LabError(f"This lab trains on {' or '.join(kinds)}, not on {clean(device)[:40]!r}. Nothing was queued.", "unknown_device")
        if why := obstacle(self.settings, self._state):
            raise LabError(f"{why} Nothing was queued.", "not_set_up" if self.settings.rents else "missing_package")
        kind, each = device or kinds[0], self.settings.longest_s()
        return {"device": kind, "reserved_s": each, "reserved_usd": each * self.settings.usd_per_s(kind)}

    def _enqueue(self, experiments: list[Experiment], key: str | None, request: str) -> list[Experiment] | None:
        budget = self.settings.budget
        made = self._ledger.enqueue(experiments, budget.device_hours * 3600, key, request, budget.usd)
        self._wake()
        return made

    def _proposal_answer(
        self, proposal: Proposal, stat: str, duplicate: bool, note: str, similar: Sequence[a.Precedent] = ()
    ) -> a.ProposalAnswer:
        results = [ended_line(row) for row in self._ledger.ended_of(proposal.commit)] if duplicate else []
        return a.ProposalAnswer(
            commit=proposal.commit,
            base=proposal.base,
            duplicate=duplicate,
            diff_stat=stat,
            hypothesis=proposal.hypothesis,
            author=proposal.author,
            results=results,
            similar=list(similar),
            note=note,
        )

    def _launched(self, commit: str, ids: list[str], seeds: list[int], reserved_s: float, repeated: bool) -> a.LaunchAnswer:
        note = (
            "This key was used for this launch before: these are its experiments."
            if repeated
            else "Queued. Wait with wait_for_experiments."
        )
        left = self._overview.budget().left_s
        return a.LaunchAnswer(
            experiments=ids, seeds=seeds, commit=commit, repeated=repeated, reserved_s=reserved_s, budget_left_s=left, note=note
        )

    def _hits(self, found: Sequence[tuple[Memory, float]]) -> list[a.MemoryHit]:
        """With what later memories say of each."""
        ids = [memory.id for memory, _ in found]
        later: dict[str, list[Record]] = {
            column: self._view.select("memories", Query((Condition(column, "has any", ids),), limit=1_000)).value if ids else []
            for column in ("supersedes", "contradicts")
        }
        return [
            a.MemoryHit(
                **memory.model_dump(),
                score=round(score, 4),
                superseded_by=[m.id for m in later["supersedes"] if isinstance(m, Memory) and memory.id in m.supersedes][:20],
                contradicted_by=[m.id for m in later["contradicts"] if isinstance(m, Memory) and memory.id in m.contradicts][:20],
            )
            for memory, score in found
        ]


def _conditions(*tests: tuple[str, Operator, Any]) -> tuple[Condition, ...]:
    """Those tests that were asked for."""
    return tuple(Condition(column, op, value) for column, op, value in tests if value is not None)


def _make_state(state: Path) -> None:
    try:
        state.mkdir(exist_ok=True)
        ignore = state / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n", encoding="utf-8")
        if not os.access(state, os.W_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise LabError(
            f"The lab's folder {state} cannot be written ({error.strerror}). Make it writable; nothing was changed.", "read_only"
        ) from None


def _checked_id(id: str, form: re.Pattern[str], what: str) -> str:
    if not form.fullmatch(id):
        raise LabError(f"{clean(id)[:60]!r} is not the id of {what}; those look like {form.pattern[0]}-01h2xk3m4n5p6q7.", "bad_id")
    return id


def _tags(tags: list[str] | None) -> list[str]:
    return sorted({tag for raw in tags or [] if (tag := clean(raw).strip()[:40])})


def _write_cursor(last: Experiment, order_by: str, descending: bool) -> str:
    return base64.urlsafe_b64encode(json.dumps([order_by, descending, getattr(last, order_by), last.id]).encode()).decode()


def _read_cursor(cursor: str, order_by: str, descending: bool) -> tuple[Any, str]:
    try:
        column, direction, value, id = json.loads(base64.urlsafe_b64decode(cursor.encode()))
    except (ValueError, TypeError, RecursionError):  # TypeError: JSON, but no list
        column = direction = value = id = None
    if (column, direction) != (order_by, descending) or not isinstance(id, str):
        raise LabError("This cursor belongs to another query. Repeat the query without a cursor to start again.", "bad_cursor")
    return value, id
