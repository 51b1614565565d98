"""Checks the text of editable files before it becomes a commit, and tells whether two versions are the same code.

Promises: hostile text ends in a `LabError`, never in another exception. Gives up: sameness is of syntax trees, so renaming a
variable makes different code, and trees of two Python versions may differ for one text (a duplicate then goes unnoticed).
"""

import ast
import functools
import hashlib
import io
import sys
import threading
import tokenize
import warnings
from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.installation import is_installed

MAX_FILE = 512 * 1024
COUNTED_ON = (
    "torch",
    "numpy",
    "safetensors",
    "autoresearch_mcp",
    "triton",
    "kernels",
)  # packages that are there when a GPU trains, if not here
_VERSION = f" {sys.version_info.major}.{sys.version_info.minor}"
_READ = 4  # files that are known: one is checked first, and told from others a moment later
_QUIET = threading.Lock()  # warnings.catch_warnings is not thread-safe


def decode(path: str, data: bytes) -> str:
    """Return the text of a file, which must be UTF-8 without NUL.

    Raises:
        LabError: `bad_encoding`.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise LabError(
            f"{path} is not UTF-8 text (byte {error.start} is 0x{data[error.start]:02x}). It can't be edited; `files` can replace or delete it.",
            "bad_encoding",
        ) from None
    if "\0" in text:
        raise LabError(
            f"{path} holds a NUL character, so it is not a text file. It can't be edited; `files` can replace or delete it.", "bad_encoding"
        )
    return text


def encode(path: str, text: str) -> bytes:
    """Return the bytes of a text that an agent sent.

    Raises:
        LabError: `bad_encoding` for NUL and lone surrogates, `too_large`.
    """
    if "\0" in text:
        raise LabError(f"The new text of {path} holds a NUL character. Send text without it.", "bad_encoding")
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise LabError(
            f"The new text of {path} cannot be written as UTF-8: {error.reason} at character {error.start}.", "bad_encoding"
        ) from None
    if len(data) > MAX_FILE:
        raise LabError(f"{path} would have {len(data):,} bytes; the cap is {MAX_FILE:,}. Make it smaller.", "too_large")
    return data


def check(
    path: str,
    data: bytes,
    modules: Collection[str] | None = (),
    before: Mapping[str, bytes] = MappingProxyType({}),
    is_new: bool = True,
) -> None:
    """Refuse a change that leaves a `.py` file which does not parse, or which imports a module that is not there. What was there may stay.

    Args:
        path: of the file, for refusals.
        data: its new content.
        modules: names that the lab's own files can be imported by; None where another Python runs it, with packages that can't be told.
        before: the files from before the change, by path. What those declare or import is no fault of the change.
        is_new: whether it must be told from others too, for which it may be nested less deeply. That costs as much as all else.

    Raises:
        LabError: `bad_encoding`, `syntax_error` or `unknown_import`, the latter two with the line.
    """
    if not path.endswith(".py"):
        return
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        if encoding not in ("utf-8", "utf-8-sig") and encoding != _declared(before.get(path, b"")):
            raise LabError(f"{path} declares the encoding {encoding}; only UTF-8 is accepted. Remove the coding comment.", "bad_encoding")
        needed = _read(data).needed if is_new else tuple(needed_imports(parsed(data)))
        missing = [(name, line) for name, line in needed if modules is not None and name not in modules and not importable(name)]
    except SyntaxError as error:
        if modules is None and not _parses(before.get(path, b"")):
            return  # a newer Python runs it than this one
        where = f"line {error.lineno}" if error.lineno else "its head"
        text = f": `{error.text.strip()[:160]}`" if error.text else ""
        raise LabError(
            f"{path} would not parse as Python{_VERSION}: {error.msg} at {where}{text}. Nothing was kept; correct it and propose again.",
            "syntax_error",
        ) from None
    except (ValueError, RecursionError, MemoryError) as error:
        reason = str(error) or "an expression is nested too deeply"
        raise LabError(f"{path} would not parse as Python: {reason}. Nothing was kept; write it more simply.", "syntax_error") from None
    if missing and (new := [each for each in missing if each[0] not in _imported(before)]):
        name, line = new[0]
        raise LabError(
            f"{path} imports {name[:60]} at line {line}, which is not installed: torch, numpy, safetensors, the standard library and the lab's "
            "own files can be counted on. Nothing was kept; do without, or import it inside of `try: ... except ImportError: ...`.",
            "unknown_import",
        )


def _parses(data: bytes) -> bool:
    try:
        parsed(data)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _declared(data: bytes) -> str:
    try:
        return tokenize.detect_encoding(io.BytesIO(data).readline)[0]
    except SyntaxError:
        return ""


def _imported(files: Mapping[str, bytes]) -> set[str]:
    """Return the names that files import anywhere, as far as they parse."""
    names = set[str]()
    for path, data in files.items():
        try:
            nodes = list(ast.walk(parsed(data))) if path.endswith(".py") else []
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        names |= {alias.name.partition(".")[0] for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        names |= {str(node.module).partition(".")[0] for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    return names


def fingerprint(files: Mapping[str, bytes]) -> str:
    """Return a hash of files that comments and layout of Python code do not change.

    Other files, and code that does not parse, count by their bytes.
    """
    digest = hashlib.sha256()
    for path, data in sorted(files.items()):
        form = _normal_form(path, data)
        digest.update(f"{len(path.encode('utf-8', 'surrogateescape'))}:{len(form)}:".encode())
        digest.update(path.encode("utf-8", "surrogateescape") + form)
    return digest.hexdigest()


def _normal_form(path: str, data: bytes) -> bytes:
    if path.endswith(".py"):
        try:
            return b"ast:" + _read(data).dump
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            pass
    return b"raw:" + data


class _Code(NamedTuple):
    """What is known of a Python file: its tree as text, and what it needs to be imported, each with its line."""

    dump: bytes
    needed: tuple[tuple[str, int], ...]


@functools.lru_cache(maxsize=_READ)
def _read(data: bytes) -> _Code:
    tree = parsed(data)
    return _Code(ast.dump(tree).encode("utf-8", "backslashreplace"), tuple(needed_imports(tree)))


def parsed(data: bytes) -> ast.Module:
    """Parse Python code without a word about what is doubtful in it.

    Raises:
        SyntaxError, ValueError, RecursionError, MemoryError: it doesn't parse.
    """
    with _QUIET, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a doubtful escape in an agent's code is no fault of this process
        return ast.parse(data)


def needed_imports(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield the first name and the line of each absolute import that runs whenever the module is imported or run."""
    for node in import_statements(tree):
        match node:
            case ast.Import(names=names):
                yield from ((alias.name.partition(".")[0], node.lineno) for alias in names)
            case ast.ImportFrom(module=str(module), level=0):
                yield module.partition(".")[0], node.lineno


def import_statements(tree: ast.Module) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yield each import that runs whenever the module is imported or run.

    Left out is what may never run: in a function, under a condition other than `__name__ == "__main__"`, and where an error is handled.
    """
    stack: list[ast.AST] = [tree]
    while stack:
        node = stack.pop()
        match node:
            case ast.Import() | ast.ImportFrom():
                yield node
            case ast.Try(handlers=[_, *_]):
                stack += node.finalbody
            case ast.If(test=ast.Compare(left=ast.Name(id="__name__")), body=body):
                stack += body[::-1]
            case ast.Module(body=body) | ast.ClassDef(body=body) | ast.Try(body=body):
                stack += [*(node.finalbody if isinstance(node, ast.Try) else []), *body[::-1]]


def importable(name: str) -> bool:
    """Return whether a module is there for sure, or may be: installed beside this server, if not beside the trainer."""
    return name in sys.stdlib_module_names or name in COUNTED_ON or is_installed(name)
