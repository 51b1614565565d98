"""The compile cache on Modal's stand-in: filled once by trusted code, restored by trainings of its kind, changed by nobody, missed by nobody.

The stock train.py is a small one here, which has torch compile on this CPU, or leaves a file where that would; and `tiny` is taken for a
profile that trains on GPUs. What fills, stores and restores the cache is real.
"""

import re
import zipfile
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from autoresearch_mcp.server.commands import doctor, modal
from autoresearch_mcp.server.compute.base import Job, Observation
from autoresearch_mcp.server.compute.modal import compile_cache, deployment, setup
from autoresearch_mcp.server.compute.modal.backend import REMOTE, ModalCompute
from autoresearch_mcp.server.devices import requests
from autoresearch_mcp.server.models import new_id
from autoresearch_mcp.trainer import compile_cache as trainer_cache
from autoresearch_mcp.trainer import prepare, protocol, remote, sandbox
from tests.server.compute.jobs import ENDS, see
from tests.standins.modal.runner import NOOP
from tests.standins.modal.standin import Standin

pytestmark = pytest.mark.anyio

LEAVES_A_FILE = """
import os, pathlib
from autoresearch_mcp.trainer import client

run = client.connect()
graph = pathlib.Path(os.environ["TORCHINDUCTOR_CACHE_DIR"], "fx", "graph.py")
graph.parent.mkdir()
graph.write_text("a graph")
run.start()
while True:
    pass
"""
# Products of matrices need no C++ compiler, so this takes seconds.
COMPILES = """
import torch
from torch._dynamo.utils import counters
from autoresearch_mcp.trainer import client

run = client.connect()
x = torch.randn(64, 64, requires_grad=True)
torch.compile(lambda a, b: a @ b, dynamic=False)(x, torch.randn(64, 64)).backward(torch.ones(64, 64))
print(dict(counters["inductor"]), dict(counters["aot_autograd"]), flush=True)
run.start()
while True:
    pass
"""
# A proposal that means harm: it alters its copy, and tries the volume itself, which the stand-in has beside its directory.
POISONS = COMPILES.replace(
    "run.start()",
    """
import os, pathlib
for path in pathlib.Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]).rglob("*"):
    if path.is_file():
        path.write_text("poison")
try:
    open("../../../../fs/private/compile_cache/compile_cache.zip", "ab")
    print("opened the volume")
except OSError as error:
    print(type(error).__name__)
raise KeyError("enough")
""",
)


@pytest.fixture
def stock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts another file in the place of the package's train.py; never the same twice, so that each test fills its own cache."""

    def put(code: str) -> None:
        (tmp_path / "train.py").write_text(f"# {new_id('t')}\n{code}", encoding="utf-8")
        monkeypatch.setattr(trainer_cache, "STOCK", tmp_path / "train.py")
        trained_on_gpus = replace(prepare.PROFILES["tiny"], device="cuda", budget_s=20.0)  # of `tiny`, compiling uses up the CPU seconds
        monkeypatch.setitem(prepare.PROFILES, "tiny", trained_on_gpus)

    return put


class ModalLab:
    """A lab's state folder that `setup modal` works on, and trainings there."""

    def __init__(self, service: Standin, state: Path) -> None:
        self.service, self.state, self.lines = service, state, list[str]()
        self.before = {c["id"] for c in service.containers()}

    async def set_up(self, *devices: str) -> deployment.Deployment:
        self.lines.clear()
        return await setup.set_up(self.state, "tiny", "autoresearch", "autoresearch", self.lines.append, devices)

    def compilers(self) -> list[dict[str, Any]]:
        """Sandboxes that compiled, or do, since this test began."""
        return [c for c in self.service.containers(stage="compile") if c["id"] not in self.before]

    async def compiling(self) -> str:
        """The id of the one that does, once it runs."""
        with anyio.fail_after(60):
            while not (ids := [c["id"] for c in self.compilers() if c["running"] and c["started_at"]]):  # noqa: ASYNC110
                await anyio.sleep(0.02)
        return str(ids[0])

    def volume(self) -> Path:
        """Where the cache of the latest compiler is on this machine."""
        return Path(self.compilers()[-1]["directory"], "fs", deployment.COMPILE_CACHE.lstrip("/")).resolve()

    async def train(self, code: str, device: str, command: tuple[str, ...] = REMOTE) -> tuple[Observation, str, dict[str, Any]]:
        """A training from its submission to its end: how that was, its log, what its sandbox had."""
        compute = ModalCompute("tiny", self.state, requests(), command, patience_s=0.1)
        id = new_id("e")
        spec = protocol.Spec(id, 1, "tiny", 20.0, 1, await compute.prepare(), device)
        job = Job(id, 1, self.state / id / "1", spec, {"train.py": code.encode()})
        await compute.submit(job)
        end = await see(compute, job, *ENDS)
        await compute.close()
        (container,) = self.service.containers(experiment=id)
        return end, (job.directory / protocol.LOG).read_text(encoding="utf-8"), container


@pytest.fixture
async def lab(modal_standin: Standin, deployed: Path, tmp_path: Path) -> AsyncIterator[ModalLab]:
    lab = ModalLab(modal_standin, tmp_path / "state")
    lab.state.mkdir()
    yield lab
    modal_standin.control(preempt=[c["id"] for c in modal_standin.running()])


async def test_each_training_gets_its_own_copy_of_its_kinds_graphs_and_can_alter_no_others(
    lab: ModalLab, stock: Callable[[str], None]
) -> None:
    stock(COMPILES)
    deployed = await lab.set_up("cpu", "h100")
    assert set(deployed.compile_caches) == {"h100"}, "\n".join(lab.lines)
    (maker,) = lab.compilers()
    name = deployed.compile_caches["h100"]
    assert name.startswith("autoresearch-compile-cache-tiny-h100-")
    assert (maker["gpu"], maker["network"], maker["secrets"], maker["image"]) == ("H100!", False, [], deployed.image)
    assert maker["volumes"] == {deployment.TRAINING: [deployed.training, True, ""], deployment.COMPILE_CACHE: [name, False, ""]}
    package = Path(maker["environment"]["PYTHONPATH"].split(":")[0], "autoresearch_mcp", "trainer")
    assert (package / "compile_cache.py").exists() and not (package / "train.py").exists(), "the image holds no stock file to compare with"
    before = {path.name: path.read_bytes() for path in lab.volume().iterdir()}
    assert before.keys() == {protocol.COMPILE_CACHE, remote.WHOLE}
    end, log, container = await lab.train(POISONS, "h100")
    assert "'fxgraph_cache_hit': 2" in log and "'autograd_cache_hit': 1" in log and "cache_miss" not in log, log
    assert "opened the volume" not in log
    assert "PermissionError" in log or sandbox.level() == "unsandboxed"
    assert end.result is not None and end.result.timings["restore_s"] >= 0 and "enough" in (end.result.failure or {})["message"]
    assert container["volumes"][deployment.COMPILE_CACHE] == [name, True, ""], "mounted for reading alone"
    assert {path.name: path.read_bytes() for path in lab.volume().iterdir()} == before
    end, log, container = await lab.train(POISONS, "l4")
    assert "'fxgraph_cache_miss': 2" in log and "cache_hit" not in log and deployment.COMPILE_CACHE not in container["volumes"]
    assert end.result is not None and "restore_s" not in end.result.timings


async def test_a_setup_that_was_cut_short_is_taken_up_and_a_whole_one_only_looked_at(lab: ModalLab, stock: Callable[[str], None]) -> None:
    stock(LEAVES_A_FILE)
    async with anyio.create_task_group() as group:

        async def first() -> None:
            assert (await lab.set_up("h100")).compile_caches == {}

        group.start_soon(first)
        lab.service.control(preempt=[await lab.compiling()])  # the sandbox dies; this setup says so, and ends
    assert any("compile cache for h100: not filled" in line for line in lab.lines) and lab.lines[-1].startswith("done:")
    polls = lab.service.control()["calls"]["SandboxWait"]
    async with anyio.create_task_group() as group:
        group.start_soon(lab.set_up, "h100")
        with anyio.fail_after(60):
            while lab.service.control()["calls"]["SandboxWait"] == polls:  # noqa: ASYNC110
                await anyio.sleep(0.02)
        group.cancel_scope.cancel()  # the setup dies; its sandbox goes on
    whole = await lab.set_up("h100")
    assert any("waiting for that" in line for line in lab.lines) and len(lab.compilers()) == 2
    (lab.volume() / remote.WHOLE).unlink()  # as after a crash between the two files
    (lab.volume() / protocol.COMPILE_CACHE).write_bytes(b"half of")
    assert await lab.set_up("h100") == whole and len(lab.compilers()) == 3
    assert zipfile.ZipFile(lab.volume() / protocol.COMPILE_CACHE).namelist() == ["fx/graph.py"]
    assert await lab.set_up("h100") == deployment.load(lab.state) == whole and len(lab.compilers()) == 3
    assert "compile cache for h100: there already" in lab.lines


async def test_a_step_that_fails_says_why_and_leaves_a_lab_that_trains(lab: ModalLab, stock: Callable[[str], None]) -> None:
    stock("raise KeyError('no kernels')\n")
    deployed = await lab.set_up("h100")
    assert deployed.compile_caches == {} and deployment.load(lab.state) == deployed
    (failure,) = [line for line in lab.lines if "not filled" in line]
    assert "KeyError: 'no kernels'" in failure and "compiles for itself" in failure
    end, _, container = await lab.train("# quick", "h100", NOOP)
    assert end.result is not None and end.result.state == "finished" and deployment.COMPILE_CACHE not in container["volumes"]


def test_setup_tells_the_cost_of_the_compile_cache_and_the_doctor_where_it_is_missing(
    stock: Callable[[str], None], make_modal_lab: Callable[..., Path]
) -> None:
    stock(LEAVES_A_FILE)
    root = make_modal_lab(toml={'backend = "local"': 'backend = "modal"\ngpus = ["H100"]'})
    lines = list[str]()

    def notes() -> list[str]:
        return [finding.text for finding in doctor.examine(root) if finding.name == "modal" and finding.grade == "note"]

    modal.set_up(root, None, True, lines.append)
    assert [line for line in lines if line.startswith("compile cache")] == [
        "compile cache for h100: compiled once, by the stock train.py in a sandbox on H100!, about $0.06, at most $0.26"
    ]
    assert not any("compile cache" in line for line in setup.plan("cpu", ["h100"], 60.0, {})), "what trains on a CPU compiles nothing"
    (note,) = notes()
    assert "no compile cache for h100: each" in note
    modal.set_up(root, None, False, lines.append)
    assert re.search(r"compile cache for h100: 0\.0 MB, \d+ s to start\(\)", "\n".join(lines)) and notes() == []


def test_the_cache_of_another_image_file_or_attention_is_another_cache(stock: Callable[[str], None]) -> None:
    stock(LEAVES_A_FILE)
    names = [compile_cache.volume("tiny", *what) for what in (("h100", "im-1", "auto"), ("h100", "im-2", "auto"), ("h100", "im-1", "sdpa"))]
    stock(LEAVES_A_FILE)
    names.append(compile_cache.volume("tiny", "h100", "im-1", "auto"))
    assert len({*names}) == 4
