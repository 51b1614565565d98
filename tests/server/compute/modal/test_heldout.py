"""A lab's own held-out split on Modal: drawn there with the lab's secret, which no training's sandbox gets."""

from pathlib import Path
from typing import Any

import pytest

from autoresearch_mcp.server import secret
from autoresearch_mcp.server.compute.base import ComputeError
from autoresearch_mcp.server.compute.modal import deployment, setup
from autoresearch_mcp.server.compute.modal.backend import ModalCompute
from autoresearch_mcp.server.devices import requests
from autoresearch_mcp.server.paths import StatePaths
from autoresearch_mcp.trainer import prepare
from tests.standins.modal.standin import Standin

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def inside(container: dict[str, Any], folder: str) -> Path:
    return Path(container["directory"], "fs", folder.lstrip("/")).resolve()


async def test_what_a_secret_draws_is_the_same_there_as_here_and_has_volumes_of_its_own(
    modal_standin: Standin, cache: Path, tmp_path: Path
) -> None:
    path = secret.ensure(StatePaths(tmp_path).secret)
    lab = await setup.set_up(tmp_path, "tiny", "autoresearch", "autoresearch", secret=path)
    assert lab.training.endswith(secret.fingerprint(path)) and lab.evaluation.endswith(secret.fingerprint(path))
    (maker,) = [c for c in modal_standin.containers(stage="prepare") if lab.training in str(c["volumes"])]
    there = inside(maker, deployment.TRAINING)
    here = prepare.draw(prepare.PROFILES["tiny"], prepare.prepare("tiny"), secret.read(path), tmp_path / "here")
    assert prepare.data_hashes(there) == prepare.data_hashes(here)
    assert not (there / "val.bin").exists() and not (there / "test.bin").exists()
    evaluation = inside(maker, deployment.EVALUATION)
    assert (evaluation / "val.bin").read_bytes() == (here / "val.bin").read_bytes()
    assert secret.read(path).hex() not in str(maker), "not on a command line"


async def test_trainings_wait_for_the_setup_after_another_secret(modal_standin: Standin, deployed: Path, tmp_path: Path) -> None:
    path = secret.ensure(StatePaths(tmp_path).secret)
    compute = ModalCompute("tiny", deployed, requests(), secret=path)
    with pytest.raises(ComputeError, match=r"not this lab's\. Run `autoresearch-mcp setup modal`"):
        await compute.prepare()
    path.write_text("damaged", encoding="utf-8")
    with pytest.raises(ComputeError, match="64 hexadecimal digits"):
        await compute.prepare()
