"""Defines the miniature of the h100 profile that a CPU can train. On a GPU the check trains a profile as it stands."""

from dataclasses import replace

from autoresearch_mcp.trainer import prepare

# Shards, hub and sealed scoring are the h100 profile's, so the CPU takes the same paths
MINIATURE = replace(
    prepare.PROFILES["h100"],
    name="miniature",
    vocab_size=512,
    seq_len=64,
    device="cpu",
    clock="cpu",
    budget_s=1.0,
    wall_cap=30.0,
    startup_s=90.0,
    free_cpu_s=8.0,
    score_s=60.0,
    build_s=5.0,
    eval_bytes=20_000,
    eval_rows=8,
    decoys=256,
    score_grid_s=0.5,
    memory_mb=3072,
    checkpoint_mb=8,
    shards=2,
)


def register() -> None:
    """Make the miniature known to prepare and launcher, in this process."""
    prepare.PROFILES[MINIATURE.name] = MINIATURE
