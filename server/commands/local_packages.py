"""Offers the packages that trainings on this machine need: the exact command, for how this program was installed and for this machine."""

import json
import shlex
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from autoresearch_mcp.server.commands import asking
from autoresearch_mcp.server.commands.arguments import say
from autoresearch_mcp.server.installation import is_installed

PACKAGE = "autoresearch-mcp"
CPU_BUILD = "https://download.pytorch.org/whl/cpu"  # of torch for Linux: 200 MB instead of 3 GB


def command() -> list[str]:
    """Return the command that installs what trainings on this machine need, beside this program."""
    wanted = requirements()
    on_cpu = sys.platform == "linux" and shutil.which("nvidia-smi") is None
    if is_installed("pip"):
        return [sys.executable, "-m", "pip", "install", *(["--extra-index-url", CPU_BUILD] if on_cpu else []), *wanted]
    uv = shutil.which("uv") or "uv"
    builds = ["--torch-backend", "cpu"] if on_cpu else []  # of another index uv would take old versions of other packages too
    if not _passing():
        return [uv, "pip", "install", "--python", sys.executable, *builds, *wanted]
    packages = [word for package in wanted for word in ("--with", package)]  # `uvx` throws its environment away
    return [uv, "tool", "install", *builds, *packages, _source()]


def requirements() -> list[str]:
    """Return the requirements of the extra `local`, without their markers."""
    try:
        marked = [text.partition(";") for text in metadata.requires(PACKAGE) or []]
    except metadata.PackageNotFoundError:  # a bare checkout
        return [f"{PACKAGE}[local]"]
    return [name.strip() for name, _, marker in marked if marker.replace("'", '"').strip() == 'extra == "local"']


def offer(directory: Path, ask: bool) -> None:
    """Say how to install what is missing; where a person is there and says yes, do it.

    Args:
        directory: the new lab.
        ask: whether a person is there.
    """
    complete, passing = is_installed("torch"), _passing()
    if complete and not passing:
        return
    line = command()
    why = "uvx throws away what runs now. This keeps it:" if complete else "Trainings on this machine need more packages, torch among them:"
    say(why, f"  {shlex.join(line)}")
    if ask and asking.yes("Install them now?"):
        done = subprocess.run(line, check=False)
        say("Installed." if done.returncode == 0 else "They could not be installed; what the command wrote says why. The lab is made.")
    if passing:
        say(f"  autoresearch-mcp install claude-code {directory}      # then, so that .mcp.json starts what stays")


def _source() -> str:
    """Return what this program was installed from: a file, a folder or a repository, else its name in the registry."""
    origin = json.loads(metadata.distribution(PACKAGE).read_text("direct_url.json") or "{}")
    if not origin:
        return PACKAGE
    git = origin.get("vcs_info")
    return f"{PACKAGE} @ " + (f"{git['vcs']}+{origin['url']}@{git['commit_id']}" if git else origin["url"])


def _passing() -> bool:
    """Return whether this program runs in an environment that `uvx` made for this once."""
    return "archive-v0" in Path(sys.prefix).resolve().parts
