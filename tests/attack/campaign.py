"""Plays attacks side by side in one lab."""

from collections.abc import Sequence
from pathlib import Path

import anyio

from tests.attack.arena import Arena, Candidate, Outcome, arena, measured
from tests.attack.registry import ATTACKS, Attack

Row = tuple[Attack, Outcome]


async def run(scratch: Path, short: bool, names: Sequence[str] = ()) -> list[Row]:
    """Play attacks in a new lab, and return what became of each.

    Args:
        scratch: where the lab is made.
        short: leave out the slow ones.
        names: parts of the names of those to play; none: all.
    """
    wanted = [attack for attack in ATTACKS if (attack.short or not short) and (not names or any(name in attack.name for name in names))]
    outcomes: dict[str, Outcome] = {}
    async with arena(scratch) as lab:
        lab.patient = not short
        await measured(lab)
        candidates = {}
        for attack in wanted:
            if attack.code:
                candidate = candidates[attack.name] = await lab.propose(attack.code(lab), attack.tries)
                await lab.launch(candidate, attack.replicates)
        async with anyio.create_task_group() as tasks:
            for attack in wanted:
                tasks.start_soon(_settle, lab, attack, candidates.get(attack.name), outcomes)
    return [(attack, outcomes[attack.name]) for attack in wanted]


async def _settle(lab: Arena, attack: Attack, candidate: Candidate | None, outcomes: dict[str, Outcome]) -> None:
    try:
        if attack.play:
            outcomes[attack.name] = await attack.play(lab, attack)
        elif candidate:
            outcomes[attack.name] = await lab.judge(candidate)
    except Exception as error:
        raise RuntimeError(f"the attack {attack.name!r} could not be played: {error!r}") from error
