"""The text of an editable file: what it must be before it may become a commit, and when two of them are the same code.

Promises: hostile text ends in a `LabError`, never in another exception. Gives up: sameness is of syntax trees, so renaming a
variable makes different code, and trees of two Python versions may differ for one text (a duplicate then goes unnoticed).
"""

import ast
import hashlib
import io
import threading
import tokenize
import warnings
from collections.abc import Mapping

from .errors import LabError

MAX_FILE = 512 * 1024
_QUIET = threading.Lock()  # warnings.catch_warnings is not thread-safe


def decode(path: str, data: bytes) -> str:
    """The text of a file, which must be UTF-8 without NUL.

    Raises:
        LabError: `bad_encoding`.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise LabError(
            f"{path} is not UTF-8 text (byte {error.start} is 0x{data[error.start]:02x}). Only text files can be edited.", "bad_encoding"
        ) from None
    if "\0" in text:
        raise LabError(f"{path} holds a NUL character, so it is not a text file. Only text files can be edited.", "bad_encoding")
    return text


def encode(path: str, text: str) -> bytes:
    """The bytes of a text that an agent sent.

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


def check(path: str, data: bytes) -> None:
    """Refuse a new file that cannot be meant: without text, or a `.py` that does not parse.

    Raises:
        LabError: `empty_file` or `syntax_error`, the latter with line and text.
    """
    if not data.strip():
        raise LabError(f"{path} would be left without text. Files cannot be deleted or emptied; send what it should hold.", "empty_file")
    if not path.endswith(".py"):
        return
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        if encoding not in ("utf-8", "utf-8-sig"):
            raise LabError(f"{path} declares the encoding {encoding}; only UTF-8 is accepted. Remove the coding comment.", "bad_encoding")
        _tree(data)
    except SyntaxError as error:
        where = f"line {error.lineno}" if error.lineno else "its head"
        text = f": `{error.text.strip()[:160]}`" if error.text else ""
        raise LabError(
            f"{path} would not parse as Python: {error.msg} at {where}{text}. Nothing was kept; correct it and propose again.",
            "syntax_error",
        ) from None
    except (ValueError, RecursionError, MemoryError) as error:
        reason = str(error) or "an expression is nested too deeply"
        raise LabError(f"{path} would not parse as Python: {reason}. Nothing was kept; write it more simply.", "syntax_error") from None


def fingerprint(files: Mapping[str, bytes]) -> str:
    """A hash of files that comments and layout of Python code do not change; other files, and code that does not parse, count by their bytes."""
    digest = hashlib.sha256()
    for path, data in sorted(files.items()):
        form = _normal_form(path, data)
        digest.update(f"{len(path.encode('utf-8', 'surrogateescape'))}:{len(form)}:".encode())
        digest.update(path.encode("utf-8", "surrogateescape") + form)
    return digest.hexdigest()


def _normal_form(path: str, data: bytes) -> bytes:
    if path.endswith(".py"):
        try:
            return b"ast:" + _tree(data).encode("utf-8", "backslashreplace")
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            pass
    return b"raw:" + data


def _tree(data: bytes) -> str:
    with _QUIET, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a doubtful escape in an agent's code is no fault of this process
        return ast.dump(ast.parse(data))
