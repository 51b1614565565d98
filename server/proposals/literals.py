"""Top-level constants of Python files: where each stands, and the file with other values in their places."""

import ast
import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.proposals.source import parsed

Value = bool | int | float | str


@dataclass(frozen=True)
class Constant:
    """A constant that is assigned once.

    Attributes:
        path: of its file.
        value: what it is.
        text: how that is written.
        start: where the text begins in the file, in bytes.
        end: where it ends.
    """

    path: str
    value: Value
    text: str
    start: int
    end: int


def find(files: Mapping[str, bytes], name: str) -> Constant:
    """Return the constant with this name.

    Args:
        files: the editable files of a commit, by path.
        name: of a top-level assignment.

    Raises:
        LabError: `unknown_constant`, `ambiguous_constant`, or `not_a_literal`.
    """
    places, constants, names = 0, list[Constant | None](), set[str]()
    for path, data in files.items():
        tree = _tree(path, data)
        stored = [node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
        places += stored.count(name)
        for statement in tree.body:
            target, value = _assignment(statement)
            names.add(target)
            if target == name and value is not None:
                constants.append(_constant(path, data, value))
    if not constants:
        like = difflib.get_close_matches(name, sorted(names - {""}), n=3, cutoff=0.5)
        hint = f" Did you mean {', '.join(like)}?" if like else ""
        raise LabError(f"No editable file has a top-level constant {name[:60]}.{hint} Nothing was launched.", "unknown_constant")
    if places > 1:
        raise LabError(
            f"{name[:60]} is assigned {places} times, so no single place sets it. Nothing was launched; propose code that sets it once.",
            "ambiguous_constant",
        )
    if (constant := constants[0]) is None:
        raise LabError(
            f"{name[:60]} is not a plain number, string or truth value: nothing can stand in its place. Nothing was launched.",
            "not_a_literal",
        )
    return constant


def replaced(files: Mapping[str, bytes], values: Mapping[str, str]) -> dict[str, str | None]:
    """Return the whole new texts of the files that hold constants, with these values as code in their places.

    Raises:
        LabError: those of `find`.
    """
    places = sorted(((find(files, name), text) for name, text in values.items()), key=lambda each: each[0].start, reverse=True)
    changed = {constant.path: files[constant.path] for constant, _ in places}
    for constant, text in places:
        data = changed[constant.path]
        changed[constant.path] = data[: constant.start] + text.encode() + data[constant.end :]
    return {path: data.decode("utf-8") for path, data in changed.items()}


def literal(text: str) -> Value:
    """Return what a plain number, string or truth value is that is written as code.

    Raises:
        ValueError: for anything else.
    """
    try:
        value = ast.literal_eval(text)
    except (SyntaxError, TypeError, ValueError, MemoryError, RecursionError):
        raise ValueError(text) from None
    if not isinstance(value, Value) or "\n" in text:
        raise ValueError(text)
    return value


def _tree(path: str, data: bytes) -> ast.Module:
    try:
        return parsed(data) if path.endswith(".py") else ast.Module([], [])
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ast.Module([], [])


def _assignment(statement: ast.stmt) -> tuple[str, ast.expr | None]:
    match statement:
        case ast.Assign(targets=[ast.Name(id=name)], value=value) | ast.AnnAssign(target=ast.Name(id=name), value=value):
            return name, value
    return "", None


def _constant(path: str, data: bytes, value: ast.expr) -> Constant | None:
    assert value.end_lineno is not None and value.end_col_offset is not None
    lines = data.splitlines(keepends=True)
    before = 3 if data.startswith(b"\xef\xbb\xbf") else 0  # the parser counts columns without a byte order mark
    start = sum(map(len, lines[: value.lineno - 1])) + value.col_offset + (before if value.lineno == 1 else 0)
    end = sum(map(len, lines[: value.end_lineno - 1])) + value.end_col_offset + (before if value.end_lineno == 1 else 0)
    text = data[start:end].decode("utf-8", "replace")
    try:
        return Constant(path, literal(text), text, start, end)
    except ValueError:
        return None
