"""Confines a training and counts what it uses: the jail, its system calls, its processes and its scratch directory."""

from autoresearch_mcp.trainer.sandbox.jail import DESCRIPTORS, PRIVATE, Jail, abi, copies_of, level, seal, separate_users, shut, spawn
from autoresearch_mcp.trainer.sandbox.seccomp import stay_alone
from autoresearch_mcp.trainer.sandbox.world import available as has_world
from autoresearch_mcp.trainer.sandbox.world import counts_its_own

__all__ = [
    "DESCRIPTORS",
    "PRIVATE",
    "Jail",
    "abi",
    "copies_of",
    "counts_its_own",
    "has_world",
    "level",
    "seal",
    "separate_users",
    "shut",
    "spawn",
    "stay_alone",
]
