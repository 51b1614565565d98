"""A lab's own held-out split on Modal: drawn there with the lab's secret, which no training's sandbox gets."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from autoresearch_mcp.server import secret, settings
from autoresearch_mcp.server.compute.base import ComputeError, Job
from autoresearch_mcp.server.compute.modal import deployment, setup
from autoresearch_mcp.server.compute.modal.backend import ModalCompute
from autoresearch_mcp.server.compute.modal.client import Service
from autoresearch_mcp.server.compute.modal.context import ModalContext
from autoresearch_mcp.server.compute.modal.job import training_sandbox
from autoresearch_mcp.server.compute.spec import spec_of
from autoresearch_mcp.server.devices import requests
from autoresearch_mcp.server.paths import StatePaths
from autoresearch_mcp.trainer import prepare, protocol
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


async def test_an_owners_text_is_prepared_there_as_it_is_here_and_no_training_gets_it(
    modal_standin: Standin, cache: Path, tmp_path: Path
) -> None:
    (tmp_path / "text").mkdir()
    text = "\n\n".join(f"Line {n} says {n * n} of {n % 7}." * 20 for n in range(200))
    (tmp_path / "text" / "a.txt").write_text(text, encoding="utf-8")
    profile = f"[profile.mine]\ntext = '{tmp_path}/text'\nvocab_size = 300\nseq_len = 32\neval_bytes = 10000\n"
    compute_of = "[compute]\nbackend = 'modal'\n[training]\nprofile = 'mine'\n"
    (tmp_path / "lab.toml").write_text(f"[lab]\nname = 'x'\n{compute_of}{profile}", encoding="utf-8")
    loaded = settings.load(tmp_path)
    limits, path = loaded.training.limits, secret.ensure(StatePaths(tmp_path).secret)
    assert any("autoresearch-training-mine-" in line for line in setup.plan(limits, ["cpu"], 60.0, {}))
    lab = await setup.set_up(tmp_path, limits, "autoresearch", "autoresearch", secret=path)
    assert lab.limits == limits == deployment.load(tmp_path).limits
    (maker,) = [c for c in modal_standin.containers(stage="prepare") if lab.training in str(c["volumes"])]
    there = inside(maker, deployment.TRAINING)
    here = prepare.draw(limits, prepare.prepare("mine", own=limits.own), secret.read(path), tmp_path / "here")
    assert prepare.data_hashes(there) == prepare.data_hashes(here) and not (there / "val.bin").exists()
    assert (inside(maker, deployment.EVALUATION) / "val.bin").read_bytes() == (here / "val.bin").read_bytes()

    compute = ModalCompute(limits, tmp_path, requests(), secret=path)
    spec = spec_of(loaded.launch(), "e-1", await compute.prepare())
    context = ModalContext(Service("autoresearch", "autoresearch"), lab, requests(), ())
    wanted = training_sandbox(context, Job("e-1", 1, tmp_path / "e-1", spec))
    assert wanted.folder == tmp_path / "e-1" / protocol.CODE and {mount.volume for mount in wanted.volumes.values()} == {
        lab.training,
        lab.runs,
    }
    assert loaded.longest_s() > wanted.timeout_s > 60
    (tmp_path / "text" / "b.txt").write_text(text, encoding="utf-8")
    with pytest.raises(ComputeError, match=r"'mine' is not on Modal, or not this lab's"):
        await compute.prepare()
    shutil.rmtree(tmp_path / "text")
    with pytest.raises(ComputeError, match="there is no folder"):
        await compute.prepare()


async def test_trainings_wait_for_the_setup_after_another_secret(modal_standin: Standin, deployed: Path, tmp_path: Path) -> None:
    path = secret.ensure(StatePaths(tmp_path).secret)
    compute = ModalCompute("tiny", deployed, requests(), secret=path)
    with pytest.raises(ComputeError, match=r"not this lab's\. Run `autoresearch-mcp setup modal`"):
        await compute.prepare()
    path.write_text("damaged", encoding="utf-8")
    with pytest.raises(ComputeError, match="64 hexadecimal digits"):
        await compute.prepare()
