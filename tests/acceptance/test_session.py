"""The session that docs/session.md shows is one that can be had: an idea to the gate, a second one onto it, and a crash, by the tools alone.

It takes some seconds, as the real runner trains some 25 times, though at no length.
"""

from pathlib import Path

import anyio

from autoresearch_mcp.server.paths import LabPaths
from tests import session


def test_an_agent_with_nothing_but_the_tools_gets_to_the_end_of_its_session(tmp_path: Path) -> None:
    root = tmp_path / "lab"
    played = anyio.run(session.recorded, root, 0.0)
    answers = [step.answer for step in played.steps if step.tool == "promote_commit"]
    assert [('"promoted":true' in answer, '"retrain"' in answer) for answer in answers] == [(True, False), (False, True), (True, False)]
    (crash,) = [step.answer for step in played.steps if step.tool == "get_experiment"]
    assert '"kind":"oom"' in crash and LabPaths(root).state.is_dir()
    assert len(played.steps) >= 24 and played.characters / played.calls < 1_300
    shown = session.page(played)
    kept = session.PAGE.read_text("utf-8")
    assert [line for line in shown.splitlines() if line.startswith("## ")] == [line for line in kept.splitlines() if line.startswith("## ")]
