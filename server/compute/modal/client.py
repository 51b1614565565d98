"""All calls of Modal's client that this project makes, each within its own time limit.

- Every call names one app in one environment. Objects of others are never looked up.
- Values come back as text and bytes only. Nothing from a sandbox is unpickled.
- `modal` is imported on the first call (0.6 s, 45 MB), so that only the process that talks to the service pays for it.
- Never call `modal.enable_output()`: it writes to stdout.
"""

import asyncio
import importlib
import io
import time
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

from autoresearch_mcp.server.compute.base import ComputeError

RPC_S = 30.0  # an unreachable service is noticed by the client itself only after 56 s
TRANSFER_S = 120.0  # reading or writing a file of a volume
SLOWEST = 500_000  # bytes a second of what is sent
FILE_BYTES = 16 << 20  # of a file that is read back


_T = TypeVar("_T")


class ModalAway(Exception):
    """The service can't be reached, has no capacity, or failed. Whether the call took effect is not known. Try again."""


class ModalRefused(ComputeError):
    """The service understood the request and said no. Another try won't help."""


class NameTaken(Exception):
    """A sandbox of this name runs already."""


class EndedEarly(Exception):
    """The sandbox was created, and ended before anybody could see it run."""


@dataclass(frozen=True)
class Sandbox:
    """A sandbox to ask for.

    Attributes:
        name: No two sandboxes of this name run at the same time.
        argv: Its entry point.
        tags: Find it among others.
        image: The image's object id.
        timeout_s: When the service ends it.
        volumes: Mount point -> what is mounted there.
        gpu: The GPU to ask for, or none.
        cpu: Cores requested, and the most that it may use.
        memory: MiB requested, and the most that it may use.
        folder: A local folder that is mounted at `mounted` by its content; no image is built for it.
        mounted: Where `folder` is mounted.
        network: Whether it reaches the internet.
    """

    name: str
    argv: tuple[str, ...]
    tags: Mapping[str, str]
    image: str
    timeout_s: int
    volumes: Mapping[str, "Mount"]
    gpu: str | None = None
    cpu: tuple[float, float] = (1.0, 4.0)
    memory: tuple[int, int] = (2048, 8192)
    folder: Path | None = None
    mounted: str = "/run/code"
    network: bool = False


@dataclass(frozen=True)
class Mount:
    """A volume, or a folder of one, in a sandbox.

    Attributes:
        volume: The volume's name.
        read_only: Whether the sandbox can't write to it.
        sub_path: The folder of the volume that is mounted; None is all of it.
    """

    volume: str
    read_only: bool = False
    sub_path: str | None = None


class Service:
    """One app in one environment. Use it from one asyncio loop.

    Every method can raise `ModalAway` and `ModalRefused`; their docstrings name what they raise beyond that.

    Args:
        environment: The Modal environment.
        app: The app in it.
    """

    def __init__(self, environment: str, app: str) -> None:
        self.environment = environment
        self.app = app
        self._modal: Any = None
        self._client: Any = None
        self._app: Any = None
        self._turn = asyncio.Lock()
        self._sandboxes: dict[str, Any] = {}
        self._volumes: dict[str, Any] = {}

    # Sandboxes

    async def create(self, wanted: Sandbox) -> str:
        """Start a sandbox and return its id. This waits for capacity, up to 21 minutes; cancelling the call ends the sandbox.

        Args:
            wanted: The sandbox.

        Raises:
            NameTaken: A sandbox of this name runs already.
            EndedEarly: It ended before it was seen to run.
        """
        app = await self._connect()
        modal = self._modal
        image = modal.Image.from_id(wanted.image, client=self._client)
        if wanted.folder is not None:
            image = image.add_local_dir(wanted.folder, wanted.mounted)
        try:
            sandbox = await _answer(
                modal,
                modal.Sandbox.create.aio(
                    *wanted.argv,
                    app=app,
                    name=wanted.name,
                    tags=dict(wanted.tags),
                    image=image,
                    timeout=wanted.timeout_s,
                    gpu=wanted.gpu,
                    cpu=wanted.cpu,
                    memory=wanted.memory,
                    block_network=not wanted.network,
                    volumes={path: self._mount(mount) for path, mount in wanted.volumes.items()},
                    client=self._client,
                ),
                None,
            )
        except modal.exception.AlreadyExistsError as error:
            raise NameTaken(wanted.name) from error
        except modal.exception.ConflictError as error:
            raise EndedEarly(str(error)) from error
        return self._remember(sandbox)

    async def find(self, name: str) -> str | None:
        """Return the id of the running sandbox of this name, or None if none runs."""
        await self._connect()
        with suppress(self._modal.exception.NotFoundError):
            call = self._modal.Sandbox.from_name.aio(self.app, name, environment_name=self.environment, client=self._client)
            return self._remember(await _answer(self._modal, call))
        return None

    async def running(self, tags: Mapping[str, str]) -> dict[str, dict[str, str]]:
        """List the running sandboxes of this app that have these tags.

        Returns:
            A sandbox's id -> all of its tags.
        """
        app = await self._connect()

        async def collect() -> dict[str, dict[str, str]]:
            running = {}
            async for sandbox in self._modal.Sandbox.list.aio(app_id=app.app_id, tags=dict(tags), client=self._client):
                with suppress(self._modal.exception.NotFoundError):  # it has ended meanwhile
                    running[self._remember(sandbox)] = dict(await sandbox.get_tags.aio())
            return running

        return await _answer(self._modal, collect(), TRANSFER_S)

    async def poll(self, id: str) -> int | None:
        """Return the return code of a sandbox that has ended, None if it runs. It proves nothing: 0 may be a failed start, 137 a preemption."""
        sandbox = await self._sandbox(id)
        code: int | None = await _answer(self._modal, sandbox.poll.aio())
        return code

    async def terminate(self, id: str) -> None:
        """End a sandbox, unless it has ended."""
        await self._connect()
        with suppress(self._modal.exception.NotFoundError):
            sandbox = await self._sandbox(id)
            await _answer(self._modal, sandbox.terminate.aio())

    async def lines(self, id: str) -> AsyncIterator[str]:
        """Yield what a sandbox prints on stdout, line by line, from its beginning until it ends."""
        await self._connect()
        sandbox = await _answer(self._modal, self._modal.Sandbox.from_id.aio(id, client=self._client))  # a fresh one replays
        stream = aiter(sandbox.stdout)
        try:
            while True:
                try:
                    yield await _answer(self._modal, anext(stream), None)
                except StopAsyncIteration:
                    return
        finally:
            await stream.aclose()

    async def cost(self, id: str) -> float | None:
        """Return the USD that a sandbox has cost so far, late by minutes; None if the service doesn't say yet, or no longer knows it."""
        await self._connect()
        try:
            sandbox = await self._sandbox(id)
            stats = await _answer(self._modal, sandbox._experimental_stats.aio())
        except self._modal.exception.NotFoundError:
            return None
        finally:
            self.forget(id)
        return float(stats.cost) if stats.cost is not None else None

    # Volumes

    async def read(self, volume: str, path: str) -> bytes | None:
        """Return a file of a volume. A sandbox's writes show some time after it made them.

        Returns:
            The content; None if there is no such file or volume, or none yet.

        Raises:
            ModalRefused: It is larger than `FILE_BYTES`.
        """
        await self._connect()

        async def collect() -> bytes:
            data = bytearray()
            handle = await self._volume(volume)
            async for chunk in handle.read_file.aio(path):
                data += chunk
                if len(data) > FILE_BYTES:
                    raise ModalRefused(f"{path} on the volume {volume} is larger than {FILE_BYTES >> 20} MB.")
            return bytes(data)

        with suppress(FileNotFoundError, self._modal.exception.NotFoundError):
            return await _answer(self._modal, collect(), TRANSFER_S)
        return None

    async def write(self, volume: str, path: str, content: bytes) -> None:
        """Write a file to a volume, over one of the same path."""
        handle = await self._volume(volume)

        async def upload() -> None:
            async with handle.batch_upload.aio(force=True) as batch:
                batch.put_file(io.BytesIO(content), path)

        await _answer(self._modal, upload(), TRANSFER_S)

    async def upload(self, volume: str, files: Sequence[tuple[Path, str, int]]) -> None:
        """Write files of this machine to a volume, over those of the same paths. Blocks that are there already are not sent again.

        Args:
            volume: Its name.
            files: Each with its path on the volume, and its bytes.

        Raises:
            ModalRefused: A file can't be read.
        """
        handle = await self._volume(volume)

        async def upload() -> None:
            async with handle.batch_upload.aio(force=True) as batch:
                for file, path, _ in files:
                    batch.put_file(file, path, 0o755 if file.stat().st_mode & 0o100 else 0o644)

        try:
            await _answer(self._modal, upload(), TRANSFER_S + sum(size for *_, size in files) / SLOWEST)
        except (FileNotFoundError, PermissionError) as error:
            raise ModalRefused(f"{error.filename} can't be read: {error.strerror}.") from error

    # Once: see setup.py

    async def create_environment(self) -> None:
        """Make the environment and the app, unless they are there."""
        await self._open()
        modal = self._modal
        environment = modal.Environment.from_name(self.environment, create_if_missing=True, client=self._client)
        await _answer(modal, environment.hydrate.aio())
        await _answer(modal, modal.App.lookup.aio(self.app, environment_name=self.environment, create_if_missing=True, client=self._client))
        await self._connect()

    async def create_volume(self, name: str) -> None:
        """Make a volume, unless it is there."""
        await self._connect()
        volume = self._modal.Volume.from_name(
            name, environment_name=self.environment, version=2, create_if_missing=True, client=self._client
        )
        await _answer(self._modal, volume.hydrate.aio())

    async def build(self, image: Any, timeout_s: float) -> str:
        """Build an image, or find it built, and return its object id.

        Args:
            image: A description made with `images`.
            timeout_s: How long the build may take.
        """
        app = await self._connect()
        built = await _answer(self._modal, image.build.aio(app), timeout_s)
        return str(built.object_id)

    async def images(self) -> Any:
        """Return `modal.Image`, which describes images."""
        await self._open()
        return self._modal.Image

    async def rates(self) -> dict[str, float]:
        """Return the service's own price list: its names -> USD, in whatever unit it uses. It may not answer at all."""
        await self._open()
        workspace = self._modal.Workspace.from_context(client=self._client)
        rates: Mapping[str, Decimal] = await _answer(self._modal, workspace.billing.rates.aio())
        return {name: float(value) for name, value in rates.items()}

    async def ping(self) -> float:
        """Return the seconds that one call takes."""
        await self._connect()
        began = time.monotonic()
        await _answer(self._modal, self._modal.App.lookup.aio(self.app, environment_name=self.environment, client=self._client))
        return time.monotonic() - began

    # Inside

    async def _open(self) -> None:
        async with self._turn:
            if self._client is not None:
                return
            if self._modal is None:
                try:
                    self._modal = await asyncio.to_thread(importlib.import_module, "modal")
                except ModuleNotFoundError:
                    raise ModalRefused("The package modal is missing: pip install 'autoresearch-mcp[modal]'.") from None
                # Of the client's two ways to make, name and list sandboxes, the one that those with a GPU always take; in our environment.
                self._modal.config.config.override_locally("sandbox_v2", "0")
                self._modal.config.config.override_locally("environment", self.environment)
            self._client = await _answer(self._modal, self._modal.Client.from_env.aio())

    async def _connect(self) -> Any:
        await self._open()
        async with self._turn:
            if self._app is None:
                modal = self._modal
                try:
                    call = modal.App.lookup.aio(self.app, environment_name=self.environment, client=self._client)
                    self._app = await _answer(modal, call)
                except modal.exception.NotFoundError:
                    message = (
                        f"There is no app {self.app!r} in the Modal environment {self.environment!r}: run `autoresearch-mcp setup modal`."
                    )
                    raise ModalRefused(message) from None
            return self._app

    def _remember(self, sandbox: Any) -> str:
        id = str(sandbox.object_id)
        self._sandboxes[id] = sandbox
        return id

    async def _sandbox(self, id: str) -> Any:
        await self._connect()
        if id not in self._sandboxes:
            self._remember(await _answer(self._modal, self._modal.Sandbox.from_id.aio(id, client=self._client)))
        return self._sandboxes[id]

    def forget(self, id: str) -> None:
        """Drop what is kept here of a sandbox that nobody will ask for again."""
        self._sandboxes.pop(id, None)

    async def _volume(self, name: str) -> Any:
        await self._connect()
        if name not in self._volumes:
            self._volumes[name] = self._named(name)
            await _answer(self._modal, self._volumes[name].hydrate.aio())
        return self._volumes[name]

    def _named(self, name: str) -> Any:
        return self._modal.Volume.from_name(name, environment_name=self.environment, version=2, client=self._client)

    def _mount(self, mount: Mount) -> Any:
        return self._named(mount.volume).with_mount_options(read_only=mount.read_only, sub_path=mount.sub_path)


async def _answer(modal: Any, call: Awaitable[_T], timeout_s: float | None = RPC_S) -> _T:
    """Await a call, and sort its errors into `ModalAway` and `ModalRefused`. Not found and taken names pass through."""
    errors = modal.exception
    try:
        async with asyncio.timeout(timeout_s):
            return await call
    except (errors.NotFoundError, errors.AlreadyExistsError, errors.ConflictError):
        raise
    except errors.AuthError as error:
        raise ModalRefused(f"Modal does not accept the credentials: {error}. Set them with `modal token new`.") from error
    except (errors.InvalidError, errors.PermissionDeniedError, errors.UnimplementedError, errors.VersionError) as error:
        raise ModalRefused(f"Modal refused: {error}") from error
    except errors.RemoteError as error:
        raise ModalRefused(f"Modal could not build the image: {error}") from error
    except FileNotFoundError:
        raise
    except (errors.Error, TimeoutError, OSError) as error:
        raise ModalAway(f"{type(error).__name__}: {error}") from error
