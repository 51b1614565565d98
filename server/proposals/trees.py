"""Goes through syntax trees as `ast` does, but past operators and contexts, which hold nothing, and in a third of the time."""

import ast
from collections.abc import Callable
from typing import Any

_FLAT = {
    "ctx",
    "op",
    "ops",
    "id",
    "attr",
    "kind",
    "type_comment",
    "type_ignores",
    "conversion",
    "level",
    "module",
    "simple",
    "is_async",
    "asname",
}


class _Fields(dict[type[ast.AST], tuple[str, ...]]):
    """The fields of each kind of node that may hold nodes."""

    def __missing__(self, kind: type[ast.AST]) -> tuple[str, ...]:
        self[kind] = names = () if kind is ast.Constant else tuple(name for name in kind._fields if name not in _FLAT)
        return names


FIELDS = _Fields()


def nodes(tree: ast.AST) -> list[ast.AST]:
    """Return a tree's nodes in the order of `ast.walk`, without operators and contexts."""
    out = [tree]
    for node in out:
        for name in FIELDS[type(node)]:
            value = getattr(node, name, None)
            if type(value) is list:
                out += [each for each in value if isinstance(each, ast.AST)]
            elif isinstance(value, ast.AST):
                out.append(value)
    return out


class Transformer(ast.NodeTransformer):
    """An `ast.NodeTransformer` that looks up a kind's method once, and leaves operators and contexts alone."""

    def __init__(self) -> None:
        self._methods: dict[type[ast.AST], Callable[[Any], Any]] = {}

    def visit(self, node: ast.AST) -> Any:
        """Return what a node becomes: another, a list of statements, or None if it goes."""
        kind = type(node)
        method = self._methods.get(kind)
        if method is None:
            method = self._methods[kind] = getattr(self, f"visit_{kind.__name__}", self.generic_visit)
        return method(node)

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        """Return a constant as it is."""
        return node

    def visit_Name(self, node: ast.Name) -> ast.AST:
        """Return a name as it is."""
        return node

    def generic_visit(self, node: ast.AST) -> ast.AST:
        """Return a node whose children are what `visit` makes of them."""
        for name in FIELDS[type(node)]:
            old = getattr(node, name, None)
            if type(old) is list:
                new: list[Any] = []
                for each in old:
                    if isinstance(each, ast.AST):
                        each = self.visit(each)
                        if each is None:
                            continue
                        if not isinstance(each, ast.AST):
                            new += each
                            continue
                    new.append(each)
                old[:] = new
            elif isinstance(old, ast.AST):
                changed = self.visit(old)
                if changed is None:
                    delattr(node, name)
                elif changed is not old:
                    setattr(node, name, changed)
        return node
