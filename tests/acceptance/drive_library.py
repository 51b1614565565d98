"""Drives a lab's server by a client library: `python drive_library.py LIBRARY COMMAND ARGUMENT ...`, in the library's own environment.

Prints as JSON which tools the library lists, and what its calls of `get_status` and `propose_patch` gave. `google_genai` takes the
address of a model first, and prints what that says.
"""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

Driven = tuple[list[str], Callable[[str, dict[str, Any]], Awaitable[Any]]]
EDIT = {"path": "train.py", "search": "DEPTH = 2", "replace": "DEPTH = 3"}
CALLS: dict[str, dict[str, Any]] = {"get_status": {}, "propose_patch": {"hypothesis": "a third layer", "edits": [EDIT]}}


@contextlib.asynccontextmanager
async def fastmcp(command: str, arguments: list[str]) -> AsyncIterator[Driven]:
    from fastmcp import Client
    from fastmcp.client.transports import StdioTransport

    async with Client(StdioTransport(command, arguments)) as client:
        yield [tool.name for tool in await client.list_tools()], client.call_tool


@contextlib.asynccontextmanager
async def langchain(command: str, arguments: list[str]) -> AsyncIterator[Driven]:
    from langchain_mcp_adapters.client import MultiServerMCPClient
    from langchain_mcp_adapters.tools import load_mcp_tools

    client = MultiServerMCPClient({"lab": {"transport": "stdio", "command": command, "args": arguments}})
    async with client.session("lab") as session:
        tools = {tool.name: tool for tool in await load_mcp_tools(session)}
        yield list(tools), lambda name, given: tools[name].ainvoke(given)


@contextlib.asynccontextmanager
async def pydantic_ai(command: str, arguments: list[str]) -> AsyncIterator[Driven]:
    from fastmcp.client.transports import StdioTransport
    from pydantic_ai.mcp import MCPToolset

    async with MCPToolset(StdioTransport(command, arguments), init_timeout=60) as lab:
        yield [tool.name for tool in await lab.list_tools()], lab.direct_call_tool


@contextlib.asynccontextmanager
async def openai_agents(command: str, arguments: list[str]) -> AsyncIterator[Driven]:
    """In strict mode: the model sends each argument that the schema names, null where it has none."""
    from agents import Agent, RunContextWrapper
    from agents.mcp import MCPServerStdio, MCPUtil
    from agents.tool_context import ToolContext

    async with MCPServerStdio({"command": command, "args": arguments}, client_session_timeout_seconds=60) as server:
        agent = Agent("researcher", mcp_servers=[server])
        listed: list[Any] = list(await MCPUtil.get_all_function_tools([server], True, RunContextWrapper(None), agent))
        tools = {tool.name: tool for tool in listed}
        assert {tool.name for tool in listed if not tool.strict_json_schema} == {"propose_patch", "launch_sweep"}

        def call(name: str, given: dict[str, Any]) -> Awaitable[Any]:
            schema = tools[name].params_json_schema
            text = json.dumps(dict.fromkeys(schema["properties"]) | given)
            return tools[name].on_invoke_tool(ToolContext(None, tool_name=name, tool_call_id="c", tool_arguments=text), text)

        yield list(tools), call


@contextlib.asynccontextmanager
async def mcp_use(command: str, arguments: list[str]) -> AsyncIterator[Driven]:
    from mcp_use import MCPClient

    client = MCPClient.from_dict({"mcpServers": {"lab": {"command": command, "args": arguments}}})
    try:
        session = await client.create_session("lab")
        yield [tool.name for tool in await session.list_tools()], session.call_tool
    finally:
        await client.close_all_sessions()


@contextlib.asynccontextmanager
async def smolagents(command: str, arguments: list[str]) -> AsyncIterator[Driven]:
    from mcp import StdioServerParameters
    from smolagents import MCPClient

    with MCPClient(StdioServerParameters(command=command, args=arguments), structured_output=False) as listed:
        tools = {tool.name: tool for tool in listed}
        yield list(tools), lambda name, given: asyncio.to_thread(tools[name], **given)


@contextlib.asynccontextmanager
async def google_adk(command: str, arguments: list[str]) -> AsyncIterator[Driven]:
    from unittest.mock import MagicMock

    from google.adk.tools.mcp_tool import McpToolset, StdioConnectionParams
    from mcp import StdioServerParameters

    lab = McpToolset(
        connection_params=StdioConnectionParams(server_params=StdioServerParameters(command=command, args=arguments), timeout=60)
    )
    try:
        tools = {tool.name: tool for tool in await lab.get_tools()}
        yield list(tools), lambda name, given: tools[name].run_async(args=given, tool_context=MagicMock())
    finally:
        await lab.close()


async def google_genai(url: str, command: str, *arguments: str) -> str:
    """Let a scripted model at an address call tools by itself, as this library does; return what it says in the end."""
    from google import genai
    from mcp import ClientSession, StdioServerParameters
    from mcp.client.stdio import stdio_client

    client = genai.Client(api_key="none", http_options={"base_url": url})
    async with (
        stdio_client(StdioServerParameters(command=command, args=list(arguments))) as streams,
        ClientSession(*streams) as session,
    ):
        await session.initialize()
        answer = await client.aio.models.generate_content(model="scripted", contents="Look.", config={"tools": [session]})
    return str(answer.text)


async def main(library: str, command: str, *arguments: str) -> None:
    if library == "google_genai":
        print(await google_genai(command, *arguments))
        return
    async with globals()[library](command, list(arguments)) as (tools, call):
        answers = {name: str(await call(name, given)) for name, given in CALLS.items()}
    print(json.dumps({"tools": tools, **answers}))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
