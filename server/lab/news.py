"""What happened in the lab, in the words in which a caller who hasn't heard is told."""

from autoresearch_mcp.server.lab.core import LabCore
from autoresearch_mcp.server.lab.lineage import Lineage
from autoresearch_mcp.server.lab.titles import shorten, title
from autoresearch_mcp.server.lake.base import Condition, Query
from autoresearch_mcp.server.ledger.looks import Cursor, Happened, Tally
from autoresearch_mcp.server.ledger.news import Piece
from autoresearch_mcp.server.models import Candidacy, Memory, Promotion, Sweep
from autoresearch_mcp.server.untrusted import one_line

MOST = 8  # queued trainings that are named
_NEWS, _SENTENCE, _IDEA = 2_000, 400, 60  # characters: of what happened since a look, of each sentence in it, of an idea in that
_IDEAS = 50  # that are read


class NewsCases:
    """The use cases around news."""

    def __init__(self, core: LabCore) -> None:
        self._core = core

    def newest_news(self) -> int:
        """Return the number of the newest piece of news; 0 where there is none. It costs microseconds."""
        return self._core.ledger.newest_news()

    def unheard(self, caller: str) -> list[str]:
        """Return the news that a caller has not heard, in sentences, and count it as heard."""
        return self.in_words(self._core.ledger.unheard(caller), caller)

    def since(self, cursor: str, caller: str) -> list[str]:
        """Return what happened after the `cursor` of an earlier status, within 2,000 characters; older things are counted.

        The champion's moves come first, then the rest, the newest first.

        It counts as heard, so that no answer tells the caller again.

        Args:
            cursor: as the status gave it.
            caller: whose news is told; by name.

        Raises:
            LabError: `bad_arguments` for a cursor that is none.
        """
        after = Cursor.parse(cursor)
        unheard = [piece for piece in self._core.ledger.unheard(caller) if piece.seq <= after.news]
        happened = self._core.ledger.happened(after, caller)  # after the other: what counts as heard is in it
        stale = self._superseded(caller) if happened.promotions else []
        lines = [f"Queued by you on an earlier base: {', '.join(stale)}."] if stale else []
        return _within(_NEWS, [*lines, *self._told(happened, after, caller), *self.in_words(unheard, caller)])

    def told_to_all(self, cursor: str) -> list[str]:
        """Return what happened after a `cursor`, whomever it concerns, as `since` does. It counts as heard by nobody.

        Raises:
            LabError: `bad_arguments` for a cursor that is none.
        """
        after = Cursor.parse(cursor)
        return _within(_NEWS, self._told(self._core.ledger.happened(after, ""), after, ""))

    def cursor(self) -> str:
        """Return the place after all that has happened."""
        return str(self._core.ledger.cursor())

    def _told(self, happened: Happened, after: Cursor, caller: str) -> list[str]:
        """Return what happened in sentences: the champion's moves, which are first as the rest may be cut, then the newest."""
        told = [(tally.at, self._ended(tally)) for tally in happened.tallies]
        held = {claim.seq for claim in self._core.ledger.claims()}  # of those that ended, what they were trained for tells
        told += [
            (claim.renewed_at, f"{claim.holder} holds {claim.idea}: {shorten(claim.text, _IDEA)!r}.")
            for claim in happened.claims
            if claim.seq in held and claim.holder != caller  # its own stand in `next`
        ]
        told += [(piece.at, piece.text) for piece in happened.addressed if piece.text]
        told += [(sweep.ended_at or 0.0, self._swept(sweep)) for sweep in happened.sweeps]
        told += [(launch.ended_at or 0.0, self._decided(launch, caller)) for launch in happened.launches]
        claimed = {claim.idea for claim in happened.claims}
        told += [(idea.created_at, self._idea(idea)) for idea in self._ideas(after.at / 1000) if idea.id not in claimed]
        lines = [self.promotion_in_words(promotion) for promotion in reversed(happened.promotions)]
        lines += [text for _, text in sorted(told, key=lambda each: -each[0])]
        return [one_line(line, _SENTENCE) for line in lines]

    def _ideas(self, after: float) -> list[Memory]:
        where = (Condition("kind", "=", "idea"), Condition("created_at", ">=", after))
        rows = self._core.view.select("memories", Query(where, limit=_IDEAS)).value
        return [row for row in rows if isinstance(row, Memory)]

    @staticmethod
    def _idea(idea: Memory) -> str:
        return f"{idea.author} wrote the idea {idea.id}: {shorten(idea.text, _IDEA)!r}."

    def _ended(self, tally: Tally) -> str:
        states = ", ".join(f"{count} {state}" for state, count in tally.states.items())
        best = tally.most if self._core.settings.metric.better == "max" else tally.least
        return f"Trainings of {tally.author} ended: {states}{'' if best is None else f'; the best {best:.4f}'}."

    @staticmethod
    def _swept(sweep: Sweep) -> str:
        return f"The sweep {sweep.id} of {sweep.author} over {', '.join(sweep.parameters)} is {sweep.state}: get_experiment(id=['{sweep.id}']) shows it."

    @staticmethod
    def _decided(launch: Candidacy, caller: str) -> str:
        whose = "Your" if launch.author == caller else f"{launch.author}'s"
        return (
            f"{whose} {launch.commit[:12]} ({launch.id}) is {launch.state}{f' ({launch.verdict})' if launch.verdict else ''}. {launch.note}"
        )

    def in_words(self, pieces: list[Piece], caller: str) -> list[str]:
        """Return pieces of news in sentences. Of the champion's moves, the last is told.

        Args:
            pieces: the oldest first.
            caller: whose queued trainings are named where their base is superseded.
        """
        moves = [piece for piece in pieces if piece.kind == "champion"]
        told = [self._moved(moves, caller)] if moves else []
        return [*told, *(piece.text for piece in pieces if piece.text)]

    def _moved(self, moves: list[Piece], caller: str) -> str:
        by_id = {promotion.id: promotion for promotion in self._core.ledger.promotions()}
        promotion = by_id[moves[-1].subject]
        words = [self.promotion_in_words(promotion)]
        if len(moves) > 1:
            words.append(f"It moved {len(moves)} times since you were last told.")
        if stale := self._superseded(caller):
            words.append(f"Queued by you on an earlier base: {', '.join(stale)}. Cancel them, or propose them again with `port`.")
        return " ".join(words)

    def promotion_in_words(self, promotion: Promotion) -> str:
        """Say what the champion is since a promotion: whose idea, who asked, and by how much it is better."""
        ledger, verdict = self._core.ledger, promotion.verdict
        now, before = promotion.commit[:12], promotion.previous[:12]
        if promotion.is_demotion:
            return f"The lab's owner took a promotion back: the champion is {now} again, no longer {before}."
        if promotion.is_adoption:
            return f"The lab's owner changed the code: the champion is {now}, no longer {before}."
        proposal = ledger.proposal(ledger.proposal_of(promotion.commit))
        idea = f": {title(proposal)!r}, an idea of {proposal.author}" if proposal else ""
        if proposal and proposal.ported_from:
            idea += f", ported from {proposal.ported_from[:12]}"
        approved = "" if promotion.approved_by == "policy" else f", {promotion.approved_by} approved"
        words = f"The champion moved from {before} to {now}{idea}; {promotion.author} asked for it{approved}."
        ours, theirs, gain = verdict.get("candidate_mean"), verdict.get("champion_mean"), verdict.get("gain")
        if ours is None or theirs is None or gain is None:
            return words
        noise, p = verdict.get("noise"), verdict.get("p")
        spread = f", sd {noise:.2g}" if noise is not None else ""
        luck = f" (p = {p:.2g})" if p is not None else ""
        return f"{words} Mean {ours:.4f} (n {verdict['n']}) against {theirs:.4f} (n {verdict['m']}{spread}), a gain of {gain:.4f}{luck}."

    def _superseded(self, author: str) -> list[str]:
        """Return the queued trainings of an author whose commits were built on an earlier champion. Launches until decided are rebased."""
        core = self._core
        queued = [e for e in core.ledger.open_experiments("queued") if e.author == author and not e.candidacy]
        if not queued:
            return []
        lineage, measurements = Lineage(core.ledger, core.repo.champion()), core.ledger.measurements()
        stale = [e for e in queued if e.commit not in measurements and not lineage.has(e.commit) and lineage.is_stale(e.commit)]
        more = [f"and {len(stale) - MOST} more"] if len(stale) > MOST else []
        return [*(f"{e.id} ({one_line(e.commit[:12], 12)})" for e in stale[:MOST]), *more]


def _within(characters: int, lines: list[str]) -> list[str]:
    """Return the first of these lines, and the count of those that are too many."""
    kept = 0
    while kept < len(lines) and (characters := characters - len(lines[kept])) >= 0:
        kept += 1
    left = len(lines) - kept
    return [*lines[:kept], *([f"{left} older {'thing' if left == 1 else 'things'} happened too."] if left else [])]
