"""The compile cache on Modal: `setup modal` fills it once for each kind of GPU, and every training there restores it.

A sandbox begins with an empty compile cache. Filling it takes 20 to 40 s of a rented GPU, for graphs that are the same each time. So
`setup modal` launches the stock train.py of this package once, in a sandbox on that kind of GPU without network, up to start(). What
that compiled goes onto a volume of its own, where nothing but this trusted code ever writes. Trainings mount the volume read-only,
beneath the folder that only root can enter, and the launcher gives each run its own copy (trainer/compile_cache.py).

The volume's name carries all that the cache depends on, so a whole cache never changes: the profile, the kind of GPU, the image
(PyTorch, Triton, kernels, the fixed files), the stock train.py, and the attention that the lab asks for. Trainings run on a kind of
GPU without a cache too; each of them compiles for itself.
"""

import asyncio
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from autoresearch_mcp.server import devices
from autoresearch_mcp.server.compute.base import ComputeError
from autoresearch_mcp.server.compute.modal.backend import REMOTE
from autoresearch_mcp.server.compute.modal.client import RPC_S, ModalAway, Mount, Sandbox, Service
from autoresearch_mcp.server.compute.modal.context import BOOT_S, SETUP_COMMIT_S, read_committed, run_once
from autoresearch_mcp.server.compute.modal.deployment import CODE, COMPILE_CACHE, TRAINING, Deployment
from autoresearch_mcp.trainer import compile_cache, prepare, profiles, protocol, remote
from autoresearch_mcp.trainer.profiles import Profile

USUAL_S = BOOT_S + 5.0 + 40.0  # of the sandbox that compiles: boot, imports, compiling; unproven

Say = Callable[[str], None]


def limit_s(profile: str | Profile) -> float:
    """Return the most seconds that a sandbox which compiles can run."""
    return devices.START_LIMIT_S + profiles.resolve(profile).startup_s + 10.0


def plan(profile: str | Profile, device: str, prices: Mapping[str, float]) -> str:
    """Say in words what the compile cache of one kind of device costs, before it is filled."""
    rate = devices.usd_per_s(device, prices)
    return (
        f"compile cache for {device}: compiled once, by the stock train.py in a sandbox on {devices.requests()[device]}, "
        f"about ${rate * USUAL_S:.2f}, at most ${rate * limit_s(profile):.2f}"
    )


def volume(profile: str | Profile, device: str, image: str, attention: str) -> str:
    """Name the volume of the compile cache of one kind of device."""
    limits = profiles.resolve(profile)
    made_by = [image, attention, prepare.file_hash(compile_cache.STOCK)]
    made_by += [f"{limits.own.vocab_size} {limits.own.seq_len}"] if limits.own else []
    return f"autoresearch-compile-cache-{limits.name}-{device}-{hashlib.sha256(json.dumps(made_by).encode()).hexdigest()[:12]}"


async def describe(service: Service, name: str) -> Mapping[str, Any] | None:
    """Return what is known of the compile cache on a volume, or None unless it is whole."""
    data = await service.read(name, remote.WHOLE) if name else None
    return json.loads(data) if data is not None else None


async def make(service: Service, deployment: Deployment, device: str, attention: str, say: Say) -> str:
    """Fill the compile cache of this kind of device unless it is there, and return the name of its volume.

    Args:
        service: Makes the calls.
        deployment: The lab on Modal.
        device: The kind of device.
        attention: The attention that the lab's trainings use.
        say: Tells the user what happens.

    Raises:
        ComputeError: There is none; the text says why. Another call goes on from what was begun.
        ModalAway: The service is away or full.
    """
    name = volume(deployment.limits, device, deployment.image, attention)
    await service.create_volume(name)
    if (cache := await describe(service, name)) is None:
        say(f"compile cache for {device}: compiling in a sandbox; a GPU may have to come free first")
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(compile_cache.STOCK, folder)
            id, code = await run_once(service, _sandbox(deployment, device, attention, name, Path(folder)), say)
        cache = await read_committed(lambda: describe(service, name), SETUP_COMMIT_S if code == 0 else 0.0)
        if cache is None:
            raise ComputeError(f"The sandbox {id} ended with code {code} and left none. {await _failure(service, id)}")
        say(f"compile cache for {device}: {cache['bytes'] / 1e6:.1f} MB, {cache['startup_s']:.0f} s to start() on {cache['device_name']}")
    else:
        say(f"compile cache for {device}: there already")
    return name


async def missing(service: Service, deployment: Deployment, kinds: Sequence[str]) -> list[str]:
    """List those of these kinds of device for which Modal has no compile cache."""
    return [
        kind for kind in compiling(deployment.limits, kinds) if await describe(service, deployment.compile_caches.get(kind, "")) is None
    ]


def compiling(profile: str | Profile, kinds: Sequence[str]) -> list[str]:
    """List those of these kinds of device on which trainings compile: those with a GPU, none where the profile trains on CPUs."""
    return [kind for kind in kinds if profiles.resolve(profile).device != "cpu" and devices.requests()[kind] is not None]


def _sandbox(deployment: Deployment, device: str, attention: str, name: str, stock: Path) -> Sandbox:
    limits = deployment.limits
    spec = protocol.Spec("compile-cache", 0, limits.name, limits.budget_s, 1, TRAINING, device, attention=attention, own_text=limits.own)
    return Sandbox(
        name=name.removeprefix("autoresearch-"),
        argv=(*REMOTE, "compile", json.dumps(asdict(spec)), CODE, COMPILE_CACHE),
        tags={"stage": "compile"},
        image=deployment.image,
        timeout_s=int(limit_s(limits)),
        volumes={TRAINING: Mount(deployment.training, read_only=True), COMPILE_CACHE: Mount(name)},
        gpu=devices.requests()[device],
        cpu=(2.0, 8.0),
        memory=(16_384, 65_536),
        folder=stock,
        mounted=CODE,
    )


async def _failure(service: Service, id: str) -> str:
    """Return why a sandbox left nothing, as its launcher printed it; else where to look."""
    try:
        async with asyncio.timeout(RPC_S):
            async for line in service.lines(id):
                if line.startswith('{"result"') and (failure := json.loads(line)["result"].get("failure")):
                    return f"{failure['kind']}: {failure['message']}"
    except (ModalAway, TimeoutError, ValueError):
        pass
    return f"See its log: `modal sandbox logs {id}`."
