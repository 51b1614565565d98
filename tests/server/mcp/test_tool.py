"""What a failure inside a tool tells the model, and what it keeps back."""

import logging

import anyio
import pytest
from mcp import Client
from mcp.server.mcpserver import MCPServer
from mcp.types import TextContent

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.mcp.tool import lab_tool

pytestmark = pytest.mark.anyio


async def crash() -> str:
    """Crash."""
    raise RuntimeError("token=s3cret")


async def refuse() -> str:
    """Refuse."""
    raise LabError("The budget is used up. Nothing was queued.", "over_budget")


async def error_of(name: str) -> str:
    server = MCPServer("test", version="1", tools=[lab_tool(crash, "Crash"), lab_tool(refuse, "Refuse")], log_level="WARNING")
    with anyio.fail_after(5):
        async with Client(server) as client:
            result = await client.call_tool(name)
    (block,) = result.content
    assert result.is_error and isinstance(block, TextContent)
    return block.text


async def test_a_crash_is_logged_under_a_number_and_its_text_withheld(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        text = await error_of("crash")
    assert text.startswith("Internal error in crash (logged as ") and "s3cret" not in text
    (record,) = caplog.records
    assert text.split("logged as ")[1][:8] in record.getMessage()
    assert record.exc_info is not None and "s3cret" in str(record.exc_info[1])


async def test_a_refusal_is_the_labs_own_sentence(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert await error_of("refuse") == "The budget is used up. Nothing was queued."
    assert caplog.records == []
