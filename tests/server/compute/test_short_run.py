"""A short run: code trains for a few seconds as a run would, and what an agent would hit is told."""

from pathlib import Path
from typing import Any

import anyio
import pytest

from autoresearch_mcp.server.compute.base import ComputeError
from autoresearch_mcp.server.compute.local.short_run import ShortRun, short_run
from autoresearch_mcp.server.settings import Settings
from autoresearch_mcp.trainer import prepare

STOCK = prepare.fixed_files()["train.py"].read_bytes()
FOR_EVER = """
import time
try:
    open("/etc/of-mine", "w")
except OSError as error:
    print(error)
for step in range(10**6):
    print(f"step {step}: val loss {1 / (step + 1):.6f}", flush=True)
    time.sleep(0.05)
"""


def lab(metric: str = "", **training: Any) -> Settings:
    sections = {"lab": {"name": "a lab"}, "training": {"profile": "tiny", **training}}
    return Settings.model_validate({**sections, **({"metric": {"name": metric}} if metric else {})})


def short(tmp_path: Path, settings: Settings, code: dict[str, bytes], seconds: float = 1.0, **how: Any) -> ShortRun:
    return anyio.run(lambda: short_run(settings, tmp_path, code, seconds, **how))


def test_code_with_the_contract_trains_up_to_its_submission_and_is_not_scored(tmp_path: Path) -> None:
    run = short(tmp_path, lab(), {"train.py": STOCK}, most_s=300.0)
    assert (run.outcome, run.failure, run.metric) == ("done", None, None)
    assert run.steps > 0 and run.step_s and run.step_s < 1 and run.loss and run.startup_s
    assert run.weights_mb and run.weights_limit_mb and 0 < run.weights_mb < run.weights_limit_mb
    assert not any((tmp_path / "short-runs").iterdir())


def test_a_failure_is_told_with_the_line_of_the_code(tmp_path: Path) -> None:
    run = short(tmp_path, lab("loss"), {"train.py": b"import torch\nimport nowhere_to_be_had\n"}, 60.0, nice=True)
    assert run.outcome == "failed" and run.failure and run.failure.kind == "import_error"
    assert "train.py:2" in run.failure.lines[0] and run.fault == "code"


def test_code_that_would_train_on_is_ended_and_what_it_printed_is_told(tmp_path: Path) -> None:
    run = short(tmp_path, lab("val loss"), {"train.py": FOR_EVER.encode()}, 6.0)
    assert (run.outcome, run.failure) == ("going", None)
    assert run.metric and run.metric.value and run.metric.value <= 1
    assert run.steps > 1 and run.step_s and 0.03 < run.step_s < 5
    assert run.sandbox == "unsandboxed" or run.refused
    assert not any((tmp_path / "short-runs").iterdir())


def test_a_run_that_never_starts_is_ended_after_its_wall_time(tmp_path: Path) -> None:
    run = short(tmp_path, lab(), {"train.py": STOCK}, most_s=0.0)
    assert (run.outcome, run.startup_s) == ("going", None)
    assert not any((tmp_path / "short-runs").iterdir())


def test_a_lab_that_trains_elsewhere_has_none(tmp_path: Path) -> None:
    settings = Settings.model_validate({"lab": {"name": "a lab"}, "training": {"profile": "tiny"}, "compute": {"backend": "modal"}})
    with pytest.raises(ComputeError, match="trains on modal"):
        short(tmp_path, settings, {"train.py": STOCK})
