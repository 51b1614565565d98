"""What a lab's owner does about rented devices by hand: set up, inspect, and end what no experiment needs."""

import asyncio
import contextlib
import importlib.util
import os
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

from autoresearch_mcp.server import devices
from autoresearch_mcp.server import settings as lab_settings
from autoresearch_mcp.server.compute.base import ComputeError
from autoresearch_mcp.server.compute.modal import deployment
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.ledger import Ledger
from autoresearch_mcp.server.models import ACTIVE_STATES
from autoresearch_mcp.server.paths import LabPaths
from autoresearch_mcp.trainer import prepare

_T = TypeVar("_T")


def set_up(root: Path, gpu: str | None, dry_run: bool, say: Callable[[str], None]) -> None:
    """Say what will be made and what it costs; then make it, unless it is there.

    Raises:
        LabError: `bad_gpu`, or `modal` for what is lacking here, or what Modal said.
    """
    from autoresearch_mcp.server.compute.modal import setup

    settings = lab_settings.load(root)
    state = LabPaths(root).state
    training, compute = settings.training, settings.compute
    if gpu is not None and gpu not in devices.GPUS:
        raise LabError(f"There is no GPU {gpu!r} to choose; there are {', '.join(devices.GPUS)}. Nothing was made.", "bad_gpu")
    kinds = [devices.kind(name) for name in ([gpu] if gpu else settings.gpus)]
    for line in setup.plan(training.profile, kinds, training.budget_s, compute.prices):
        say(line)
    if dry_run:
        say("Nothing was made: this was a dry run.")
        return
    _require_access("Nothing was made.")
    state.mkdir(exist_ok=True)
    _answer(setup.set_up(state, training.profile, compute.environment, compute.app, say, kinds, training.attention))
    if not settings.rents:
        say('To train there, set in lab.toml: [compute] backend = "modal"')


def reap(root: Path, dry_run: bool) -> list[str]:
    """End the lab's sandboxes that no experiment needs; what was ended, or would be, in words.

    Raises:
        LabError: `modal`.
    """
    from autoresearch_mcp.server.compute.modal.backend import end_orphans
    from autoresearch_mcp.server.compute.modal.client import Service

    lab_settings.load(root)
    paths = LabPaths(root)
    _require_access("Nothing was ended.")

    async def end() -> list[str]:
        found = deployment.load(paths.state)
        with contextlib.closing(Ledger(paths.ledger)) as ledger:

            def active() -> set[tuple[str, int]]:
                return {(e.id, e.attempt) for e in ledger.open_experiments(*ACTIVE_STATES)}

            return await end_orphans(Service(found.environment, found.app), found, active, dry_run)

    return _answer(end())


def look(state: Path, kinds: Sequence[str]) -> tuple[list[str], list[str]]:
    """What can be seen of the lab on Modal for nothing, in sentences; and those of its kinds of device that have no compile cache there.

    Raises:
        LabError: `modal`: what is missing, and what to do.
    """
    from autoresearch_mcp.server.compute.modal import compile_cache
    from autoresearch_mcp.server.compute.modal.client import Service

    async def ask() -> tuple[list[str], list[str]]:
        found = deployment.load(state)
        service = Service(found.environment, found.app)
        took = await service.ping()
        for volume in (found.training, found.evaluation):
            if await service.read(volume, prepare.META) is None:
                raise ComputeError(f"The volume {volume} holds no prepared data: run `autoresearch-mcp setup modal`.")
        running = await service.running({"lab": found.lab})
        said = [_seen(found, took, len(running))]
        with contextlib.suppress(ComputeError):
            rates = {name: usd for name, usd in (await service.rates()).items() if "gpu" in name.lower()}
            said.append("Modal's own prices: " + ", ".join(f"{n} {usd:g}" for n, usd in sorted(rates.items())))
        return said, await compile_cache.missing(service, found, kinds)

    return _answer(ask())


def lacking() -> tuple[str, str] | None:
    """What this machine lacks to speak to Modal at all, and what brings it; nothing is asked of the service."""
    if importlib.util.find_spec("modal") is None:
        return "the package modal is not installed", "pip install 'autoresearch-mcp[modal]'"
    file = Path(os.environ.get("MODAL_CONFIG_PATH") or "~/.modal.toml").expanduser()
    if not (os.environ.get("MODAL_TOKEN_ID") and os.environ.get("MODAL_TOKEN_SECRET")) and not file.is_file():
        cure = "`modal token new` gets one from your account at modal.com and keeps it in Modal's own file"
        return "there is no token: neither MODAL_TOKEN_ID and MODAL_TOKEN_SECRET nor a file of them", cure
    return None


def _require_access(kept: str) -> None:
    if (found := lacking()) is not None:
        what, cure = found
        raise LabError(f"{what[0].upper()}{what[1:]}. {kept} {cure}.", "modal")


def _seen(found: deployment.Deployment, took_s: float, running: int) -> str:
    return f"app {found.app} in {found.environment}, {took_s * 1e3:.0f} ms a call; data for {found.profile}; {running} sandboxes of this lab run"


def _answer(work: Coroutine[Any, Any, _T]) -> _T:
    from autoresearch_mcp.server.compute.modal.client import ModalAway

    try:
        return asyncio.run(work)
    except ComputeError as error:
        raise LabError(str(error), "modal") from error
    except ModalAway as error:
        raise LabError(f"Modal can't be reached now: {error}. What was done so far is kept; try again later.", "modal") from error
