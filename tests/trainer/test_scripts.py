"""Code without the contract runs as `python train.py` would: its folder, interpreter, environment and modules are its own."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from autoresearch_mcp.trainer import protocol
from tests.trainer.conftest import Launched, Warm


def launch(warm: Warm, files: dict[str, str], budget_s: float = 30.0, **spec: Any) -> Launched:
    run = warm.directory("", budget_s, files={})
    for path, text in files.items():
        (run / "code" / path).parent.mkdir(parents=True, exist_ok=True)
        (run / "code" / path).write_text(text, encoding="utf-8")
    protocol.write_json(run / protocol.SPEC, {**(protocol.read_json(run / protocol.SPEC) or {}), "metric": "loss", **spec})
    return Launched(run, warm.ask(run)["pid"])


def finished(warm: Warm, files: dict[str, str], **spec: Any) -> str:
    """Train to the end, and return what the script printed."""
    launched = launch(warm, files, **spec)
    result = launched.wait()
    assert result["state"] == "finished", (result["failure"], launched.log)
    return launched.log


LAYOUT = {
    "src/own/__init__.py": "",
    "src/own/model.py": "LOSS = 0.25\n",
    "src/own/train.py": "import sys, os\nfrom own import model\nprint('loss:', model.LOSS, '|', *sys.argv[1:], os.environ['NAME'])\n",
    "exp/helper.py": "WHERE = 'beside the entry'\n",
    "exp/train.py": "import helper, own.model, os\nprint(helper.WHERE, os.path.basename(os.getcwd()))\nprint('loss:', own.model.LOSS)\n",
}


def test_a_module_runs_as_with_python_m_with_the_runs_seed_filled_in(warm: Warm) -> None:
    log = finished(
        warm,
        LAYOUT,
        module="own.train",
        arguments=["--seed=$AUTORESEARCH_SEED", "$OTHER"],
        env={"NAME": "n-${AUTORESEARCH_BUDGET_S}"},
        seed=7,
    )
    assert "loss: 0.25 | --seed=7 $OTHER n-30" in log


def test_a_file_in_a_folder_finds_what_lies_beside_it_and_what_src_holds(warm: Warm) -> None:
    assert "beside the entry exp" in finished(warm, LAYOUT, entry="exp/train.py", cwd="exp")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a virtual environment with a package `own`, version 1, as `pip install .` leaves it."""
    root = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(root)], check=True)
    packages = next(root.glob("lib/python3*/site-packages"))
    (packages / "own").mkdir()
    (packages / "own" / "__init__.py").write_text("", encoding="utf-8")
    (packages / "own" / "model.py").write_text("LOSS = 0.9\n", encoding="utf-8")
    facts = packages / "own_project-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: own-project\nVersion: 1.0\n", encoding="utf-8")
    (facts / "RECORD").write_text("own/__init__.py,,\nown/model.py,,\n", encoding="utf-8")
    return root


PROJECT = {"pyproject.toml": '[project]\nname = "own-project"\n'}
PRINTS = {"train.py": "import sys, own.model\nprint(sys.prefix)\nprint('loss:', own.model.LOSS)\n"}


def test_another_interpreter_runs_the_code_and_its_packages_belong_to_the_conditions(warm: Warm, environment: Path) -> None:
    python = str(environment / "bin" / "python")
    other = launch(warm, PRINTS, python=python).wait()
    assert other["state"] == "finished" and other["reported_bpb"] == 0.9
    packages = next(environment.glob("lib/python3*/site-packages"))
    (packages / "new-2.0.dist-info").mkdir(exist_ok=True)
    (packages / "new-2.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: new\nVersion: 2.0\n", encoding="utf-8")
    later = launch(warm, PRINTS, python=python).wait()
    spec = {"profile": "tiny", "device": "cpu", "budget_s": 30.0, "threads": 1, "python": python}
    before, after = (protocol.conditions(protocol.parse_result(result), spec) for result in (other, later))
    assert before != after


def test_the_repositorys_own_package_comes_before_an_installed_copy_or_the_run_is_refused(warm: Warm, environment: Path) -> None:
    python = str(environment / "bin" / "python")
    assert "loss: 0.25" in finished(warm, {**LAYOUT, **PROJECT, **PRINTS}, python=python)
    hidden = {path.replace("src/", "python/"): text for path, text in LAYOUT.items()}
    refused = launch(warm, {**hidden, **PROJECT, **PRINTS}, python=python).wait()
    assert refused["state"] == "crashed" and refused["failure"]["kind"] == "import_error"
    assert "pip uninstall own-project" in refused["failure"]["message"] and "python/own/" in refused["failure"]["message"]
    mended = {"PYTHONPATH": "$HOME/python"}
    assert "loss: 0.25" in finished(warm, {**hidden, **PROJECT, **PRINTS}, python=python, env=mended)
    assert "loss: 0.25" in finished(warm, {**hidden, **PROJECT, **PRINTS}, env=mended)


def test_an_interpreter_that_is_not_there_and_a_folder_that_is_not_copied_are_named(warm: Warm) -> None:
    for spec, words in (({"python": "/nowhere/bin/python"}, "/nowhere/bin/python"), ({"cwd": "conf"}, "[training] files")):
        result = launch(warm, PRINTS, **spec).wait()
        assert result["fault"] == "machine" and words in result["failure"]["message"], result["failure"]


def test_limits_of_a_script_are_the_labs_and_named_with_their_key(warm: Warm) -> None:
    fills = "x = bytearray(300 << 20)\nimport time\ntime.sleep(30)\n"
    many = "import time\nfor n in range(30):\n    open(f'f{n}', 'w').close()\ntime.sleep(30)\n"
    big = "import time\nopen('big', 'wb').write(b'x' * (3 << 20))\ntime.sleep(30)\n"
    for code, spec, key in (
        (fills, {"memory_mb": 200}, "memory_mb"),
        (many, {"max_files": 20}, "max_files"),
        (big, {"disk_mb": 2}, "max_file_mb"),
    ):
        result = launch(warm, {"train.py": code}, **spec).wait()
        assert result["state"] == "crashed" and f"[training] {key}" in json.dumps(result["failure"]), (key, result["failure"])


def test_code_that_looks_for_a_network_is_told_that_there_is_none(warm: Warm) -> None:
    code = "import os\nprint(*(os.environ[name] for name in ('HF_HUB_OFFLINE', 'WANDB_MODE', 'MPLBACKEND')))\nprint('loss: 1')\n"
    assert "1 offline Agg" in finished(warm, {"train.py": code})
