"""The commands of who rents devices, as a user types them, each a process, against Modal's stand-in: costs first, made once, ended by name, no secret said."""

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from autoresearch_mcp.server.compute.modal import deployment
from autoresearch_mcp.server.compute.modal.client import Sandbox, Service
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.paths import StatePaths
from tests.server.compute.modal.rented_lab import RentedLab
from tests.standins.modal.standin import Standin
from tests.waiting import until

Run = Callable[..., str]


@pytest.fixture
def run(modal_standin: Standin) -> Run:
    """A command's words, once its status is as expected; never do they hold the token."""

    def run(*arguments: str | Path, status: int = 0, env: dict[str, str] | None = None) -> str:
        command = [sys.executable, "-m", "autoresearch_mcp.server.cli", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, env=env)
        words = done.stdout + done.stderr
        assert done.returncode == status and "Traceback" not in words, words
        assert not any(modal_standin.environment[name] in words for name in ("MODAL_TOKEN_ID", "MODAL_TOKEN_SECRET"))
        return words

    return run


@pytest.fixture
def without_token(tmp_path: Path) -> dict[str, str]:
    """The environment of a user who has no token, neither there nor in a file."""
    return {k: v for k, v in os.environ.items() if not k.startswith("MODAL_TOKEN_")} | {"MODAL_CONFIG_PATH": str(tmp_path / "none.toml")}


def test_setup_tells_the_cost_makes_everything_once_and_finds_it_again(
    run: Run, modal_standin: Standin, make_lab: Callable[..., Path], without_token: dict[str, str]
) -> None:
    root = make_lab(toml={'backend = "local"': 'backend = "modal"\nenvironment = "nobody-elses"'})
    state = root / ".autoresearch"

    def prepared() -> int:
        return len(modal_standin.containers(stage="prepare"))

    before = prepared()
    planned = run("setup", "modal", root, "--dry-run", env=without_token)  # so it can't have asked for anything
    assert planned.endswith("Nothing was made: this was a dry run.\n") and "no GPU at $1.08 an hour" in planned
    assert not StatePaths(state).deployment.exists() and prepared() == before

    created = run("setup", "modal", root)
    assert created.startswith(planned.partition("Nothing")[0]), "the costs come first"
    assert "data: preparing" in created and "tokens\n" in created and prepared() == before + 1
    deployed = deployment.load(state)
    assert deployed.environment == "nobody-elses"

    again = run("setup", "modal", root)
    assert "data: there already" in again and "preparing" not in again
    assert deployment.load(state) == deployed and prepared() == before + 1


def test_options_may_stand_before_the_lab(run: Run, lab_root: Path) -> None:
    plan = run("setup", "modal", "--dry-run", "--gpu", "H100", lab_root)
    assert "on H100! at $4.32 an hour" in plan and "Nothing was made" in plan
    assert "unrecognized arguments: more" in run("setup", "modal", "--dry-run", lab_root, "more", status=2)
    assert "no GPU 'GTX'" in run("setup", "modal", "--gpu", "GTX", lab_root, status=2)


def test_reap_ends_the_sandbox_that_no_experiment_needs_after_it_was_named(
    run: Run, modal_standin: Standin, make_modal_lab: Callable[..., Path]
) -> None:
    root = make_modal_lab()
    with closing(RentedLab(modal_standin, root)) as lab:
        deployed = deployment.load(lab.state)
        needed, over = lab.enqueue(2, lab.orders("none"))
        for id in (needed, over):
            lab.ledger.move(id, ["queued"], state="running", attempt=1)
        lab.ledger.move(over, ["running"], state="crashed")
        for id in (needed, over):
            anyio.run(rent, deployed, id)

        assert over in (named := run("reap", "--dry-run", root)) and needed not in named
        assert all(modal_standin.running(experiment=id) for id in (needed, over))
        assert run("reap", root) == named
        until(lambda: not modal_standin.running(experiment=over))
        assert modal_standin.running(experiment=needed)
        assert run("reap", root) == "Nothing to end: every sandbox that runs belongs to an experiment.\n"


def test_where_modal_holds_other_data_or_another_trainer_nothing_is_queued(make_modal_lab: Callable[..., Path]) -> None:
    root = make_modal_lab()
    state, toml = root / ".autoresearch", root / "lab.toml"
    deployed, text = deployment.load(state), toml.read_text(encoding="utf-8")
    assert text.count('profile = "tiny"') == 1
    toml.write_text(text.replace('profile = "tiny"', 'profile = "cpu"'), encoding="utf-8")
    refuses(root, "the data of the profile 'cpu' is not on Modal")
    toml.write_text(text, encoding="utf-8")
    replace(deployed, fixed="another").save(state)
    refuses(root, "another version of the trainer")
    StatePaths(state).deployment.write_text('{"lab": 1', encoding="utf-8")
    refuses(root, "is damaged")


def refuses(root: Path, why: str) -> None:
    with closing(Lab(root)) as lab:
        with pytest.raises(LabError, match=f"{why}.*autoresearch-mcp setup modal"):
            lab.launch_training("champion", "ada")
        assert any(why in warning for warning in lab.status().warnings) and not lab.status().queued


async def rent(target: deployment.Deployment, id: str) -> None:
    tags = {"lab": target.lab, "stage": "train", "experiment": id, "attempt": "1"}
    argv = ("python3", "-c", "import signal; signal.pause()")
    await Service(target.environment, target.app).create(Sandbox(f"{id}-1", argv, tags, target.image, 300, {}))


def test_the_doctor_sees_modal_and_says_what_to_do_without_a_token(
    run: Run, modal_standin: Standin, make_modal_lab: Callable[..., Path], without_token: dict[str, str]
) -> None:
    root = make_modal_lab()
    assert "ok    modal: app autoresearch in autoresearch" in run("doctor", root)
    assert "BAD   modal: there is no token" in (report := run("doctor", root, status=1, env=without_token)) and "modal token new" in report
    calls = sum(modal_standin.control()["calls"].values())
    for command, kept in ((("setup", "modal", root), "Nothing was made"), (("reap", root), "Nothing was ended")):
        refusal = run(*command, status=2, env=without_token)
        assert "There is no token" in refusal and kept in refusal and "`modal token new`" in refusal and "does not accept" not in refusal
    assert sum(modal_standin.control()["calls"].values()) == calls, "nothing was tried"
    StatePaths(root / ".autoresearch").deployment.unlink()
    assert "Run `autoresearch-mcp setup modal`" in run("doctor", root, status=1)
