"""Writes what registries and bundles say of the server, from its one description: `make reference` does it, and `make bundle` packs.

Formats: https://github.com/modelcontextprotocol/mcpb/blob/main/MANIFEST.md (0.4),
https://github.com/modelcontextprotocol/registry/blob/main/docs/reference/server-json/generic-server-json.md (2025-12-11),
https://cursor.com/docs/mcp/install-links and https://code.visualstudio.com/api/extension-guides/ai/mcp#create-an-mcp-installation-url
"""

import base64
import json
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import quote

from autoresearch_mcp.contracts import TOOLS
from autoresearch_mcp.server import __version__
from autoresearch_mcp.server.clients import NAME, TOKEN

ROOT = Path(__file__).parents[1]
PACKAGE = "autoresearch-mcp"
REGISTRY_NAME = f"io.github.{PACKAGE}/{PACKAGE}"  # a release puts its repository's owner in
SUMMARY = "A machine-learning research lab as tools: propose, train, measure, promote what really is better"
UVX = {"command": "uvx", "args": ["--from", f"{PACKAGE}[local]", PACKAGE, "serve", "${workspaceFolder}"]}


def files() -> dict[str, str]:
    """Return the generated files by path."""
    return {"server.json": _json(registry_entry()), "bundle/manifest.json": _json(manifest())}


def write() -> None:
    """Write them all."""
    for name, text in files().items():
        (ROOT / name).write_text(text, encoding="utf-8")


def cursor_link(server: dict[str, Any] = UVX) -> str:
    """Return the address that has Cursor add a server."""
    return f"https://cursor.com/en/install-mcp?name={NAME}&config={quote(base64.b64encode(_short(server).encode()).decode(), safe='')}"


def vscode_link(server: dict[str, Any] = UVX) -> str:
    """Return the address that has VS Code add a server."""
    return f"https://vscode.dev/redirect/mcp/install?name={NAME}&config={quote(_short(server), safe='')}"


def registry_entry() -> dict[str, Any]:
    """Return what the MCP registry lists: the package, and how a client starts it."""
    place = {
        "type": "positional",
        "valueHint": "lab",
        "description": "The lab's folder, made by `autoresearch-mcp init`",
        "isRequired": True,
    }
    token = {"name": TOKEN, "description": "The token that a server over HTTP asks for", "isSecret": True, "isRequired": False}
    return {
        "$schema": "https://static.modelcontextprotocol.io/schemas/2025-12-11/server.schema.json",
        "name": REGISTRY_NAME,
        "title": "Autoresearch",
        "description": SUMMARY,
        "version": __version__,
        "packages": [
            {
                "registryType": "pypi",
                "registryBaseUrl": "https://pypi.org",
                "identifier": PACKAGE,
                "version": __version__,
                "runtimeHint": "uvx",
                "transport": {"type": "stdio"},
                "packageArguments": [{"type": "positional", "value": "serve"}, {**place, "format": "filepath"}],
                "environmentVariables": [token],
            }
        ],
    }


def manifest() -> dict[str, Any]:
    """Return the bundle's manifest: uv installs the source beside it, with what trainings need, and starts the server."""
    return {
        "manifest_version": "0.4",
        "name": PACKAGE,
        "display_name": "Autoresearch",
        "version": __version__,
        "description": SUMMARY,
        "author": {"name": PACKAGE},
        "license": "MIT",
        "keywords": ["machine-learning", "research"],
        "server": {
            "type": "uv",
            "entry_point": "server/cli.py",
            "mcp_config": {
                "command": "uv",
                "args": ["run", "--directory", "${__dirname}", "--extra", "local", PACKAGE, "serve", "${user_config.lab}"],
            },
        },
        "tools": [{"name": tool} for tool in TOOLS],
        "user_config": {
            "lab": {
                "type": "directory",
                "title": "Lab",
                "description": "The lab's folder, made by `autoresearch-mcp init`",
                "required": True,
            }
        },
        "compatibility": {"platforms": ["darwin", "linux"], "runtimes": {"python": ">=3.11,<3.14"}},
    }


def bundle(dist: Path) -> Path:
    """Pack the source distribution and the manifest as `autoresearch-mcp-VERSION.mcpb`; return where it is."""
    dist.mkdir(parents=True, exist_ok=True)
    packed = dist / f"{PACKAGE}-{__version__}.mcpb"
    with tempfile.TemporaryDirectory() as place:
        how = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", place, str(ROOT)]
        subprocess.run(how, check=True, stdout=subprocess.DEVNULL)
        (archive,) = Path(place).glob("*.tar.gz")
        with tarfile.open(archive) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
            target.writestr("manifest.json", _json(manifest()))
            for member in source.getmembers():
                name = member.name.partition("/")[2]
                if member.isfile() and not name.startswith("tests/") and ".egg-info/" not in name:
                    content = source.extractfile(member)
                    assert content is not None
                    target.writestr(name, content.read())
    return packed


def release(tag: str, owner: str) -> None:
    """Set the version to that of a tag such as v0.2.0, and the registry's namespace to the repository's owner. CI does it before it builds."""
    if not re.fullmatch(r"v\d+\.\d+\.\d+((a|b|rc)\d+)?", tag):
        raise SystemExit(f"{tag} is no version's tag: it looks like v0.2.0 or v0.2.0rc1.")
    if not re.fullmatch(r"[A-Za-z0-9-]+", owner):
        raise SystemExit(f"{owner} is no owner of a repository.")
    _replace("server/__init__.py", rf'"{re.escape(__version__)}"', f'"{tag[1:]}"')
    for name in ("README.md", "tests/published.py"):
        _replace(name, r"io\.github\.[^/\s]+/", f"io.github.{owner}/")


def _replace(name: str, old: str, new: str) -> None:
    path = ROOT / name
    text, changed = re.subn(old, new, path.read_text("utf-8"), count=1)
    if not changed:
        raise SystemExit(f"{name} has nothing to replace: {old}")
    path.write_text(text, "utf-8")


def _short(server: dict[str, Any]) -> str:
    return json.dumps(server, separators=(",", ":"))


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["write"]:
            write()
        case ["bundle", place]:
            print(bundle(Path(place)))
        case ["release", tag, owner]:
            release(tag, owner)
        case _:
            raise SystemExit("usage: python -m tests.published write | bundle DIR | release TAG OWNER")
