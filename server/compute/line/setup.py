"""Puts this program on a host, and looks at what is there: for `setup ssh` and `doctor`."""

import asyncio
import base64
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError

from autoresearch_mcp.server.compute.base import ComputeError
from autoresearch_mcp.server.compute.line import install_there
from autoresearch_mcp.server.compute.line.there import MODELS
from autoresearch_mcp.server.compute.line.transport import HostAway, HostRefused, Ssh
from autoresearch_mcp.server.compute.line.wheel import pack
from autoresearch_mcp.server.settings import Settings
from autoresearch_mcp.server.settings.ssh import HostSection
from autoresearch_mcp.server.untrusted import one_line
from autoresearch_mcp.trainer import prepare

INSTALL_S = 3600.0  # torch alone may take minutes

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
        looked = await Ssh(host, "python3", command).ask(request, INSTALL_S, [install_there])
    except (HostAway, HostRefused) as error:
        raise ComputeError(f"Nothing was installed on {host}: {one_line(str(error), 400)}.") from error
    if "failed" in looked:
        raise ComputeError(f"Nothing was installed on {host}: {one_line(str(looked['failed']), 400)}.")
    built = f", built on {looked['from']}" if looked["from"] else ""
    return [(f"{name} is in {looked['environment']}{built}", ""), *await look(host, "", command)]


def needed(settings: Settings) -> Sequence[str]:
    """Return the packages that a lab's trainings and their scorer need beside what the owner's code imports."""
    if not settings.is_script:
        return MODELS
    return ("numpy", "sklearn", "pyarrow") if settings.scorer.kind == "predictions" else ("numpy",)


async def examine(settings: Settings) -> list[Finding]:
    """Check the hosts of a lab, all at once."""
    compute, packages = settings.compute, needed(settings)
    if not compute.hosts:
        return [("lab.toml names no machine", 'Name them as [compute] hosts, such as ["box"].')]
    names = dict.fromkeys(named.partition(":")[0] for named in compute.hosts)
    training = settings.training.python if settings.is_script else ""
    pythons = {name: compute.ssh.get(name, HostSection()).python for name in names}
    looks = await asyncio.gather(*(look(name, python, packages=packages, training=training) for name, python in pythons.items()))
    return [finding for findings in looks for finding in findings]


async def look(
    host: str, python: str = "", command: str = "ssh", packages: Sequence[str] = MODELS, *, trains: bool = True, training: str = ""
) -> list[Finding]:
    """Check one host: the line, our program, the packages of trainings, and whether they are confined.

    Args:
        host: As ssh knows it.
        python: On the host; see `Ssh`.
        command: The program ssh.
        packages: What trainings and their scorer need there.
        trains: Whether trainings run there: else packages and confinement are those of other machines.
        training: The interpreter that lab.toml names for the code of its owner, as it is named; empty for ours.
    """
    works = f"`ssh {host} true` has to work without a question."
    try:
        seen = await Ssh(host, python, command).ask({"check": list(packages), "training": training, "fixed": prepare.fixed_hash()})
    except HostAway as error:
        return [(f"{host} is away: {one_line(str(error), 300)}", works)]
    except HostRefused as error:
        reason, _, hint = one_line(str(error), 400).partition(". ")
        return [(f"{host} can't be used: {reason}", f"{hint}." if hint else works)]
    what = f"{host} has this program for {seen['python']}"
    if not trains:
        return [(what, "")]
    if seen["missing"]:
        hint = f"Run `autoresearch-mcp setup ssh {host}`, or name another Python as `python` in [compute.ssh.{host}]."
        return [(f"{what}, which lacks {', '.join(seen['missing'])}", hint)]
    if seen["unfit"]:
        return [unfit(f"{what}, but there", seen["unfit"])]
    if seen["sandbox"] == "unsandboxed":
        hint = 'They count at the gate only with [promotion] unsandboxed = "allow".'
        return [(f"{what}; Linux {seen['kernel']} there doesn't confine trainings", hint)]
    return [(f"{what}, and Linux {seen['kernel']} there confines trainings ({seen['sandbox']})", "")]


def unfit(where: str, reason: str) -> Finding:
    """Return that the interpreter of [training] python can't run on a machine, in words that this machine gave."""
    return (
        f"{where} {one_line(reason.partition('. Correct')[0], 300)}",
        "Make it there, or correct [training] python in lab.toml: it is a path of that machine.",
    )
