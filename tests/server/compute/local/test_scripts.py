"""Scripts start from a parent that is as light as they are."""

import sys
from pathlib import Path

import anyio
import pytest

from autoresearch_mcp.server.compute.base import Job
from autoresearch_mcp.server.compute.local.backend import LocalCompute
from autoresearch_mcp.server.models import new_id
from autoresearch_mcp.trainer import protocol
from tests.server.compute.jobs import ENDS, see


@pytest.mark.anyio
@pytest.mark.skipif(sys.platform != "linux", reason="launchers start cold elsewhere")
async def test_the_warm_parent_of_scripts_has_not_imported_torch(tmp_path: Path) -> None:
    id = new_id("e")
    spec = protocol.Spec(id, 1, "tiny", 20.0, 1, "", metric="loss")
    job = Job(id, 1, tmp_path / "run", spec, {"train.py": b"print('loss:', 0.25)\n"})
    compute = LocalCompute("tiny", 1, tmp_path / "log", warm=True)
    await compute.submit(job)
    end = await see(compute, job, *ENDS)
    assert end.result is not None and (end.result.state, end.result.reported_bpb) == ("finished", 0.25)
    assert compute._parent is not None
    assert "libtorch" not in await anyio.Path(f"/proc/{compute._parent.pid}/maps").read_text(encoding="utf-8")
    await compute.close()
