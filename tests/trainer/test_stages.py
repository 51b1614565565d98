"""A run in two stages: what trains never needs the validation text, and what scores takes only what was really submitted."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autoresearch_mcp.trainer import prepare, protocol
from tests.trainer.conftest import BIGRAM, PACKAGE, Launched, Warm


def train(run: Path) -> dict[str, Any]:
    """Train in a process of its own, as a container does."""
    command = [sys.executable, "-m", "autoresearch_mcp.trainer.launch", str(run), "--stage", "train"]
    subprocess.run(command, cwd=PACKAGE.parent, check=True, timeout=60)
    result = protocol.read_json(run / protocol.RESULT)
    assert result is not None
    return result


@pytest.fixture(scope="module")
def scorer(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    """A warm parent that scores what was trained, as in a container that scores several."""
    parent = Warm(data, tmp_path_factory.mktemp("scored"), program=("-m", "autoresearch_mcp.trainer.launch", "--stage", "score"))
    yield parent
    parent.close()


def score(scorer: Warm, run: Path) -> dict[str, Any]:
    return Launched(run, scorer.ask(run)["pid"]).wait()


def relocate(run: Path, data: Path) -> None:
    spec = protocol.read_json(run / protocol.SPEC) or {}
    protocol.write_json(run / protocol.SPEC, {**spec, "data": str(data)})


@pytest.fixture(scope="module")
def training_data(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("training-data")
    for name in (prepare.META, "train.bin"):
        shutil.copyfile(data / name, target / name)
    return target


@pytest.fixture(scope="module")
def submitted(warm: Warm, training_data: Path) -> Path:
    """A run that was trained where there is training data alone."""
    run = warm.directory(BIGRAM)
    relocate(run, training_data)
    assert train(run)["state"] == protocol.SUBMITTED
    return run


@pytest.fixture
def trained(submitted: Path, data: Path, tmp_path: Path) -> Path:
    run = shutil.copytree(submitted, tmp_path / "run")
    relocate(run, data)
    return run


def test_a_run_in_two_stages_gets_the_number_that_it_gets_in_one(warm: Warm, scorer: Warm, trained: Path) -> None:
    submitted = protocol.read_json(trained / protocol.RESULT) or {}
    assert submitted["val_bpb"] is None and submitted["steps"] == 1 and protocol.read_hidden(trained) is None
    result = score(scorer, trained)
    assert result["state"] == "finished" and result["timings"].keys() >= {"train_s", "score_s"}
    launched = warm.launch(BIGRAM)
    whole = launched.wait()
    assert result["val_bpb"] == pytest.approx(whole["val_bpb"], abs=1e-6)
    assert protocol.read_hidden(trained) == pytest.approx(launched.hidden, abs=1e-6)
    assert result["hashes"] == whole["hashes"]
    assert score(scorer, trained) == result  # an end is for good


def test_weights_or_code_changed_between_the_stages_get_no_score(scorer: Warm, trained: Path) -> None:
    with (trained / protocol.CODE / "train.py").open("a", encoding="utf-8") as file:
        file.write("# another\n")
    result = score(scorer, trained)
    assert (result["state"], result["val_bpb"]) == ("crashed", None)
    assert "different code" in result["failure"]["message"]


def test_a_model_whose_spec_an_earlier_version_wrote_is_scored(scorer: Warm, trained: Path) -> None:
    spec = protocol.read_json(trained / protocol.SPEC) or {}
    protocol.write_json(trained / protocol.SPEC, {**{name: value for name, value in spec.items() if name != "compile_cache"}, "graphs": ""})
    assert score(scorer, trained)["state"] == "finished"


def test_a_result_that_waits_for_its_score_and_cannot_be_read_says_what_is_wrong(scorer: Warm, trained: Path) -> None:
    submitted = protocol.read_json(trained / protocol.RESULT) or {}
    protocol.write_json(trained / protocol.RESULT, {name: value for name, value in submitted.items() if name != "hashes"})
    result = score(scorer, trained)
    assert result["state"] == "crashed" and result["failure"]["message"] == "the result lacks hashes."


def test_a_run_that_submits_nothing_ends_in_its_first_stage(warm: Warm, scorer: Warm, training_data: Path) -> None:
    run = warm.directory("raise KeyError('what')\n")
    relocate(run, training_data)
    assert train(run)["state"] == "crashed"
    assert score(scorer, run)["state"] == "crashed"
