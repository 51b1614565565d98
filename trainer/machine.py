"""Describes the machine in a result: the device's name, and the versions of the packages that compute (fixed)."""

import contextlib
import hashlib
import os
import platform
import socket
import subprocess
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

PLACE = ("MODAL_CLOUD_PROVIDER", "MODAL_REGION")  # what Modal tells a container of the machine below it
NODE = ("SLURMD_NODENAME", "NODE_NAME")  # a scheduler's name of the machine, where a container's own name says nothing
_PRESSURE = Path("/proc/pressure/cpu")


@dataclass(frozen=True)
class DeviceFacts:
    """Names a device: its model, and the `id` that tells it from others of the model. A CPU has none, and neither has an unknown GPU."""

    name: str
    id: str = ""


def device_facts(kind: str) -> DeviceFacts:
    """Return what the machine calls its device.

    For a GPU it asks the driver. CUDA itself could not be used by any process that is forked afterwards.

    Args:
        kind: a torch device type.
    """
    if kind == "cuda":
        command = ["nvidia-smi", "--query-gpu=index,uuid,name", "--format=csv,noheader"]
        try:
            listing = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
        except (OSError, subprocess.SubprocessError):
            return DeviceFacts("unknown")
        gpus = [[part.strip() for part in line.split(",", 2)] for line in listing.splitlines() if line.count(",") >= 2]
        chosen = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        ours = [gpu for gpu in gpus if any(each and (each == gpu[0] or gpu[1].startswith(each)) for each in chosen)] or gpus
        return DeviceFacts(", ".join(dict.fromkeys(name for _, _, name in ours)), ",".join(uuid for _, uuid, _ in ours)[:200])
    if kind == "mps":  # its GPU is a part of the chip
        try:
            named = subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, timeout=20, check=True)
            return DeviceFacts(named.stdout.strip()[:80])
        except (OSError, subprocess.SubprocessError):
            return DeviceFacts("unknown")
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return DeviceFacts(next(names, platform.processor() or platform.machine()))


def host() -> str:
    """Return what tells this machine from others.

    Returns:
        Where Modal tells the place of its container, that place; else a hash of the node's name, which stays untold.
    """
    if place := "/".join(os.environ[name] for name in PLACE if os.environ.get(name)):
        return place[:80]
    node = next((os.environ[name] for name in NODE if os.environ.get(name)), socket.gethostname())
    return hashlib.sha256(f"autoresearch host {node}".encode()).hexdigest()[:12]


def waiting_s() -> float | None:
    """Return for how many seconds since its start something on the machine waited for a core; None where the kernel doesn't count it."""
    try:
        some = _PRESSURE.read_text(encoding="ascii").partition("\n")[0]
        return int(some.rpartition("total=")[2]) / 1e6
    except (OSError, ValueError):
        return None


class Crowding:
    """Tells how much a machine's cores were wanted over a stretch of time."""

    def __init__(self) -> None:
        self._began, self._waited_s = time.monotonic(), waiting_s()
        self._paused: tuple[float, float | None] = (self._began, self._waited_s)

    def pause(self) -> None:
        """Leave out what follows, until `resume`."""
        self._paused = time.monotonic(), waiting_s()

    def resume(self) -> float:
        """Go on. Return the seconds that were left out."""
        paused_at, waited_s = self._paused
        pause = time.monotonic() - paused_at
        self._began += pause
        if self._waited_s is not None and waited_s is not None:
            self._waited_s += (waiting_s() or waited_s) - waited_s
        return pause

    def pressure(self) -> float | None:
        """Return the share of the time in which something on the machine waited for a core; None where the kernel doesn't tell."""
        waited_s, passed_s = waiting_s(), time.monotonic() - self._began
        if waited_s is None or self._waited_s is None or passed_s <= 0:
            return None
        return min(1.0, (waited_s - self._waited_s) / passed_s)


def versions() -> dict[str, str]:
    """Return the versions of Python, of the system, and of the installed packages that compute."""
    known = {"python": platform.python_version(), "platform": platform.platform()}
    for package in ("torch", "numpy", "safetensors", "kernels"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            known[package] = metadata.version(package)
    return known
