"""Whole campaigns, simulated launch by launch, with the product's own order of launches, noise and rule.

A training lasts as long as any other and one standard deviation of noise is 1. Only the trainings are made up: what starts next is
`runner.order`'s choice, and what it means is `gate.rule`'s.
"""

import itertools
import math
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from autoresearch_mcp.server.gate.noise import Squares, pool_squares, sums_of_squares
from autoresearch_mcp.server.gate.rule import Decision, Rules, Run, decide, window
from autoresearch_mcp.server.runner.order import OPEN, WINDOW, Launch, Waiting, next_launch

HIDDEN = 0.95  # correlation of the hidden split's noise with validation's, measured
SEED_SHARE = 0.14  # of the variance, that the seed explains: what a training with the same seed repeats
_CHAMPION = "champion"
_JUMPS_EVERY = 150  # launches


@dataclass(frozen=True)
class World:
    """How equal trainings differ.

    Attributes:
        fast: share of the variance that drifts as the machine's speed was measured to: neighbours in order of start correlate by 0.61.
        slow: share of the variance that drifts over about 150 launches.
        jump: by which the machine's level changes, there and back, after every 150 launches.
        tails: degrees of freedom of Student's t for the rest; 0 for a normal distribution.
        spread: standard deviation of a candidate's replicates, against the champion's.
        history: degrees of freedom of the noise that the lab knows before.
    """

    fast: float = 0.0
    slow: float = 0.0
    jump: float = 0.0
    tails: int = 0
    spread: float = 1.0
    history: int = 60

    def noise(self, rng: random.Random) -> Iterator[float]:
        """Yield the noise of each launch in order."""
        fast, slow = rng.gauss(0, 1), rng.gauss(0, 1)
        rest, level = math.sqrt(1 - self.fast - self.slow), 0.0
        for launch in itertools.count(1):
            fast = 0.61 * fast + math.sqrt(1 - 0.61**2) * rng.gauss(0, 1)
            slow = math.exp(-1 / 150) * slow + math.sqrt(1 - math.exp(-2 / 150)) * rng.gauss(0, 1)
            own = rng.gauss(0, 1)
            if self.tails:
                own *= math.sqrt((self.tails - 2) / (rng.gammavariate(self.tails / 2, 2)))
            if self.jump and launch % _JUMPS_EVERY == 0:
                level = 0.0 if level else rng.choice((-self.jump, self.jump))
            yield level + math.sqrt(self.fast) * fast + math.sqrt(self.slow) * slow + rest * own


Cheat = Literal["", "never drops", "cancels", "sleeps", "champions"]


@dataclass
class _Candidate:
    name: str
    author: str
    gain: float
    runs: list[Run] = field(default_factory=list)
    running: int = 0
    ended: int = 0
    repeats: int = 1  # of bad replicates, that a cheat still has
    decision: Decision | None = None

    def wants_more(self, rules: Rules) -> bool:
        return len(self.runs) < rules.cap and not (self.decision and self.decision.verdict == "champion" and self.decision.p is not None)


@dataclass(frozen=True)
class Campaign:
    """What came of a campaign.

    Attributes:
        promoted: candidates that the gate promoted; the champion stays all the same, so that each is compared with it.
        decided: candidates.
        trainings: of candidates.
        champions: trainings of the champion.
    """

    promoted: int
    decided: int
    trainings: int
    champions: int


def simulate(
    world: World,
    gain: float,
    candidates: int,
    rng: random.Random,
    slots: int = 8,
    authors: int = 1,
    cheat: Cheat = "",
    rules: Rules | None = None,
) -> Campaign:
    """Run a campaign of candidates that all have one true gain.

    Args:
        world: how equal trainings differ.
        gain: of each candidate, in standard deviations.
        candidates: how many.
        rng: the source of all chance.
        slots: how many trainings run at once.
        authors: among whom the candidates are split.
        cheat: `never drops` trains each candidate to the last replicate, and asks after each. `cancels` cancels a replicate that looks
            bad, as often as that is forgiven, and `sleeps` has it set aside by its speed: both are trained again with its seed. `champions`
            trains the champion itself whenever the last training was slow.
        rules: of the gate; by default the product's.
    """
    rules = rules or Rules()
    noise = world.noise(rng)
    waiting = deque(_Candidate(f"c{k}", f"a{k % authors}", gain) for k in range(candidates))
    open_: dict[str, _Candidate] = {}
    history, running = deque[Launch](maxlen=WINDOW), deque[tuple[Launch, Run]]()
    champion: list[tuple[float, Run]] = []
    spreads: dict[str, Squares] = {f"past {k}": (5, rng.gammavariate(2.5, 2)) for k in range(world.history // 5)}
    clock = champions = trainings = promoted = 0

    def look(candidate: _Candidate) -> None:
        nonlocal promoted
        faced = window(champion, candidate.ended)
        others = [squares for name, squares in spreads.items() if name != _CHAMPION]
        own = sums_of_squares([run.metric for run in faced])
        decision = decide(candidate.runs, faced, pool_squares(own, others), rules)
        candidate.decision = decision
        if decision.final or (decision.verdict == "futile" and cheat != "never drops"):
            promoted += decision.verdict == "promote"
            del open_[candidate.name]

    def end() -> None:
        nonlocal clock
        launch, run = running.popleft()
        clock += 1
        if launch.by_lab:
            champion.append((clock, run))
            for candidate in [each for each in open_.values() if each.runs and not each.running]:
                look(candidate)
            return
        candidate = open_[launch.commit]
        candidate.running -= 1
        candidate.runs.append(run)
        candidate.ended = clock
        spreads[launch.commit] = sums_of_squares([each.metric for each in candidate.runs])
        look(candidate)

    while waiting or open_:
        if len(running) == slots:
            end()
            continue
        queue = [Waiting(each.name, each.author) for each in open_.values() if not each.running and each.wants_more(rules)]
        queue += [Waiting(each.name, each.author) for each in list(waiting)[: OPEN + 2]]
        choice = next_launch(list(history), [launch for launch, _ in running], list(open_), queue, _CHAMPION, champions, slots)
        if choice is None:
            end()
            continue
        beside = tuple(launch.author for launch, _ in running)
        if choice == "champion":
            launch = Launch(_CHAMPION, "lab", True, beside)
            champions += 1
            value = next(noise)
        else:
            launch = Launch(choice.commit, choice.author, False, beside)
            if waiting and choice.commit == waiting[0].name:
                open_[choice.commit] = waiting.popleft()
            elif choice.commit not in open_:
                (candidate,) = [each for each in waiting if each.name == choice.commit]
                waiting.remove(candidate)
                open_[choice.commit] = candidate
            candidate = open_[choice.commit]
            candidate.running += 1
            trainings += 1
            value = world.spread * next(noise)
            if cheat in ("cancels", "sleeps") and candidate.repeats and value > 0.7:
                candidate.repeats -= 1
                trainings += 1
                value = SEED_SHARE * value + math.sqrt(1 - SEED_SHARE**2) * world.spread * next(noise)
            if cheat == "champions" and value > 0.7:  # its own replicate of the champion counts for nothing, and takes a turn
                history.append(Launch(_CHAMPION, candidate.author))
                next(noise)
            value -= candidate.gain
        history.append(launch)
        shift = candidate.gain if launch.commit != _CHAMPION else 0.0
        hidden = HIDDEN * (value + shift) + math.sqrt(1 - HIDDEN**2) * rng.gauss(0, 1) - shift
        running.append((launch, Run(value, hidden)))
    return Campaign(promoted, candidates, trainings, champions)


def repeat(campaigns: int, run: Callable[[random.Random], Campaign], seed: int = 0) -> Sequence[Campaign]:
    """Run campaigns that differ by chance alone."""
    return [run(random.Random(f"{seed} {number}")) for number in range(campaigns)]
