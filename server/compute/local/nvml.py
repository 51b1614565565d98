"""NVIDIA's GPUs of this machine, as their driver tells of them (NVML, by the package nvidia-ml-py of the extra `gpu`)."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any


class NoGpus(Exception):
    """There is no driver, no GPU, or no package that asks for them. The text says which."""


class GpuLost(Exception):
    """A GPU doesn't answer any more: it fell off the bus, or its driver gave it up."""


@dataclass(frozen=True)
class Gpu:
    """A device that a training can be given: a GPU, or a MIG slice of one.

    Attributes:
        uuid: What CUDA_VISIBLE_DEVICES takes.
        name: Its model.
        parent: The GPU that it is a slice of; its own UUID where it is whole.
    """

    uuid: str
    name: str
    parent: str


@dataclass(frozen=True)
class GpuState:
    """How a device is. A number is None where the driver doesn't tell it, as of a slice.

    Attributes:
        memory_mb: Memory in use.
        total_mb: All of its memory.
        busy_percent: Share of the time in which it computed, of late.
        celsius: Its temperature.
        clock_mhz: The clock of its multiprocessors.
        driver: The driver's version.
    """

    memory_mb: float | None
    total_mb: float | None
    busy_percent: int | None
    celsius: int | None
    clock_mhz: int | None
    driver: str

    def as_dict(self) -> dict[str, Any]:
        """Return what is known."""
        return {name: value for name, value in asdict(self).items() if value is not None}


class Nvml:
    """Asks the driver. Every method may block for a moment.

    Raises:
        NoGpus: It can't be asked.
    """

    def __init__(self) -> None:
        try:
            import pynvml
        except ImportError as error:
            raise NoGpus("the package nvidia-ml-py is missing (pip install 'autoresearch-mcp[gpu]')") from error
        self._nvml = pynvml
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            raise NoGpus(f"NVIDIA's driver doesn't answer: {error}") from error

    def find(self) -> list[Gpu]:
        """Return the devices in the driver's order. A GPU that is cut into slices counts as those. One that is lost is left out."""
        nvml, gpus = self._nvml, list[Gpu]()
        for index in range(nvml.nvmlDeviceGetCount()):
            try:
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                whole = Gpu(str(nvml.nvmlDeviceGetUUID(handle)), str(nvml.nvmlDeviceGetName(handle)), "")
                gpus += self._slices(handle, whole) or [Gpu(whole.uuid, whole.name, whole.uuid)]
            except nvml.NVMLError:
                continue
        return gpus

    def _slices(self, handle: Any, whole: Gpu) -> list[Gpu]:
        nvml, slices = self._nvml, list[Gpu]()
        try:
            if nvml.nvmlDeviceGetMigMode(handle)[0] != nvml.NVML_DEVICE_MIG_ENABLE:
                return []
            for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
                part = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
                slices.append(Gpu(str(nvml.nvmlDeviceGetUUID(part)), str(nvml.nvmlDeviceGetName(part)), whole.uuid))
        except nvml.NVMLError:  # it has no MIG, or no more slices
            return slices
        return slices

    def state(self, gpu: Gpu) -> GpuState:
        """Return how a device is.

        Raises:
            GpuLost: It doesn't answer any more.
        """
        nvml = self._nvml
        try:
            handle = nvml.nvmlDeviceGetHandleByUUID(gpu.uuid)
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        except nvml.NVMLError as error:
            raise GpuLost(str(error)) from error
        return GpuState(
            memory_mb=round(memory.used / 2**20, 1),
            total_mb=round(memory.total / 2**20, 1),
            busy_percent=self._known(lambda: int(nvml.nvmlDeviceGetUtilizationRates(handle).gpu)),
            celsius=self._known(lambda: int(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))),
            clock_mhz=self._known(lambda: int(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM))),
            driver=str(nvml.nvmlSystemGetDriverVersion()),
        )

    def _known(self, ask: Callable[[], int]) -> int | None:
        try:
            return ask()
        except self._nvml.NVMLError:
            return None
