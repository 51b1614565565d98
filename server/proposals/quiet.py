"""Code that does nothing that anybody could notice: it may be dropped where its value isn't used, and stand anywhere."""

import ast

_QUIET_DECORATORS = {"dataclass", "dataclasses", "staticmethod", "classmethod", "property", "torch", "functools", "typing", "override"}


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
