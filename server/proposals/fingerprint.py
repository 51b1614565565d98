"""Tells near-copies: code that is the same program but for names, comments, docstrings, annotations, folded constants, dead code and order.

Each function and class is known by what it does, as a hash over its simplified tree, in which others stand by their hashes. So names
and order don't matter. Two programs with one hash do the same work; two that do the same may still have two hashes.

Gives up: names of attributes and methods count, as libraries look them up. Files that other files may import keep the names of their
globals. Code that reads its own names (`globals()`, `exec` ...) keeps all of them.
"""

import ast
import copy
import functools
import hashlib
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import cast

from autoresearch_mcp.server.proposals.quiet import is_quiet_definition
from autoresearch_mcp.server.proposals.scopes import Resolution, Variable, mentioned, parameters
from autoresearch_mcp.server.proposals.simplify import CONTRACT, reads_names, simplified
from autoresearch_mcp.server.proposals.source import parsed
from autoresearch_mcp.server.proposals.trees import nodes

_MOST_NODES = 30_000  # of a tree; a larger one counts by its syntax
_NOTHING = {ast.Global, ast.Nonlocal, ast.Pass}  # has no text of its own
_OPERATORS = 3  # times as many nodes as `nodes` finds has a tree at the most
_MOST_KEPT = 64 << 10  # bytes of a file whose form is remembered
_ROUNDS = 12  # of hashing definitions that use each other
_LEFT_OUT = {"ctx", "annotation", "returns", "type_comment", "type_params", "kind", "lineno"}

_Piece = str | Variable


def canonical(files: Mapping[str, bytes]) -> str:
    """Return a hash that near-copies of a proposal share.

    Args:
        files: the editable files, by path. Other files, and code that doesn't parse, count by their bytes.
    """
    alone = len(files) == 1
    digest = hashlib.sha256()
    for path, data in sorted(files.items()):
        name, form = path.encode("utf-8", "surrogateescape"), _form(path, data, alone)
        digest.update(f"{len(name)}:{len(form)}:".encode() + name + form)
    return digest.hexdigest()


def _form(path: str, data: bytes, alone: bool) -> bytes:
    if not path.endswith(".py"):
        return b"raw:" + data
    return _kept_form(data, alone) if len(data) <= _MOST_KEPT else _form_of_code(data, alone)


def _form_of_code(data: bytes, alone: bool) -> bytes:
    try:
        tree = parsed(data)
        if _OPERATORS * len(nodes(tree)) > _MOST_NODES and sum(1 for _ in ast.walk(tree)) > _MOST_NODES:
            return b"ast:" + ast.dump(tree).encode("utf-8", "backslashreplace")
        entry = alone and any(isinstance(node, ast.FunctionDef) and node.name == CONTRACT for node in tree.body)
        return b"form:" + "\n".join(_lines(simplified(tree, keep_globals=not entry), keep_globals=not entry)).encode(
            "utf-8", "backslashreplace"
        )
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return b"raw:" + data


_kept_form = functools.lru_cache(maxsize=32)(_form_of_code)  # most files of a proposal are those of its base


def _lines(tree: ast.Module, keep_globals: bool) -> list[str]:
    """Return a module's form: its statements in order, then the hashes of the definitions that they reach."""
    names = Resolution(tree)
    _fix(tree, names, keep_globals)
    definitions = {
        variable: node
        for node in tree.body
        if is_quiet_definition(node)
        and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and (variable := names.variable(node, node.name))
        and variable.bindings == 1
    }
    moved = {id(node) for node in definitions.values()}
    statements = [node for node in tree.body if id(node) not in moved]
    labels = _imports(statements, names)
    ordered = _ordered(statements)
    labels |= {variable: f"global {number}" for number, variable in enumerate(_globals(ordered, names)) if variable not in labels}
    labels |= {
        variable: variable.name for variable in names.variables() if variable.is_global and variable.fixed and variable not in definitions
    }
    bodies = {variable: _Writer(names).write(node) for variable, node in definitions.items()}
    labels |= {variable: variable.name if variable.fixed else "definition" for variable in definitions}
    writer = _Writer(names)
    lines = [writer.write(node) for node in ordered]
    reached: set[Variable] = set()
    waiting: list[_Piece] = [*(variable for variable in definitions if variable.fixed), *(piece for line in lines for piece in line)]
    while waiting:
        piece = waiting.pop()
        if isinstance(piece, Variable) and piece in definitions and piece not in reached:
            reached.add(piece)
            waiting += bodies[piece]
    for _ in range(min(_ROUNDS, len(reached)) + 1):
        hashes = {variable: _hash(_text(bodies[variable], labels)) for variable in reached}
        hashed = {variable: hash if not variable.fixed else f"{variable.name}={hash}" for variable, hash in hashes.items()}
        if hashed.items() <= labels.items():  # nothing uses itself: further rounds change nothing
            break
        labels |= hashed
    return [*(_text(line, labels) for line in lines), *sorted(labels[variable] for variable in reached)]


def _fix(tree: ast.Module, names: Resolution, keep_globals: bool) -> None:
    """Mark the variables whose names matter."""
    every = nodes(tree)
    used, reflects = mentioned(every), reads_names(every)
    for variable in names.variables():
        variable.fixed |= reflects or variable.name.startswith("__") or (variable.is_global and (keep_globals or variable.name == CONTRACT))
    for node in every:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            for argument in parameters(node.args):
                parameter = names.variable(argument, argument.arg)
                if parameter and argument.arg in used:
                    parameter.fixed = True


def _imports(statements: Sequence[ast.stmt], names: Resolution) -> dict[Variable, str]:
    """Return what each name stands for that only an import gives a meaning."""
    labels = {}
    for node in statements:
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                variable = names.variable(alias, alias.asname or alias.name.partition(".")[0])
                if variable and variable.bindings == 1 and not variable.fixed:
                    labels[variable] = _imported(node, alias)
    return labels


def _imported(node: ast.Import | ast.ImportFrom, alias: ast.alias) -> str:
    if isinstance(node, ast.ImportFrom):
        return f"from {'.' * node.level}{node.module or ''} import {alias.name}"
    return f"import {alias.name if alias.asname else alias.name.partition('.')[0]}"


def _ordered(statements: Sequence[ast.stmt]) -> list[ast.stmt]:
    """Return statements with each run of imports, one name each, sorted."""
    out: list[ast.stmt] = []
    run: list[tuple[str, ast.stmt]] = []
    for node in (*statements, None):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                single = copy.copy(node)
                single.names = [alias]
                run.append((f"{_imported(node, alias)} {alias.name}", single))
            continue
        out += [single for _, single in sorted(run, key=lambda pair: pair[0])]
        run = []
        if node is not None:
            out.append(node)
    return out


def _globals(statements: Sequence[ast.stmt], names: Resolution) -> list[Variable]:
    """Return the module's variables in an order that swapping assignments of constants doesn't change, as long as their values differ."""
    values: dict[Variable, list[str]] = {}
    for statement in statements:
        for node in nodes(statement):
            match node:
                case ast.Assign(targets=[ast.Name() as target], value=ast.Constant(value=value)):
                    variable, text = names.variable(target, target.id), f"{type(value).__name__} {value!r}"
                case ast.Name() | ast.alias():
                    name = node.id if isinstance(node, ast.Name) else node.asname or node.name.partition(".")[0]
                    variable, text = names.variable(node, name), ""
                case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef() | ast.ExceptHandler():
                    variable, text = names.variable(node, node.name or ""), ""
                case _:
                    continue
            if variable and variable.is_global:
                values.setdefault(variable, []).extend([text] if text else [])
    rest = [variable for variable in names.variables() if variable.is_global and variable not in values]  # such as those of `global`
    return [variable for variable, _ in sorted(values.items(), key=lambda pair: sorted(pair[1]))] + rest


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()


def _text(pieces: Sequence[_Piece], labels: Mapping[Variable, str]) -> str:
    return " ".join(piece if isinstance(piece, str) else f"<{labels.get(piece, piece.name)}>" for piece in pieces)


class _Writer:
    """Writes trees as text, in which local variables are numbered and the module's are still to be named.

    Args:
        names: the variable behind each name.
    """

    def __init__(self, names: Resolution) -> None:
        self._names = names
        self._numbers: dict[Variable, str] = {}

    def write(self, node: ast.AST) -> list[_Piece]:
        """Return the pieces of a tree's text."""
        pieces: list[_Piece] = []
        self._write(node, pieces)
        joined: list[_Piece] = []
        for is_text, run in groupby(pieces, key=lambda piece: isinstance(piece, str)):
            together = list(run)
            joined += [" ".join(cast(list[str], together))] if is_text else together
        return joined

    def _write(self, node: ast.AST, pieces: list[_Piece]) -> None:
        kind = type(node)
        if kind is ast.Name:
            pieces.append(self._name(node, node.id))  # type: ignore[attr-defined]
            return
        if kind is ast.Constant:
            pieces.append(f"{type(node.value).__name__} {node.value!r}")  # type: ignore[attr-defined]
            return
        if kind in _NOTHING:
            return
        if isinstance(node, ast.alias):
            pieces += f"(alias {node.name}", self._name(node, node.asname or node.name.partition(".")[0]), ")"
            return
        if isinstance(node, ast.ClassDef):
            node = _sorted_methods(node)
        pieces.append(f"({kind.__name__}")
        for name, value in ast.iter_fields(node):
            if name in _LEFT_OUT and not (kind is ast.AnnAssign and name == "annotation"):
                continue
            if isinstance(value, list):
                pieces.append("[")
                for each in value:
                    if isinstance(each, ast.AST):
                        self._write(each, pieces)
                    else:
                        pieces.append(repr(each))
                pieces.append("]")
            elif isinstance(value, ast.AST):
                self._write(value, pieces)
            else:
                pieces.append(self._name(node, value) if isinstance(value, str) and _is_bound(node, name) else repr(value))
        pieces.append(")")

    def _name(self, node: ast.AST, name: str) -> _Piece:
        variable = self._names.variable(node, name)
        if variable is None:
            return f"builtin {name}"
        if variable.is_global:
            return variable
        if variable.fixed:
            return f"name {name}"
        return self._numbers.setdefault(variable, f"local {len(self._numbers)}")


def _is_bound(node: ast.AST, field: str) -> bool:
    """Return whether a text in a tree is the name of a variable."""
    match node:
        case ast.arg():
            return field == "arg"
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef() | ast.ExceptHandler() | ast.MatchAs() | ast.MatchStar():
            return field == "name"
        case ast.MatchMapping():
            return field == "rest"
    return False


def _sorted_methods(node: ast.ClassDef) -> ast.ClassDef:
    """Return a class with its methods behind the rest and in the order of their names, where that changes nothing."""
    functions = [each for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)]
    methods = [each for each in functions if is_quiet_definition(each)]
    if len({method.name for method in methods}) < len(methods):
        return node
    moved = {id(method) for method in methods}
    node.body = [*(each for each in node.body if id(each) not in moved), *sorted(methods, key=lambda method: method.name)]
    return node
