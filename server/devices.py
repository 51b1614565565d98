"""The kinds of device that a lab can rent by the second: what to ask for, and what they cost."""

from collections.abc import Mapping
from dataclasses import dataclass

from autoresearch_mcp.trainer.profiles import Profile, max_wall_s

START_LIMIT_S = 180.0  # a training's image pull and boot, within its sandbox's own time limit
SCORER_LIMIT_S = 240.0  # the same of a scorer, and its imports


@dataclass(frozen=True)
class Gpu:
    """One kind of device.

    Attributes:
        request: What to ask Modal for; None is no GPU. It pins the kind: a bare H100 may silently become an H200, whose
            results would not be comparable.
        usd_s: USD a second, with the CPU and memory that a training asks for. `[compute.prices]` in lab.toml overrides it.
    """

    request: str | None
    usd_s: float


GPUS = {
    "CPU": Gpu(None, 0.0003),  # no GPU, for profiles that train on CPUs: a cheap way to see everything work
    "T4": Gpu("T4", 0.00025),
    "L4": Gpu("L4", 0.00031),
    "A10": Gpu("A10", 0.00039),
    "L40S": Gpu("L40S", 0.00063),
    "A100-40GB": Gpu("A100-40GB", 0.00067),
    "A100-80GB": Gpu("A100-80GB", 0.00078),
    "H100": Gpu("H100!", 0.0012),
    "H200": Gpu("H200", 0.00135),
    "B200": Gpu("B200", 0.00183),
}


def kind(name: str) -> str:
    """Return the kind of device of this GPU, as results and `launch_training(device=...)` name it."""
    return name.lower()


def requests() -> dict[str, str | None]:
    """Return what to ask Modal for, by kind of device."""
    return {kind(name): gpu.request for name, gpu in GPUS.items()}


def usd_per_s(device: str, prices: Mapping[str, float]) -> float:
    """Return the USD a second of a running sandbox on this kind of device.

    Args:
        device: A kind, as `kind` returns it; an unknown one costs nothing.
        prices: What lab.toml sets, by the GPU's name.
    """
    name = device.upper()
    return prices.get(name, GPUS[name].usd_s if name in GPUS else 0.0)


def longest_s(profile: str | Profile, budget_s: float, script: bool = False, scoring_s: float = 0.0) -> float:
    """Return the most device seconds that an attempt can be billed for.

    That is its own sandbox up to its time limit, and a scorer that it shares with no other attempt, if there is one.

    Args:
        profile: What is trained.
        budget_s: Of a training.
        script: Whether it is code that keeps no contract.
        scoring_s: Of such code, how long the owner's scorer may take; 0 without one.
    """
    scorer_s = SCORER_LIMIT_S + scoring_s if scoring_s or not script else 0.0
    return START_LIMIT_S + scorer_s + max_wall_s(profile, budget_s, script)
