"""Describes the machine in a result: the device's name, and the versions of the packages that compute (fixed)."""

import contextlib
import platform
import subprocess
from importlib import metadata
from pathlib import Path


def device_name(kind: str) -> str:
    """Return what the machine calls its device.

    For a GPU it asks the driver. CUDA itself could not be used by any process that is forked afterwards.

    Args:
        kind: a torch device type.
    """
    if kind == "cuda":
        command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        try:
            listing = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
        except (OSError, subprocess.SubprocessError):
            return "unknown"
        return ", ".join(dict.fromkeys(line.strip() for line in listing.splitlines()))
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def versions() -> dict[str, str]:
    """Return the versions of Python, of the system, and of the installed packages that compute."""
    known = {"python": platform.python_version(), "platform": platform.platform()}
    for package in ("torch", "numpy", "safetensors", "kernels"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            known[package] = metadata.version(package)
    return known
