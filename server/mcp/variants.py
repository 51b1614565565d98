"""Harmless variants of arguments, taken as meant. What is really wrong stays as it came, so that it is refused with the reason."""

import json
import math
import re
from typing import Any

from autoresearch_mcp.server.mcp.schema import Schema

_FILLERS = ("", "random_string", "dummy")  # from models that can't call without an argument; Cursor asks them for a `random_string`


def as_meant(given: dict[str, Any], forms: dict[str, Schema], required: list[str]) -> dict[str, Any]:
    """Return the arguments of a call without those that were left out, and each as its form has it.

    Args:
        given: as they came.
        forms: the schema of each argument, with its pattern or choices.
        required: names of those that can't be left out.
    """
    arguments = {}
    for name, value in given.items():
        if name not in forms:
            is_filler = not required and name.strip() in _FILLERS
            if not is_filler and (forms or not _is_empty(value)):
                arguments[name] = value
            continue
        meant = _meant(value, forms[name])
        if name in required or not _is_empty(meant):
            arguments[name] = meant
    return arguments


def _is_empty(value: Any) -> bool:
    """Return whether a value stands for none: many clients send null, or nothing of the right kind, for what the model left out."""
    return value is None or value in ([], {}) or (isinstance(value, str) and not value.strip())


def _meant(value: Any, form: Schema) -> Any:
    kind = form.get("type")
    if kind == "array":
        return _as_list(value, form.get("items", {}))
    if kind == "object":
        return _from_json(value)
    if kind == "integer" and isinstance(value, float) and value.is_integer():
        return int(value)
    return _from_text(value, form) if isinstance(value, str) else value


def _from_text(text: str, form: Schema) -> Any:
    """Return what a text says where a number, a truth or a choice is asked for; texts of a form lose the blanks around them."""
    bare = text.strip()
    match form.get("type"):
        case "integer" | "number":
            number = _from_json(bare, (int, float))
            is_number = not isinstance(number, str | bool) and math.isfinite(number)
            return _meant(number, form) if is_number else text
        case "boolean":
            return {"true": True, "false": False}.get(bare.lower(), text)
    if bare.lower() in form.get("enum", ()):
        return bare.lower()
    return bare if "pattern" in form else text


def _as_list(value: Any, items: Schema) -> Any:
    """Return a list for JSON text, for one item, and for items joined by commas; nulls and blanks in it are left out."""
    value = _from_json(value)
    if isinstance(value, dict) or (isinstance(value, str) and items.get("type") == "string"):
        value = [value]
    if not isinstance(value, list):
        return value
    if items.get("type") != "string":
        return [item for item in map(_from_json, value) if not _is_empty(item)]
    # No item of a list holds a comma, a bracket or a quotation mark.
    parts = [part for item in value for part in (re.split(r"[,\n]", item) if isinstance(item, str) else [item])]
    bare = [part.strip(" \t\r\n[]'\"") if isinstance(part, str) else part for part in parts]
    return [_from_text(part, items) if isinstance(part, str) else part for part in bare if not _is_empty(part)]


def _from_json(value: Any, kinds: tuple[type, ...] = (list, dict)) -> Any:
    """Return what a text holds as JSON if that is of one of these kinds, else the value as it came."""
    if isinstance(value, str):
        try:
            parsed = json.loads(value)
        except (ValueError, RecursionError):
            return value
        return parsed if isinstance(parsed, kinds) else value
    return value
