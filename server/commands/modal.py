"""The commands for rented devices: set up a lab on Modal, inspect it, and end what no experiment needs."""

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
from autoresearch_mcp.server.secret import ensure, fingerprint
from autoresearch_mcp.trainer import prepare

_T = TypeVar("_T")


def set_up(root: Path, gpu: str | None, dry_run: bool, say: Callable[[str], None]) -> None:
    """Say what will be made and what it costs; then make it, unless it is there.

    Args:
        root: The lab.
        gpu: The kind of GPU to set up for; None is what lab.toml names.
        dry_run: Whether to make nothing.
        say: Tells the user what happens.

    Raises:
        LabError: `bad_gpu`; or `modal`, if this machine lacks something, or Modal refuses or is away.
    """
    from autoresearch_mcp.server.compute.modal import setup
    from autoresearch_mcp.server.compute.modal.own_code import own_code

    settings = lab_settings.load(root)
    state = LabPaths(root).state
    training, compute = settings.training, settings.compute
    if gpu is not None and gpu not in devices.GPUS:
        raise LabError(f"There is no GPU {gpu!r} to choose; there are {', '.join(devices.GPUS)}. Nothing was made.", "bad_gpu")
    kinds = [devices.kind(name) for name in ([gpu] if gpu else settings.gpus)]
    secret = LabPaths(root).secret if training.heldout == "secret" and not settings.is_script else None
    if secret is not None and state.is_dir():
        ensure(secret)
    try:
        code = own_code(settings, root)
        heldout = fingerprint(secret) if secret else ""
        longest_s = devices.longest_s(training.limits, training.budget_s, settings.is_script, settings.scorer.longest_s)
        lines = setup.plan(training.limits, kinds, training.budget_s, compute.prices, heldout, code, longest_s)
    except ComputeError as error:
        raise LabError(f"Nothing was made. {error}", "modal") from error
    for line in lines:
        say(line)
    if dry_run:
        say("Nothing was made: this was a dry run.")
        return
    _require_access("Nothing was made.")
    state.mkdir(exist_ok=True)
    drawn_with = ensure(secret) if secret else None
    _answer(setup.set_up(state, training.limits, compute.environment, compute.app, say, kinds, training.attention, drawn_with, code))
    if not settings.rents:
        say('To train there, set in lab.toml: [compute] backend = "modal"')


def reap(root: Path, dry_run: bool) -> list[str]:
    """End the lab's sandboxes that no experiment needs.

    Args:
        root: The lab.
        dry_run: Whether to end nothing.

    Returns:
        What was ended, or would be, in words.

    Raises:
        LabError: `modal`, if this machine lacks something, or Modal refuses or is away.
    """
    from autoresearch_mcp.server.compute.modal.backend import end_orphans
    from autoresearch_mcp.server.compute.modal.client import Service

    lab_settings.load(root)
    paths = LabPaths(root)
    _require_access("Nothing was ended.")

    async def end() -> list[str]:
        lab = deployment.load(paths.state)
        with contextlib.closing(Ledger(paths.ledger)) as ledger:

            def active() -> set[tuple[str, int]]:
                return {(e.id, e.attempt) for e in ledger.open_experiments(*ACTIVE_STATES)}

            return await end_orphans(Service(lab.environment, lab.app), lab, active, dry_run)

    return _answer(end())


def inspect(state: Path, kinds: Sequence[str]) -> tuple[list[str], list[str]]:
    """Look at the lab on Modal with calls that cost nothing.

    Args:
        state: The lab's state folder.
        kinds: The kinds of device that its trainings may run on.

    Returns:
        What is there, in sentences; and those of the kinds that have no compile cache there.

    Raises:
        LabError: `modal`; the text says what is missing, and what to do.
    """
    from autoresearch_mcp.server.compute.modal import compile_cache, own_code
    from autoresearch_mcp.server.compute.modal.client import Service

    async def ask() -> tuple[list[str], list[str]]:
        lab = deployment.load(state)
        service = Service(lab.environment, lab.app)
        call_s = await service.ping()
        marks = {own_code.volume(*each): own_code.WHOLE for each in lab.given.items()}
        for volume, mark in (marks if lab.packages is not None else dict.fromkeys((lab.training, lab.evaluation), prepare.META)).items():
            if await service.read(volume, mark) is None:
                raise ComputeError(f"The volume {volume} does not hold all that it should: run `autoresearch-mcp setup modal`.")
        running = await service.running({"lab": lab.lab})
        brings = (
            ", ".join(deployment.KEYS[key] for key in lab.given) or "nothing" if lab.packages is not None else f"data for {lab.profile}"
        )
        sentences = [
            f"app {lab.app} in {lab.environment}, {call_s * 1e3:.0f} ms a call; it has {brings}; {len(running)} sandboxes of this lab run"
        ]
        with contextlib.suppress(ComputeError):
            rates = {name: usd for name, usd in (await service.rates()).items() if "gpu" in name.lower()}
            sentences.append("Modal's own prices: " + ", ".join(f"{n} {usd:g}" for n, usd in sorted(rates.items())))
        return sentences, await compile_cache.missing(service, lab, kinds) if lab.packages is None else []

    return _answer(ask())


def missing_prerequisite() -> tuple[str, str] | None:
    """Name what this machine lacks to speak to Modal at all. Nothing is asked of the service.

    Returns:
        What is missing, and what brings it; None if nothing is.
    """
    if importlib.util.find_spec("modal") is None:
        return "the package modal is not installed", "pip install 'autoresearch-mcp[modal]'"
    file = Path(os.environ.get("MODAL_CONFIG_PATH") or "~/.modal.toml").expanduser()
    if not (os.environ.get("MODAL_TOKEN_ID") and os.environ.get("MODAL_TOKEN_SECRET")) and not file.is_file():
        hint = "`modal token new` gets one from your account at modal.com and keeps it in Modal's own file"
        return "there is no token: neither MODAL_TOKEN_ID and MODAL_TOKEN_SECRET nor a file of them", hint
    return None


def _require_access(kept: str) -> None:
    if (missing := missing_prerequisite()) is not None:
        what, hint = missing
        raise LabError(f"{what[0].upper()}{what[1:]}. {kept} {hint}.", "modal")


def _answer(work: Coroutine[Any, Any, _T]) -> _T:
    from autoresearch_mcp.server.compute.modal.client import ModalAway

    try:
        return asyncio.run(work)
    except ComputeError as error:
        raise LabError(str(error), "modal") from error
    except ModalAway as error:
        raise LabError(f"Modal can't be reached now: {error}. What was done so far is kept; try again later.", "modal") from error
