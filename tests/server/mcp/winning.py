"""How a test lets a proposal win, past the tools."""

from typing import Any

from autoresearch_mcp.server.lab.lab import Lab
from tests.server.mcp.conftest import FakeRunnerLab


def propose(lab: Lab, depth: int, author: str = "ada", **more: Any) -> str:
    edits = [{"path": "train.py", "search": "DEPTH = 2", "replace": f"DEPTH = {depth}"}]
    return lab.propose_patch(f"A depth of {depth} is better.", author, edits=edits, **more).commit


def win(runner_lab: FakeRunnerLab, lab: Lab, commit: str) -> None:
    """Give a proposal three good replicates against eight of the champion that the lab trained."""
    champion = lab.champion()
    for sha, metrics in ((champion, [1.68, 1.681, 1.679, 1.6805, 1.6795, 1.682, 1.678, 1.6801]), (commit, [1.64, 1.641, 1.639])):
        for id, val_bpb in zip(lab.launch_training(sha, "ada", replicates=len(metrics)).experiments, metrics, strict=True):
            runner_lab.finish(id, val_bpb, "same", by_lab=sha == champion)
