"""Resources, which a client attaches without calling a tool: the status, an experiment, its log, a commit's diff."""

import re
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError
from mcp.types import Completion, CompletionArgument, CompletionContext, PromptReference, ResourceTemplateReference
from pydantic import BaseModel
from pydantic_core import to_json

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.mcp.arguments import COMMIT, ID
from autoresearch_mcp.server.mcp.bridge import Bridge
from autoresearch_mcp.server.mcp.reads import Reads
from autoresearch_mcp.server.untrusted import clean, safe

P = ParamSpec("P")
R = TypeVar("R")


def add_resources(server: MCPServer[object], bridge: Bridge) -> None:
    """Give the server its resources, and completions of their ids."""

    async def read(question: Callable[Concatenate[Reads, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await bridge.read(question, *args, **kwargs)
        except LabError as error:
            kind = ResourceNotFoundError if error.code.startswith("unknown_") else ResourceError
            raise kind(clean(str(error))) from error

    @server.resource("lab://status", title="Lab status", description="The lab at a glance.", mime_type="application/json")
    async def status() -> str:
        return _json(await bridge.awake(await read(Reads.status_of_all)))

    @server.resource("lab://champion", title="Champion", description="The commit to beat, and its metric.", mime_type="application/json")
    async def champion() -> str:
        return _json((await read(Reads.status_of_all)).champion)

    @server.resource("lab://schema", title="Tables for SQL", description="What query_experiments(sql=...) reads.")
    async def schema() -> str:
        from autoresearch_mcp.server.lake.sql import describe

        return describe()

    @server.resource("experiment://{id}", title="Experiment", description="State, metric, curve and failure.", mime_type="application/json")
    async def experiment(id: str) -> str:
        return _json(await read(Reads.whole_experiment, _checked(id, ID, "an experiment id")))

    @server.resource("experiment://{id}/log", title="Training log", description="Its last lines, fenced as data.")
    async def log(id: str) -> str:
        return await read(Reads.log, _checked(id, ID, "an experiment id"), lines=400)

    @server.resource("commit://{sha}/diff", title="Commit", description="The change against its base, fenced as data.")
    async def diff(sha: str) -> str:
        return await read(Reads.diff, _checked(sha, COMMIT, "a commit hash"))

    @server.completion()  # type: ignore[no-untyped-call, untyped-decorator]
    async def complete(
        reference: PromptReference | ResourceTemplateReference, argument: CompletionArgument, context: CompletionContext | None
    ) -> Completion | None:
        if not isinstance(reference, ResourceTemplateReference):
            return None
        state = await read(Reads.status_of_all)
        lines = [*state.running, *state.queued, *state.recent]
        known = (
            [line.id for line in lines] if argument.name == "id" else [state.champion.commit, *(row.commit for row in state.leaderboard)]
        )
        values = [value for value in dict.fromkeys(known) if value.startswith(argument.value)]
        return Completion(values=values[:100], total=len(values), has_more=len(values) > 100)


def _json(answer: BaseModel) -> str:
    return to_json(safe(answer.model_dump(mode="json", exclude_none=True))).decode()


def _checked(value: str, pattern: str, noun: str) -> str:
    """Return a parameter of a URI.

    Raises:
        ResourceNotFoundError: it has not the form of what it should name.
    """
    if not re.fullmatch(pattern, value):
        raise ResourceNotFoundError(f"{value[:80]!r} is not {noun}.")
    return value
