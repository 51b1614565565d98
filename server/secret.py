"""A lab's secret, which draws its held-out split (`autoresearch_mcp.trainer.heldout`): making it, and handing it to another lab.

It stays in one file of the state folder, which only the lab's user can read. No commit, tool, log, lake or training ever holds it.
"""

import os
from pathlib import Path

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.trainer import files, heldout


def ensure(path: Path) -> Path:
    """Make a lab's secret unless there is one. Of two callers at once, both get the one that is kept.

    Args:
        path: its file.

    Returns:
        The same path.

    Raises:
        OSError: it can't be written.
    """
    if not path.exists():
        write(path, os.urandom(heldout.SECRET_BYTES))
    return path


def write(path: Path, secret: bytes, replace: bool = False) -> bool:
    """Write a secret into a file, for this user alone.

    Args:
        path: the file.
        secret: what goes in.
        replace: whether a file that is there is replaced; else it stays as it is.

    Returns:
        Whether it was written.

    Raises:
        OSError: it can't be written.
    """
    data = secret.hex().encode() + b"\n"
    if not replace:
        return files.create_atomically(path, data)
    files.write_atomically(path, data)
    return True


def read(path: Path) -> bytes:
    """Read a secret.

    Raises:
        LabError: `no_secret`, `bad_secret`.
    """
    try:
        return heldout.read_secret(path)
    except FileNotFoundError:
        raise LabError(f"There is no secret in {path}.", "no_secret") from None
    except (OSError, ValueError) as error:
        raise LabError(f"{path} can't be used as a lab's secret: {error}", "bad_secret") from None


def fingerprint(path: Path) -> str:
    """Return the public name of the secret in a file; empty if there is none.

    Raises:
        LabError: `bad_secret`.
    """
    return heldout.fingerprint(read(path)) if path.exists() else ""
