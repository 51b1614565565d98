"""The short form of `make attack`: no cheat gets through, and an honest gain does."""

from pathlib import Path

import anyio
import pytest

from tests.attack.campaign import run


@pytest.mark.slow
def test_no_attack_gets_through_and_an_honest_gain_does(tmp_path: Path) -> None:
    rows = anyio.run(run, tmp_path, True)
    through = {attack.name: outcome.noticed for attack, outcome in rows if outcome.got_through and not attack.allowed and not attack.open}
    assert not through
    assert all(outcome.promoted for attack, outcome in rows if attack.allowed)
