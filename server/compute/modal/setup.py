"""`setup modal`: makes, once, everything that a lab's trainings share on Modal. A second call makes only what is missing.

It takes these steps in this order. Each can be repeated without harm, and they are recorded only when all are done:

1. the environment and the app;
2. the image with the trainer's fixed files. Modal caches its build. Kernels are fetched then, because sandboxes have no network;
3. the volume of runs, one volume for what trains and one for what measures. A sandbox prepares the profile's data there. Their names
   carry the data's version, so a finished volume never changes and is only looked at. Code that keeps no contract brings its own folders
   instead (`own_code.py`).

Then the lab can train. A compile cache for each kind of GPU that it uses (`compile_cache.py`) only makes that cheaper, so a cache
that fails leaves the rest as it is.
"""

import asyncio
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from autoresearch_mcp.server import devices
from autoresearch_mcp.server.compute.base import ComputeError
from autoresearch_mcp.server.compute.modal import compile_cache, own_code
from autoresearch_mcp.server.compute.modal.backend import REMOTE
from autoresearch_mcp.server.compute.modal.client import ModalAway, Mount, Sandbox, Service
from autoresearch_mcp.server.compute.modal.context import SETUP_COMMIT_S, read_committed, run_once
from autoresearch_mcp.server.compute.modal.deployment import EVALUATION, PRIVATE, RUNS_VOLUME, TRAINING, Deployment, volumes
from autoresearch_mcp.server.compute.modal.own_code import OwnCode
from autoresearch_mcp.server.models import new_id
from autoresearch_mcp.server.paths import StatePaths
from autoresearch_mcp.server.secret import fingerprint
from autoresearch_mcp.trainer import device, prepare, profiles, protocol, sandbox
from autoresearch_mcp.trainer.profiles import Profile

PYTHON = "3.12"
BUILD_S = 3600.0
PREPARE_S = 3600  # limit of the sandbox that prepares data
PREPARE_CORES, PREPARE_MIB = 8.0, 16_384
CPU_USD_S, MIB_USD_S = 0.00004, 7e-9  # of a core and of a MiB in a sandbox
OVERHEAD_S = 22.0  # of an experiment, beside its training: see tests/bench/gpu_budget.py
# The same versions as on a laptop, from pyproject.toml, and what a Hopper GPU needs beyond them.
TRAINER = ("torch==2.13.*", "numpy>=2,<3", "safetensors>=0.5,<1", "kernels>=0.16,<0.18")
DATA = ("numpy>=2,<3", "rustbpe>=0.1,<0.2", "tiktoken>=0.12,<1")
KERNELS = "/opt/kernels"  # trainings may read it, unlike root's home
FETCH_KERNELS = (
    f'mkdir -p {KERNELS} && python -c "import os; from kernels import install_kernel; '
    f"os.symlink(install_kernel('{device.FLASH}', version={device.FLASH_VERSION}), '{KERNELS}/{device.FLASH_LINK}')\""
)
# Make a folder that only root may enter, and leave no place that all may write. What is mounted later is sealed by `autoresearch_mcp.trainer.sandbox.seal`.
SEAL = f"mkdir -m 700 -p {PRIVATE} && find / -xdev -type d -perm -0002 -exec chmod o-w {{}} +"

SECRET = "/run/secret"  # noqa: S105 - where the sandbox that prepares data finds the lab's secret, and
TEXT = "text"  # the owner's text below it

Say = Callable[[str], None]


def plan(
    profile: str | Profile,
    kinds: Sequence[str],
    budget_s: float,
    prices: dict[str, float],
    heldout: str = "",
    code: OwnCode | None = None,
    longest_s: float | None = None,
) -> list[str]:
    """Say what `set_up` will make, and what that and an experiment on the first of the kinds cost.

    Args:
        profile: What the lab trains.
        kinds: The kinds of device that trainings may run on.
        budget_s: The training budget of an experiment.
        prices: What lab.toml sets, in USD a second by the GPU's name.
        heldout: The fingerprint of the lab's secret; empty for the public split.
        code: What code that keeps no contract needs; None where code keeps it.
        longest_s: The most seconds of an attempt; None is by the budget.

    Returns:
        Lines for the user.
    """
    device = kinds[0]
    asked = devices.requests().get(device) or "no GPU"
    rate = devices.usd_per_s(device, prices)
    longest = devices.longest_s(profile, budget_s) if longest_s is None else longest_s
    usual = rate * (budget_s + OVERHEAD_S)
    return [
        *(_plan_of_models(profile, kinds, prices, heldout) if code is None else _plan_of_code(code)),
        f"after that nothing runs until an experiment is launched: about ${usual:.2f} each on {asked} at ${rate * 3600:.2f} an hour, billed by the "
        f"second; ${rate * longest:.2f} are reserved until it ends",
    ]


def _plan_of_models(profile: str | Profile, kinds: Sequence[str], prices: dict[str, float], heldout: str) -> list[str]:
    data, held_out = volumes(profile, heldout)
    preparing = PREPARE_S * (PREPARE_CORES * CPU_USD_S + PREPARE_MIB * MIB_USD_S)
    return [
        f"image: Python {PYTHON} with {', '.join(TRAINER)} and the trainer's fixed files {prepare.fixed_hash()} (built by Modal at no charge)",
        f"volumes: {data} (training), {held_out} (validation and test), {RUNS_VOLUME} (results)",
        f"data: prepared once in a sandbox without a GPU, at most {PREPARE_S // 60} minutes: at most ${preparing:.2f}",
        *(compile_cache.plan(profile, kind, prices) for kind in compile_cache.compiling(profile, kinds)),
    ]


def _plan_of_code(code: OwnCode) -> list[str]:
    sent = ", ".join(f"{own_code.volume(each.key, each.name)} ({each.megabytes:.1f} MB of {each.path})" for each in code.folders)
    return [
        f"image: Python {PYTHON} with {', '.join(code.packages)} and the trainer's fixed files {prepare.fixed_hash()} (built by Modal at no charge)",
        f"volumes: {sent + ', ' if sent else ''}{RUNS_VOLUME} (results)",
    ]


async def set_up(
    state: Path,
    profile: str | Profile,
    environment: str,
    app: str,
    say: Say = lambda line: None,
    kinds: Sequence[str] = (),
    attention: str = "auto",
    secret: Path | None = None,
    code: OwnCode | None = None,
) -> Deployment:
    """Make what is missing, and write down where it is.

    Args:
        state: The lab's state folder.
        profile: What the lab trains.
        environment: The Modal environment.
        app: The app in it.
        say: Tells the user what happens.
        kinds: The kinds of device that trainings may run on; those that compile get a compile cache.
        attention: The attention that the lab's trainings use; the compile cache depends on it.
        secret: The file with the lab's secret; None for the public split.
        code: What code that keeps no contract needs; None where code keeps it.

    Raises:
        ComputeError: A step failed. What was made stays, and the next call goes on from there.
        ModalAway: The same, as the service is away or full.
    """
    if isinstance(profile, str) and profile not in prepare.PROFILES:
        raise ComputeError(f"There is no profile {profile!r}; there are {', '.join(prepare.PROFILES)}.")
    limits = profiles.resolve(profile)
    service = Service(environment, app)
    say(f"environment {environment}, app {app}")
    await service.create_environment()
    say("image: building, or finding it built; the first time takes minutes")
    images = await service.images()
    image = await service.build(trainer_image(images) if code is None else image_of_code(images, code.packages), BUILD_S)
    training, evaluation = volumes(limits, fingerprint(secret) if secret is not None else "") if code is None else ("", "")
    for volume in (training, evaluation, RUNS_VOLUME) if code is None else (RUNS_VOLUME,):
        say(f"volume {volume}")
        await service.create_volume(volume)
    if code is not None:
        for folder in code.folders:
            await own_code.send(service, folder, say)
    elif await service.read(training, prepare.META) is None:
        say("data: preparing")
        data_image = await service.build(data_image_of(images, limits), BUILD_S)
        await _prepare(service, data_image, limits, training, evaluation, secret, say)
    else:
        say("data: there already")
    caches = {
        kind: volume
        for kind, volume in (protocol.read_json(StatePaths(state).deployment) or {}).get("compile_caches", {}).items()
        if volume == compile_cache.volume(limits, kind, image, attention)
    }
    deployment = Deployment(
        _lab(state),
        environment,
        app,
        limits.name,
        image,
        prepare.fixed_hash(),
        training,
        evaluation,
        compile_caches=caches,
        own=asdict(limits.own) if limits.own else None,
        packages=code.packages if code else None,
        given=code.names if code else {},
    )
    deployment.save(state)
    for kind in compile_cache.compiling(limits, kinds) if code is None else ():
        try:
            volume = await compile_cache.make(service, deployment, kind, attention, say)
        except (ComputeError, ModalAway) as error:
            say(
                f"compile cache for {kind}: not filled, so each training there compiles for itself until `setup modal` has filled it. {error}"
            )
            continue
        deployment = replace(deployment, compile_caches={**deployment.compile_caches, kind: volume})
        deployment.save(state)
    say(f"done: {StatePaths(state).deployment.name} in {state.name}/ says where everything is")
    return deployment


def trainer_image(images: Any) -> Any:
    """Describe the image that every training and scoring runs in. It holds no data, and no package that does.

    gcc is in it because Triton compiles with it what launches its kernels.

    Args:
        images: `modal.Image`.
    """
    base = (
        images.debian_slim(python_version=PYTHON)
        .apt_install("gcc", "libc6-dev")
        .pip_install(*TRAINER)
        .env({"KERNELS_CACHE": KERNELS, sandbox.PRIVATE: PRIVATE})
    )
    return _with_trainer(base.run_commands(FETCH_KERNELS, SEAL))


def image_of_code(images: Any, packages: Sequence[str]) -> Any:
    """Describe the image in which code that keeps no contract runs, and is scored: with the packages that it asks for, and git.

    Args:
        images: `modal.Image`.
        packages: As for pip.
    """
    base = images.debian_slim(python_version=PYTHON).apt_install("gcc", "libc6-dev", "git").pip_install(*packages)
    return _with_trainer(base.env({sandbox.PRIVATE: PRIVATE}).run_commands(SEAL))


def data_image_of(images: Any, profile: str | Profile) -> Any:
    """Describe the image in which data is prepared, the only one with a network and with the package that holds the text.

    Args:
        images: `modal.Image`.
        profile: What the lab trains.
    """
    limits = profiles.resolve(profile)
    text = "pyarrow>=21" if limits.shards or limits.own else f"{limits.dataset}{_version(limits.dataset)}"  # from the hub, or a package's
    return _with_trainer(images.debian_slim(python_version=PYTHON).pip_install(*DATA, text).run_commands(SEAL))


def _with_trainer(image: Any) -> Any:
    package = Path(prepare.__file__).parent
    placed = image.add_local_dir(package, "/opt/autoresearch/autoresearch_mcp/trainer", copy=True, ignore=["**/__pycache__/**", "train.py"])
    return placed.env({"PYTHONPATH": "/opt/autoresearch"}).workdir("/")


def _version(package: str) -> str:
    """Pin a package to the version that is installed here: the data must come out the same."""
    try:
        return f"=={metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return ""


def _lab(state: Path) -> str:
    """Return the lab's name among those that share an app; it never changes."""
    known = protocol.read_json(StatePaths(state).deployment)
    return str(known["lab"]) if known and "lab" in known else new_id("l")


async def _prepare(service: Service, image: str, profile: Profile, training: str, evaluation: str, secret: Path | None, say: Say) -> None:
    """Run the sandbox that prepares data, or wait for one that does. It alone gets the lab's secret and text, and no agent's code runs in it."""
    wanted, own = _preparing(image, profile.name, training, evaluation), profile.own
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if own is not None:
            if own.text:
                await asyncio.to_thread(shutil.copytree, own.text, folder / TEXT)
                own = replace(own, text=f"{SECRET}/{TEXT}")
            wanted = replace(wanted, argv=(*wanted.argv, "--own", json.dumps(asdict(own))))
        if secret is not None:
            shutil.copy(secret, folder)
            wanted = replace(wanted, argv=(*wanted.argv, "--secret", f"{SECRET}/{secret.name}"))
        if secret is not None or (own and own.text):
            wanted = replace(wanted, folder=folder, mounted=SECRET)
        id, code = await run_once(service, wanted, say)

    async def read() -> bytes | None:
        meta = await service.read(training, prepare.META)
        return meta if meta is not None and await service.read(evaluation, prepare.META) == meta else None

    if (meta := await read_committed(read, SETUP_COMMIT_S if code == 0 else 0.0)) is not None:
        say(f"data: {sum(json.loads(meta)['tokens'].values()):,} tokens")
        return
    raise ComputeError(
        f"The sandbox {id} that prepares the data ended with code {code} and left none. "
        f"See its log: `modal sandbox logs {id}`. Run `autoresearch-mcp setup modal` again; what was made is kept."
    )


def _preparing(image: str, profile: str, training: str, evaluation: str) -> Sandbox:
    return Sandbox(
        name=f"prepare-{training[-40:]}",
        argv=(*REMOTE, "prepare", profile, TRAINING, EVALUATION),
        tags={"stage": "prepare"},
        image=image,
        timeout_s=PREPARE_S,
        volumes={TRAINING: Mount(training), EVALUATION: Mount(evaluation)},
        cpu=(2.0, PREPARE_CORES),
        memory=(4096, PREPARE_MIB),
        network=True,
    )
