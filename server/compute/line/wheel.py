"""Packs the program that runs here as a wheel, so that a host gets the same one, wherever this one came from."""

import base64
import hashlib
import importlib.metadata
import io
import zipfile
from pathlib import Path

from autoresearch_mcp.server import installation

_ROOMS = ("server", "trainer", "contracts", "client")
_NAME = "autoresearch_mcp"


def pack() -> tuple[str, bytes]:
    """Return the wheel's file name and its content.

    Raises:
        importlib.metadata.PackageNotFoundError: This program is not installed, but runs from a bare folder.
    """
    about = importlib.metadata.distribution("autoresearch-mcp")
    info = f"{_NAME}-{about.version}.dist-info"
    contents = {f"{_NAME}/{path.relative_to(_package())}": path.read_bytes() for room in _ROOMS for path in _files(_package() / room)}
    metadata = about.read_text("METADATA") or about.read_text("PKG-INFO")  # the second where a clone's own folder comes first
    contents[f"{info}/METADATA"] = (metadata or "").encode()
    contents[f"{info}/entry_points.txt"] = (about.read_text("entry_points.txt") or "").encode()
    contents[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: autoresearch-mcp\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    lines = [f"{name},sha256={_digest(content)},{len(content)}" for name, content in contents.items()]
    contents[f"{info}/RECORD"] = "\n".join([*lines, f"{info}/RECORD,,", ""]).encode()
    wheel = io.BytesIO()
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return f"{_NAME}-{about.version}-py3-none-any.whl", wheel.getvalue()


def _package() -> Path:
    return Path(installation.__file__).absolute().parents[1]


def _files(room: Path) -> list[Path]:
    return sorted(path for path in room.rglob("*") if path.is_file() and "__pycache__" not in path.parts)


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
