"""Reading the lab's code, and proposing changes to it."""

import time
from collections.abc import Sequence
from pathlib import Path

from autoresearch_mcp.server import answers as a
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lab.core import LabCore, clean_tags
from autoresearch_mcp.server.lab.similar import SimilarProposals
from autoresearch_mcp.server.lab.status import ended_line
from autoresearch_mcp.server.models import Proposal
from autoresearch_mcp.server.proposals import growth
from autoresearch_mcp.server.untrusted import clean, fence, one_line, visible

_FILE_CHARS = 100_000  # of one answer of read_file


class Proposing:
    """The use cases around the lab's repository."""

    def __init__(self, core: LabCore, similar: SimilarProposals) -> None:
        self._core = core
        self._similar = similar

    def champion(self) -> str:
        """Return the commit that proposals build on by default."""
        return self._core.repo.champion()

    def read_file(self, path: str | None = None, commit: str | None = None, first_line: int = 1, max_lines: int = 800) -> a.FileAnswer:
        """Return lines of a text file at a commit, invisible characters as escapes.

        Args:
            path: the file; by default the one that is run.
            commit: by default the champion.
            first_line: counted from 1.
            max_lines: at most; fewer where they are long.

        Raises:
            LabError: `unknown_path`, `not_text`, or the repository's own.
        """
        repo = self._core.repo
        path = path or self._core.settings.training.file
        sha = self._core.commit(commit)
        paths = repo.paths(sha)
        if path not in paths:
            raise LabError(f"There is no file {clean(path)[:200]!r} at {sha[:12]}. Its files are: {', '.join(paths[:40])}.", "unknown_path")
        try:
            lines = repo.read(sha, path).decode("utf-8").removesuffix("\n").split("\n")  # as patches count them
        except UnicodeDecodeError:
            raise LabError(f"{path} is not a text file, so it can't be shown.", "not_text") from None
        part = [visible(line) for line in lines[first_line - 1 : first_line - 1 + max_lines]]  # as they are shown, so the cap holds
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
            editable=path in repo.editable,
            files=paths[:200],
        )

    def diff(self, commit: str) -> str:
        """Return the unified diff of a proposal against its base, fenced."""
        sha = self._core.commit(commit)
        proposal = self._core.ledger.proposal(sha)
        if proposal is None:
            return f"{sha} was not made by propose_patch, so it has no base to compare with."
        heading = f"diff of {sha[:12]} by {proposal.author}, against {proposal.base[:12]}"
        return fence(self._core.repo.diff(proposal.base, sha), heading, 50_000)

    def propose_patch(
        self,
        hypothesis: str | None,
        author: str,
        diff: str | None = None,
        edits: list[dict[str, str]] | None = None,
        files: dict[str, str] | None = None,
        ref: str | None = None,
        base: str | None = None,
        tags: list[str] | None = None,
    ) -> a.ProposalAnswer:
        """Make a commit from a change to editable files. Code that was proposed before makes none: the answer is the earlier proposal's.

        Args:
            hypothesis: what is changed, and why it should help; None for the message of the commit that `ref` names.
            author: who proposes.
            diff: the change as a unified diff. Exactly one of `diff`, `edits`, `files` and `ref` is given.
            edits: the change as search and replace: each has `path`, `search`, `replace`.
            files: the change as whole new files: path to text.
            ref: an agent's branch; the change is what it holds beyond its base.
            base: the commit to change; by default the champion, or what the branch was made from.
            tags: kept with the proposal and its experiments.

        Raises:
            LabError: `no_hypothesis`, `bad_base`, `barred`, `no_change`, `is_champion`, `too_much_new`, or why the change doesn't apply.
        """
        core = self._core
        if ref is not None:
            if [diff, edits, files] != [None] * 3:
                raise LabError("Send the change in exactly one form: ref, diff, edits or files.", "bad_patch")
            tip = core.repo.branches.tip(ref)
            base = (
                core.commit(base)
                if base
                else core.repo.branches.base(tip, core.repo.champion(), lambda sha: core.ledger.proposal(sha) is not None)
            )
            files = core.repo.branches.changes(base, tip)
            hypothesis = hypothesis or core.repo.branches.message(tip)
            if len(hypothesis) < 10:
                raise LabError(
                    f"The commit's message {hypothesis!r} says too little: pass a hypothesis, what changes and why it helps.",
                    "no_hypothesis",
                )
        hypothesis = clean(hypothesis or "").strip()
        if not hypothesis:
            raise LabError("The hypothesis is empty. Say in a sentence what the change should do and why.", "no_hypothesis")
        sha = core.commit(base)
        if not self._may_be_built_on(sha):
            raise LabError(f"{sha[:12]} is neither a proposal nor a champion. Leave base out to build on the champion.", "bad_base")
        if core.repo.first() is None:  # a lab of before
            promoted = core.ledger.promotions()
            core.repo.name_first(promoted[0].previous if promoted else core.repo.champion())
        if refused := core.gate.broken_rule(sha):
            is_champion = refused in (champion := core.repo.champion(), core.ledger.proposal_of(champion))
            otherwise = "Only the lab's owner can move the champion back." if is_champion else "Leave base out to build on the champion."
            raise LabError(
                f"The model of {refused[:12]} looks ahead, keeps state or mixes rows. Nothing built on it can be promoted. {otherwise}",
                "barred",
            )
        draft = core.repo.build(sha, hypothesis, author, diff=diff, edits=edits, files=files)
        if draft.fingerprint == core.repo.fingerprint(sha):
            raise LabError(
                f"The change leaves the code of {sha[:12]} as it is (comments and layout don't count), so there is nothing to test.",
                "no_change",
            )
        twin = core.ledger.twin(draft.fingerprint)
        champion = core.repo.champion()
        if twin is None and draft.fingerprint == core.repo.fingerprint(champion):
            raise LabError(
                f"This is the code of the champion {champion[:12]} itself. Launch that commit to measure it again.", "is_champion"
            )
        if twin is None:
            core.repo.keep(draft.commit)
            proposal = Proposal(
                commit=draft.commit,
                base=draft.base,
                fingerprint=draft.fingerprint,
                author=author,
                hypothesis=one_line(hypothesis, 2_000),
                tags=clean_tags(tags),
                files_changed=draft.files_changed,
                insertions=draft.insertions,
                deletions=draft.deletions,
                created_at=time.time(),
                added=draft.added,
            )
            copies = core.ledger.near_copies(draft.canonical)
            twin = core.ledger.add_proposal(proposal, draft.canonical)
            if twin is proposal or twin.commit == proposal.commit:
                note = " ".join([f"Train it: launch_training(commit={twin.commit[:12]!r}).", *draft.notes])
                if copies:
                    note += (
                        f" It does the same work as {copies[0][:12]} (other names, dead code, folded constants): expect the same results."
                    )
                elif draft.canonical == core.repo.canonical(champion):
                    note += f" It does the same work as the champion {champion[:12]} (other names, dead code, folded constants)."
                if draft.added > growth.FREE and core.settings.trust == "verified":
                    note += (
                        f" The source holds {draft.added:,} bytes beyond the lab's first one (compressed, comments too). Beyond {growth.FREE}, "
                        "promotion charges what it adds to the champion's: keep it short."
                    )
                if similar := self._similar.find(hypothesis, but=twin.commit):
                    note += f" First see `similar`: {len(similar)} earlier hypotheses much like this one, and what became of them."
                return self._answer(twin, draft.stat, False, note, similar)
        stat = core.repo.stat(twin.base, twin.commit).text
        note = f"This code was proposed before, by {twin.author}: use its results, or launch more replicates of {twin.commit[:12]}. Nothing new was made."
        return self._answer(twin, stat, True, note)

    def check_out(self, commit: str, directory: Path, author: str, name: str | None = None) -> str:
        """Make a work tree of a champion or proposal on a fresh branch of an agent's, and return the branch. See `Branches.check_out`.

        Raises:
            LabError: `bad_base`, and those of `Branches.check_out`.
        """
        sha = self._core.commit(commit)
        if not self._may_be_built_on(sha):
            raise LabError(f"{sha[:12]} is neither a proposal nor a champion, so nothing can be built on it.", "bad_base")
        return self._core.repo.branches.check_out(sha, directory, author, name)

    def take_in_champion(self, directory: Path) -> tuple[bool, str]:
        """Merge today's champion into the branch of an agent's work tree. See `Branches.take_in`."""
        return self._core.repo.branches.take_in(directory, self._core.repo.champion())

    def _may_be_built_on(self, commit: str) -> bool:
        return self._core.ledger.proposal(commit) is not None or self._core.was_champion(commit)

    def _answer(
        self, proposal: Proposal, stat: str, duplicate: bool, note: str, similar: Sequence[a.SimilarProposal] = ()
    ) -> a.ProposalAnswer:
        lines = [ended_line(row, self._core.root) for row in self._core.ledger.ended_of(proposal.commit)] if duplicate else []
        results = [a.Outcome(**line.model_dump(include=set(a.Outcome.model_fields))) for line in lines]
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
