"""A lab with something in every view, whose runner is the test."""

import time
from collections.abc import Iterator

import pytest

from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.models import Failure
from autoresearch_mcp.server.runs import locate
from tests.server.mcp.conftest import FakeRunnerLab, make_runner_lab

CONDITIONS = "like the champion"
TOKEN = "correct-horse-battery-staple"


def finish(lab: FakeRunnerLab, ids: list[str], values: list[float], at: float, by_lab: bool = False, printed: str = "loss") -> None:
    details = {"steps": 400, "hashes": {"data": "d" * 16}, "metrics": {printed: 1.0}, "versions": {"torch": printed}}
    for n, (id, value) in enumerate(zip(ids, values, strict=True)):
        lab.ledger.keep_evidence(id, "landlock-7+seccomp", value, None)
        curve = [(share / 30, 9.0 - 5.0 * (share / 30) ** 0.3 + value - 1.0) for share in range(1, 31)]
        ended = {
            "val_bpb": value,
            "conditions": CONDITIONS,
            "started_at": at + 60 * n,
            "finished_at": at + 60 * n + 50,
            "curve": curve,
            "by_lab": by_lab,
        }
        lab.move(id, "finished", **ended, cost_s=50.0, details=details, log_tail="step 400 loss 4.0\n")


def populate(fake: FakeRunnerLab, texts: list[str], author: str = "ada") -> dict[str, str]:
    """Propose, train, fail, promote and write down, with these texts in every field that agents write. Returns names of what there is."""
    lab, now = Lab(fake.root), time.time() - 86_400
    champion = lab.champion()
    levels = [0.0, 0.001, -0.001, 0.0005, -0.0005, 0.002, -0.002, 0.0001]
    finish(fake, lab.launch_training("champion", author, 8).experiments, [1.5 + each for each in levels], now, by_lab=True)
    commits, failed = [], ""
    for n, text in enumerate(texts):
        proposal = lab.propose_patch(
            f"{text} {n}",
            author,
            edits=[{"path": "train.py", "search": "WIDTH = 64", "replace": f"WIDTH = {65 + n}  # wider"}],
            tags=["width"],
        )
        commits.append(proposal.commit)
        if n % 4 == 3:
            (failed,) = lab.launch_training(proposal.commit, author, 1).experiments
            failure = Failure(kind="oom", message=text, lines=[text, "CUDA out of memory"], advice="Use a smaller batch.")
            fake.move(failed, "crashed", failure=failure, started_at=now, finished_at=now + 300 * n, log_tail=text, conditions=CONDITIONS)
        else:
            ids = lab.launch_training(proposal.commit, author, 2).experiments
            finish(fake, ids, [1.502 + 0.003 * (n % 5), 1.499 + 0.002 * (n % 7)], now + 600 + 300 * n, printed=text)
            lab.amend(proposal.commit, author, f"Said later: {text}", title=text)
    kinds = ("finding", "failure", "idea", "insight")
    notes = [lab.write_memory(kinds[n % 4], f"{text}\nand more of {n}", author, tags=["width"]).id for n, text in enumerate(texts)]  # type: ignore[arg-type]
    lab.write_memory("idea", f"Direction: {texts[0]}", author, tags=["direction"])
    lab.claim_idea(author, text=texts[-1])
    for n, level in enumerate((1.46, 1.42)):
        edits = [{"path": "train.py", "search": "DEPTH = 2" if n == 0 else "DEPTH = 1", "replace": "DEPTH = 1" if n == 0 else "DEPTH = 3"}]
        winner = lab.propose_patch(f"{texts[0]}: fewer layers {n}", author, edits=edits, tags=["depth"]).commit
        finish(fake, lab.launch_training(winner, author, 3).experiments, [level + each for each in levels[:3]], now + 20_000 * (n + 1))
        if n == 0:
            assert lab.promote_commit(winner, author, approved_by="owner").promoted
            fresh = lab.launch_training("champion", author, 8).experiments
            finish(fake, fresh, [1.4602 + each for each in levels], time.time() + 10, by_lab=True)
        else:
            assert lab.promote_commit(winner, author).verdict.code == "awaiting_approval"
    running, queued = lab.launch_training(commits[0], author, 2).experiments
    fake.move(running, "running", started_at=time.time() - 5, attempt=1)
    folder = locate(fake.state, fake.ledger.experiment(running))  # type: ignore[arg-type]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.log").write_text("\n".join(f"step {n} {text}" for n, text in enumerate(texts)), encoding="utf-8")
    lab.close()
    finished = next(e["id"] for e in fake.ledger.recent(100) if e["commit"] == commits[0])
    return {
        "finished": finished,
        "champion": champion,
        "commit": commits[0],
        "winner": winner,
        "failed": failed,
        "running": running,
        "queued": queued,
        "memory": notes[0],
    }


@pytest.fixture(scope="package")
def page_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FakeRunnerLab, dict[str, str]]]:
    for fake in make_runner_lab(tmp_path_factory.mktemp("labs") / "lab", {'approval = "none"': 'approval = "human"'}):
        texts = [
            "Wider layers learn faster at this budget",
            "A longer warmup keeps Muon stable",
            "Halve the learning rate",
            "A batch twice as large",
        ]
        yield fake, populate(fake, texts)
