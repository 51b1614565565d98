"""Tells which variable each name of a Python module stands for: a module's, a function's own, or one from outside.

Follows Python's rules of scope. Names in a class's body are attributes and stay as they are.
"""

import ast
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from autoresearch_mcp.server.proposals.trees import FIELDS

# The most frequent nodes that neither bind nor use a name themselves
_PLAIN = {
    ast.Constant,
    ast.Attribute,
    ast.Call,
    ast.BinOp,
    ast.Tuple,
    ast.Expr,
    ast.Assign,
    ast.Subscript,
    ast.keyword,
    ast.UnaryOp,
    ast.Compare,
    ast.If,
}


@dataclass(eq=False)
class Variable:
    """One variable of a module or a function.

    Attributes:
        name: as the source spells it.
        bindings: how many places give it a value.
        reads: how many places read it.
        fixed: its name matters to others, so it must stay.
        value: of the one assignment of a constant to it, if that is all that ever happens to it.
    """

    name: str
    is_global: bool
    bindings: int = 0
    reads: int = 0
    fixed: bool = False
    value: ast.expr | None = None


@dataclass(eq=False)
class Scope:
    """The variables of a module, a function, a comprehension or a class."""

    parent: "Scope | None"
    is_class: bool = False
    is_comprehension: bool = False
    variables: dict[str, Variable] = field(default_factory=dict)
    outer: dict[str, bool] = field(default_factory=dict)  # names declared global (True) or nonlocal (False)

    @property
    def module(self) -> "Scope":
        """The module's scope."""
        scope = self
        while scope.parent:
            scope = scope.parent
        return scope

    def bind(self, name: str) -> None:
        """Record that this scope gives `name` a value."""
        if name in self.outer:
            return
        self.variables.setdefault(name, Variable(name, self.parent is None, fixed=self.is_class))

    def find(self, name: str) -> Variable | None:
        """Return the variable that `name` means here, or None for a builtin."""
        if self.outer.get(name):
            return self.module.variables.get(name)
        scope: Scope | None = self
        if name in self.outer:
            scope = self.parent
        while scope:
            if name in scope.variables and (scope is self or not scope.is_class):
                return scope.variables[name]
            scope = scope.parent
        return None


class Resolution:
    """The variable behind each `Name`, parameter, definition and import of a tree.

    Args:
        tree: of a module. It must not change while this is in use.
    """

    def __init__(self, tree: ast.Module) -> None:
        self.module = Scope(None)
        self.scopes: dict[ast.AST, Scope] = {}
        self._uses: list[tuple[ast.AST, str, Scope, bool]] = []  # node, name, scope, whether it binds
        for statement in tree.body:
            self._walk(statement, self.module)
        self._of: dict[tuple[ast.AST, str], Variable] = {}
        for node, name, scope, binds in self._uses:
            if binds:
                variable = scope.find(name) or self._implicit(name)
                variable.bindings += 1
            else:
                found = scope.find(name)
                if found is None:
                    continue
                variable = found
                variable.reads += 1
            self._of[node, name] = variable

    def variable(self, node: ast.AST, name: str) -> Variable | None:
        """Return the variable that `name` at `node` means, or None for a builtin."""
        return self._of.get((node, name))

    def variables(self) -> Iterator[Variable]:
        """Yield every variable, once."""
        yield from dict.fromkeys(self._of.values())

    def _implicit(self, name: str) -> Variable:
        """Return the module's variable that only a `global` statement of a function makes."""
        return self.module.variables.setdefault(name, Variable(name, True))

    def _walk(self, node: ast.AST, scope: Scope) -> None:
        if type(node) in _PLAIN:
            self._walk_children(node, scope)
            return
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                self._function(node, scope)
            case ast.ClassDef():
                self._bind(node, node.name, scope)
                for outside in (*node.decorator_list, *node.bases, *node.keywords):
                    self._walk(outside, scope)
                inner = self.scopes[node] = Scope(scope, is_class=True)
                for statement in node.body:
                    self._walk(statement, inner)
            case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                self._comprehension(node, scope)
            case ast.Name():
                self._walk_name(node, scope)
            case ast.AugAssign(target=ast.Name() as target):
                self._uses.append((target, target.id, scope, False))
                self._bind(target, target.id, scope)
                self._walk(node.value, scope)
            case ast.NamedExpr():
                self._walk(node.value, scope)
                while scope.is_comprehension and scope.parent:
                    scope = scope.parent
                self._bind(node.target, node.target.id, scope)
            case ast.Global() | ast.Nonlocal():
                scope.outer |= dict.fromkeys(node.names, isinstance(node, ast.Global))
                for name in node.names if isinstance(node, ast.Global) else ():
                    self._implicit(name)
            case ast.Import() | ast.ImportFrom():
                for alias in node.names:
                    self._bind(alias, alias.asname or alias.name.partition(".")[0], scope)
            case _:
                bound = getattr(node, "name", None) or getattr(node, "rest", None)
                if isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar | ast.MatchMapping) and isinstance(bound, str):
                    self._bind(node, bound, scope)
                self._walk_children(node, scope)

    def _walk_children(self, node: ast.AST, scope: Scope) -> None:
        for name in FIELDS[type(node)]:
            value = getattr(node, name, None)
            if type(value) is list:
                for each in value:
                    if isinstance(each, ast.AST):
                        self._walk(each, scope)
            elif isinstance(value, ast.AST):
                self._walk(value, scope)

    def _walk_name(self, node: ast.Name, scope: Scope) -> None:
        if isinstance(node.ctx, ast.Load):
            self._uses.append((node, node.id, scope, False))
        else:
            self._bind(node, node.id, scope)

    def _bind(self, node: ast.AST, name: str, scope: Scope) -> None:
        scope.bind(name)
        self._uses.append((node, name, scope, True))

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda, scope: Scope) -> None:
        if not isinstance(node, ast.Lambda):
            self._bind(node, node.name, scope)
            for decorator in node.decorator_list:
                self._walk(decorator, scope)
        inner = self.scopes[node] = Scope(scope)
        arguments = node.args
        for default in (*arguments.defaults, *(value for value in arguments.kw_defaults if value)):
            self._walk(default, scope)
        for argument in parameters(arguments):
            self._bind(argument, argument.arg, inner)
        for statement in node.body if isinstance(node.body, list) else [node.body]:
            self._walk(statement, inner)

    def _comprehension(self, node: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp, scope: Scope) -> None:
        inner = self.scopes[node] = Scope(scope, is_comprehension=True)
        for number, generator in enumerate(node.generators):
            self._walk(generator.iter, inner if number else scope)
            for part in (generator.target, *generator.ifs):
                self._walk(part, inner)
        for part in (node.key, node.value) if isinstance(node, ast.DictComp) else (node.elt,):
            self._walk(part, inner)


def parameters(arguments: ast.arguments) -> list[ast.arg]:
    """Return every parameter, in order."""
    rest = [argument for argument in (arguments.vararg, arguments.kwarg) if argument]
    return [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, *rest]


def mentioned(every: Iterable[ast.AST]) -> Counter[str]:
    """Count the names that nodes pass arguments by, and their strings: names that must stay as they are."""
    counts: Counter[str] = Counter()
    for node in every:
        if isinstance(node, ast.keyword) and node.arg:
            counts[node.arg] += 1
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) <= 100:
            counts[node.value] += 1
    return counts
