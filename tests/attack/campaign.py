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
        candidates = {attack.name: await _launched(lab, attack) for attack in wanted}
        async with anyio.create_task_group() as tasks:
            for attack in wanted:
                tasks.start_soon(_settle, lab, attack, candidates[attack.name], outcomes)
    return [(attack, outcomes[attack.name]) for attack in wanted]


async def _settle(lab: Arena, attack: Attack, candidate: Candidate | None, outcomes: dict[str, Outcome]) -> None:
    try:
        outcome = await _outcome(lab, attack, candidate)
        if attack.chance and outcome.promoted:
            lab.salt += 1
            outcome = await _outcome(lab, attack, await _launched(lab, attack))
            outcome.noticed = f"passed once, and then: {outcome.noticed}"
        outcomes[attack.name] = outcome
    except Exception as error:
        raise RuntimeError(f"the attack {attack.name!r} could not be played: {error!r}") from error


async def _launched(lab: Arena, attack: Attack) -> Candidate | None:
    if not attack.code:
        return None
    candidate = await lab.propose(attack.code(lab), attack.tries)
    await lab.launch(candidate, attack.replicates)
    return candidate


async def _outcome(lab: Arena, attack: Attack, candidate: Candidate | None) -> Outcome:
    if attack.play:
        return await attack.play(lab, attack)
    assert candidate is not None, "an attack is a proposal or a play"
    return await lab.judge(candidate)
