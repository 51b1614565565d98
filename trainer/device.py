"""What the device is good for: number format, attention kernel, peak speed, and batches that don't keep it waiting.

For train.py, which may use something else instead. Whatever was chosen is said: `Run.note` puts it into the result. Proven on CPUs only
so far; what is CUDA's alone is `_flash_attention`, `prepare_cuda` and the table of peaks.
"""

import gc
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    Attention = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, int], torch.Tensor]
    Batch = tuple[torch.Tensor, torch.Tensor, int]

# Dense bfloat16 operations a second, from the makers' data sheets; the first name that the device's name contains
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
    "RTX 3090": 71e12,
}
HOPPER = (9, 0)
FLASH = ("kernels-community/flash-attn3", 1)


def compute_dtype(capability: tuple[int, int] | None) -> str:
    """Name of the torch dtype to multiply in; `capability` is CUDA's, None for a CPU, which does bfloat16 in software (25 times slower)."""
    return "bfloat16" if capability is not None and capability >= (8, 0) else "float32"


def attention_backend(capability: tuple[int, int] | None, wanted: str, has_kernels: bool) -> str:
    """`fa3` on Hopper, `sdpa` elsewhere, or as `wanted` ("auto", "fa3", "sdpa") says.

    Raises:
        RuntimeError: FlashAttention 3 is due and can't be had. SDPA in its place would be another experiment, so nobody is given it silently.
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
    """Compute dtype and attention backend for a run's config."""
    import importlib.util

    import torch

    capability = torch.cuda.get_device_capability() if config["device"] == "cuda" else None
    has_kernels = importlib.util.find_spec("kernels") is not None
    return compute_dtype(capability), attention_backend(capability, config.get("attention", "auto"), has_kernels)


def attention(backend: str) -> "Attention":
    """Causal attention over the last `window` positions: (q, k, v, window) to y, all (rows, positions, heads, channels)."""
    return {"sdpa": _sdpa, "fa3": _flash_attention}[backend]


def _sdpa(q: "torch.Tensor", k: "torch.Tensor", v: "torch.Tensor", window: int) -> "torch.Tensor":
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    if window >= q.size(-2):
        return scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
    positions = torch.arange(q.size(-2), device=q.device)
    distance = positions[:, None] - positions[None, :]
    return scaled_dot_product_attention(q, k, v, attn_mask=(distance >= 0) & (distance < window)).transpose(1, 2)


def _flash_attention(q: "torch.Tensor", k: "torch.Tensor", v: "torch.Tensor", window: int) -> "torch.Tensor":
    from kernels import get_kernel

    global _flash
    if _flash is None:
        _flash = get_kernel(FLASH[0], version=FLASH[1]).flash_attn_func
    y: torch.Tensor = _flash(q, k, v, causal=True, window_size=(window - 1, 0))
    return y


_flash: Any = None


def peak_flops(kind: str) -> float | None:
    """Operations a second that the device can do at most: a GPU's from the table, a CPU's by trying. None for a GPU that the table lacks."""
    import torch

    if kind == "cuda":
        name = torch.cuda.get_device_name()
        return next((peak for part, peak in PEAKS.items() if part in name), None)
    square, best = torch.randn(512, 512), float("inf")
    for _ in range(5):
        began = time.perf_counter()
        square @ square
        best = min(best, time.perf_counter() - began)
    return 2 * 512**3 / best


def ahead(batches: "Iterator[Batch]", kind: str) -> "Iterator[Batch]":
    """The batches on the device, each on its way while the one before is worked on. The pinned memory of a copy is torch's to reuse when it is done."""

    def sent(batch: "Batch") -> "Batch":
        x, y, epoch = batch
        if kind == "cpu":
            return batch
        return x.pin_memory().to(kind, non_blocking=True), y.pin_memory().to(kind, non_blocking=True), epoch

    upcoming = sent(next(batches))
    while True:
        current, upcoming = upcoming, sent(next(batches))
        yield current


def prepare_cuda() -> None:
    """Settings of the process: TF32 for what stays in float32."""
    import torch

    torch.set_float32_matmul_precision("high")


def freeze_garbage() -> None:
    """Take what was built so far out of the garbage collector's sight, and collect no more: its pauses stall the device."""
    gc.collect()
    gc.freeze()
    gc.disable()
