"""Hashes the agent's files, and caps what they may hold (fixed)."""

import hashlib
from pathlib import Path

from autoresearch_mcp.trainer import protocol
from autoresearch_mcp.trainer.prepare import PreparationError

CODE_BYTES, SCRIPT_BYTES = 256 << 10, 16 << 20


class CodeTooLarge(PreparationError):
    """The agent's files are over their limit."""


def code_hash(code: Path, script: bool = False) -> str:
    """Return the hash of the agent's files, names and contents.

    Args:
        code: the folder with them.
        script: whether they keep no contract, and may be larger.

    Raises:
        CodeTooLarge: a text could be hidden in them.
    """
    digest, size, limit = hashlib.sha256(), 0, SCRIPT_BYTES if script else CODE_BYTES
    for path in sorted(path for path in code.rglob("*") if path.is_file()):
        content = path.read_bytes()
        size += len(content)
        if size > limit:
            raise CodeTooLarge(f"the files in {protocol.CODE}/ hold more than {limit >> 10} KB.")
        digest.update(f"{path.relative_to(code)}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:16]
