"""Takes out of a module's syntax tree what doesn't run or doesn't matter: docstrings, annotations, dead code, unused constants.

Constants are folded, and one that is assigned once stands in its uses. Nothing is executed. What is left does the same work.
"""

import ast
import sys
from collections import Counter
from collections.abc import Iterable
from typing import Any, cast

from autoresearch_mcp.server.proposals.folding import MOST_TEXT, folded
from autoresearch_mcp.server.proposals.quiet import is_quiet, is_quiet_definition
from autoresearch_mcp.server.proposals.scopes import Resolution, Variable, parameters
from autoresearch_mcp.server.proposals.trees import Transformer, nodes

CONTRACT = "build_model"  # the scorer calls it by this name, and nothing else of the file
_ROUNDS = 6  # a constant that uses a constant that uses a constant ...
_BINDING = {ast.Assign, ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef}
_REFLECTION = {"globals", "locals", "vars", "dir", "exec", "eval"}  # code that uses these may read the names of variables


def simplified(tree: ast.Module, keep_globals: bool) -> ast.Module:
    """Return what is left of a module.

    Args:
        tree: the module. It is changed in place.
        keep_globals: whether other code may use the module's variables, so that they stay even if this module doesn't.
    """
    reflects = reads_names(nodes(tree))
    tree = cast(ast.Module, _Plain().visit(tree))
    for _ in range(_ROUNDS):
        tree = folded(tree)
        if reflects or not _drop_constants(tree, keep_globals):
            break
    return tree


def reads_names(every: Iterable[ast.AST]) -> bool:
    """Return whether code may read the names of its own variables, by its nodes."""
    return any(type(node) is ast.Name and node.id in _REFLECTION for node in every)


class _Plain(Transformer):
    """Drops annotations and texts that are no values, and gives each constant an assignment of its own."""

    def visit_arg(self, node: ast.arg) -> ast.arg:
        return ast.arg(node.arg)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        body = []
        for statement in node.body:
            if isinstance(statement, ast.AnnAssign):  # a field of a dataclass, unless it says that it is none
                text = ast.dump(statement.annotation)
                if "ClassVar" not in text and "InitVar" not in text:
                    statement.annotation = ast.Constant(None)
                statement.value = self.visit(statement.value) if statement.value else None
                body.append(cast(ast.stmt, statement))
            else:
                changed = self.visit(statement)
                body += changed if isinstance(changed, list) else [changed] if changed else []
        node.body = body or [ast.Pass()]
        node.bases = [self.visit(base) for base in node.bases]
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> Any:
        if node.value is None:
            return None if node.simple else ast.Expr(self.visit(node.target))
        return self.visit(ast.Assign([node.target], node.value))

    def visit_Assign(self, node: ast.Assign) -> Any:
        self.generic_visit(node)
        pairs: list[tuple[ast.expr, ast.expr]] = []
        if len(node.targets) > 1 and not isinstance(node.value, ast.Constant):
            return node
        for target in node.targets:
            if not isinstance(target, ast.Tuple):
                pairs.append((target, node.value))
            elif isinstance(node.value, ast.Tuple) and all(isinstance(value, ast.Constant) for value in node.value.elts):
                if len(target.elts) != len(node.value.elts):
                    return node
                pairs += zip(target.elts, node.value.elts)
            else:
                return node
        if not all(isinstance(target, ast.Name) for target, _ in pairs):
            return node
        return [ast.Assign([target], value) for target, value in pairs]


def _drop_constants(tree: ast.Module, keep_globals: bool) -> bool:
    """Put constants that are assigned once into their uses, and drop what is then assigned or defined for nothing.

    Returns:
        Whether there were any.
    """
    names, every = Resolution(tree), nodes(tree)
    values: dict[Variable, ast.expr] = {}
    quiet: Counter[Variable] = Counter()  # bindings that would not be missed
    arguments = {
        names.variable(argument, argument.arg)
        for node in every
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for argument in parameters(node.args)
    }
    for node in every:
        for variable, value in _quiet_bindings(names, node) if type(node) in _BINDING else ():
            quiet[variable] += 1
            if variable.bindings == 1 and value is not None and _is_small_constant(value):
                values[variable] = value
    kept = {
        variable
        for variable in names.variables()
        if variable.fixed
        or variable in arguments
        or variable.name.startswith("__")
        or (variable.is_global and (keep_globals or variable.name == CONTRACT))
    }
    values = {variable: value for variable, value in values.items() if variable not in kept}
    unused = {
        variable
        for variable, count in quiet.items()
        if variable not in kept and count == variable.bindings and (variable in values or not variable.reads)
    }
    replacing = _Replace(names, values, unused)
    replacing.visit(tree)
    return replacing.found_any


def _quiet_bindings(names: Resolution, node: ast.AST) -> list[tuple[Variable, ast.expr | None]]:
    bound: list[tuple[Variable | None, ast.expr | None]] = []
    match node:
        case ast.Assign(targets=[ast.Name() as target], value=value) if is_quiet(value):
            bound = [(names.variable(target, target.id), value)]
        case ast.Import(names=aliases) if all(alias.name.partition(".")[0] in sys.stdlib_module_names for alias in aliases):
            bound = [(names.variable(alias, alias.asname or alias.name.partition(".")[0]), None) for alias in aliases]
        case ast.ImportFrom(module=str(module), names=aliases, level=0) if module.partition(".")[0] in sys.stdlib_module_names:
            bound = [(names.variable(alias, alias.asname or alias.name), None) for alias in aliases]
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef() if is_quiet_definition(node):
            bound = [(names.variable(node, node.name), None)]
    return [(variable, value) for variable, value in bound if variable is not None]


def _is_small_constant(node: ast.expr) -> bool:
    match node:
        case ast.Constant(value=str() | bytes() as text):
            return len(text) <= MOST_TEXT
        case ast.Constant():
            return True
        case ast.Tuple(elts=elements):
            return len(elements) <= 8 and all(isinstance(each, ast.Constant) and _is_small_constant(each) for each in elements)
    return False


class _Replace(Transformer):
    """Puts values into the uses of their variables, and drops what binds unused ones.

    Attributes:
        found_any: whether that changed the tree.
    """

    def __init__(self, names: Resolution, values: dict[Variable, ast.expr], unused: set[Variable]) -> None:
        super().__init__()
        self._names = names
        self._values = values
        self._unused = unused
        self.found_any = False

    def visit_Name(self, node: ast.Name) -> ast.AST:
        variable = self._names.variable(node, node.id)
        if variable is None or variable not in self._values or not isinstance(node.ctx, ast.Load):
            return node
        self.found_any = True
        return self._values[variable]

    def visit_Assign(self, node: ast.Assign) -> Any:
        match node.targets:
            case [ast.Name() as target] if self._is_unused(target, target.id) and is_quiet(node.value):
                self.found_any = True
                return None
        return self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> Any:
        return self._import(node, [each for each in node.names if not self._is_unused(each, each.asname or each.name.partition(".")[0])])

    def visit_ImportFrom(self, node: ast.ImportFrom) -> Any:
        is_real = node.module != "__future__"
        return self._import(node, [each for each in node.names if is_real and not self._is_unused(each, each.asname or each.name)])

    def visit_FunctionDef(self, node: ast.FunctionDef) -> Any:
        return self._definition(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> Any:
        return self._definition(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> Any:
        return self._definition(node)

    def _import(self, node: ast.Import | ast.ImportFrom, kept: list[ast.alias]) -> Any:
        self.found_any |= len(kept) < len(node.names)
        node.names = kept
        return node if kept else None

    def _definition(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> Any:
        if self._is_unused(node, node.name):
            self.found_any = True
            return None
        return self.generic_visit(node)

    def _is_unused(self, node: ast.AST, name: str) -> bool:
        return self._names.variable(node, name) in self._unused
