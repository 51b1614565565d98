"""JSON schemas as small as they can be: every agent pays for `tools/list` in its context."""

from collections import Counter
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from autoresearch_mcp.server.models import UNLISTED

Schema = dict[str, Any]

MAX_TEXT = 400_000  # characters of a diff or a file; the lab's own limits are finer
_CHECKED_HERE = ("pattern", "minLength", "maxLength", "minItems", "maxItems", "maxProperties", "minimum", "maximum")
_KINDS = {str: "string", bool: "boolean", int: "integer", float: "number"}


def slim(schema: Schema) -> Schema:
    """Return an input schema without titles, references, unions and defaults that are null.

    An argument that may be left out takes null as well, because some clients (the strict mode of openai-agents) send every argument.
    Limits are said in the descriptions too, because some clients (Codex) strip them. `additionalProperties: false` is left out,
    because google-genai takes no boolean there; the server refuses unknown arguments anyway.
    """
    slimmed: Schema = {"type": "object", "properties": {}} | _slim(schema, schema.get("$defs", {}))
    required = slimmed.get("required", ())
    properties = {name: _lean(_with_limits(each if name in required else _nullable(each))) for name, each in slimmed["properties"].items()}
    return slimmed | {"properties": properties}


def forms(schema: Schema) -> dict[str, Schema]:
    """Return the schema of each argument with its pattern, choices and limits, null aside."""
    properties: dict[str, Schema] = _slim(schema, schema.get("$defs", {})).get("properties", {})
    return properties


def outline(model: type[BaseModel]) -> Schema:
    """Return the output schema of a model: names and types all the way down. No field is required, because one without a value is left out.

    Left out are `version`, which counts the writes of a record, what answers never hold, and what a model marks as unlisted: facts that
    another field or answer tells too.
    """
    definitions: dict[str, Schema] = {}
    uses: Counter[str] = Counter()
    root = _object(model, definitions, uses)
    shared = {name: _inlined(each, definitions, uses) for name, each in definitions.items() if uses[name] > 1}
    inlined: Schema = _inlined(root, definitions, uses)
    return inlined | {"$defs": shared} if shared else inlined


def _object(model: type[BaseModel], definitions: dict[str, Schema], uses: Counter[str]) -> Schema:
    return {
        "type": "object",
        "properties": {
            name: _kind(field.annotation, definitions, uses)
            for name, field in model.model_fields.items()
            if name != "version" and not field.exclude and field.json_schema_extra != UNLISTED
        },
    }


def _inlined(node: Any, definitions: dict[str, Schema], uses: Counter[str]) -> Any:
    """Return a schema whose references to what is used once are replaced by it."""
    if isinstance(node, list):
        return [_inlined(item, definitions, uses) for item in node]
    if not isinstance(node, dict):
        return node
    name = node["$ref"].rsplit("/", 1)[1] if "$ref" in node else ""
    if name and uses[name] == 1:
        return _inlined(definitions[name], definitions, uses)
    return {key: _inlined(value, definitions, uses) for key, value in node.items()}


def _kind(annotation: Any, definitions: dict[str, Schema], uses: Counter[str]) -> Schema:
    """Return the schema of an annotation such as `int`, `str | None`, `list[float]`, a model or a Literal of strings."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        (annotation,) = (branch for branch in parts if branch is not type(None))
        return _kind(annotation, definitions, uses)
    if origin is Literal:
        return {"type": "string"}
    if origin in (list, tuple):
        return {"type": "array", "items": _kind(parts[0], definitions, uses)}
    if origin is dict:
        return {}  # anything: fastmcp 2 makes an empty object of one whose names the schema doesn't list
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        uses[annotation.__name__] += 1
        if annotation.__name__ not in definitions:
            definitions[annotation.__name__] = _object(annotation, definitions, uses)
        return {"$ref": f"#/$defs/{annotation.__name__}"}
    return {"type": _KINDS[annotation]}


def _nullable(schema: Schema) -> Schema:
    """Return the schema with null as a value. A choice is named in the description instead, because Gemini takes no null in an enum."""
    nullable = {key: value for key, value in schema.items() if key != "enum"} | {"type": [schema["type"], "null"]}
    choices = ", ".join(schema.get("enum", ()))
    return nullable | {"description": f"{schema.get('description', '')} {choices}".strip()} if choices else nullable


def _with_limits(schema: Schema) -> Schema:
    """Return the schema with its limits in its description."""
    unit = " characters" if "maxLength" in schema else ""
    low = next((schema[key] for key in ("minimum", "minItems", "minLength") if key in schema), None)
    high = next((schema[key] for key in ("maximum", "maxItems", "maxProperties", "maxLength") if key in schema), None)
    if high is None or high == MAX_TEXT or (unit and high <= 64):
        return schema
    return _described(schema, f"max {high}" if low is None or (unit and low == 1) else f"{low} to {high}{unit}")


def _described(schema: Schema, words: str) -> Schema:
    return schema | {"description": f"{schema.get('description', '')}; {words}".removeprefix("; ")}


def _lean(schema: Schema) -> Schema:
    """Return the schema without what only the server checks, down to its items."""
    lean = {key: value for key, value in schema.items() if key not in _CHECKED_HERE}
    for key in ("items", "additionalProperties"):
        if isinstance(lean.get(key), dict):
            lean[key] = _lean({name: value for name, value in lean[key].items() if name != "description"})
    return lean | {"properties": {name: _lean(each) for name, each in lean["properties"].items()}} if "properties" in lean else lean


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
