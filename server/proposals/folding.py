"""Computes what constants alone decide in a syntax tree, and drops what then can't run. Nothing of the code is executed."""

import ast
import operator
from collections.abc import Callable, Sequence
from typing import Any, cast

from autoresearch_mcp.server.proposals.quiet import is_quiet
from autoresearch_mcp.server.proposals.trees import Transformer, nodes

MOST_TEXT = 100  # characters of a text that is folded or stands in its uses
_MOST_BITS = 512  # of a folded integer
_TERMINAL = (ast.Return, ast.Raise, ast.Continue, ast.Break)
_WITH_BLOCKS = (ast.mod, ast.stmt, ast.excepthandler, ast.match_case)
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


def folded(tree: ast.Module) -> ast.Module:
    """Return a module with its constants computed and without what can't run. It is changed in place."""
    shadowed = {node.id for node in nodes(tree) if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    return cast(ast.Module, _Fold(shadowed).visit(tree))


class _Fold(Transformer):
    """Computes what constants alone decide, and drops statements that can't run or do nothing.

    Args:
        shadowed: names that the module gives a meaning of its own.
    """

    def __init__(self, shadowed: set[str]) -> None:
        super().__init__()
        self._shadowed = shadowed

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        if not isinstance(node, _WITH_BLOCKS):
            return node
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
        while isinstance(node.test, ast.UnaryOp) and isinstance(node.test.op, ast.Not):
            node = ast.IfExp(node.test.operand, node.orelse, node.body)
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
        while orelse and isinstance(node.test, ast.UnaryOp) and isinstance(node.test.op, ast.Not):
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
        (isinstance(value, str) and len(value) > MOST_TEXT) or (isinstance(value, int) and value.bit_length() > _MOST_BITS)
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
    return any(isinstance(part, ast.Yield | ast.YieldFrom) for part in nodes(node))


def _is_empty_return(node: ast.stmt) -> bool:
    return isinstance(node, ast.Return) and node.value is None
