"""Confines a training and counts what it uses: the jail, its system calls, its processes and its scratch directory."""

from autoresearch_mcp.trainer.sandbox.jail import DESCRIPTORS, PRIVATE, Jail, abi, copies_of, level, seal, separate_users, spawn
from autoresearch_mcp.trainer.sandbox.seccomp import stay_alone
from autoresearch_mcp.trainer.sandbox.world import available as has_world

__all__ = ["DESCRIPTORS", "PRIVATE", "Jail", "abi", "copies_of", "has_world", "level", "seal", "separate_users", "spawn", "stay_alone"]
