"""NVIDIA's driver library as NVML's own Python client calls it: built from C, and answering from a file that a test writes.

Each line of the file is a device: uuid, name, MB in use, MB in all, percent busy, degrees, MHz, `ok` or `lost`, then the UUIDs of its MIG
slices, if it is cut into some. A line that is rewritten is what the driver says from then on.
"""

import ctypes
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

SOURCE = Path(__file__).with_name("nvml.c")
VARIABLE = "NVML_STANDIN"


@dataclass(frozen=True)
class Device:
    uuid: str
    name: str = "NVIDIA H100 80GB HBM3"
    used_mb: int = 4
    total_mb: int = 81_559
    percent: int = 0
    celsius: int = 35
    mhz: int = 1980
    state: str = "ok"
    slices: tuple[str, ...] = ()

    def line(self) -> str:
        values = (self.uuid, self.name, self.used_mb, self.total_mb, self.percent, self.celsius, self.mhz, self.state, *self.slices)
        return "|".join(map(str, values))


class Driver:
    """The library of one test, and the box that it tells of."""

    def __init__(self, folder: Path, devices: list[Device]) -> None:
        self.library = folder / "libnvidia-ml.so.1"
        command = ["gcc", "-shared", "-fPIC", "-O1", "-Wl,-soname,libnvidia-ml.so.1", "-o", str(self.library), str(SOURCE)]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        self._box, self.devices = folder / "box", devices
        self.write()

    @property
    def environment(self) -> dict[str, str]:
        """What makes a process that starts find it."""
        return {VARIABLE: str(self._box), "LD_LIBRARY_PATH": str(self.library.parent)}

    def load(self) -> None:
        """Make this process find it: the loader knows a library by its name."""
        ctypes.CDLL(str(self.library), ctypes.RTLD_GLOBAL)

    def write(self) -> None:
        """Say how the devices are."""
        half = self._box.with_suffix(".part")
        half.write_text("".join(f"{device.line()}\n" for device in self.devices), encoding="ascii")
        half.replace(self._box)

    def change(self, index: int, **values: object) -> None:
        """Say something else of one device."""
        self.devices[index] = replace(self.devices[index], **values)  # type: ignore[arg-type]
        self.write()


def why_missing() -> str:
    """Return why it can't be built here; empty where it can."""
    return "" if shutil.which("gcc") else "there is no gcc"
