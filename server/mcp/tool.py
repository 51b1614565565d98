"""A tool as agents need it: strict arguments, small schemas, compact answers, and errors that are sentences.

Built on the SDK's `Tool` and `FuncMetadata`, of which it replaces how arguments are read, how results are written,
and what a failure says. An unknown argument is an error, and so is a value whose meaning would be a guess.
"""

import inspect
import logging
import re
import uuid
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.tools import Tool
from mcp.server.mcpserver.utilities.func_metadata import FuncMetadata
from mcp.types import CallToolResult, InputRequiredResult, TextContent, ToolAnnotations
from pydantic import BaseModel, Field, ValidationError
from pydantic_core import ErrorDetails, to_json

from autoresearch_mcp.server.beside.work import INTERNAL
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.mcp.arguments import FORMS
from autoresearch_mcp.server.mcp.bridge import Ctx
from autoresearch_mcp.server.mcp.concise import concise
from autoresearch_mcp.server.mcp.schema import Schema, forms, outline, slim
from autoresearch_mcp.server.mcp.variants import as_meant
from autoresearch_mcp.server.untrusted import clean, cut, safe

F = TypeVar("F", bound=Callable[..., Any])
logger = logging.getLogger(__name__)

_KEPT = " What was acknowledged before is kept; call get_status, then try again."
MAX_ERROR = 8_000  # characters; Claude Code cuts the text of an error near 11,000


class LabTool(Tool):
    """A tool whose failures reach the model as the sentence that the lab wrote."""

    async def run(self, arguments: dict[str, Any], context: Ctx, convert_result: bool = False) -> Any:
        """Run the tool.

        Raises:
            ToolError: the sentence of the lab, or the number under which an internal error is logged.
        """
        try:
            return await super().run(arguments, context, convert_result)
        except ToolError as error:
            cause = error.__cause__
            if isinstance(cause, LabError) and cause.code == INTERNAL:  # of a process beside the server, which logged it
                raise ToolError(str(cause).replace("Internal error", f"Internal error in {self.name}", 1) + _KEPT) from cause
            if isinstance(cause, LabError | ToolError):
                raise ToolError(cut(clean(str(cause)), MAX_ERROR)) from cause
            incident = uuid.uuid4().hex[:8]
            logger.error("internal error %s in %s", incident, self.name, exc_info=cause)
            raise ToolError(f"Internal error in {self.name} (logged as {incident} on the server's stderr).{_KEPT}") from cause


class Signature(FuncMetadata):
    """How a call's arguments are read and its result is written."""

    tool: str
    parameters: Schema
    forms: dict[str, Schema]

    def validate_arguments(self, arguments_to_validate: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments by name, checked strictly.

        Raises:
            LabError: `bad_arguments`, a sentence for each argument that is wrong.
        """
        given = as_meant(arguments_to_validate, self.forms, self.parameters.get("required", []))
        try:
            return self.arg_model.model_validate(given, strict=True, extra="forbid").model_dump_one_level()
        except ValidationError as error:
            sentences = [self._sentence(detail) for detail in error.errors(include_url=False)[:8]]
            raise LabError("\n".join(sentences), "bad_arguments") from error

    def convert_result(self, result: Any) -> CallToolResult | InputRequiredResult:
        """Return the answer in short, as structured content and as compact text."""
        if not isinstance(result, BaseModel) or isinstance(result, CallToolResult | InputRequiredResult):
            return super().convert_result(result)
        listed = self.output_schema["properties"] if self.output_schema else {}
        answer = concise(safe(result.model_dump(mode="json", exclude_none=True)), kept=listed)
        return CallToolResult(content=[TextContent(type="text", text=to_json(answer).decode())], structured_content=answer)

    def _sentence(self, detail: ErrorDetails) -> str:
        where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in detail["loc"]).lstrip(".")
        known: Schema = self.parameters["properties"]
        if detail["type"] == "extra_forbidden":
            owner = known[str(detail["loc"][0])] if len(detail["loc"]) > 1 else None
            names = ", ".join(owner.get("items", owner.get("additionalProperties"))["properties"] if owner else known)
            return f"{self.tool} has no argument `{where}`. It takes {names or 'none'}."
        if detail["type"] == "missing":
            return f"{self.tool} needs the argument `{where}`{_explained(known.get(where))}."
        what = re.sub(r"^(Input|String|List|Dictionary|Value) should ", "must ", detail["msg"]).removeprefix("Value error, ")
        if detail["type"] == "string_pattern_mismatch":
            what = f"has the wrong form: it must be {FORMS[detail['ctx']['pattern']]}"
        got = to_json(detail["input"], fallback=lambda _: "?").decode()
        return f"`{where}` {what}; got {got if len(got) <= 80 else got[:80] + '...'}."


def lab_tool(
    function: Callable[..., Any],
    title: str,
    *,
    reads: bool = False,
    destroys: bool = False,
    repeatable: bool = False,
    answer: type[BaseModel] | None = None,
) -> Tool:
    """Return the tool that `function` implements.

    Args:
        function: its docstring is the description that agents read.
        title: for people.
        reads: whether it changes nothing.
        destroys: whether it ends something.
        repeatable: whether a second call like the first changes nothing.
        answer: the model of its structured result.
    """
    description = " ".join((inspect.getdoc(function) or "").split())
    tool = LabTool.from_function(function, title=title, description=description, structured_output=False)
    annotations = ToolAnnotations(read_only_hint=reads, open_world_hint=False)
    if not reads:  # the other two hints mean something for writers only
        annotations = annotations.model_copy(update={"destructive_hint": destroys, "idempotent_hint": repeatable or None})
    signature = Signature(
        arg_model=tool.fn_metadata.arg_model,
        output_schema=outline(answer) if answer else None,
        tool=tool.name,
        parameters=slim(tool.parameters),
        forms=forms(tool.parameters),
    )
    return tool.model_copy(update={"annotations": annotations, "parameters": signature.parameters, "fn_metadata": signature})


def takes(model: type[BaseModel]) -> Callable[[F], F]:
    """Give a method, which accepts any keywords, the fields of `model` as its arguments after its own."""

    def given(function: F) -> F:
        own = inspect.signature(function)
        fields = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=field.default,
                annotation=Annotated[(field.annotation, *field.metadata, Field(description=field.description))],
            )
            for name, field in model.model_fields.items()
        ]
        named = [parameter for parameter in own.parameters.values() if parameter.kind is not inspect.Parameter.VAR_KEYWORD]
        function.__signature__ = own.replace(parameters=[*named, *fields])  # type: ignore[attr-defined]
        return function

    return given


def _explained(schema: Schema | None) -> str:
    description = (schema or {}).get("description") or (schema or {}).get("items", {}).get("description")
    return f": {description}" if description else ""
