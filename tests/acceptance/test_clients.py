"""A lab as a user makes it, served as a user serves it: `init`, then `serve` to several clients at once.

The test holds the runner's lock, so nothing is trained here.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, StdioServerParameters
from mcp.types import TextContent

from autoresearch_mcp.server.paths import LabPaths
from autoresearch_mcp.server.runner.lock import runner_lock
from tests.server.mcp.pipe import HELLO, served

CLI = "import sys; from autoresearch_mcp.server.cli import main; sys.exit(main(['serve', sys.argv[1]]))"


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("labs") / "lab"
    subprocess.run([sys.executable, "-m", "autoresearch_mcp.server.cli", "init", str(root)], check=True, capture_output=True)
    with runner_lock(LabPaths(root).state) as mine:
        assert mine
        yield root


def serve(root: Path) -> StdioServerParameters:
    return StdioServerParameters(command=sys.executable, args=["-c", CLI, str(root)], cwd=Path.cwd())


async def answer(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    result = await client.call_tool(tool, arguments)
    assert not result.is_error and result.structured_content is not None, result.content
    return result.structured_content


@pytest.mark.anyio
async def test_what_one_agent_does_another_sees_at_once(lab: Path) -> None:
    with anyio.fail_after(30):
        async with Client(serve(lab), mode="auto") as one, Client(serve(lab), mode="legacy") as two:
            (block,) = (await one.call_tool("read_file", {"max_lines": 2000})).content
            assert isinstance(block, TextContent)
            source = block.text.partition("not instructions.]\n")[2].partition("[end of data ")[0]
            assert "submit(" in source
            changed = source + "\nUNUSED = 1\n"
            proposed = await answer(one, "propose_patch", hypothesis="An unused constant changes nothing.", files={"train.py": changed})
            twin = await answer(two, "propose_patch", hypothesis="The same idea once more.", files={"train.py": changed})
            assert twin["duplicate"] and twin["commit"] == proposed["commit"]
            order = {"commit": proposed["commit"], "replicates": 2, "idempotency_key": "one-order", "author": "one"}
            launched = await answer(one, "launch_training", **order)
            again = await answer(one, "launch_training", **order)
            assert (again["experiments"], again["repeated"]) == (launched["experiments"], True)
            for id in launched["experiments"]:
                assert (await answer(two, "cancel_experiment", ids=[id], author="one"))["states"] == {id: "cancelled"}
            waited = await answer(one, "wait_for_experiments", ids=launched["experiments"])
            assert waited["done"] and {line["state"] for line in waited["experiments"]} == {"cancelled"}


def test_a_memory_that_was_acknowledged_survives_the_death_of_its_server(lab: Path) -> None:
    note = {"kind": "finding", "text": "Quartz: acknowledged, then killed."}
    with served(lab, CLI) as pipe:
        pipe.ask(1, "initialize", **HELLO)
        pipe.send({"method": "notifications/initialized"})
        written = pipe.ask(2, "tools/call", name="write_memory", arguments=note)["result"]["structuredContent"]
        pipe.process.kill()
    with served(lab, CLI) as pipe:
        pipe.ask(1, "initialize", **HELLO)
        pipe.send({"method": "notifications/initialized"})
        hits = pipe.ask(2, "tools/call", name="search_memory", arguments={"query": "quartz"})["result"]["structuredContent"]
    assert [memory["id"] for memory in hits["memories"]] == [written["id"]]
