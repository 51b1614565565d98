"""What a training may use, and how much of it one did."""

import math

from autoresearch_mcp.server.models import Experiment
from autoresearch_mcp.server.settings import Settings
from autoresearch_mcp.trainer.prepare import Profile, for_scripts


def limits_in_words(settings: Settings) -> str:
    """Return what a training may use."""
    profile = _profile(settings)
    memory = f"{profile.memory_mb} MB of memory"
    if settings.is_script:
        return memory
    return f"{profile.checkpoint_mb} MB of weights, {memory}, {profile.free_cpu_s:g} CPU s before start() are free"


def used_in_words(e: Experiment, settings: Settings) -> str:
    """Return how much of each limit a training used; empty where nothing is known of it."""
    profile, timings = _profile(settings), e.details.get("timings")
    peak, weights = _number(e.details.get("peak_memory_mb")), _number(e.details.get("weights_mb"))
    starting = _number(timings.get("startup_cpu_s")) if isinstance(timings, dict) else None
    parts = []
    if weights is not None and not settings.is_script:
        parts.append(f"{weights:.3g} of {profile.checkpoint_mb} MB of weights")
    if peak:
        parts.append(f"{peak:.0f} of {profile.memory_mb} MB of memory")
    if starting is not None and not settings.is_script and math.isfinite(profile.free_cpu_s):
        parts.append(f"{starting:.2g} of {profile.free_cpu_s:g} free CPU s before start()")
    return ", ".join(parts)


def _profile(settings: Settings) -> Profile:
    profile = settings.training.limits
    return for_scripts(profile, settings.training.memory_mb) if settings.is_script else profile


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) else None
