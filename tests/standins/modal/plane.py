"""The control plane of the stand-in: the RPCs that this project's calls lead to, for modal 1.6. Others answer UNIMPLEMENTED."""

import asyncio
import base64
import hashlib
import json
import secrets
import shutil
import string
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from grpclib import GRPCError, Status
from modal_proto import api_grpc
from modal_proto import api_pb2 as api

from tests.standins.modal.container import Container

BLOCK_BYTES = 8 << 20
USD_S = 0.002  # what the service says that a running sandbox costs a second, which is no price of the lab's
REPOSITORY = Path(__file__).parents[3]
_LETTERS = string.ascii_letters + string.digits


def made_id(prefix: str, length: int = 22) -> str:
    return prefix + "-" + "".join(secrets.choice(_LETTERS) for _ in range(length))


def unary(method: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[None]]:
    """`async def Name(self, request) -> response` as a handler of grpclib's."""

    async def handler(self: "Plane", stream: Any) -> None:
        request = await stream.recv_message()
        self.calls.append(method.__name__)
        self.requests[method.__name__] = request.SerializeToString()
        self.refuse_if_away()
        await tell(stream, await method(self, request))

    handler.__name__ = method.__name__
    return handler


async def tell(stream: Any, message: Any) -> None:
    """Unless whoever asked was killed meanwhile: asyncio complains of each write to a connection that is lost."""
    if not stream._stream._transport.is_closing():
        await stream.send_message(message)


def complete(cls: type) -> type:
    """Give every RPC that is not implemented an answer that says so."""
    for name in dir(cls):
        if getattr(getattr(cls, name), "__isabstractmethod__", False):

            async def missing(self: Any, stream: Any, name: str = name) -> None:
                await stream.recv_message()
                self.unimplemented.append(name)
                raise GRPCError(Status.UNIMPLEMENTED, name)

            setattr(cls, name, missing)
    cls.__abstractmethods__ = frozenset()  # type: ignore[attr-defined]
    return cls


@complete
class Plane(api_grpc.ModalClientBase):
    """Attributes:
    url: of the HTTP side, which serves the blocks of volumes.
    away: whether every call fails as it does while the service is down.
    capacity: how many sandboxes may run at once; more wait for their place. None: any number.
    boot_s: from placement to the first instruction.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.url = root, ""
        self.away, self.capacity, self.boot_s = False, None, 0.0
        self.calls: list[str] = []
        self.requests: dict[str, bytes] = {}  # the latest of each call, as it came over the wire
        self.unimplemented: list[str] = []
        self.apps: dict[tuple[str, str], str] = {}
        self.environments = {"main"}
        self.volumes: dict[tuple[str, str], str] = {}
        self.images: dict[str, Any] = {}
        self.mounts: dict[str, list[Any]] = {}
        self.files: dict[str, bytes] = {}
        self.blocks: dict[str, bytes] = {}
        self.containers: dict[str, Container] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def refuse_if_away(self) -> None:
        if self.away:
            raise GRPCError(Status.UNAVAILABLE, "the service is away")

    # Session, environment, app

    @unary
    async def ClientHello(self, request: Any) -> Any:
        return api.ClientHelloResponse()

    @unary
    async def AuthTokenGet(self, request: Any) -> Any:
        claims = base64.urlsafe_b64encode(json.dumps({"exp": time.time() + 3600}).encode()).decode().rstrip("=")
        return api.AuthTokenGetResponse(token=f"x.{claims}.x")

    @unary
    async def EnvironmentGetOrCreate(self, request: Any) -> Any:
        name = request.deployment_name or "main"
        if request.object_creation_type == api.OBJECT_CREATION_TYPE_CREATE_IF_MISSING:
            self.environments.add(name)
        self._require_environment(name)
        settings = api.EnvironmentSettings(image_builder_version="2025.06")
        return api.EnvironmentGetOrCreateResponse(
            environment_id=f"en-{name}", metadata=api.EnvironmentMetadata(name=name, settings=settings)
        )

    def _require_environment(self, name: str) -> None:
        if name not in self.environments:
            raise GRPCError(Status.NOT_FOUND, f"Environment {name!r} not found")

    @unary
    async def AppGetOrCreate(self, request: Any) -> Any:
        self._require_environment(request.environment_name or "main")
        key = (request.environment_name or "main", request.app_name)
        if key not in self.apps and request.object_creation_type != api.OBJECT_CREATION_TYPE_CREATE_IF_MISSING:
            raise GRPCError(Status.NOT_FOUND, f"App {request.app_name!r} not found")
        return api.AppGetOrCreateResponse(app_id=self.apps.setdefault(key, made_id("ap")))

    @unary
    async def WorkspaceNameLookup(self, request: Any) -> Any:
        return api.WorkspaceNameLookupResponse(workspace_name="standin", username="standin")

    @unary
    async def WorkspaceBillingRates(self, request: Any) -> Any:
        return api.WorkspaceBillingRatesResponse(rates={"gpu_h100_seconds": "0.001097"})

    # Images and mounts

    @unary
    async def ImageGetOrCreate(self, request: Any) -> Any:
        digest = hashlib.sha256(request.image.SerializeToString(deterministic=True)).hexdigest()
        id = f"im-{digest[:22]}"
        self.images[id] = request.image
        result = api.GenericResult(status=api.GenericResult.GENERIC_STATUS_SUCCESS)
        return api.ImageGetOrCreateResponse(image_id=id, result=result, metadata=self._python())

    @unary
    async def ImageFromId(self, request: Any) -> Any:
        return api.ImageFromIdResponse(image_id=request.image_id, metadata=self._python())

    def _copied(self, id: str) -> Path | None:
        """Return the folder with the files that an image copied from its maker's machine, laid out as in the image. The rest is not built."""
        while (image := self.images.get(id)) is not None and not image.context_mount_id:
            id = image.base_images[0].image_id if image.base_images else ""
        if image is None:
            return None
        folder = self.root / "images" / id
        for file in self.mounts[image.context_mount_id] if not folder.exists() else ():
            target = folder / file.filename.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(self.files[file.sha256_hex])
        return folder

    @staticmethod
    def _python() -> Any:
        return api.ImageMetadata(python_version_info="Python 3.11.7")

    @unary
    async def MountPutFile(self, request: Any) -> Any:
        if request.WhichOneof("data_oneof") == "data":
            self.files[request.sha256_hex] = request.data
        return api.MountPutFileResponse(exists=request.sha256_hex in self.files)

    @unary
    async def MountBatchedCheckExistence(self, request: Any) -> Any:
        missing = [digest for digest in request.sha256_hex_hashes if digest not in self.files]
        return api.MountBatchedCheckExistenceResponse(missing_sha256_hex_hashes=missing)

    @unary
    async def MountGetOrCreate(self, request: Any) -> Any:
        files = sorted((file.filename, file.sha256_hex) for file in request.files)
        id = f"mo-{hashlib.sha256(repr(files).encode()).hexdigest()[:22]}"  # by content: an image that copies the same files is the same
        self.mounts[id] = list(request.files)
        return api.MountGetOrCreateResponse(mount_id=id, handle_metadata=api.MountHandleMetadata(content_checksum_sha256_hex="0"))

    # Volumes (version 2)

    @unary
    async def VolumeGetOrCreate(self, request: Any) -> Any:
        self._require_environment(request.environment_name or "main")
        key = (request.environment_name or "main", request.deployment_name)
        if key not in self.volumes and request.object_creation_type == api.OBJECT_CREATION_TYPE_UNSPECIFIED:
            raise GRPCError(Status.NOT_FOUND, f"Volume {request.deployment_name!r} not found")
        id = self.volumes.setdefault(key, made_id("vo"))
        (self.root / "volumes" / id).mkdir(parents=True, exist_ok=True)
        version = api.VOLUME_FS_VERSION_V2
        metadata = api.VolumeMetadata(version=version, name=request.deployment_name)
        return api.VolumeGetOrCreateResponse(volume_id=id, version=version, metadata=metadata)

    def volume_path(self, volume: str, path: str) -> Path:
        base = (self.root / "volumes" / volume).resolve()
        target = (base / path.lstrip("/")).resolve()
        if not target.is_relative_to(base):
            raise GRPCError(Status.INVALID_ARGUMENT, "the path leaves the volume")
        return target

    @unary
    async def VolumePutFiles2(self, request: Any) -> Any:
        missing = []
        for index, file in enumerate(request.files):
            digests = [block.contents_sha256.hex() for block in file.blocks]
            absent = [
                api.VolumePutFiles2Response.MissingBlock(file_index=index, block_index=i, put_url=f"{self.url}/block/{digest}")
                for i, digest in enumerate(digests)
                if digest not in self.blocks
            ]
            missing += absent
            if not absent:
                target = self.volume_path(request.volume_id, file.path)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(b"".join(self.blocks[digest] for digest in digests)[: file.size])
                target.chmod(file.mode)
        return api.VolumePutFiles2Response(missing_blocks=missing)

    @unary
    async def VolumeGetFile2(self, request: Any) -> Any:
        path = self.volume_path(request.volume_id, request.path)
        if not path.is_file():
            raise GRPCError(Status.NOT_FOUND, f"{request.path} is not on the volume")
        size = path.stat().st_size
        urls = [
            f"{self.url}/volume/{request.volume_id}/{start}/{min(BLOCK_BYTES, size - start)}/{request.path.lstrip('/')}"
            for start in range(0, size, BLOCK_BYTES)
        ]
        return api.VolumeGetFile2Response(get_urls=urls, size=size, start=0, len=size)

    # Sandboxes

    @unary
    async def SandboxCreate(self, request: Any) -> Any:
        container = self._create(request, made_id("sb"))
        return api.SandboxCreateResponse(sandbox_id=container.id, metadata=self._metadata(container))

    def _create(self, request: Any, id: str) -> Container:
        wanted = request.definition
        if wanted.name and any(c.name == wanted.name and c.app == request.app_id and not c.finished_at for c in self.containers.values()):
            raise GRPCError(Status.ALREADY_EXISTS, f"Sandbox {wanted.name} already exists")
        directory = self.root / "containers" / id
        places = self._place(directory, wanted)

        def inside(text: str) -> str:
            for path in sorted(places, key=len, reverse=True):
                text = text.replace(path, str(places[path]))
            return text

        argv = [sys.executable if text == "python3" else inside(text) for text in wanted.entrypoint_args]
        copied = self._copied(wanted.image_id)
        packages = [*([str(copied / "opt/autoresearch")] if copied else []), str(REPOSITORY)]
        environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(packages), "TMPDIR": str(directory / "tmp"), "OMP_NUM_THREADS": "1"}
        environment["MODAL_SANDBOX_ID"] = id  # as the service does
        asked = {
            "gpu": wanted.resources.gpu_config.gpu_type,
            "timeout_s": wanted.timeout_secs,
            "network": wanted.network_access.network_access_type != api.NetworkAccess.BLOCKED,
            "secrets": list(wanted.secret_ids),
            "image": wanted.image_id,
            "volumes": {m.mount_path: [self._volume_name(m.volume_id), m.read_only, m.sub_path] for m in wanted.volume_mounts},
        }
        container = self.containers[id] = Container(
            id, request.app_id, wanted.name, {t.tag_name: t.tag_value for t in request.tags}, argv, directory, environment,
            wanted.timeout_secs or 300, asked,
        )  # fmt: skip
        self._spawn(self._schedule(container))
        return container

    def _volume_name(self, id: str) -> str:
        return next(name for (_, name), known in self.volumes.items() if known == id)

    def _place(self, directory: Path, wanted: Any) -> dict[str, Path]:
        """Lay out what the sandbox mounts; container path -> where it is here."""
        (directory / "tmp").mkdir(parents=True)
        places: dict[str, Path] = {}
        for mount in wanted.volume_mounts:
            source = self.root / "volumes" / mount.volume_id / mount.sub_path.lstrip("/")
            source.mkdir(parents=True, exist_ok=True)
            target = directory / "fs" / mount.mount_path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            if mount.read_only:
                shutil.copytree(source, target)  # so that no write ever reaches the volume
            else:
                target.symlink_to(source)
            places[mount.mount_path.rstrip("/")] = target
        for id in wanted.mount_ids:
            for file in self.mounts.get(id, []):
                if file.sha256_hex in self.files:
                    target = directory / "fs" / file.filename.lstrip("/")
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(self.files[file.sha256_hex])
                    top = "/".join(file.filename.split("/")[:3])  # /run/code
                    places[top] = directory / "fs" / top.lstrip("/")
        return places

    async def _schedule(self, container: Container) -> None:
        while self.capacity is not None and sum(c.placed and not c.finished_at for c in self.containers.values()) >= self.capacity:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        container.placed = True
        await asyncio.sleep(self.boot_s)
        if not container.finished_at:
            await container.run()

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def container(self, id: str) -> Container:
        if id not in self.containers:
            raise GRPCError(Status.NOT_FOUND, f"{id} not found")
        return self.containers[id]

    @staticmethod
    def _metadata(container: Container) -> Any:
        return api.SandboxHandleMetadata(app_id=container.app, result=container.result if container.finished_at else None)

    @unary
    async def SandboxGetTaskId(self, request: Any) -> Any:
        container = self.container(request.sandbox_id)
        over = container.result if container.finished_at and not container.started_at else None
        return api.SandboxGetTaskIdResponse(task_id=f"ta-{container.id}" if container.started_at else "", task_result=over)

    @unary
    async def SandboxWait(self, request: Any) -> Any:
        container = self.container(request.sandbox_id)
        await container.wait(request.timeout)
        return api.SandboxWaitResponse(result=container.result if container.finished_at else None, metadata=self._metadata(container))

    @unary
    async def SandboxTerminate(self, request: Any) -> Any:
        await self.container(request.sandbox_id).terminate()
        return api.SandboxTerminateResponse()

    @unary
    async def SandboxGetFromName(self, request: Any) -> Any:
        app = self.apps.get((request.environment_name or "main", request.app_name))
        for container in reversed(self.containers.values()):
            same = container.name == request.sandbox_name and container.app == app
            if same and (not container.finished_at or request.include_terminated):
                return api.SandboxGetFromNameResponse(sandbox_id=container.id, metadata=self._metadata(container))
        raise GRPCError(Status.NOT_FOUND, "no sandbox of that name runs")

    @unary
    async def SandboxList(self, request: Any) -> Any:
        wanted = {(tag.tag_name, tag.tag_value) for tag in request.tags}
        matching = [
            container
            for container in self.containers.values()
            if container.app == request.app_id
            and not container.finished_at
            and wanted <= set(container.tags.items())
            and (not request.before_timestamp or container.created_at < request.before_timestamp)
        ]
        matching.sort(key=lambda container: -container.created_at)
        infos = [
            api.SandboxInfo(id=c.id, created_at=c.created_at, app_id=c.app, name=c.name, metadata=self._metadata(c)) for c in matching[:20]
        ]
        return api.SandboxListResponse(sandboxes=infos)

    @unary
    async def SandboxTagsGet(self, request: Any) -> Any:
        tags = self.container(request.sandbox_id).tags
        return api.SandboxTagsGetResponse(tags=[api.SandboxTag(tag_name=name, tag_value=value) for name, value in tags.items()])

    @unary
    async def SandboxGetStats(self, request: Any) -> Any:
        container = self.container(request.sandbox_id)
        seconds = (container.finished_at or time.time()) - (container.started_at or container.created_at)
        return api.SandboxGetStatsResponse(cost=f"{seconds * USD_S:.6f}", cost_by_resource={"H100": f"{seconds * USD_S:.6f}"})

    async def SandboxGetLogs(self, stream: Any) -> None:
        request = await stream.recv_message()
        self.calls.append("SandboxGetLogs")
        self.requests["SandboxGetLogs"] = request.SerializeToString()
        self.refuse_if_away()
        container = self.container(request.sandbox_id)
        async for data, position in container.stream(int(request.last_entry_id or 0), request.timeout):
            self.refuse_if_away()
            if data is None:
                await tell(stream, api.TaskLogsBatch(entry_id=str(position), eof=True))
            else:
                items = [api.TaskLogs(data=data.decode("utf-8", "replace"), file_descriptor=api.FILE_DESCRIPTOR_STDOUT)]
                await tell(stream, api.TaskLogsBatch(entry_id=str(position), items=items))
