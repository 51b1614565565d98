"""Which training starts next: the order that keeps a machine's drift out of the comparison.

A machine's speed changes over minutes. Replicates that start one after another share that error, and no test can take it out again.
So replicates of one commit are spread over time.

- Authors take turns, whatever each has queued. Of one author, what a verdict needs comes before new single trainings.
- Up to `OPEN` candidates take turns, and one of each author besides.
- No commit starts twice in a row while there is other work. A replicate of the champion is such work.
- The lab trains a replicate of the champion at every 2nd launch until it has 8, at every 4th until it has 16, and at every 9th then.
- The lab trains the champion only while candidates are open or wait.
- On two slots, the champion doesn't run beside one author's candidates every time, if another author has work.

`docs/gate.md` says what this does to the error rates. This module knows no ledger: the bench of the gate simulates this very function.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

OPEN = 8  # candidates that take turns; as many as there are slots, where those are more
WINDOW = 64  # launches that the order looks back on
_SPACING = ((8, 2), (16, 4))  # fewer replicates of the champion than the first: one every second-th launch
_SPACING_LATER = 9


@dataclass(frozen=True)
class Launch:
    """A training that was started.

    Attributes:
        commit: what is trained.
        author: who asked for it.
        by_lab: whether the lab started it as a replicate of the champion. Only those count as such.
        beside: the authors of what ran when it started.
    """

    commit: str
    author: str = ""
    by_lab: bool = False
    beside: tuple[str, ...] = ()


@dataclass(frozen=True)
class Waiting:
    """The first queued training of a commit.

    Attributes:
        commit: what is to be trained.
        author: who asked for it.
        id: of the experiment.
        single: whether it is the only training that is wanted of a commit that was never started.
    """

    commit: str
    author: str = ""
    id: str = ""
    single: bool = False


Choice = Waiting | Literal["champion"] | None
"""What starts next: a queued training, a new replicate of the champion, or nothing."""


def next_launch(
    history: Sequence[Launch],
    running: Sequence[Launch],
    open_candidates: Sequence[str],
    queue: Sequence[Waiting],
    champion: str,
    m: int | None,
    slots: int = 1,
) -> Choice:
    """Choose what a free slot starts.

    Args:
        history: the latest launches, the newest last; `WINDOW` of them are enough.
        running: what trains now.
        open_candidates: commits that were started and are not decided, whether something of them is queued or not.
        queue: the first queued training of each commit, the one that waits longest first.
        champion: the champion's commit.
        m: replicates of the champion that the lab started and that count or may still count. None: the lab starts none now.
        slots: how many trainings run at once.

    Returns:
        What to start. None where nothing may start now.
    """
    history = history[-WINDOW:]
    ready = _in_turn(history, open_candidates, queue, champion, slots)
    if not open_candidates and all(each.commit == champion for each in queue):
        return ready[0] if ready else None
    if m is not None and _since_champion(history, champion) >= spacing(m) - 1:
        return _instead_of_champion(ready, history, running, slots, champion) or "champion"
    first = _beside_champion(ready, history, running, slots, champion)
    if first is None:  # a candidate that has all its replicates waits for the champion's
        return "champion" if m is not None and not running else None
    if history and first.commit == history[-1].commit:
        other = next((each for each in ready if each.commit != first.commit), None)
        return other or (first if m is None or first.commit == champion else "champion")
    return first


def spacing(m: int) -> int:
    """Return at every how many launches the champion is trained when it has `m` replicates."""
    return next((every for fewer, every in _SPACING if m < fewer), _SPACING_LATER)


def open_limit(slots: int) -> int:
    """Return how many candidates take turns on so many slots."""
    return max(OPEN, slots)


def _since_champion(history: Sequence[Launch], champion: str) -> int:
    """Count the launches since the lab started a replicate of the champion."""
    return next((n for n, launch in enumerate(reversed(history)) if launch.by_lab and launch.commit == champion), len(history))


def _in_turn(
    history: Sequence[Launch], open_candidates: Sequence[str], queue: Sequence[Waiting], champion: str, slots: int
) -> list[Waiting]:
    """Return what may start, in turn.

    The author whose last start is longest ago comes first. Of one author, new single trainings come last; of the rest, commits that were
    never started come first, then those whose last start is longest ago.
    """
    open_ = frozenset(open_candidates)
    room = open_limit(slots) - len(open_)
    theirs = [(number, launch) for number, launch in enumerate(history) if not launch.by_lab]
    started = {launch.commit: number for number, launch in theirs}
    served = {launch.author: number for number, launch in theirs}
    at_work = {each.author for each in queue if each.commit in open_}
    at_work |= {launch.author for _, launch in theirs if launch.commit in open_}
    ready = []
    for each in queue:
        if each.commit not in open_ and each.commit != champion:
            if room <= 0 and each.author in at_work:
                continue
            room -= 1
            at_work.add(each.author)
        ready.append(each)
    return sorted(ready, key=lambda each: (served.get(each.author, -1), each.single, started.get(each.commit, -1)))


def _neighbour(history: Sequence[Launch], champion: str) -> str | None:
    """Return the author beside whose work alone the champion's last replicate was started, or None."""
    last = next((launch for launch in reversed(history) if launch.by_lab and launch.commit == champion), None)
    return last.beside[0] if last is not None and len(set(last.beside)) == 1 else None


def _instead_of_champion(
    ready: Sequence[Waiting], history: Sequence[Launch], running: Sequence[Launch], slots: int, champion: str
) -> Waiting | None:
    """Return the work that goes first although the champion is due.

    It is another commit's, where a client's run of the champion was the last to start; or another author's, where the champion would share
    two slots with the same author as the last time.
    """
    if history and history[-1].commit == champion:
        return next((each for each in ready if each.commit != champion), None)
    if slots != 2 or len(running) != 1 or running[0].author != _neighbour(history, champion):
        return None
    return next((each for each in ready if each.author != running[0].author and each.commit != history[-1].commit), None)


def _beside_champion(
    ready: Sequence[Waiting], history: Sequence[Launch], running: Sequence[Launch], slots: int, champion: str
) -> Waiting | None:
    """Return whose turn it is; beside a champion that is alone on the other of two slots, another author's than the last time."""
    first = ready[0] if ready else None
    if slots != 2 or len(running) != 1 or not (running[0].by_lab and running[0].commit == champion):
        return first
    last = next((launch.author for launch in reversed(history) if not launch.by_lab), None)
    return next((each for each in ready if each.author != last), first)
