"""Tasks: the extension `io.modelcontextprotocol/tasks` of 2026-07-28, by which a client hears of an end instead of waiting for it.

A client that declares it gets a task from `wait_for_experiments`, from `launch_training` until decided, and from `launch_sweep`, where there is something
to wait for. A task is no state of this server: its id names what it waits for, and the ledger knows how that is. So it outlives servers, and
is known for as long as its experiments are.

Source: https://modelcontextprotocol.github.io/ext-tasks/specification/2026-07-28/tasks.html
"""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self, cast, get_args

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.extension import Extension, MethodBinding
from mcp.server.mcpserver.server import require_client_extension
from mcp.server.mcpserver.tools import Tool
from mcp.shared.exceptions import MCPError
from mcp.types import INVALID_PARAMS, EmptyResult, RequestParams
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.mcp.arguments import ID
from autoresearch_mcp.server.mcp.bridge import Bridge
from autoresearch_mcp.server.mcp.wait import MOST_IDS, Until, Watch, named
from autoresearch_mcp.server.roles import Role
from autoresearch_mcp.server.untrusted import one_line

EXTENSION = "io.modelcontextprotocol/tasks"
TOOLS = {"wait": "wait_for_experiments", "launch": "launch_training", "sweep": "launch_sweep"}  # by the kind of their tasks
POLL_MS = 5_000  # between two questions of a client; an end is known that much later at most
_ID = re.compile(rf"(wait|launch|sweep)\.({'|'.join(get_args(Until))})\.(\d{{9,11}})((?:\.{ID.strip('^$')}){{1,{MOST_IDS}}})")


@dataclass(frozen=True)
class Handle:
    """What a task waits for, which is all that its id says.

    Attributes:
        kind: `wait`, `launch` or `sweep`: a cancelled launch or sweep ends its trainings, a cancelled wait ends nothing.
        until: See `Watch`.
        created_at: Seconds since the epoch.
        ids: Of experiments and launches until decided.
    """

    kind: str
    until: Until
    created_at: int
    ids: tuple[str, ...]

    def __str__(self) -> str:
        return ".".join([self.kind, self.until, str(self.created_at), *self.ids])

    @classmethod
    def read(cls, text: str) -> Self:
        """Read a task's id.

        Raises:
            MCPError: -32602, where it is none of this server's.
        """
        if (match := _ID.fullmatch(text)) is None:
            raise MCPError(INVALID_PARAMS, f"There is no task {one_line(text, 80)!r} here.")
        return cls(match[1], cast(Until, match[2]), int(match[3]), tuple(match[4][1:].split(".")))


class TaskParams(RequestParams):
    """Names a task."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)

    task_id: str = Field(max_length=2_000)


class Task(BaseModel):
    """A task as the wire has it, with its result once it has one."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)

    result_type: str
    task_id: str
    status: str
    status_message: str
    created_at: str
    last_updated_at: str
    ttl_ms: None = None  # unlimited
    poll_interval_ms: int = POLL_MS
    result: dict[str, Any] | None = None

    def wire(self) -> dict[str, Any]:
        """Return it as JSON values. Only `ttlMs` may be null."""
        values = self.model_dump(by_alias=True, exclude_none=True)
        return values | {"ttlMs": None}


class Tasks(Extension):
    """The extension, and the middleware that makes a task of a call.

    Args:
        bridge: to the lab.
        tools: of the server. Those that make tasks write their results.
    """

    identifier = EXTENSION

    def __init__(self, bridge: Bridge, tools: Sequence[Tool]) -> None:
        self._bridge = bridge
        self._tools = {kind: tool for kind, name in TOOLS.items() for tool in tools if tool.name == name}

    def methods(self) -> Sequence[MethodBinding]:
        """Return what a client asks of a task."""
        served = {"tasks/get": self._get, "tasks/update": self._update, "tasks/cancel": self._cancel}
        versions = frozenset(MODERN_PROTOCOL_VERSIONS)
        return [MethodBinding(name, TaskParams, handler, versions) for name, handler in served.items()]

    async def __call__(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """Answer a call with a task, where its client takes tasks and there is something to wait for."""
        if ctx.method != "tools/call" or not _takes_tasks(ctx):
            return await call_next(ctx)
        match (ctx.params or {}).get("name"):
            case name if name == TOOLS["wait"] and (task := await self._of_wait(ctx)):
                return task
            case name if name in (TOOLS["launch"], TOOLS["sweep"]):
                kind, field = ("sweep", "id") if name == TOOLS["sweep"] else ("launch", "until_decided")
                result = await call_next(ctx)
                answer = result.get("structuredContent") if isinstance(result, dict) else None
                if answer and (id := answer.get(field)):
                    handle = Handle(kind, "all", int(time.time()), (id,))
                    watch = await self._look(handle)
                    return result if watch.done else self._made(handle, watch, str(answer.get("note", "")))
                return result
        return await call_next(ctx)

    async def _of_wait(self, ctx: ServerRequestContext[Any, Any]) -> dict[str, Any] | None:
        """Return the task that a wait becomes. None where the tool answers itself: it is done, waits for a line or for news, or is wrong."""
        arguments = (ctx.params or {}).get("arguments") or {}
        ids, until = arguments.get("ids") or [], arguments.get("until") or "all"
        if not isinstance(ids, list) or not all(isinstance(id, str) for id in ids) or until not in get_args(Until):
            return None
        if not ids or arguments.get("line") or len(ids) > MOST_IDS:
            return None
        try:
            handle = Handle("wait", cast(Until, until), int(time.time()), tuple(await named(self._bridge, ids)))
            watch = await self._look(handle)
        except LabError:
            return None
        return None if watch.done or len(handle.ids) > MOST_IDS else self._made(handle, watch)

    def _made(self, handle: Handle, watch: Watch, note: str = "") -> dict[str, Any]:
        """Return a new task."""
        return self._task(handle, "task", "working", f"{watch.summary()}. {note}".strip()).wire()

    async def _get(self, ctx: ServerRequestContext[Any, Any], params: TaskParams) -> HandlerResult:
        require_client_extension(ctx, EXTENSION)
        handle = Handle.read(params.task_id)
        watch = await self._known(handle)
        if not watch.done:
            return self._task(handle, "complete", "working", watch.summary()).wire()
        task = self._task(handle, "complete", "completed", watch.summary())
        return task.model_copy(update={"result": await self._result(handle, watch)}).wire()

    async def _update(self, ctx: ServerRequestContext[Any, Any], params: TaskParams) -> HandlerResult:
        """Acknowledge answers to questions: no task here asks any, so there is nothing to do with them."""
        require_client_extension(ctx, EXTENSION)
        await self._known(Handle.read(params.task_id))
        return EmptyResult()

    async def _cancel(self, ctx: ServerRequestContext[Any, Any], params: TaskParams) -> HandlerResult:
        """Cancel a launch until decided, for who may; acknowledge the end of a wait, which ends nothing.

        Raises:
            MCPError: -32602, for what another launched, or a role that launches nothing.
        """
        require_client_extension(ctx, EXTENSION)
        handle = Handle.read(params.task_id)
        watch = await self._known(handle)
        if handle.kind == "wait" or watch.done:
            return EmptyResult()
        identity = self._bridge.identity(ctx.request)
        if identity.role is not None and not identity.role.covers(Role.WORKER):
            raise MCPError(INVALID_PARAMS, f"Cancelling takes the role {Role.WORKER}. Nothing was changed.")
        try:
            reason = "its client cancelled the task"
            await self._bridge.call(
                self._bridge.lab.cancel, self._bridge.reader(ctx), list(handle.ids), None, False, reason, identity.rules_others
            )
        except LabError as error:
            raise MCPError(INVALID_PARAMS, str(error)) from error
        return EmptyResult()

    async def _known(self, handle: Handle) -> Watch:
        try:
            return await self._look(handle)
        except LabError as error:
            raise MCPError(INVALID_PARAMS, f"There is no such task here: {error}") from error

    async def _look(self, handle: Handle) -> Watch:
        watch = Watch(self._bridge, list(handle.ids), handle.until)
        await watch.refresh()
        return watch

    async def _result(self, handle: Handle, watch: Watch) -> dict[str, Any]:
        """Return the tool's own result, as it is now that all has ended."""
        answer: BaseModel = await watch.answer()
        if handle.kind == "launch":
            answer = await self._bridge.call(self._bridge.lab.launched, handle.ids[0], watch.note())
        elif handle.kind == "sweep":
            answer = await self._bridge.call(self._bridge.lab.swept, handle.ids[0], watch.note())
        result = self._tools[handle.kind].fn_metadata.convert_result(answer)
        return result.model_dump(mode="json", by_alias=True, exclude_none=True)

    @staticmethod
    def _task(handle: Handle, result_type: str, status: str, message: str) -> Task:
        return Task(
            result_type=result_type,
            task_id=str(handle),
            status=status,
            status_message=one_line(message, 500),
            created_at=_iso(handle.created_at),
            last_updated_at=_iso(time.time()),
        )


def _takes_tasks(ctx: ServerRequestContext[Any, Any]) -> bool:
    capabilities = ctx.session.client_capabilities
    return ctx.protocol_version in MODERN_PROTOCOL_VERSIONS and EXTENSION in ((capabilities and capabilities.extensions) or {})


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
