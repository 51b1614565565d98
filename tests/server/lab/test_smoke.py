"""A proposal that dies at once is told at once, and the queue never sees it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.runner.lock import runner_lock
from autoresearch_mcp.server.settings import Settings, load, template
from autoresearch_mcp.trainer import prepare


@pytest.fixture
def lab(make_lab: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Lab:
    # On a busy machine five seconds may not be enough to import torch; then nothing is told, which is no failure of the proposal.
    monkeypatch.setattr("autoresearch_mcp.server.lab.smoke.MOST_S", 60.0)
    prepare.prepare("tiny")
    return Lab(make_lab("smoky", {"threads = 1 ": "smoke = true\nthreads = 1 "}))


def test_what_dies_at_once_is_told_at_once_and_not_queued(lab: Lab) -> None:
    edits = [{"path": "train.py", "search": "import torch\n", "replace": "import torch\n\ntorch.ones(2) @ torch.ones(3)\n"}]
    with runner_lock(lab.root / ".autoresearch"):
        answer = lab.propose_patch("Vectors that do not fit.", "ada", edits=edits, launch=2)
        assert "it died: shape_error: RuntimeError" in answer.note and "train.py:" in answer.note
        assert "Nothing was queued" in answer.note and answer.launched == [] and str(lab.root) not in answer.note
        assert lab.launch_training(answer.commit, "ada").experiments, "who insists has it trained"
        lab.close()


def test_where_the_profile_allows_it_is_on_and_it_changes_no_launch(tmp_path: Path) -> None:
    def settings(profile: str, *more: str) -> Settings:
        text = template("lab", profile).replace("[training]\n", "\n".join(["[training]", *more, ""]))
        (tmp_path / "lab.toml").write_text(text, "utf-8")
        return load(tmp_path)

    assert [settings(profile).smokes for profile in ("cpu", "tiny", "h100")] == [True, False, False]
    off, on = settings("cpu", "smoke = false"), settings("tiny", "smoke = true")
    assert (off.smokes, on.smokes) == (False, True)
    assert off.launch() == settings("cpu").launch() and "smoke" not in off.launch().model_dump_json()
    assert on.changed_since(settings("tiny").launch()) == []
