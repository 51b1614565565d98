"""Where a commit stands beside the champion: what it was built on, and what may be concluded of it."""

from functools import cached_property

from autoresearch_mcp.server.gate.judge import WITHIN_NOISE
from autoresearch_mcp.server.ledger import Ledger
from autoresearch_mcp.server.models import Verdict


class Lineage:
    """Tells which proposals build on the champion, and which it holds already.

    Args:
        ledger: knows what each proposal was built on.
        champion: the commit of now.
    """

    def __init__(self, ledger: Ledger, champion: str) -> None:
        self._ledger = ledger
        self._stale: dict[str, bool] = {}  # by commit: what one was built on never changes
        self._champion = {champion, ledger.proposal_of(champion)}  # the proposal is another commit where the change was rebased
        self.held = self._champion.union(*map(ledger.bases, self._champion))  # the champion and all that it was built on

    def is_champion(self, commit: str) -> bool:
        """Return whether a commit has the champion's code."""
        return commit in self._champion

    def has(self, commit: str) -> bool:
        """Return whether the champion was built on a commit."""
        return self.holds(commit) and not self.is_champion(commit)

    def holds(self, commit: str) -> bool:
        """Return whether a commit is the champion, or what it was built on."""
        return commit in self.held

    def is_stale(self, commit: str) -> bool:
        """Return whether a commit was built on an earlier champion."""
        if (known := self._stale.get(commit)) is None:
            known = self._stale[commit] = self._champion.isdisjoint({commit, *self._ledger.bases(commit)})
        return known

    @cached_property
    def taken_back(self) -> set[str]:
        """The code that the lab's owner took a promotion of back: only they can promote it again."""
        demoted = {each.previous for each in self._ledger.promotions() if each.is_demotion}
        return demoted.union(map(self._ledger.proposal_of, demoted))


def standing_in_words(commit: str, n: int, gain: float | None, se: float | None, verdict: Verdict | None, lineage: Lineage) -> str:
    """Say in a few words where a commit stands, so that nobody takes a lucky run for a better champion.

    Args:
        commit: its full id.
        n: replicates that count.
        gain: of its mean on the champion's; positive is better.
        se: standard error of that.
        verdict: the gate's last word, if there is one.
        lineage: of the champion.
    """
    if lineage.is_champion(commit):
        return "champion"
    if lineage.has(commit):
        return "already in the champion"
    if verdict is not None and verdict.promote and commit in lineage.taken_back:
        return "taken back by the lab's owner"
    if verdict is not None and (verdict.final or verdict.code == "futile"):
        words = [f"decided: {verdict.code}"]
        if verdict.code == "futile" and verdict.gain is not None and verdict.se:
            deviation = verdict.gain / verdict.se
            words += ["within noise"] if abs(deviation) < WITHIN_NOISE else ["worse"] if deviation < 0 else []
    else:
        words = [f"open (n={n})"]
        if gain is not None and se is not None and abs(gain) < WITHIN_NOISE * se:
            words.append("within noise")
    if lineage.is_stale(commit):
        words.append("on an old base (promote_commit gives `retrain`)")
    return ", ".join(words)
