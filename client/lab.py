"""Connects a script to a lab over MCP. The methods of the tools stand in `tools.py`, which is generated from their schemas."""

import base64
import contextlib
import os
from collections.abc import AsyncIterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

import anyio.from_thread
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from mcp.types import CallToolResult, ImageContent, TextContent

from autoresearch_mcp.client.tools import Tools
from autoresearch_mcp.server.clients import TOKEN, launch

_ANSWER_S = 120.0  # a wait takes 45 s at most


class Refused(Exception):
    """What the lab refused, or could not do: its words say why, what was kept, and what to do."""


class Picture(NamedTuple):
    """A drawing, and what it shows as text.

    Attributes:
        text: its numbers.
        png: the picture; empty where there was nothing to draw.
    """

    text: str
    png: bytes


class Lab(Tools[Picture]):
    """A connection to one lab, as one agent. Use it in a `with` block. Thread-safe: several threads may call at once."""

    def __init__(self, place: str | Path, token: str = "", name: str = "", role: str = "") -> None:
        """Prepare the connection.

        Args:
            place: the address of a running server, or a lab's folder, for which a server is started.
            token: for a server over HTTP; `$AUTORESEARCH_TOKEN` by default.
            name: of the agent, where a server is started.
            role: of the agent, where a server is started: viewer, worker, orchestrator or owner.

        Raises:
            ValueError: a name or role for a server that runs: its token says them.
        """
        self._name, self._role = name, role
        self._remote = str(place).startswith(("http://", "https://"))
        self._place = str(place) if self._remote else str(Path(place).expanduser().absolute())
        if self._remote and (name or role):
            raise ValueError("A server that runs knows name and role by the token.")
        self._token = token or os.environ.get(TOKEN, "")
        self._open = contextlib.ExitStack()
        self._client: Client | None = None

    def __enter__(self) -> Self:
        """Connect.

        Raises:
            ConnectionError: no lab answers there, or not with this token.
        """
        with contextlib.ExitStack() as stack:
            self._portal = stack.enter_context(anyio.from_thread.start_blocking_portal())
            try:
                self._client = stack.enter_context(self._portal.wrap_async_context_manager(self._connected()))
            except Exception as error:  # of the transport, the protocol or the system, in groups of one
                hint = "Does its server run, and is the token right?" if self._remote else "Its server's own words stand above."
                raise ConnectionError(f"No lab answers at {self._place}: {_innermost(error)}. {hint}") from error
            self._open = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._client = None
        self._open.close()

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[Client]:
        if self._remote:
            headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
            async with (
                create_mcp_http_client(headers=headers) as http,
                Client(streamable_http_client(self._place, http_client=http), read_timeout_seconds=_ANSWER_S) as client,
            ):
                yield client
            return
        who = [*(["--as", self._name] if self._name else []), *(["--role", self._role] if self._role else [])]
        start = launch(*who, self._place)
        server = StdioServerParameters(command=start.command, args=start.args, env={**os.environ, **start.env}, cwd=Path.cwd())
        async with Client(server, read_timeout_seconds=_ANSWER_S) as client:
            yield client

    def _result(self, tool: str, arguments: Mapping[str, Any]) -> CallToolResult:
        if self._client is None:
            raise RuntimeError("The lab is not open. Use `with Lab(...) as lab:`.")
        given = {name: value for name, value in arguments.items() if value is not None}
        result = self._portal.call(partial(self._client.call_tool, tool, given))
        if result.is_error:
            raise Refused(_text(result))
        return result

    def _values(self, tool: str, arguments: Mapping[str, Any]) -> Any:
        return self._result(tool, arguments).structured_content

    def _words(self, tool: str, arguments: Mapping[str, Any]) -> str:
        return _text(self._result(tool, arguments))

    def _picture(self, tool: str, arguments: Mapping[str, Any]) -> Picture:
        result = self._result(tool, arguments)
        drawn = next((part.data for part in result.content if isinstance(part, ImageContent)), "")
        return Picture(_text(result), base64.b64decode(drawn))


def _innermost(error: Exception) -> Exception:
    return _innermost(error.exceptions[0]) if isinstance(error, ExceptionGroup) else error


def _text(result: CallToolResult) -> str:
    return "\n".join(part.text for part in result.content if isinstance(part, TextContent))
