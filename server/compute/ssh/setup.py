"""Puts this program on a host, and looks at what is there: for `setup ssh` and `doctor`."""

import base64
from importlib.metadata import PackageNotFoundError
from pathlib import Path

from autoresearch_mcp.server.compute.base import ComputeError
from autoresearch_mcp.server.compute.ssh.transport import HostAway, HostRefused, Ssh
from autoresearch_mcp.server.compute.ssh.wheel import pack
from autoresearch_mcp.server.untrusted import one_line

INSTALL_S = 3600.0  # torch alone may take minutes
_INSTALL = Path(__file__).with_name("install_there.py")

Finding = tuple[str, str]
"""What was found, and what to do about it: empty where it is as it should be."""


async def set_up(host: str, python: str = "", command: str = "ssh") -> list[Finding]:
    """Install this program on a host, over an older one of ours, and check it.

    Args:
        host: As ssh knows it.
        python: The Python there to build on; empty is one that has torch, else the newest.
        command: The program ssh.

    Raises:
        ComputeError: It can't be installed; the text says why.
    """
    try:
        name, wheel = pack()
    except PackageNotFoundError:
        raise ComputeError("This program isn't installed here, so it can't be packed: `pip install` it first.") from None
    request = {"python": python, "name": name, "wheel": base64.b64encode(wheel).decode()}
    try:
        looked = await Ssh(host, "python3", command).ask(request, INSTALL_S, _INSTALL)
    except (HostAway, HostRefused) as error:
        raise ComputeError(f"Nothing was installed on {host}: {one_line(str(error), 400)}.") from error
    built = f", built on {looked['from']}" if looked["from"] else ""
    findings = [(f"{name} is in {looked['environment']} (Python {looked['python']}){built}", "")]
    if looked["missing"]:
        findings.append(
            (f"it lacks {', '.join(looked['missing'])}", f"Give {host} a network for pip, or name a Python there that has them.")
        )
    if looked["sandbox"] == "unsandboxed":
        hint = 'They count at the gate only with [promotion] unsandboxed = "allow".'
        return [*findings, (f"Linux {looked['kernel']} there doesn't confine trainings", hint)]
    return [*findings, (f"Linux {looked['kernel']} there confines trainings ({looked['sandbox']})", "")]
