"""JSON schemas as small as they can be: every agent pays for `tools/list` in its context."""

from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

Schema = dict[str, Any]

_KINDS = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", tuple: "array"}


def slim(schema: Schema) -> Schema:
    """Return an input schema without titles, references, nulls and defaults that are null.

    The root is an object with properties and no union, which some clients can't read. `additionalProperties: false` is left out,
    because google-genai takes no boolean there; the server refuses unknown arguments anyway.
    """
    slimmed: Schema = _slim(schema, schema.get("$defs", {}))
    return {"type": "object", "properties": {}} | slimmed


def outline(model: type[BaseModel]) -> Schema:
    """The output schema of a model: names and types, one level deep. No field is required, because one without a value is left out."""
    return {"type": "object", "properties": {name: {"type": _kind(field.annotation)} for name, field in model.model_fields.items()}}


def _kind(annotation: Any) -> str:
    """The JSON type of an annotation such as `int`, `str | None`, `list[float]`, a model or a Literal of strings."""
    if get_origin(annotation) in (Union, UnionType):
        (annotation,) = (branch for branch in get_args(annotation) if branch is not type(None))
    if get_origin(annotation) is Literal:
        return "string"
    return _KINDS.get(get_origin(annotation) or annotation, "object")


def _slim(node: Any, definitions: Schema) -> Any:
    if isinstance(node, list):
        return [_slim(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        node = definitions[node["$ref"].rsplit("/", 1)[1]] | {key: value for key, value in node.items() if key != "$ref"}
    if "anyOf" in node:  # a type or null: null means that the argument was left out
        (branch,) = (branch for branch in node["anyOf"] if branch.get("type") != "null")
        return _slim(branch | {key: value for key, value in node.items() if key != "anyOf"}, definitions)
    return {
        key: {name: _slim(child, definitions) for name, child in value.items()} if key == "properties" else _slim(value, definitions)
        for key, value in node.items()
        if key not in ("title", "$defs") and (key, value) not in (("default", None), ("additionalProperties", False))
    }
