"""Chooses what suits the device: number format, attention kernel, peak speed, and batches that don't keep it waiting.

train.py uses it, and may use something else instead. It notes its choice with `Run.note`, which puts it into the result.
Trainings have no network, so FlashAttention is fetched with the data (`fetch_kernels`) and found through the environment
(`cuda_environment`).

Unproven, as it has not run on a GPU yet: `_flash_attention`, `fetch_kernels`, the settings in `choose`, the pinned copies in
`ahead`, and the table of peaks.
"""

import gc
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    Attention = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, int], torch.Tensor]
    Batch = tuple[torch.Tensor, torch.Tensor, int]

# Dense bfloat16 operations a second, in float16 where a card has no bfloat16, from the makers' data sheets; the first name that the device's name contains
PEAKS = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10G": 70e12,
    "RTX 4090": 165e12,
    "RTX 4060": 30e12,
    "RTX 3090": 71e12,
    "RTX 3060": 25e12,
    "RTX 2080 Ti": 54e12,  # of float16, as the two below
    "T4": 65e12,
    "V100": 125e12,
}
HOPPER, AMPERE = (9, 0), (8, 0)
TENSOR_CORES = (7, 0)  # the oldest that the compiler works for, too
FLASH, FLASH_VERSION = "kernels-community/flash-attn3", 1
FLASH_LINK = "flash-attn3-1"  # in the folder of kernels, to the build that fits this machine


def compute_dtype(capability: tuple[int, int] | None) -> str:
    """Name the torch dtype to multiply in.

    Args:
        capability: CUDA's; None for a CPU, which does bfloat16 in software (25 times slower), and for an Apple GPU, whose halves nobody
            tried here. Cards of 7.0 and 7.5 have no bfloat16. What trains in float16 has to scale its loss, as the stock train.py does:
            small gradients would become 0.
    """
    if capability is None or capability < TENSOR_CORES:
        return "float32"
    return "bfloat16" if capability >= AMPERE else "float16"


def too_old(name: str, capability: tuple[int, int]) -> str:
    """Say that a card is older than `TENSOR_CORES`."""
    has, needed = (".".join(map(str, each)) for each in (capability, TENSOR_CORES))
    return f"{name} is too old: its compute capability is {has}, and {needed} is needed."


def attention_backend(capability: tuple[int, int] | None, wanted: str, has_kernels: bool) -> str:
    """Name the attention kernel: `fa3` on Hopper, `sdpa` elsewhere, or what `wanted` ("auto", "fa3", "sdpa") asks for.

    Raises:
        RuntimeError: FlashAttention 3 is due and is not available. SDPA in its place would be another experiment, so it never comes silently.
    """
    if wanted == "sdpa" or (wanted == "auto" and capability != HOPPER):
        return "sdpa"
    if capability != HOPPER:
        raise RuntimeError('FlashAttention 3 needs a Hopper GPU. Set attention = "auto" in [training] of lab.toml.')
    if not has_kernels:
        raise RuntimeError(
            "This Hopper GPU trains with FlashAttention 3, and the package `kernels` is missing: install autoresearch-mcp[gpu], "
            'or set attention = "sdpa" in [training] of lab.toml, for all experiments of the lab.'
        )
    return "fa3"


def choose(config: dict[str, Any]) -> tuple[str, str]:
    """Choose compute dtype and attention backend for a run's config. On a GPU, also lets what stays in float32 multiply as TF32.

    Raises:
        RuntimeError: the run is for a GPU and there is none, or `attention_backend` refuses.
    """
    import importlib.util

    import torch

    if config["device"] == "cpu":
        capability = None
    elif config["device"] == "mps":
        capability = None
        if not torch.backends.mps.is_available():
            raise RuntimeError(f"This lab trains on an Apple GPU, and PyTorch {torch.__version__} finds none on this machine.")
    elif torch.cuda.is_available():
        capability = torch.cuda.get_device_capability()
        if capability < TENSOR_CORES:
            raise RuntimeError(too_old(torch.cuda.get_device_name(), capability))
        torch.set_float32_matmul_precision("high")
    else:
        raise RuntimeError(f"This lab trains on a GPU, and PyTorch {torch.__version__} finds none on this machine.")
    has_kernels = importlib.util.find_spec("kernels") is not None
    return compute_dtype(capability), attention_backend(capability, config.get("attention", "auto"), has_kernels)


def kernels_dir(cache: Path) -> Path:
    """Name the folder with kernels of the hub: $KERNELS_CACHE, else beside the prepared data."""
    return Path(os.environ.get("KERNELS_CACHE") or cache / "kernels")


def fetch_kernels(folder: Path) -> None:
    """Download what a GPU of this machine trains with, under a name that `cuda_environment` knows. Needs the network, once."""
    link = folder / FLASH_LINK
    if link.exists():
        return
    import torch

    if not torch.cuda.is_available() or torch.cuda.get_device_capability() != HOPPER:
        return
    os.environ["KERNELS_CACHE"] = str(folder)  # read when `kernels` is imported
    from kernels import install_kernel

    folder.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(install_kernel(FLASH, version=FLASH_VERSION))


def cuda_environment(kernels: Path) -> dict[str, str]:
    """Return the variables for a process that trains or answers on a GPU, to be set before it starts.

    They name the place of the kernels: without a network, `get_kernel` doesn't find what it downloaded itself (kernels 0.17), because it
    looks up on the hub which commit a version is.
    """
    return {
        "PYTORCH_ALLOC_CONF": "expandable_segments:True",
        "TORCHINDUCTOR_COMPILE_THREADS": "8",  # a process each, with a torch of its own
        "HF_HUB_OFFLINE": "1",
        "KERNELS_CACHE": str(kernels),
        **({"LOCAL_KERNELS": f"{FLASH}={kernels / FLASH_LINK}"} if (kernels / FLASH_LINK).exists() else {}),
        **({"CUDA_VISIBLE_DEVICES": visible} if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) else {}),
    }


def attention(backend: str) -> "Attention":
    """Return causal attention over the last `window` positions: (q, k, v, window) to y, all (rows, positions, heads, channels)."""
    return {"sdpa": lambda: _sdpa, "fa3": _flash_attention}[backend]()


def _sdpa(q: "torch.Tensor", k: "torch.Tensor", v: "torch.Tensor", window: int) -> "torch.Tensor":
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    if window >= q.size(-2):
        return scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
    positions = torch.arange(q.size(-2), device=q.device)
    distance = positions[:, None] - positions[None, :]
    return scaled_dot_product_attention(q, k, v, attn_mask=(distance >= 0) & (distance < window)).transpose(1, 2)


def _flash_attention() -> "Attention":
    """Load FlashAttention 3 now: a compiled graph must not contain the search for it."""
    from kernels import get_kernel

    try:
        flash = get_kernel(FLASH, version=FLASH_VERSION).flash_attn_func
    except Exception as error:
        raise RuntimeError(
            f"FlashAttention 3 can't be loaded: {error}. Run `python -m autoresearch_mcp.trainer.prepare h100` where there is a network, "
            'or set attention = "sdpa" in [training] of lab.toml, for all experiments of the lab.'
        ) from error

    def attend(q: "torch.Tensor", k: "torch.Tensor", v: "torch.Tensor", window: int) -> "torch.Tensor":
        y: torch.Tensor = flash(q, k, v, causal=True, window_size=(window - 1, 0))
        return y

    return attend


def peak_flops(kind: str) -> float | None:
    """Return the operations a second that the device can do at most: a GPU's from the table, a CPU's by trying.

    Returns:
        None for a GPU that the table lacks, and for Apple's.
    """
    import torch

    if kind == "cuda":
        name = torch.cuda.get_device_name()
        return next((peak for part, peak in PEAKS.items() if part in name), None)
    if kind == "mps":
        return None
    square, best = torch.randn(512, 512), float("inf")
    for _ in range(5):
        began = time.perf_counter()
        square @ square
        best = min(best, time.perf_counter() - began)
    return 2 * 512**3 / best


def ahead(batches: "Iterator[Batch]", kind: str) -> "Iterator[Batch]":
    """Yield the batches on the device. Each is copied while the one before is worked on; torch reuses the pinned memory of a copy."""

    def sent(batch: "Batch") -> "Batch":
        x, y, epoch = batch
        if kind != "cuda":
            return (x.to(kind), y.to(kind), epoch)
        return x.pin_memory().to(kind, non_blocking=True), y.pin_memory().to(kind, non_blocking=True), epoch

    upcoming = sent(next(batches))
    while True:
        current, upcoming = upcoming, sent(next(batches))
        yield current


def freeze_garbage() -> None:
    """Hide what was built so far from the garbage collector, and turn it off: its pauses stall the device."""
    gc.collect()
    gc.freeze()
    gc.disable()
