"""Claiming ideas: one agent works on an idea, for a while, and knows before it begins what was tried."""

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from autoresearch_mcp.server import answers as a
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lab.core import LabCore
from autoresearch_mcp.server.lab.memories import Memories
from autoresearch_mcp.server.lab.similar import SimilarProposals
from autoresearch_mcp.server.lab.titles import shorten
from autoresearch_mcp.server.ledger import Ledger
from autoresearch_mcp.server.ledger.claims import Claim
from autoresearch_mcp.server.models import Memory, new_id
from autoresearch_mcp.server.untrusted import clean, one_line

MOST_MINUTES = 240
_FREE = 3  # ideas that are named instead
_NEAR = 5  # ideas in memory that a text is compared with
_TEXT = 200  # characters of an idea in an answer


class ClaimCases:
    """The use cases around claims."""

    def __init__(self, core: LabCore, memories: Memories, similar: SimilarProposals) -> None:
        self._core = core
        self._memories = memories
        self._similar = similar

    def claim_idea(
        self, author: str, id: str | None = None, text: str | None = None, minutes: float = 30, release: bool = False
    ) -> a.ClaimAnswer:
        """Claim an idea in memory, or one that is written down with its claim; or release it.

        A claim on an idea that another holds is refused in the answer, not by an error. So is a text that says what a proposal with results
        or another's claim says; to try it all the same, write it as an idea and claim that by its id.

        Args:
            author: who claims.
            id: of the idea's memory. Exactly one of `id` and `text` is given.
            text: of an idea. Where memory has one that says the same, that one is claimed.
            minutes: how long the claim lasts after each renewal.
            release: end one's own claim.

        Raises:
            LabError: `bad_arguments`, `bad_id`, `unknown_memory`, `not_an_idea`, `too_many_claims`, `lake_unavailable`.
        """
        if (id is None) == (text is None):
            raise LabError("Give either id, of an idea in memory, or text, of a new one. Nothing was claimed.", "bad_arguments")
        if not 1 <= minutes <= MOST_MINUTES:
            raise LabError(f"minutes must be 1 to {MOST_MINUTES}, got {minutes:g}. Nothing was claimed.", "bad_arguments")
        if release:
            return self._release(author, id)
        if id is not None:
            return self._by_id(self._memories.idea(id), author, minutes)
        text = clean(text or "").strip()
        if len(text) < 10:
            raise LabError("The text is too short for an idea: say what to change, and why. Nothing was claimed.", "bad_arguments")
        while True:
            newest = self._core.ledger.newest_claim()
            if answer := self._by_text(text, author, minutes, newest):
                return answer

    def _release(self, author: str, id: str | None) -> a.ClaimAnswer:
        if id is None:
            raise LabError("release takes the id of the idea. Nothing was released.", "bad_arguments")
        idea = self._memories.idea(id)
        if self._core.ledger.release_claim(idea.id, author):
            return a.ClaimAnswer(claimed=False, id=idea.id, text=_short(idea.text), note="Released: others may claim it now.")
        holder = next((each.holder for each in self._core.ledger.claims() if each.idea == idea.id), "")
        whose = f"{holder} holds it" if holder else "nobody does"
        return a.ClaimAnswer(claimed=False, id=idea.id, text=_short(idea.text), note=f"You don't hold {idea.id}; {whose}.")

    def _by_id(self, idea: Memory, author: str, minutes: float) -> a.ClaimAnswer:
        backlog = self._memories.backlog
        own = any(each.idea == idea.id and each.holder == author for each in self._core.ledger.claims())
        if not own and (why := backlog.done(idea)):
            return self._refused(idea.id, idea.text, f"Not claimed: {why}", author)
        claim = self._core.ledger.claim(idea.id, _short(idea.text), author, minutes, self._core.settings.swarm.claims)
        assert claim is not None  # without `after`, it minds no others
        similar = self._similar.find(idea.text)
        more = ["Much like it was tried: see `similar`."] if similar else []
        if tries := self._core.ledger.commits_of_ideas().get(idea.id):
            more.append(f"It was proposed before, as {tries[-1][:12]}, and has no result.")
        return self._answer(claim, author, similar, " ".join(more))

    def _by_text(self, text: str, author: str, minutes: float, newest: int) -> a.ClaimAnswer | None:
        """Claim an idea by what it says; None where others claimed something meanwhile."""
        claims = self._core.ledger.claims()
        theirs = [each for each in claims if each.holder != author]
        for claim, likeness in zip(theirs, self._similar.likeness(text, [each.text for each in theirs]), strict=True):
            if likeness >= 1:
                return self._answer(claim, author)
        if tried := [each for each in self._similar.find(text) if each.ended]:
            why = f"Not claimed: {len(tried)} proposals much like it have results; see `similar`. To try it all the same, write it as an idea and claim its id."
            return self._refused("", text, why, author).model_copy(update={"similar": tried})
        near = self._memories.search_memory(text, kind="idea", limit=_NEAR).memories
        alike = self._similar.likeness(text, [each.text for each in near])
        if there := next((idea for idea, likeness in zip(near, alike, strict=True) if likeness >= 1), None):
            if why := self._memories.backlog.done(there):
                return self._refused(there.id, there.text, f"Not claimed: {why}", author)
            return self._taken(there.id, there.text, author, minutes, newest, None)
        memory = Memory(id=new_id("m"), kind="idea", text=text, author=author, created_at=time.time())
        return self._taken(memory.id, text, author, minutes, newest, memory)

    def _taken(self, id: str, text: str, author: str, minutes: float, newest: int, memory: Memory | None) -> a.ClaimAnswer | None:
        most = self._core.settings.swarm.claims
        claim = self._core.ledger.claim(id, _short(text), author, minutes, most, memory, newest)
        if claim is None:
            return None
        self._core.wake()
        return self._answer(claim, author)

    def _answer(self, claim: Claim, author: str, similar: Sequence[a.SimilarProposal] = (), more: str = "") -> a.ClaimAnswer:
        until = datetime.fromtimestamp(claim.until, UTC).strftime("%H:%M:%S UTC")
        if claim.holder != author:
            why = f"Not claimed: {claim.holder} holds it until {until}. See `free` for others."
            return self._refused(claim.idea, claim.text, why, author)
        note = f"Yours until {until}. propose_patch(idea={claim.idea!r}) and launches of its commits renew it. {more}"
        return a.ClaimAnswer(claimed=True, id=claim.idea, text=claim.text, similar=list(similar), note=note.rstrip())

    def _refused(self, id: str, text: str, why: str, author: str) -> a.ClaimAnswer:
        self._core.ledger.count_repetition()
        free = self._memories.search_memory(kind="idea", limit=_FREE, free_for=author).memories
        named = [a.FreeIdea(id=each.id, text=_short(each.text), why=each.why) for each in free]
        return a.ClaimAnswer(claimed=False, id=id, text=_short(text), free=named, note=why)


def renew_claims(ledger: Ledger, commit: str, author: str, idea: str | None = None) -> Iterator[str]:
    """Renew an author's claims on what a commit tries, and tell where another holds one.

    Args:
        ledger: of the lab.
        commit: a proposal.
        author: who proposes or launches it.
        idea: an idea that it tries, recorded before.
    """
    for each in [idea] if idea else ledger.ideas_of(commit):
        claim = ledger.renew_claim(each, author)
        if claim is not None and claim.holder != author:
            until = datetime.fromtimestamp(claim.until, UTC).strftime("%H:%M:%S UTC")
            yield f"{claim.holder} holds the idea {each} until {until}: agree with them, or take another."


def _short(text: str) -> str:
    return shorten(one_line(text, 2_000), _TEXT)
