"""Proposing changes to the lab's code."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from autoresearch_mcp.server import answers as a
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lab import smoke, titles
from autoresearch_mcp.server.lab.amending import in_words
from autoresearch_mcp.server.lab.claims import renew_claims
from autoresearch_mcp.server.lab.core import LabCore, clean_tags
from autoresearch_mcp.server.lab.experiments import Experiments
from autoresearch_mcp.server.lab.memories import Memories
from autoresearch_mcp.server.lab.similar import SimilarProposals
from autoresearch_mcp.server.lab.status import ended_line
from autoresearch_mcp.server.lab.trainings import Trainings
from autoresearch_mcp.server.models import Proposal, ProposalKind
from autoresearch_mcp.server.proposals import changes, growth
from autoresearch_mcp.server.proposals.repo import Conflict, Draft
from autoresearch_mcp.server.untrusted import clean, fence_whole, one_line

_DIFF = 2_000  # characters of a diff in an answer


class Proposing:
    """The use cases that make proposals."""

    def __init__(
        self, core: LabCore, similar: SimilarProposals, experiments: Experiments, trainings: Trainings, memories: Memories
    ) -> None:
        self._core = core
        self._similar = similar
        self._experiments = experiments
        self._trainings = trainings
        self._memories = memories
        self._smoke = smoke.SmokeStarts(core)

    def propose_patch(
        self,
        hypothesis: str | None,
        author: str,
        diff: str | None = None,
        edits: list[dict[str, str]] | None = None,
        files: dict[str, str | None] | None = None,
        ref: str | None = None,
        base: str | None = None,
        tags: list[str] | None = None,
        port: str | None = None,
        title: str | None = None,
        kind: ProposalKind = "candidate",
        launch: int = 0,
        idea: str | None = None,
    ) -> a.ProposalAnswer:
        """Make a commit from a change to editable files. Code that was proposed before makes none: the answer is the earlier proposal's.

        Args:
            hypothesis: what is changed, and why it should help; None for the message of the commit that `ref` names.
            author: who proposes.
            diff: the change as a unified diff. Exactly one of `diff`, `edits`, `files`, `ref` and `port` is given.
            edits: the change as search and replace: each has `path`, `search`, `replace`.
            files: the change as whole new files: path to text; None deletes the file.
            ref: an agent's branch; the change is what it holds beyond its base.
            base: the commit to change; by default the champion, or what the branch was made from.
            tags: kept with the proposal and its experiments.
            port: the commit of a proposal whose change goes on `base`.
            title: the hypothesis in a few words; by default its first ones.
            kind: a measurement is trained and shown, and never promoted.
            launch: how many replicates to queue at once. Where that is refused, the proposal stays, and the note says why. Of code that
                was launched before, nothing is queued.
            idea: the idea in memory that the change tries; the author's claim on it is renewed.

        Raises:
            LabError: `no_hypothesis`, `unknown_memory`, `not_an_idea`, `bad_base`, `barred`, `no_change`, `is_champion`,
                `too_much_new`, `bad_patch`, `not_a_proposal` or `conflict` for a change that can't be ported, or why the change doesn't apply.
        """
        core = self._core
        if [ref, diff, edits, files, port].count(None) < 4:
            raise LabError("Send the change in exactly one form: ref, diff, edits, files or port.", "bad_patch")
        if ref is not None:
            hypothesis, base, files = self._of_branch(ref, hypothesis, base)
        hypothesis = clean(hypothesis or "").strip()
        if not hypothesis:
            raise LabError("The hypothesis is empty. Say in a sentence what the change should do and why.", "no_hypothesis")
        if idea is not None:
            self._memories.idea(idea)
        title = one_line(title or "", titles.LENGTH).strip() or titles.beginning(hypothesis)
        sha = self._base(base)
        if port is None:
            draft = core.repo.build(sha, hypothesis, author, diff=diff, edits=edits, files=files)
        else:
            draft, port = self._ported(port, sha, hypothesis, author)
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
            change = core.repo.diff(draft.base, draft.commit)
            similar, novelty = self._similar.before(hypothesis)
            proposal = Proposal(
                commit=draft.commit,
                base=draft.base,
                fingerprint=draft.fingerprint,
                author=author,
                hypothesis=one_line(hypothesis, 2_000),
                title=title,
                sets=changes.constants(change),
                change=changes.fingerprint(change),
                tags=clean_tags(tags),
                files_changed=draft.files_changed,
                insertions=draft.insertions,
                deletions=draft.deletions,
                created_at=time.time(),
                ported_from=port or "",
                novelty=novelty if port is None else None,
                added=draft.added,
            )
            copies = core.ledger.near_copies(draft.canonical)
            twin = core.ledger.add_proposal(proposal, draft.canonical, kind)
            if twin is proposal or twin.commit == proposal.commit:
                died = self._smoke.failure(twin.commit)
                notes = [
                    *self._of_idea(idea, twin.commit, author),
                    *draft.notes,
                    *([smoke.in_words(died, launch > 0)] if died else []),
                    *self._notes(draft, copies, champion, kind, similar),
                    *self._similar.of_change(proposal),
                ]
                answer = self._answer(twin, draft.stat, change, False, notes, similar)
                return answer if died else self._launched(answer, author, tags, launch)
        if twin.author != author:
            core.ledger.count_repetition()
        notes = [f"This code was proposed before, by {twin.author}: use its results, or launch more replicates. Nothing new was made."]
        notes += self._of_idea(idea, twin.commit, author)
        if kind == "candidate" and core.ledger.make_candidate(twin.commit):
            notes.append("It was a measurement; now it is a candidate, and all its replicates count.")
        if twin.commit in core.ledger.withdrawn():
            core.ledger.restore(twin.commit, author)
            notes.append("It was withdrawn; now it is in the lists again.")
        notes += map(in_words, core.ledger.remarks(twin.commit))
        stat, change = core.repo.stat(twin.base, twin.commit).text, core.repo.diff(twin.base, twin.commit)
        answer = self._answer(twin, stat, change, True, notes)
        return self._launched(answer, author, tags, launch)

    def _of_idea(self, idea: str | None, commit: str, author: str) -> Iterator[str]:
        """Record which idea a proposal tries, and yield who else holds it."""
        if idea is not None:
            self._core.ledger.try_idea(commit, idea)
            yield from renew_claims(self._core.ledger, commit, author, idea)

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

    def _of_branch(self, ref: str, hypothesis: str | None, base: str | None) -> tuple[str, str, dict[str, str | None]]:
        """Return the hypothesis, the base and the files of what an agent's branch holds.

        Raises:
            LabError: `no_hypothesis`, and those of `Branches`.
        """
        core, branches = self._core, self._core.repo.branches
        tip = branches.tip(ref)
        base = core.commit(base) if base else branches.base(tip, core.repo.champion(), lambda sha: core.ledger.proposal(sha) is not None)
        hypothesis = hypothesis or branches.message(tip)
        if len(hypothesis) < 10:
            raise LabError(
                f"The commit's message {hypothesis!r} says too little: pass a hypothesis, what changes and why it helps.", "no_hypothesis"
            )
        return hypothesis, base, branches.changes(base, tip)

    def _base(self, base: str | None) -> str:
        """Return the full id of the commit that a change goes on.

        Raises:
            LabError: `bad_base`, `barred`.
        """
        core = self._core
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
        return sha

    def _ported(self, commit: str, onto: str, hypothesis: str, author: str) -> tuple[Draft, str]:
        """Return a proposal's own change as a draft on another commit, and the proposal's commit.

        Raises:
            LabError: `not_a_proposal`, `conflict`, `no_change`.
        """
        core = self._core
        proposal = core.ledger.proposal(core.ledger.proposal_of(core.commit(commit)))
        if proposal is None:
            raise LabError(f"{commit[:12]} was not made by propose_patch, so it is no change that could be ported.", "not_a_proposal")
        draft = core.repo.rebase(proposal.commit, onto, hypothesis, author, fork=proposal.base)
        if isinstance(draft, Conflict):
            raise LabError(
                f"The change of {proposal.commit[:12]} doesn't go onto {onto[:12]}: since {proposal.base[:12]} both changed the same lines of "
                f"{', '.join(draft.files)}. Nothing was kept; send it as edits against {onto[:12]}. The conflicts:\n{draft.text}",
                "conflict",
            )
        return draft, proposal.commit

    def _notes(
        self, draft: Draft, copies: list[str], champion: str, kind: ProposalKind, similar: Sequence[a.SimilarProposal]
    ) -> Iterator[str]:
        """Yield what to know of a new proposal before it is trained."""
        core = self._core
        if kind == "measurement":
            yield "It is a measurement: trained and shown, never promoted."
        if copies:
            yield f"It does the same work as {copies[0][:12]} (other names, dead code, folded constants): expect the same results."
        elif draft.canonical == core.repo.canonical(champion):
            yield f"It does the same work as the champion {champion[:12]} (other names, dead code, folded constants)."
        if draft.added > growth.FREE and not core.settings.is_script:
            yield (
                f"The source holds {draft.added:,} bytes beyond the lab's first one (compressed, comments too). Beyond {growth.FREE}, "
                "promotion charges what it adds to the champion's: keep it short."
            )
        if similar:
            yield f"See `similar`: {len(similar)} earlier hypotheses much like this one, and what became of them."

    def _launched(self, answer: a.ProposalAnswer, author: str, tags: list[str] | None, replicates: int) -> a.ProposalAnswer:
        """Return the answer with the experiments that `launch` queued, or why it queued none."""
        if not replicates and not answer.duplicate:
            return answer.model_copy(update={"note": f"Train it: launch_training(commit={answer.commit[:12]!r}). {answer.note}".rstrip()})
        if not replicates:
            return answer
        ledger = self._core.ledger
        open_ = [e.id for e in ledger.open_experiments() if e.commit == answer.commit] if answer.duplicate else []
        if open_ or answer.results:
            note = "It was launched before, so nothing was queued."
            return answer.model_copy(update={"launched": self._experiments.states(open_), "note": f"{answer.note} {note}"})
        try:
            launched = self._trainings.launch_training(answer.commit, author, replicates, tags=tags, confirm=False)
        except LabError as error:
            return answer.model_copy(update={"note": f"{answer.note} The proposal stays, but it was not launched: {error}"})
        lines = self._experiments.states(launched.experiments)
        return answer.model_copy(update={"launched": lines, "note": f"{answer.note} {launched.note}".strip()})

    def _answer(
        self, proposal: Proposal, stat: str, diff: str, duplicate: bool, notes: list[str], similar: Sequence[a.SimilarProposal] = ()
    ) -> a.ProposalAnswer:
        lines = [ended_line(row, self._core.root) for row in self._core.ledger.ended_of(proposal.commit)] if duplicate else []
        results = [a.Outcome(**line.model_dump(include=set(a.Outcome.model_fields))) for line in lines]
        return a.ProposalAnswer(
            commit=proposal.commit,
            title=titles.title(proposal),
            base=proposal.base,
            duplicate=duplicate,
            diff_stat=stat,
            diff=fence_whole(_beginning(diff), f"diff by {proposal.author}"),
            hypothesis=proposal.hypothesis,
            author=proposal.author,
            results=results,
            similar=list(similar),
            note=" ".join(notes),
        )


def _beginning(diff: str) -> str:
    """Return a diff, from its first hunk on where there is one file, cut at a line's end."""
    if diff.count("\ndiff --git ") == 0:
        diff = diff[max(0, diff.find("\n@@ ") + 1) :]
    if len(diff) <= _DIFF:
        return diff
    kept = diff[: diff.rfind("\n", 0, _DIFF - 60) + 1]
    return f"{kept}[{diff.count(chr(10)) - kept.count(chr(10))} more lines: read_file(commit, diff='base')]"
