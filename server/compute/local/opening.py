"""Opens the backend of this machine for a lab: processes, and a pool of GPUs around them where trainings get one each."""

from pathlib import Path

from autoresearch_mcp.server.compute.base import Compute
from autoresearch_mcp.server.compute.local.backend import open_local
from autoresearch_mcp.server.compute.local.nvml import Nvml
from autoresearch_mcp.server.compute.local.pool import Limits, Pool
from autoresearch_mcp.server.compute.local.pooled import PooledCompute
from autoresearch_mcp.server.settings import Settings


def open_backend(settings: Settings, state: Path, log: Path) -> Compute:
    """Open the backend for a lab; see `open_compute`."""
    local = open_local(settings, state, log)
    if not settings.hands_out_devices:
        return local
    compute = settings.compute
    chosen = None if compute.devices == "auto" else compute.devices
    limits = Limits(compute.leave_above_mb, compute.leave_above_percent)
    return PooledCompute(local, lambda: Pool(Nvml(), chosen, compute.per_device, limits))
