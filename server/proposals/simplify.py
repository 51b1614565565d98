"""Takes out of a module's syntax tree what doesn't run or doesn't matter: docstrings, annotations, dead code, unused constants.

Constants are folded, and one that is assigned once stands in its uses. Nothing is executed. What is left does the same work.
"""

import ast
import operator
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, cast

from autoresearch_mcp.server.proposals.scopes import Resolution, Variable, parameters

CONTRACT = "build_model"  # the scorer calls it by this name, and nothing else of the file
_ROUNDS = 6  # a constant that uses a constant that uses a constant ...
_MOST_TEXT = 100  # characters of a text that is folded or stands in its uses
_MOST_BITS = 512  # of a folded integer
_REFLECTION = {"globals", "locals", "vars", "dir", "exec", "eval"}  # code that uses these may read the names of variables
_TERMINAL = (ast.Return, ast.Raise, ast.Continue, ast.Break)
_QUIET_DECORATORS = {"dataclass", "dataclasses", "staticmethod", "classmethod", "property", "torch", "functools", "typing", "override"}
_OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
    ast.BitXor: operator.xor,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {"abs": abs, "bool": bool, "float": float, "int": int, "max": max, "min": min, "round": round}
_FLIPPED: dict[type[ast.AST], type[ast.cmpop]] = {
    ast.Lt: ast.Gt,
    ast.LtE: ast.GtE,
    ast.Gt: ast.Lt,
    ast.GtE: ast.LtE,
    ast.Eq: ast.Eq,
    ast.NotEq: ast.NotEq,
}


def simplified(tree: ast.Module, keep_globals: bool) -> ast.Module:
    """Return what is left of a module.

    Args:
        tree: the module. It is changed in place.
        keep_globals: whether other code may use the module's variables, so that they stay even if this module doesn't.
    """
    reflects = reads_names(tree)
    tree = cast(ast.Module, _Plain().visit(tree))
    shadowed = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    before = ""
    for _ in range(_ROUNDS):
        tree = cast(ast.Module, _Fold(shadowed).visit(tree))
        if reflects or before == (before := ast.dump(tree)):
            break
        tree = _without_constants(tree, keep_globals)
    return tree


def reads_names(tree: ast.AST) -> bool:
    """Return whether code may read the names of its own variables."""
    return any(isinstance(node, ast.Name) and node.id in _REFLECTION for node in ast.walk(tree))


def is_quiet(node: ast.expr) -> bool:
    """Return whether evaluating an expression does nothing that anybody could notice."""
    match node:
        case ast.Constant() | ast.Name() | ast.Lambda():
            return True
        case ast.Tuple(elts=elements) | ast.List(elts=elements):
            return all(is_quiet(element) for element in elements)
        case ast.Dict(keys=keys, values=values):
            return all(isinstance(key, ast.Constant) for key in keys) and all(is_quiet(value) for value in values)
    return False


def is_quiet_definition(node: ast.stmt) -> bool:
    """Return whether a statement only defines a function or a class, so that it may stand anywhere."""
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            defaults = [*node.args.defaults, *(value for value in node.args.kw_defaults if value)]
            return all(_is_quiet_decorator(each) for each in node.decorator_list) and all(is_quiet(each) for each in defaults)
        case ast.ClassDef():
            parts = (_is_dotted(base) for base in node.bases)
            decorators = (_is_quiet_decorator(each) for each in node.decorator_list)
            return not node.keywords and all(parts) and all(decorators) and all(_is_quiet_member(each) for each in node.body)
    return False


def _is_quiet_member(node: ast.stmt) -> bool:
    match node:
        case ast.Pass():
            return True
        case ast.Assign(targets=targets, value=value):
            return is_quiet(value) and all(isinstance(target, ast.Name) for target in targets)
        case ast.AnnAssign(value=value):
            return value is None or is_quiet(value)
    return is_quiet_definition(node)


def _is_dotted(node: ast.expr) -> bool:
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name)


def _is_quiet_decorator(node: ast.expr) -> bool:
    if isinstance(node, ast.Call):
        if not all(is_quiet(each) for each in (*node.args, *(keyword.value for keyword in node.keywords))):
            return False
        node = node.func
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name) and node.id in _QUIET_DECORATORS


class _Plain(ast.NodeTransformer):
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


class _Fold(ast.NodeTransformer):
    """Computes what constants alone decide, and drops statements that can't run or do nothing.

    Args:
        shadowed: names that the module gives a meaning of its own.
    """

    def __init__(self, shadowed: set[str]) -> None:
        self._shadowed = shadowed

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            if isinstance(block, list):
                live = _live(block) if isinstance(node, ast.ClassDef) else _sorted_constants(_live(block))
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and live and _is_empty_return(live[-1]):
                    live.pop()
                if isinstance(node, ast.For | ast.While) and name == "body" and live and isinstance(live[-1], ast.Continue):
                    live.pop()
                if name == "body" and not live and not isinstance(node, ast.Module):
                    live = [ast.Pass()]
                setattr(node, name, live)
        return node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        value, op = node.operand, node.op
        if isinstance(op, ast.UAdd):
            return value
        if isinstance(op, ast.USub) and isinstance(value, ast.UnaryOp) and isinstance(value.op, ast.USub):
            return value.operand
        if isinstance(value, ast.Constant):
            if isinstance(op, ast.Not):
                return ast.Constant(not value.value)
            if isinstance(op, ast.USub) and isinstance(value.value, int | float):
                return ast.Constant(-value.value)
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        left, right = node.left, node.right
        if isinstance(left, ast.Constant) and isinstance(right, ast.Constant):
            return _computed(node, _OPERATORS.get(type(node.op)), left.value, right.value)
        if _is_number(left) and isinstance(node.op, ast.Add | ast.Mult):
            node.left, node.right = left, right = right, left
        if _is_number(right):
            neutral = 0 if isinstance(node.op, ast.Add | ast.Sub) else 1
            if cast(ast.Constant, right).value == neutral and isinstance(node.op, ast.Add | ast.Sub | ast.Mult | ast.Div | ast.Pow):
                return left
        return node

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        self.generic_visit(node)
        goes_on = isinstance(node.op, ast.And)
        values: list[ast.expr] = []
        for value in node.values:
            if values and isinstance(values[-1], ast.Constant):
                if bool(values[-1].value) is not goes_on:
                    break
                values.pop()
            values.append(value)
        node.values = values
        return values[0] if len(values) == 1 else node

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        if len(node.ops) == 1 and isinstance(node.left, ast.Constant):
            (op,), (right,) = node.ops, node.comparators
            if isinstance(right, ast.Constant):
                return _computed(node, _OPERATORS.get(type(op)), node.left.value, right.value)
            if flipped := _FLIPPED.get(type(op)):
                return ast.Compare(right, [flipped()], [node.left])
        return node

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.test, ast.Constant):
            return node.body if node.test.value else node.orelse
        if isinstance(node.test, ast.UnaryOp) and isinstance(node.test.op, ast.Not):
            return ast.IfExp(node.test.operand, node.orelse, node.body)
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if all(keyword.arg and is_quiet(keyword.value) for keyword in node.keywords):
            node.keywords.sort(key=lambda keyword: keyword.arg or "")
        if isinstance(node.func, ast.Name) and node.func.id not in self._shadowed and not node.keywords:
            values = [value.value for value in node.args if _is_number(value) and isinstance(value, ast.Constant)]
            if node.args and len(values) == len(node.args):
                return _computed(node, _FUNCTIONS.get(node.func.id), *values)
        return node

    def visit_If(self, node: ast.If) -> Any:
        self.generic_visit(node)
        body, orelse = _running(node.body), _running(node.orelse)
        if isinstance(node.test, ast.Constant):
            return body if node.test.value else orelse
        if not body and not orelse:
            return None if is_quiet(node.test) else ast.Expr(node.test)
        if not body:
            node.test, body, orelse = ast.UnaryOp(ast.Not(), node.test), orelse, []
        if orelse and isinstance(node.test, ast.UnaryOp) and isinstance(node.test.op, ast.Not):
            node.test, body, orelse = node.test.operand, orelse, body
        node.body, node.orelse = body, orelse
        if orelse and isinstance(body[-1], _TERMINAL):
            node.orelse = []
            return [node, *orelse]
        return node

    def visit_While(self, node: ast.While) -> Any:
        self.generic_visit(node)
        if isinstance(node.test, ast.Constant) and not node.test.value:
            return node.orelse or None
        return node

    def visit_Assert(self, node: ast.Assert) -> Any:
        self.generic_visit(node)
        return None if isinstance(node.test, ast.Constant) and node.test.value else node

    def visit_Return(self, node: ast.Return) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.value, ast.Constant) and node.value.value is None:
            node.value = None
        return node


def _is_number(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, int | float)


def _computed(node: ast.AST, function: Callable[..., Any] | None, *values: Any) -> ast.AST:
    """Return the constant that a function of constants is, or the node as it is where that fails or is large."""
    if function is None or not all(isinstance(value, int | float | str) for value in values):
        return node
    if any(
        (isinstance(value, str) and len(value) > _MOST_TEXT) or (isinstance(value, int) and value.bit_length() > _MOST_BITS)
        for value in values
    ):
        return node
    grows = function in (operator.pow, operator.lshift) or (function is operator.mul and any(isinstance(value, str) for value in values))
    if grows and not all(isinstance(value, int | float) and abs(value) <= _MOST_BITS for value in values):
        return node
    if function is operator.pow and isinstance(values[0], int) and isinstance(values[1], int) and abs(values[1]) > 50:
        return node
    if function is operator.mod and isinstance(values[0], str):
        return node
    try:
        value = function(*values)
    except (ArithmeticError, TypeError, ValueError):
        return node
    return ast.Constant(value) if isinstance(value, int | float | str) else node


def _running(block: Sequence[ast.stmt]) -> list[ast.stmt]:
    return [statement for statement in block if not isinstance(statement, ast.Pass)]


def _live(block: Sequence[ast.stmt]) -> list[ast.stmt]:
    """Return the statements of a block that can run and do something."""
    out: list[ast.stmt] = []
    for number, statement in enumerate(block):
        if isinstance(statement, ast.Pass) or (isinstance(statement, ast.Expr) and is_quiet(statement.value)):
            continue
        out.append(statement)
        if isinstance(statement, _TERMINAL):
            rest = block[number + 1 :]
            return out + list(rest) if any(_yields(each) for each in rest) else out
    return out


def _sorted_constants(block: Sequence[ast.stmt]) -> list[ast.stmt]:
    """Return a block with each run of assignments of constants, to a name each, in the order of their values."""
    out: list[ast.stmt] = []
    run: dict[str, tuple[str, ast.stmt]] = {}
    for statement in block:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=value)) if name not in run:
                run[name] = (f"{type(value).__name__} {value!r}", statement)
                continue
        out += [each for _, each in sorted(run.values(), key=lambda pair: pair[0])]
        run = {}
        out.append(statement)
    return out + [each for _, each in sorted(run.values(), key=lambda pair: pair[0])]


def _yields(node: ast.AST) -> bool:
    """Return whether code holds a `yield`, which makes a generator of its function even where it never runs."""
    return any(isinstance(part, ast.Yield | ast.YieldFrom) for part in ast.walk(node))


def _is_empty_return(node: ast.stmt) -> bool:
    return isinstance(node, ast.Return) and node.value is None


def _without_constants(tree: ast.Module, keep_globals: bool) -> ast.Module:
    """Put constants that are assigned once into their uses, and drop what is then assigned or defined for nothing."""
    names = Resolution(tree)
    values: dict[Variable, ast.expr] = {}
    quiet: Counter[Variable] = Counter()  # bindings that would not be missed
    arguments = {
        names.variable(argument, argument.arg)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for argument in parameters(node.args)
    }
    for node in ast.walk(tree):
        for variable, value in _quiet_bindings(names, node):
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
    return cast(ast.Module, _Replace(names, values, unused).visit(tree))


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
            return len(text) <= _MOST_TEXT
        case ast.Constant():
            return True
        case ast.Tuple(elts=elements):
            return len(elements) <= 8 and all(isinstance(each, ast.Constant) and _is_small_constant(each) for each in elements)
    return False


class _Replace(ast.NodeTransformer):
    def __init__(self, names: Resolution, values: dict[Variable, ast.expr], unused: set[Variable]) -> None:
        self._names = names
        self._values = values
        self._unused = unused

    def visit_Name(self, node: ast.Name) -> ast.AST:
        variable = self._names.variable(node, node.id)
        return self._values.get(variable, node) if variable and isinstance(node.ctx, ast.Load) else node

    def visit_Assign(self, node: ast.Assign) -> Any:
        match node.targets:
            case [ast.Name() as target] if self._names.variable(target, target.id) in self._unused and is_quiet(node.value):
                return None
        return self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> Any:
        node.names = [
            alias for alias in node.names if self._names.variable(alias, alias.asname or alias.name.partition(".")[0]) not in self._unused
        ]
        return node if node.names else None

    def visit_ImportFrom(self, node: ast.ImportFrom) -> Any:
        node.names = [alias for alias in node.names if self._names.variable(alias, alias.asname or alias.name) not in self._unused]
        return node if node.names and node.module != "__future__" else None

    def visit_FunctionDef(self, node: ast.FunctionDef) -> Any:
        return self._definition(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> Any:
        return self._definition(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> Any:
        return self._definition(node)

    def _definition(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> Any:
        return None if self._names.variable(node, node.name) in self._unused else self.generic_visit(node)
